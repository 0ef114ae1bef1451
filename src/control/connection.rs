//! One client of the control socket: its request, and what is still to be sent to it, both bounded.
//!
//! It never blocks, and keeps no more than one request and a bounded output: a client that floods, hangs or vanishes is
//! dropped.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::poll::PollFlags;
use serde::{Deserialize, Serialize};

use super::protocol::{Reply, RequestKind, SwapVerdict, line_of};
use crate::handoff;
use crate::retry::is_for_later;
use crate::supervisor::{Generation, Time};

/// The longest request.
const LONGEST_REQUEST: usize = 4096;
/// How much a client may leave unread, beyond the kernel's buffer.
const LONGEST_BACKLOG: usize = 64 * 1024;
/// How long a request or a reader may take.
pub const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Serialize, Deserialize)]
pub struct ClientConnection {
    #[serde(with = "handoff::descriptor")]
    pub stream: UnixStream,
    pub stage: ConnectionStage,
    pub input: Vec<u8>,
    pub output: VecDeque<u8>,
    /// It has closed its sending side; it may still read.
    pub silent: bool,
    /// The verdict that it gets once that generation is gone.
    pub owed: Option<(Generation, SwapVerdict)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConnectionStage {
    /// Its request has not arrived.
    Asking {
        until: Time,
    },
    Waiting(RequestKind),
    /// Its answer is sent; it is dropped once it has read it.
    Leaving {
        until: Time,
    },
}

/// What follows for a client.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Stays,
    Asks(RequestKind),
    Leaves,
}

impl ClientConnection {
    pub fn new(stream: UnixStream, now: Time) -> Self {
        Self {
            stream,
            stage: ConnectionStage::Asking {
                until: now + CLIENT_TIMEOUT,
            },
            input: Vec::new(),
            output: VecDeque::new(),
            silent: false,
            owed: None,
        }
    }

    pub fn fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    /// A client that has sent its request is not read from, so that a flood stays in its own buffer; a hang-up is still seen.
    pub fn polled(&self) -> (BorrowedFd<'_>, PollFlags) {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, self.is_asking() && !self.silent);
        flags.set(PollFlags::POLLOUT, !self.output.is_empty());
        (self.stream.as_fd(), flags)
    }

    pub fn waits_for(&self) -> Option<&RequestKind> {
        if let ConnectionStage::Waiting(what) = &self.stage {
            Some(what)
        } else {
            None
        }
    }

    pub fn is_asking(&self) -> bool {
        matches!(self.stage, ConnectionStage::Asking { .. })
    }

    pub fn deadline(&self) -> Option<Time> {
        match self.stage {
            ConnectionStage::Asking { until } | ConnectionStage::Leaving { until } => Some(until),
            ConnectionStage::Waiting(_) => None,
        }
    }

    pub fn woken(&mut self, flags: PollFlags, now: Time) -> Outcome {
        // A request counts even if its client has left.
        if flags.contains(PollFlags::POLLIN) && self.is_asking() {
            match self.read() {
                Ok(Some(what)) => {
                    self.stage = ConnectionStage::Waiting(what.clone());
                    return Outcome::Asks(what);
                }
                Ok(None) => {}
                Err(why) => return self.finish(&Reply::Error(why), now),
            }
        }
        let over = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
        if flags.intersects(over) || (self.silent && self.is_asking()) {
            return Outcome::Leaves;
        }
        self.send()
    }

    /// Reads once; the rest waits for the next round.
    fn read(&mut self) -> Result<Option<RequestKind>, String> {
        let mut buffer = [0; LONGEST_REQUEST];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.silent = true,
            Ok(bytes) => self.input.extend(buffer.iter().take(bytes)),
            Err(error) if is_for_later(&error) => {}
            Err(_) => self.silent = true,
        }
        let Some(end) = self.input.iter().position(|byte| *byte == b'\n') else {
            if self.input.len() >= LONGEST_REQUEST {
                return Err("the request is too long".into());
            }
            return Ok(None);
        };
        self.input.truncate(end);
        let request = RequestKind::read(&std::mem::take(&mut self.input));
        request
            .map(Some)
            .map_err(|why| format!("cannot understand the request: {why}"))
    }

    /// Sends a message to a client that stays.
    pub fn say(&mut self, message: &Reply) -> Outcome {
        let line = line_of(message);
        if !self.output.is_empty() && self.output.len() + line.len() > LONGEST_BACKLOG {
            return Outcome::Leaves;
        }
        self.output.extend(line);
        self.send()
    }

    /// Sends the final message.
    pub fn finish(&mut self, message: &Reply, now: Time) -> Outcome {
        self.stage = ConnectionStage::Leaving {
            until: now + CLIENT_TIMEOUT,
        };
        self.say(message)
    }

    fn send(&mut self) -> Outcome {
        while !self.output.is_empty() {
            match self.stream.write(self.output.as_slices().0) {
                Ok(0) => return Outcome::Leaves,
                Ok(sent) => drop(self.output.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Outcome::Stays,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Outcome::Leaves,
            }
        }
        if matches!(self.stage, ConnectionStage::Leaving { .. }) {
            Outcome::Leaves
        } else {
            Outcome::Stays
        }
    }
}
