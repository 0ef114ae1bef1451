//! One listening socket that hotswap holds a descriptor of.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use crate::handoff;
use crate::socket::{Inode, inode_of, listens, set_nonblocking};
use crate::supervisor::{Generation, Time};
use crate::sys;

#[derive(Serialize, Deserialize)]
pub struct ListeningSocket {
    #[serde(with = "handoff::descriptor")]
    fd: OwnedFd,
    pub inode: Inode,
    /// The generation that has it; none if it is parked.
    pub owner: Option<Generation>,
    pub listens: bool,
    /// When new connections stopped coming to it, or it was made.
    pub since: Time,
    /// What it is watched for, if it is.
    #[serde(skip)]
    pub interest: Option<Interest>,
}

/// What the kernel is to tell about a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// That somebody shut it down.
    Shutdown,
    /// That a client has come, too.
    Clients,
}

impl ListeningSocket {
    pub fn new(fd: OwnedFd, owner: Option<Generation>, now: Time) -> io::Result<Self> {
        Ok(Self {
            inode: inode_of(fd.as_fd())?,
            listens: listens(fd.as_fd()),
            fd,
            owner,
            since: now,
            interest: None,
        })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }

    /// Back to how a fresh one is: listening with this backlog, and blocking.
    pub fn restore(&mut self, backlog: u32) -> io::Result<()> {
        sys::listen(self.fd(), backlog)?;
        self.listens = true;
        set_nonblocking(self.fd(), false)
    }
}
