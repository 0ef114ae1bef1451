//! One request over HTTP/1.1, its whole answer, and what went wrong on the way.

use std::fmt;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use crate::ready::http::exchange::is_tls;

/// How long a connection, or the next byte of an answer, may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How many header lines of an answer are understood.
const HEADERS: usize = 128;
/// What the head of an answer may measure, in bytes.
const LONGEST_HEAD: usize = 256 * 1024;

/// Where the server can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Peer::Tcp(address) => address.fmt(f),
            Peer::Unix(path) => path.display().fmt(f),
        }
    }
}

/// Why a request counts as failed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RequestFailure {
    Refused,
    Reset,
    /// The connection ended before the first byte of the answer.
    NoAnswer,
    /// The connection ended within the answer.
    Truncated,
    TimedOut,
    /// The server speaks TLS on this port.
    Tls,
    NotHttp,
    Status(u16),
    /// Answered, but later than `--max-ms`.
    TooSlow,
    Other(String),
}

impl fmt::Display for RequestFailure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            RequestFailure::Refused => "refused",
            RequestFailure::Reset => "reset",
            RequestFailure::NoAnswer => "closed without an answer",
            RequestFailure::Truncated => "truncated",
            RequestFailure::TimedOut => "timed out",
            RequestFailure::Tls => "answered with TLS",
            RequestFailure::NotHttp => "not answered with HTTP",
            RequestFailure::TooSlow => "too slow",
            RequestFailure::Status(status) => return write!(f, "status {status}"),
            RequestFailure::Other(error) => error,
        })
    }
}

impl From<io::Error> for RequestFailure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::NotFound => RequestFailure::Refused,
            ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::NotConnected => RequestFailure::Reset,
            ErrorKind::TimedOut | ErrorKind::WouldBlock => RequestFailure::TimedOut,
            _ => RequestFailure::Other(error.to_string()),
        }
    }
}

trait Stream: Read + Write + Send {}
impl Stream for TcpStream {}
impl Stream for UnixStream {}

/// A connection, and what came over it that is not read yet.
pub struct HttpConnection(BufReader<Box<dyn Stream>>);

/// The end of an answer that arrived whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Another request may follow on the same connection.
    pub keeps: bool,
}

impl HttpConnection {
    /// # Errors
    /// Those of connect(2).
    pub fn open(target: &Peer) -> Result<Self, RequestFailure> {
        let stream: Box<dyn Stream> = match target {
            Peer::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, TIMEOUT)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(TIMEOUT))?;
                stream.set_write_timeout(Some(TIMEOUT))?;
                Box::new(stream)
            }
            Peer::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(TIMEOUT))?;
                stream.set_write_timeout(Some(TIMEOUT))?;
                Box::new(stream)
            }
        };
        Ok(Self(BufReader::new(stream)))
    }

    /// # Errors
    /// Those of write(2).
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), RequestFailure> {
        Ok(self.0.get_mut().write_all(bytes)?)
    }

    /// Reads one answer to its end.
    ///
    /// # Errors
    /// What ended it early.
    pub fn receive(&mut self) -> Result<Answer, RequestFailure> {
        let head = self.head()?;
        match head.body {
            Body::Empty => {}
            Body::Sized(length) => self.skip(length)?,
            Body::Chunked => self.skip_chunks()?,
            Body::UntilEnd => {
                io::copy(&mut self.0, &mut io::sink())?;
            }
        }
        Ok(Answer {
            status: head.status,
            keeps: head.keeps,
        })
    }

    /// The head of the answer, past interim answers.
    fn head(&mut self) -> Result<Head, RequestFailure> {
        let mut bytes = Vec::new();
        loop {
            let read = bytes.len();
            let piece = match self.0.fill_buf() {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                piece => piece?,
            };
            match piece {
                [] if bytes.is_empty() => return Err(RequestFailure::NoAnswer),
                [] => return Err(RequestFailure::Truncated),
                piece => bytes.extend_from_slice(piece),
            }
            match Head::parse(&bytes)? {
                Some((head, length)) => {
                    self.0.consume(length - read);
                    if !(100..200).contains(&head.status) {
                        return Ok(head);
                    }
                    bytes.clear();
                }
                None if bytes.len() > LONGEST_HEAD => return Err(RequestFailure::NotHttp),
                None => self.0.consume(bytes.len() - read),
            }
        }
    }

    fn skip(&mut self, length: u64) -> Result<(), RequestFailure> {
        let skipped = io::copy(&mut self.0.by_ref().take(length), &mut io::sink())?;
        if skipped < length {
            return Err(RequestFailure::Truncated);
        }
        Ok(())
    }

    fn skip_chunks(&mut self) -> Result<(), RequestFailure> {
        loop {
            match httparse::parse_chunk_size(&self.line()?) {
                Ok(httparse::Status::Complete((_, 0))) => break,
                // with the line break that ends a chunk
                Ok(httparse::Status::Complete((_, size))) => self.skip(size.saturating_add(2))?,
                Ok(httparse::Status::Partial) | Err(_) => return Err(RequestFailure::NotHttp),
            }
        }
        // trailers, and the empty line that ends them
        for _ in 0..=HEADERS {
            match &*self.line()? {
                [b'\n'] | [b'\r', b'\n'] => return Ok(()),
                trailer if trailer.contains(&b':') => {}
                _ => break,
            }
        }
        Err(RequestFailure::NotHttp)
    }

    /// The next line, with its end.
    fn line(&mut self) -> Result<Vec<u8>, RequestFailure> {
        let mut line = Vec::new();
        let mut limited = self.0.by_ref().take(LONGEST_HEAD as u64);
        limited.read_until(b'\n', &mut line)?;
        match line.last() {
            Some(b'\n') => Ok(line),
            _ if line.len() == LONGEST_HEAD => Err(RequestFailure::NotHttp),
            _ => Err(RequestFailure::Truncated),
        }
    }
}

struct Head {
    status: u16,
    keeps: bool,
    body: Body,
}

enum Body {
    Empty,
    Sized(u64),
    Chunked,
    UntilEnd,
}

impl Head {
    /// Nothing while a part is still to come.
    fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, RequestFailure> {
        if is_tls(bytes) {
            return Err(RequestFailure::Tls);
        }
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let length = match response.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(RequestFailure::NotHttp),
        };
        let status = response.code.ok_or(RequestFailure::NotHttp)?;
        let value = |name: &str| {
            let header = response
                .headers
                .iter()
                .find(|one| one.name.eq_ignore_ascii_case(name));
            header.map(|header| String::from_utf8_lossy(header.value).to_ascii_lowercase())
        };
        let chunked = value("transfer-encoding").is_some_and(|coding| coding.contains("chunked"));
        let body = match value("content-length") {
            _ if matches!(status, 100..200 | 204 | 304) => Body::Empty,
            _ if chunked => Body::Chunked,
            Some(length) => {
                Body::Sized(length.trim().parse().map_err(|_| RequestFailure::NotHttp)?)
            }
            None => Body::UntilEnd,
        };
        let connection = value("connection").unwrap_or_default();
        let keeps = if response.version == Some(0) {
            connection.contains("keep-alive")
        } else {
            !connection.contains("close")
        };
        let keeps = keeps && !matches!(body, Body::UntilEnd);
        Ok(Some((
            Self {
                status,
                keeps,
                body,
            },
            length,
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is made of these bytes, after which the server hangs up.
    fn answer(bytes: &[u8]) -> Result<Answer, RequestFailure> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(bytes).unwrap();
        drop(theirs);
        HttpConnection(BufReader::new(Box::new(ours))).receive()
    }

    fn ended(status: u16, keeps: bool) -> Answer {
        Answer { status, keeps }
    }

    #[test]
    fn an_answer_ends_where_its_head_says() {
        assert_eq!(
            answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"),
            Ok(ended(200, true))
        );
        assert_eq!(
            answer(b"HTTP/1.1 204 No Content\r\n\r\n"),
            Ok(ended(204, true))
        );
        assert_eq!(
            answer(b"HTTP/1.0 200 OK\r\n\r\nuntil the end"),
            Ok(ended(200, false))
        );
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        assert_eq!(answer(chunked), Ok(ended(200, true)));
        let close = b"HTTP/1.1 302 Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(answer(close), Ok(ended(302, false)));
        let interim =
            b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(answer(interim), Ok(ended(200, true)));
    }

    #[test]
    fn an_answer_that_is_cut_is_told_from_none_at_all() {
        assert_eq!(answer(b""), Err(RequestFailure::NoAnswer));
        for cut in [
            "HTTP/1.1 20",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        ] {
            assert_eq!(
                answer(cut.as_bytes()),
                Err(RequestFailure::Truncated),
                "{cut:?}"
            );
        }
    }

    #[test]
    fn what_is_not_http_is_named() {
        assert_eq!(
            answer(b"SSH-2.0-OpenSSH_9.9\r\n"),
            Err(RequestFailure::NotHttp)
        );
        assert_eq!(
            answer(b"\x15\x03\x01\x00\x02\x02\x46"),
            Err(RequestFailure::Tls)
        );
        let length = b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n";
        assert_eq!(answer(length), Err(RequestFailure::NotHttp));
    }

    #[test]
    fn trailers_are_headers_and_have_an_end() {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n";
        let with = |trailers: &str| answer(format!("{chunked}{trailers}").as_bytes());
        assert_eq!(with("Took: 3ms\r\nSum: 5\r\n\r\n"), Ok(ended(200, true)));
        assert_eq!(with("garbage\r\n\r\n"), Err(RequestFailure::NotHttp));
        let endless = with(&"More: 1\r\n".repeat(1000));
        assert_eq!(endless, Err(RequestFailure::NotHttp));
    }

    proptest::proptest! {
        #[test]
        fn no_answer_upsets_a_client(bytes: Vec<u8>) {
            let _ = answer(&bytes);
            let _ = answer(&[b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", bytes.as_slice()].concat());
        }
    }
}
