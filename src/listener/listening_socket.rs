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
    /// The generation that has it; `None` if it is a spare.
    pub owner: Option<Generation>,
    pub listens: bool,
    /// When it stopped being the target, or was made.
    pub since: Time,
    /// Clients were made to wait here for the next version.
    #[serde(default)]
    pub held: bool,
    /// What it is watched for, if it is.
    #[serde(skip)]
    pub interest: Option<Interest>,
}

/// What a socket is watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// That it is shut down.
    Shutdown,
    /// That too, and that its server may have closed it: once a client comes, and once a second at most.
    Arrivals,
    /// That it is shut down, and clients, as long as one is there.
    Clients,
}

impl ListeningSocket {
    pub fn new(fd: OwnedFd, owner: Option<Generation>) -> io::Result<Self> {
        Ok(Self {
            inode: inode_of(fd.as_fd())?,
            listens: listens(fd.as_fd()),
            fd,
            owner,
            since: sys::now(),
            held: false,
            interest: None,
        })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }

    /// Makes it like a fresh one: listening with this backlog, and blocking.
    pub fn restore(&mut self, backlog: u32) -> io::Result<()> {
        sys::listen(self.fd(), backlog)?;
        (self.listens, self.held) = (true, false);
        set_nonblocking(self.fd(), false).map(drop)
    }
}
