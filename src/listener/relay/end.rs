//! One of the two sides of a relayed connection: what it sends is read, and sent on by the other.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{MsgFlags, Shutdown, recv, send, shutdown};
use serde::{Deserialize, Serialize};

use crate::handoff;
use crate::listener::watcher::Watcher;
use crate::socket::{Inode, inode_of};

const PIECE: usize = 16 * 1024;
/// How many pieces are copied at once, so that a fast connection does not block the loop.
const AT_ONE_GO: usize = 16;

/// One of the two sides.
#[derive(Serialize, Deserialize)]
pub struct RelayEnd {
    #[serde(with = "handoff::descriptor")]
    pub fd: OwnedFd,
    pub inode: Inode,
    /// What is still to be sent to it.
    pub pending: Vec<u8>,
    /// It has closed its sending side.
    pub ended: bool,
    /// It has been told that the other side has ended.
    pub end_sent: bool,
    #[serde(skip)]
    pub interest: Option<EpollFlags>,
}

impl RelayEnd {
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            inode: inode_of(fd.as_fd())?,
            fd,
            pending: Vec::new(),
            ended: false,
            end_sent: false,
            interest: None,
        })
    }

    /// Whether anything was moved.
    pub fn carry_to(&mut self, other: &mut Self) -> io::Result<bool> {
        let mut moved = other.flush()?;
        for _ in 0..AT_ONE_GO {
            if self.ended || !other.pending.is_empty() {
                break;
            }
            let mut piece = vec![0; PIECE];
            match recv(self.fd.as_raw_fd(), &mut piece, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => self.ended = true,
                Ok(bytes) => {
                    piece.truncate(bytes);
                    other.pending = piece;
                    other.flush()?;
                    moved = true;
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        if self.ended && other.pending.is_empty() && !other.end_sent {
            other.end_sent = true;
            // ENOTCONN: it is gone, which its own event will show
            match shutdown(other.fd.as_raw_fd(), Shutdown::Write) {
                Ok(()) | Err(Errno::ENOTCONN) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(moved)
    }

    /// Whether something waits to be read; its end is nothing.
    pub fn has_sent(&self) -> bool {
        peek(&self.fd).is_ok_and(|first| !first.is_empty())
    }

    /// Whether it begins as a request of HTTP/1 does, with what was read of it before; `None` if nothing has come.
    pub fn speaks_http(&self, early: &[u8]) -> Option<bool> {
        if !early.is_empty() {
            return Some(is_request(early));
        }
        let first = peek(&self.fd).ok().filter(|first| !first.is_empty())?;
        Some(is_request(&first))
    }

    fn flush(&mut self) -> io::Result<bool> {
        if self.pending.is_empty() {
            return Ok(false);
        }
        // a keep-alive connection may be one that its server has not set to be nonblocking
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        match send(self.fd.as_raw_fd(), &self.pending, flags) {
            Ok(bytes) => {
                self.pending.drain(..bytes);
                if self.pending.is_empty() {
                    self.pending = Vec::new();
                }
                Ok(true)
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Watches for what can be done next. One that has finished both directions would be reported without end.
    pub fn watch(&mut self, other_is_free: bool, watcher: &Watcher) -> io::Result<()> {
        let mut flags = EpollFlags::empty();
        flags.set(EpollFlags::EPOLLIN, !self.ended && other_is_free);
        flags.set(EpollFlags::EPOLLOUT, !self.pending.is_empty());
        let interest = (!self.ended || !self.end_sent).then_some(flags);
        watcher.change(self.fd.as_fd(), self.inode, self.interest, interest)?;
        self.interest = interest;
        Ok(())
    }
}

/// Takes what waits to be read from a connection, as far as it fits.
pub fn read_early(connection: &OwnedFd, early: &mut Vec<u8>) {
    while early.len() < PIECE {
        let mut piece = vec![0; PIECE - early.len()];
        match recv(connection.as_raw_fd(), &mut piece, MsgFlags::MSG_DONTWAIT) {
            Ok(bytes) if bytes > 0 => early.extend(&piece[..bytes]),
            Err(Errno::EINTR) => {}
            Ok(_) | Err(_) => return,
        }
    }
}

/// The first bytes that wait to be read; none at the end.
///
/// # Errors
/// `EAGAIN` if nothing waits; those of recv(2).
pub fn peek(connection: &OwnedFd) -> Result<Vec<u8>, Errno> {
    let mut first = vec![0; 16];
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    let bytes = recv(connection.as_raw_fd(), &mut first, flags)?;
    first.truncate(bytes);
    Ok(first)
}

/// A method, a space, and more. HTTP/2 begins in the same way, but cannot continue at another server.
pub fn is_request(first: &[u8]) -> bool {
    let method = first.split(|byte| *byte == b' ').next().unwrap_or_default();
    let is_method = !method.is_empty() && method.iter().all(u8::is_ascii_uppercase);
    is_method && method.len() < first.len() && method != b"PRI"
}
