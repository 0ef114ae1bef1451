//! One request over HTTP/1.1, its whole answer, and what went wrong on the way.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

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
pub struct HttpConnection {
    stream: Box<dyn Stream>,
    received: Vec<u8>,
}

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
        Ok(Self {
            stream,
            received: Vec::new(),
        })
    }

    /// # Errors
    /// Those of write(2).
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), RequestFailure> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// Reads one answer to its end.
    ///
    /// # Errors
    /// What ended it early.
    pub fn receive(&mut self) -> Result<Answer, RequestFailure> {
        let (head, length) = self.head()?;
        self.received.drain(..length);
        match head.body {
            Body::Empty => {}
            Body::Sized(length) => self.skip(length)?,
            Body::Chunked => self.skip_chunks()?,
            Body::UntilEnd => while self.read_more()? > 0 {},
        }
        Ok(Answer {
            status: head.status,
            keeps: head.keeps,
        })
    }

    /// The head of the answer and its length, past interim answers.
    fn head(&mut self) -> Result<(Head, usize), RequestFailure> {
        loop {
            match Head::parse(&self.received)? {
                Some((head, length)) if (100..200).contains(&head.status) => {
                    self.received.drain(..length);
                }
                Some(parsed) => return Ok(parsed),
                None if self.received.len() > LONGEST_HEAD => return Err(RequestFailure::NotHttp),
                None => {
                    if self.read_more()? == 0 {
                        return Err(if self.received.is_empty() {
                            RequestFailure::NoAnswer
                        } else {
                            RequestFailure::Truncated
                        });
                    }
                }
            }
        }
    }

    fn skip(&mut self, mut length: u64) -> Result<(), RequestFailure> {
        loop {
            let here = self
                .received
                .len()
                .min(usize::try_from(length).unwrap_or(usize::MAX));
            self.received.drain(..here);
            length -= here as u64;
            if length == 0 {
                return Ok(());
            }
            self.need_more()?;
        }
    }

    fn skip_chunks(&mut self) -> Result<(), RequestFailure> {
        loop {
            let size = loop {
                match httparse::parse_chunk_size(&self.received) {
                    Ok(httparse::Status::Complete((length, size))) => {
                        self.received.drain(..length);
                        break size;
                    }
                    Ok(httparse::Status::Partial) => self.need_more()?,
                    Err(_) => return Err(RequestFailure::NotHttp),
                }
            };
            if size == 0 {
                return self.skip_trailers();
            }
            // the line break that ends a chunk
            self.skip(size.saturating_add(2))?;
        }
    }

    fn skip_trailers(&mut self) -> Result<(), RequestFailure> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; HEADERS];
            match httparse::parse_headers(&self.received, &mut headers) {
                Ok(httparse::Status::Complete((length, _))) => {
                    self.received.drain(..length);
                    return Ok(());
                }
                Ok(httparse::Status::Partial) => self.need_more()?,
                Err(_) => return Err(RequestFailure::NotHttp),
            }
        }
    }

    fn need_more(&mut self) -> Result<(), RequestFailure> {
        match self.read_more()? {
            0 => Err(RequestFailure::Truncated),
            _ => Ok(()),
        }
    }

    fn read_more(&mut self) -> Result<usize, RequestFailure> {
        let mut piece = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut piece) {
                Ok(bytes) => {
                    self.received.extend(piece.iter().take(bytes));
                    return Ok(bytes);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
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
        // a TLS record of type alert or handshake
        if let [0x15 | 0x16, 0x03, ..] = bytes {
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
        let mut connection = HttpConnection {
            stream: Box::new(ours),
            received: Vec::new(),
        };
        connection.receive()
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

    proptest::proptest! {
        #[test]
        fn no_answer_upsets_a_client(bytes: Vec<u8>) {
            let _ = answer(&bytes);
            let _ = answer(&[b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", bytes.as_slice()].concat());
        }
    }
}
