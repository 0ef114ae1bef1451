//! Connections that hotswap makes to a candidate to see whether they are accepted.
//!
//! A connection that was made proves nothing, because hotswap itself listens.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{MsgFlags, SockaddrStorage, getpeername, recv};
use nix::unistd::{read, write};

use super::ReadyRequest;
use crate::connections::{inet, unix};
use crate::listener::ListenerId;
use crate::socket::{bound_to, inet_address, inode_of, reset, set_nonblocking};
use crate::supervisor::Time;
use crate::sys;

/// How long to wait after a failed probe before the next one.
pub const AGAIN: Duration = Duration::from_millis(250);

/// The progress of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeProgress {
    Waiting,
    Accepted,
    /// Reset before it was accepted.
    Broken,
}

#[derive(Debug)]
pub struct Probe {
    connection: OwnedFd,
    is_unix: bool,
}

impl Probe {
    /// Takes a connection to a TCP or a unix listener.
    ///
    /// # Errors
    /// Those of getsockopt(2) and fcntl(2).
    pub fn new(connection: OwnedFd) -> io::Result<Self> {
        let domain = sys::socket_option(connection.as_fd(), libc::SOL_SOCKET, libc::SO_DOMAIN)?;
        set_nonblocking(connection.as_fd(), true)?;
        let is_unix = domain == libc::AF_UNIX;
        Ok(Self {
            connection,
            is_unix,
        })
    }

    pub fn progress(&self) -> ProbeProgress {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        match recv(self.connection.as_raw_fd(), &mut [0], flags).map_err(io::Error::from) {
            // The server has sent something or has hung up. A connection that is never accepted is reset instead.
            Ok(_) => ProbeProgress::Accepted,
            Err(error) if error.kind() == ErrorKind::Interrupted => ProbeProgress::Waiting,
            Err(error) if error.kind() == ErrorKind::WouldBlock => match self.is_accepted() {
                Ok(true) => ProbeProgress::Accepted,
                Ok(false) => ProbeProgress::Waiting,
                Err(_) => ProbeProgress::Broken,
            },
            Err(_) => ProbeProgress::Broken,
        }
    }

    /// Whether a process holds the other end.
    fn is_accepted(&self) -> io::Result<bool> {
        if self.is_unix {
            return unix::has_owned_peer(inode_of(self.connection.as_fd())?);
        }
        let server: SockaddrStorage = getpeername(self.connection.as_raw_fd())?;
        let server = inet_address(&server).ok_or(ErrorKind::NotConnected)?;
        inet::is_accepted(bound_to(self.connection.as_fd())?, server)
    }
}

/// One that was not accepted is reset, so that the one who takes it off the queue sees that nobody is left, whatever it has
/// sent.
impl Drop for Probe {
    fn drop(&mut self) {
        let waits = self.progress() == ProbeProgress::Waiting;
        if waits && !self.is_unix {
            reset(&self.connection);
        }
    }
}

impl Read for Probe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(read(&self.connection, buffer)?)
    }
}

impl Write for Probe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(write(&self.connection, bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The probes of one candidate, at most one for each listener.
#[derive(Debug, Default)]
pub struct Probes {
    all: Vec<(ListenerId, ProbeState)>,
}

#[derive(Debug)]
enum ProbeState {
    /// The caller has been asked to make it.
    Asked,
    /// It stays open until it is accepted.
    Open(Probe),
    Accepted,
    /// It failed; the next one is made at this time.
    Failed(Time),
}

impl Probes {
    /// Asks for a probe of each of these, unless there is one already or the last one failed too recently. The caller
    /// answers with [`Probes::made`].
    pub fn request(
        &mut self,
        listeners: Vec<ListenerId>,
        now: Time,
        requests: &mut Vec<ReadyRequest>,
    ) {
        for listener in listeners {
            match self.state(listener) {
                None => self.all.push((listener, ProbeState::Asked)),
                Some(state) if state.may_be_tried_again(now) => *state = ProbeState::Asked,
                Some(_) => continue,
            }
            requests.push(ReadyRequest::Probe(listener));
        }
    }

    pub fn made(&mut self, listener: ListenerId, probe: io::Result<Probe>, now: Time) {
        if let Some(state) = self.state(listener) {
            *state = probe.map_or(ProbeState::Failed(now + AGAIN), ProbeState::Open);
        }
    }

    /// Checks the progress of each, and closes those that were accepted.
    pub fn look(&mut self, now: Time) {
        for (_, state) in &mut self.all {
            if let ProbeState::Open(probe) = state {
                match probe.progress() {
                    ProbeProgress::Waiting => {}
                    ProbeProgress::Accepted => *state = ProbeState::Accepted,
                    ProbeProgress::Broken => *state = ProbeState::Failed(now + AGAIN),
                }
            }
        }
    }

    pub fn accepted(&self) -> Vec<ListenerId> {
        let accepted =
            |(_, state): &&(ListenerId, ProbeState)| matches!(state, ProbeState::Accepted);
        let accepted = self.all.iter().filter(accepted);
        accepted.map(|(listener, _)| *listener).collect()
    }

    pub fn is_accepted(&self, listener: ListenerId) -> bool {
        let mut all = self.all.iter();
        all.any(|(of, state)| *of == listener && matches!(state, ProbeState::Accepted))
    }

    fn state(&mut self, listener: ListenerId) -> Option<&mut ProbeState> {
        let mut all = self.all.iter_mut();
        all.find(|(of, _)| *of == listener).map(|(_, state)| state)
    }
}

impl ProbeState {
    fn may_be_tried_again(&self, now: Time) -> bool {
        matches!(self, Self::Failed(until) if now >= *until)
    }
}
