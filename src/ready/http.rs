//! `--ready http:PATH`: one request after another, until one is answered with a good status.
//!
//! A server that does not speak HTTP is greeted with TLS once, so that a verdict can say that it speaks that.

use std::io;

use super::probe::{AGAIN, Probe};
use super::reason::HttpAnswer;
use super::{NotReadyReason, ReadyBy, ReadyRequest};
use crate::listener::ListenerId;
use crate::supervisor::Time;
use exchange::{Exchange, Greeting};

pub mod exchange;

/// The requests to one candidate, one at a time.
#[derive(Debug)]
pub struct Http {
    host: String,
    path: String,
    state: HttpState,
    /// The last answer that was not a good status.
    last: Option<HttpAnswer>,
    tls_was_tried: bool,
    /// It has a socket that can be asked.
    has_target: bool,
}

#[derive(Debug)]
enum HttpState {
    NotBefore(Time),
    /// The caller has been asked for a connection.
    Connecting,
    Asking {
        exchange: Exchange<Probe>,
        since: Time,
    },
}

impl Http {
    pub fn new(host: Option<&str>, path: &str, started: Time) -> Self {
        Self {
            host: host.unwrap_or("localhost").to_owned(),
            path: path.to_owned(),
            state: HttpState::NotBefore(started),
            last: None,
            tls_was_tried: false,
            has_target: false,
        }
    }

    /// `None` if it has not been asked yet.
    pub fn not_ready_reason(&self) -> Option<NotReadyReason> {
        let asked = matches!(self.state, HttpState::Asking { .. });
        let answer = self.last.or(asked.then_some(HttpAnswer::Silence))?;
        let path = self.path.clone();
        Some(NotReadyReason::Answers { path, answer })
    }

    pub fn has_target(&self) -> bool {
        self.has_target
    }

    pub fn made(&mut self, probe: io::Result<Probe>, now: Time) {
        self.state = match probe {
            Ok(probe) => {
                let greet_with_tls = self.last.is_some_and(may_be_tls) && !self.tls_was_tried;
                self.tls_was_tried |= greet_with_tls;
                let (host, path) = (&self.host, &self.path);
                let greeting = if greet_with_tls {
                    Greeting::Tls
                } else {
                    Greeting::Get { host, path }
                };
                HttpState::Asking {
                    exchange: Exchange::new(probe, greeting, now),
                    since: now,
                }
            }
            Err(_) => HttpState::NotBefore(now + AGAIN),
        };
    }

    /// Continues the current request, or asks for a connection to this listener; ready at a good status.
    pub fn look(
        &mut self,
        now: Time,
        listener: Option<ListenerId>,
        requests: &mut Vec<ReadyRequest>,
    ) -> Option<ReadyBy> {
        self.has_target = listener.is_some();
        match (&mut self.state, listener) {
            (HttpState::NotBefore(then), Some(listener)) if now >= *then => {
                self.state = HttpState::Connecting;
                requests.push(ReadyRequest::Probe(listener));
            }
            (HttpState::Asking { exchange, since }, _) => match exchange.go_on(now) {
                None => {}
                Some(HttpAnswer::Status(status)) if (200..400).contains(&status) => {
                    return Some(ReadyBy::Status(status));
                }
                Some(answer) => {
                    let greeted = exchange.is_tls();
                    self.state = HttpState::NotBefore((*since + AGAIN).max(now));
                    // what it makes of a greeting that it does not understand is not news
                    let is_news = !greeted && self.last != Some(HttpAnswer::Tls);
                    if is_news || answer == HttpAnswer::Tls {
                        self.last = Some(answer);
                    }
                }
            },
            (HttpState::NotBefore(_) | HttpState::Connecting, _) => {}
        }
        None
    }
}

/// A server that speaks TLS may answer so to a request in clear text.
fn may_be_tls(answer: HttpAnswer) -> bool {
    match answer {
        HttpAnswer::Status(status) => status == 400,
        HttpAnswer::Other | HttpAnswer::Closed | HttpAnswer::Reset => true,
        HttpAnswer::Tls | HttpAnswer::Silence => false,
    }
}
