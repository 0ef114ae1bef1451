//! The datagrams to the service manager: in their order, and later if its queue is full.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};

use crate::supervisor::Time;

/// How long to wait when the manager's queue is full.
const AGAIN: Duration = Duration::from_millis(100);
/// How long to wait for it at the end.
const FINAL_TIMEOUT: Duration = Duration::from_secs(1);
/// How many messages are kept for a manager that does not read.
const UNSENT: usize = 64;

#[derive(Debug)]
pub struct Message {
    pub text: String,
    /// For its file descriptor store.
    pub descriptor: Option<OwnedFd>,
}

impl From<&str> for Message {
    fn from(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            descriptor: None,
        }
    }
}

#[derive(Debug)]
pub struct ManagerSocket {
    socket: UnixDatagram,
    address: UnixAddr,
    unsent: VecDeque<Message>,
    /// When to try the first of them once more.
    pub again: Option<Time>,
}

impl ManagerSocket {
    pub fn to(name: &OsStr) -> Option<Self> {
        let address = match name.as_bytes() {
            [b'@', rest @ ..] => UnixAddr::new_abstract(rest).ok()?,
            [b'/', ..] => UnixAddr::new(name).ok()?,
            _ => return None,
        };
        let socket = UnixDatagram::unbound().ok()?;
        socket.set_nonblocking(true).ok()?;
        Some(Self {
            socket,
            address,
            unsent: VecDeque::new(),
            again: None,
        })
    }

    pub fn send(&mut self, message: Message, now: Time) {
        if self.unsent.len() < UNSENT {
            self.unsent.push_back(message);
        }
        self.flush(now);
    }

    pub fn flush(&mut self, now: Time) {
        self.again = None;
        while let Some(message) = self.unsent.front() {
            if self.try_to_send(message) == Err(Errno::EAGAIN) {
                self.again = Some(now + AGAIN);
                return;
            }
            self.unsent.pop_front();
        }
    }

    /// Nothing is sent later: a manager that is busy is waited for, but not for long.
    pub fn finish(&mut self) {
        let socket = &self.socket;
        let waits = socket.set_nonblocking(false);
        if waits.is_ok() && socket.set_write_timeout(Some(FINAL_TIMEOUT)).is_ok() {
            self.flush(Time::ZERO);
        }
    }

    fn try_to_send(&self, message: &Message) -> nix::Result<()> {
        let text = [IoSlice::new(message.text.as_bytes())];
        let descriptor = message.descriptor.as_ref().map(AsRawFd::as_raw_fd);
        let rights = descriptor.as_slice();
        let rights = (!rights.is_empty()).then_some(ControlMessage::ScmRights(rights));
        let (socket, to) = (self.socket.as_raw_fd(), Some(&self.address));
        sendmsg(socket, &text, rights.as_slice(), MsgFlags::empty(), to).map(drop)
    }
}
