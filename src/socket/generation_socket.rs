//! A socket as a generation is given it, and as hotswap sees it there.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use super::inet::Family;
use super::set_nonblocking;

/// One address that hotswap owns; never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ListenerId(pub usize);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketKind {
    Tcp {
        port: u16,
    },
    Udp {
        port: u16,
    },
    /// A unix stream socket in the file system.
    Unix,
    Abstract,
    /// An inherited socket of another kind: it is passed on.
    Other,
}

impl SocketKind {
    pub fn tcp_port(self) -> Option<u16> {
        match self {
            Self::Tcp { port } => Some(port),
            Self::Udp { .. } | Self::Unix | Self::Abstract | Self::Other => None,
        }
    }
}

/// A socket as a generation is given it.
#[derive(Debug)]
pub struct InheritedSocket {
    pub name: String,
    /// The address as given, but with the port that 0 has become.
    pub as_given: String,
    /// `host:port`, or the path.
    pub addr: String,
    pub kind: SocketKind,
    pub fd: OwnedFd,
}

impl InheritedSocket {
    /// For servers that expect non-blocking sockets.
    ///
    /// # Errors
    /// Those of fcntl(2).
    pub fn set_nonblocking(&self) -> io::Result<()> {
        set_nonblocking(self.fd.as_fd(), true).map(drop)
    }
}

/// A socket that a generation has, as hotswap sees it.
#[derive(Clone, Copy, Debug)]
pub struct GenerationSocket<'a> {
    pub listener: ListenerId,
    /// None of an orphan's.
    pub fd: Option<BorrowedFd<'a>>,
    pub inode: u64,
    pub kind: SocketKind,
    /// Of an internet socket.
    pub family: Option<Family>,
    /// Only this generation has it.
    pub steered: bool,
    pub captured: bool,
    pub listens: bool,
}

/// One of a steered listener, for tests that look at it.
#[cfg(test)]
pub fn held(listener: &impl AsFd, kind: SocketKind) -> GenerationSocket<'_> {
    GenerationSocket {
        listener: ListenerId(0),
        fd: Some(listener.as_fd()),
        inode: super::inode_of(listener.as_fd()).unwrap(),
        kind,
        family: Some(Family::V4),
        steered: true,
        captured: false,
        listens: true,
    }
}
