//! `--ready http:PATH`: one request after another, until one is answered with a good status.

use std::io::{self, ErrorKind, Read, Write};
use std::time::Duration;

use super::probe::{AGAIN, Probe};
use super::{NotReadyReason, Ready, ReadyBy, ReadyRequest};
use crate::listener::ListenerId;
use crate::supervisor::Time;

/// How much of an answer is read at most.
const ANSWER: usize = 64 * 1024;
/// How long a server may take to end an answer after its status.
const REST: Duration = Duration::from_millis(100);
/// How long to wait for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The requests to one candidate, one at a time.
#[derive(Debug)]
pub struct Http {
    path: String,
    state: HttpState,
    /// The last bad status.
    refused: Option<u16>,
}

#[derive(Debug)]
enum HttpState {
    NotBefore(Time),
    /// The caller has been asked for a connection.
    Connecting,
    Asking {
        exchange: HttpExchange<Probe>,
        since: Time,
    },
}

impl Http {
    pub fn new(path: &str, started: Time) -> Self {
        Self {
            path: path.to_owned(),
            state: HttpState::NotBefore(started),
            refused: None,
        }
    }

    pub fn not_ready_reason(&self) -> Option<NotReadyReason> {
        let path = self.path.clone();
        self.refused
            .map(|status| NotReadyReason::Answer { path, status })
    }

    pub fn made(&mut self, probe: io::Result<Probe>, now: Time) {
        self.state = match probe {
            Ok(probe) => HttpState::Asking {
                exchange: HttpExchange::new(probe, &self.path, now),
                since: now,
            },
            Err(_) => HttpState::NotBefore(now + AGAIN),
        };
    }

    /// Continues the current request, or asks for a connection to this listener; ready at a good status.
    pub fn look(
        &mut self,
        now: Time,
        listener: Option<ListenerId>,
        requests: &mut Vec<ReadyRequest>,
    ) -> Option<Ready> {
        match (&mut self.state, listener) {
            (HttpState::NotBefore(then), Some(listener)) if now >= *then => {
                self.state = HttpState::Connecting;
                requests.push(ReadyRequest::Probe(listener));
            }
            (HttpState::Asking { exchange, since }, _) => match exchange.go_on(now) {
                HttpAnswer::None => {}
                HttpAnswer::Status(status) if (200..400).contains(&status) => {
                    return Some(ReadyBy::Status(status).into());
                }
                answer @ (HttpAnswer::Status(_) | HttpAnswer::Useless) => {
                    if let HttpAnswer::Status(status) = answer {
                        self.refused = Some(status);
                    }
                    self.state = HttpState::NotBefore((*since + AGAIN).max(now));
                }
            },
            (HttpState::NotBefore(_) | HttpState::Connecting, _) => {}
        }
        None
    }
}

/// The state of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HttpAnswer {
    None,
    Status(u16),
    /// The server hung up, spoke something else, or took too long.
    Useless,
}

/// One request over HTTP/1.1 and its answer.
#[derive(Debug)]
struct HttpExchange<S> {
    stream: S,
    asked: Time,
    unsent: Vec<u8>,
    answer: Vec<u8>,
    /// When the status was known.
    answered_at: Option<Time>,
}

impl<S: Read + Write> HttpExchange<S> {
    fn new(stream: S, path: &str, now: Time) -> Self {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: hotswap\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        );
        Self {
            stream,
            asked: now,
            unsent: request.into_bytes(),
            answer: Vec::new(),
            answered_at: None,
        }
    }

    /// Sends and reads what it can without waiting.
    fn go_on(&mut self, now: Time) -> HttpAnswer {
        self.send();
        let Ok(ended) = self.read() else {
            return HttpAnswer::Useless;
        };
        match status(&self.answer) {
            Ok(Some(status)) => {
                // Hanging up in the middle of an answer would be logged by the server.
                let answered_at = *self.answered_at.get_or_insert(now);
                if ended || now >= answered_at + REST {
                    HttpAnswer::Status(status)
                } else {
                    HttpAnswer::None
                }
            }
            Ok(None) if ended || now >= self.asked + PATIENCE => HttpAnswer::Useless,
            Ok(None) => HttpAnswer::None,
            Err(_) => HttpAnswer::Useless,
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

/// The status in the first line of an answer, once that is complete.
fn status(answer: &[u8]) -> io::Result<Option<u16>> {
    let Some(end) = answer.iter().position(|byte| *byte == b'\n') else {
        return Ok(None);
    };
    let line = String::from_utf8_lossy(answer.get(..end).unwrap_or_default());
    let mut words = line.split_ascii_whitespace();
    let is_http = words.next().is_some_and(|word| word.starts_with("HTTP/"));
    let status = words.next().and_then(|word| word.parse().ok());
    match status.filter(|_| is_http) {
        Some(status) => Ok(Some(status)),
        None => Err(ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    const START: Time = Time::from_secs(100);

    fn asked() -> (HttpExchange<UnixStream>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (HttpExchange::new(ours, "/health", START), theirs)
    }

    fn read_request(server: &mut UnixStream) -> String {
        let mut bytes = [0; 1024];
        let length = server.read(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[test]
    fn the_status_is_known_when_the_answer_is_over() {
        let (mut exchange, mut server) = asked();
        assert_eq!(exchange.go_on(START), HttpAnswer::None);
        let request = read_request(&mut server);
        assert!(
            request.starts_with("GET /health HTTP/1.1\r\nHost: localhost\r\n"),
            "{request}"
        );
        assert!(request.ends_with("\r\n\r\n"), "{request}");
        server.write_all(b"HTTP/1.1 204 No").unwrap();
        assert_eq!(exchange.go_on(START), HttpAnswer::None);
        server.write_all(b" Content\r\n\r\n").unwrap();
        assert_eq!(exchange.go_on(START), HttpAnswer::None);
        drop(server);
        assert_eq!(exchange.go_on(START), HttpAnswer::Status(204));
    }

    #[test]
    fn an_answer_counts_even_if_the_connection_stays_open() {
        let (mut exchange, mut server) = asked();
        assert_eq!(exchange.go_on(START), HttpAnswer::None);
        server
            .write_all(b"HTTP/1.1 503 Service Unavailable\r\n")
            .unwrap();
        assert_eq!(exchange.go_on(START), HttpAnswer::None);
        assert_eq!(exchange.go_on(START + REST), HttpAnswer::Status(503));
    }

    #[test]
    fn other_protocols_and_silence_are_no_answer() {
        for answer in [
            "",
            "HTTP/1.1 2",
            "SSH-2.0-OpenSSH_9.9\r\n",
            "HTTP/1.1 fine\r\n",
        ] {
            let (mut exchange, mut server) = asked();
            server.write_all(answer.as_bytes()).unwrap();
            drop(server);
            assert_eq!(exchange.go_on(START), HttpAnswer::Useless, "{answer:?}");
        }
    }

    #[test]
    fn an_endless_answer_is_cut_off() {
        let (mut exchange, mut server) = asked();
        let server = std::thread::spawn(move || {
            let _ = server.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            while server.write_all(&[b'x'; 4096]).is_ok() {}
        });
        let mut answer = HttpAnswer::None;
        while answer == HttpAnswer::None {
            answer = exchange.go_on(START);
        }
        assert_eq!(answer, HttpAnswer::Status(200));
        drop(exchange);
        server.join().unwrap();
    }

    #[test]
    fn a_request_without_an_answer_times_out() {
        let (mut exchange, _server) = asked();
        assert_eq!(exchange.go_on(START), HttpAnswer::None);
        assert_eq!(exchange.go_on(START + PATIENCE), HttpAnswer::Useless);
    }

    proptest::proptest! {
        #[test]
        fn no_answer_is_too_odd_to_be_judged(bytes: Vec<u8>, line in "(HTTP/)?[0-9.]{0,4} ?-?[0-9]{0,8}\\PC{0,8}\r?\n?") {
            let _ = status(&bytes);
            let _ = status(line.as_bytes());
        }
    }
}
