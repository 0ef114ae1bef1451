//! One request to a server, and what it answers.

use std::io::{self, ErrorKind, Read, Write};
use std::time::Duration;

use super::super::reason::HttpAnswer;
use crate::supervisor::Time;

/// How much of an answer is read at most.
const ANSWER: usize = 64 * 1024;
/// How long a server may take to end an answer after its status.
const REST: Duration = Duration::from_millis(100);
/// The one interim status that no other follows.
const SWITCHING_PROTOCOLS: u16 = 101;
/// How long to wait for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What a server is asked.
#[derive(Clone, Copy, Debug)]
pub enum Greeting<'a> {
    Get {
        host: &'a str,
        path: &'a str,
    },
    /// The hello of a client that speaks TLS, which any server of TLS answers, if only with an alert.
    Tls,
}

impl Greeting<'_> {
    fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::Get { host, path } => format!(
                "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: hotswap\r\nAccept: */*\r\nConnection: close\r\n\r\n"
            )
            .into_bytes(),
            Self::Tls => client_hello(),
        }
    }
}

/// A ClientHello of TLS 1.2 (RFC 5246) without extensions, in a record of its own.
pub fn client_hello() -> Vec<u8> {
    // ECDHE and RSA with AES-GCM
    const SUITES: [u8; 8] = [0xc0, 0x2b, 0xc0, 0x2f, 0x00, 0x9c, 0x00, 0x35];
    let mut hello = vec![3, 3];
    hello.extend([0; 32]); // its random bytes
    hello.push(0); // no session
    hello.extend([0, 8]);
    hello.extend(SUITES);
    hello.extend([1, 0]); // no compression
    let length = |bytes: usize| u8::try_from(bytes).unwrap_or(u8::MAX);
    let mut record = vec![22, 3, 1, 0, length(hello.len() + 4)];
    record.extend([1, 0, 0, length(hello.len())]);
    record.extend(hello);
    record
}

/// It begins as a record of TLS does: an alert or a handshake, of any version.
pub fn is_tls(answer: &[u8]) -> bool {
    matches!(answer, [21 | 22, 3, ..])
}

/// One request over HTTP/1.1 and its answer.
#[derive(Debug)]
pub struct Exchange<S> {
    stream: S,
    asked: Time,
    is_tls: bool,
    unsent: Vec<u8>,
    answer: Vec<u8>,
    /// When the status was known.
    answered_at: Option<Time>,
}

impl<S: Read + Write> Exchange<S> {
    pub fn new(stream: S, greeting: Greeting, now: Time) -> Self {
        Self {
            stream,
            asked: now,
            is_tls: matches!(greeting, Greeting::Tls),
            unsent: greeting.into_bytes(),
            answer: Vec::new(),
            answered_at: None,
        }
    }

    /// It began with a greeting in TLS.
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// Sends and reads what it can without waiting. `None` while the answer is not known.
    pub fn go_on(&mut self, now: Time) -> Option<HttpAnswer> {
        self.send();
        let Ok(ended) = self.read() else {
            return Some(HttpAnswer::Reset);
        };
        if is_tls(&self.answer) {
            return Some(HttpAnswer::Tls);
        }
        let is_late = now >= self.asked + ANSWER_TIMEOUT;
        match status(&self.answer) {
            Ok(Some(status)) => {
                // Hanging up in the middle of an answer would be logged by the server.
                let answered_at = *self.answered_at.get_or_insert(now);
                let is_over = ended || now >= answered_at + REST;
                is_over.then_some(HttpAnswer::Status(status))
            }
            Ok(None) if ended && self.answer.is_empty() => Some(HttpAnswer::Closed),
            Ok(None) if is_late && self.answer.is_empty() => Some(HttpAnswer::Silence),
            Ok(None) if ended || is_late => Some(HttpAnswer::Other),
            Ok(None) => None,
            Err(_) => Some(HttpAnswer::Other),
        }
    }

    fn send(&mut self) {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(bytes) => drop(self.unsent.drain(..bytes.min(self.unsent.len()))),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // The server hung up; its answer may still be there to read.
                Err(_) => self.unsent.clear(),
            }
        }
    }

    /// Whether the answer is complete.
    fn read(&mut self) -> io::Result<bool> {
        let mut piece = [0; 4096];
        while self.answer.len() < ANSWER {
            match self.stream.read(&mut piece) {
                Ok(0) => return Ok(true),
                Ok(bytes) => {
                    let bytes = piece.get(..bytes).unwrap_or_default();
                    self.answer.extend_from_slice(bytes);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(_) if !self.answer.is_empty() => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// The status in the first line of an answer, once that is complete. Interim answers (RFC 9110, section 15.2) are none.
fn status(mut answer: &[u8]) -> io::Result<Option<u16>> {
    loop {
        let Some(end) = answer.iter().position(|byte| *byte == b'\n') else {
            return Ok(None);
        };
        let line = String::from_utf8_lossy(answer.get(..end).unwrap_or_default());
        let mut words = line.split_ascii_whitespace();
        let is_http = words.next().is_some_and(|word| word.starts_with("HTTP/"));
        let status = words.next().and_then(|word| word.parse().ok());
        let Some(status) = status.filter(|_| is_http) else {
            return Err(ErrorKind::InvalidData.into());
        };
        if !(100..200).contains(&status) || status == SWITCHING_PROTOCOLS {
            return Ok(Some(status));
        }
        let end_of_head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
        let Some(end) = end_of_head else {
            return Ok(None);
        };
        answer = answer.get(end + 4..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    const START: Time = Time::from_secs(100);
    const GREETING: Greeting = Greeting::Get {
        host: "localhost",
        path: "/health",
    };

    fn asked() -> (Exchange<UnixStream>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Exchange::new(ours, GREETING, START), theirs)
    }

    fn read_request(server: &mut UnixStream) -> String {
        let mut bytes = [0; 1024];
        let length = server.read(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[test]
    fn the_status_is_known_when_the_answer_is_over() {
        let (mut exchange, mut server) = asked();
        assert_eq!(exchange.go_on(START), None);
        let request = read_request(&mut server);
        assert!(
            request.starts_with("GET /health HTTP/1.1\r\nHost: localhost\r\n"),
            "{request}"
        );
        assert!(request.ends_with("\r\n\r\n"), "{request}");
        server.write_all(b"HTTP/1.1 204 No").unwrap();
        assert_eq!(exchange.go_on(START), None);
        server.write_all(b" Content\r\n\r\n").unwrap();
        assert_eq!(exchange.go_on(START), None);
        drop(server);
        assert_eq!(exchange.go_on(START), Some(HttpAnswer::Status(204)));
    }

    #[test]
    fn an_answer_counts_even_if_the_connection_stays_open() {
        let (mut exchange, mut server) = asked();
        assert_eq!(exchange.go_on(START), None);
        server
            .write_all(b"HTTP/1.1 503 Service Unavailable\r\n")
            .unwrap();
        assert_eq!(exchange.go_on(START), None);
        assert_eq!(exchange.go_on(START + REST), Some(HttpAnswer::Status(503)));
    }

    #[test]
    fn other_protocols_and_silence_are_no_answer() {
        for (answer, expected) in [
            ("", HttpAnswer::Closed),
            ("HTTP/1.1 2", HttpAnswer::Other),
            ("SSH-2.0-OpenSSH_9.9\r\n", HttpAnswer::Other),
            ("HTTP/1.1 fine\r\n", HttpAnswer::Other),
            ("\x15\x03\x03\0\x02\x02\x28", HttpAnswer::Tls),
            ("\x16\x03\x01", HttpAnswer::Tls),
        ] {
            let (mut exchange, mut server) = asked();
            server.write_all(answer.as_bytes()).unwrap();
            drop(server);
            assert_eq!(exchange.go_on(START), Some(expected), "{answer:?}");
        }
    }

    #[test]
    fn an_interim_answer_is_followed_by_another() {
        let (mut exchange, mut server) = asked();
        let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n";
        server.write_all(interim.as_bytes()).unwrap();
        assert_eq!(exchange.go_on(START + REST), None);
        server.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        drop(server);
        assert_eq!(exchange.go_on(START), Some(HttpAnswer::Status(200)));
    }

    #[test]
    fn an_endless_answer_is_cut_off() {
        let (mut exchange, mut server) = asked();
        let server = std::thread::spawn(move || {
            let _ = server.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            while server.write_all(&[b'x'; 4096]).is_ok() {}
        });
        let mut answer = None;
        while answer.is_none() {
            answer = exchange.go_on(START);
        }
        assert_eq!(answer, Some(HttpAnswer::Status(200)));
        drop(exchange);
        server.join().unwrap();
    }

    #[test]
    fn a_hello_is_a_record_as_long_as_it_says() {
        let hello = Greeting::Tls.into_bytes();
        assert_eq!(usize::from(hello[4]), hello.len() - 5);
        assert_eq!(usize::from(hello[8]), hello.len() - 9);
    }

    #[test]
    fn a_request_without_an_answer_times_out() {
        let (mut exchange, _server) = asked();
        assert_eq!(exchange.go_on(START), None);
        assert_eq!(
            exchange.go_on(START + ANSWER_TIMEOUT),
            Some(HttpAnswer::Silence)
        );
    }

    proptest::proptest! {
        #[test]
        fn no_answer_is_too_odd_to_be_judged(bytes: Vec<u8>, line in "(HTTP/)?[0-9.]{0,4} ?-?[0-9]{0,8}\\PC{0,8}\r?\n?") {
            let _ = status(&bytes);
            let _ = status(line.as_bytes());
        }
    }
}
