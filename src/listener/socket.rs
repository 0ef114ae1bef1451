//! One listening socket that hotswap holds a descriptor of, and what little is done to any of them.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::fstat;

use super::steer::Inode;
use crate::supervisor::{Generation, Time};
use crate::sys;

pub struct Socket {
    fd: OwnedFd,
    pub inode: Inode,
    /// The generation that has it; none if it is parked.
    pub owner: Option<Generation>,
    pub listens: bool,
    /// When new connections stopped coming to it, or it was made.
    pub since: Time,
    /// What it is watched for, if it is.
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

impl Socket {
    pub fn new(fd: OwnedFd, owner: Option<Generation>, now: Time) -> io::Result<Self> {
        Ok(Self {
            inode: inode(fd.as_fd())?,
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

    /// Back to how a fresh one is: listening with this backlog, and blocking.
    pub fn restore(&mut self, backlog: u32) -> io::Result<()> {
        sys::listen(self.fd(), backlog)?;
        self.listens = true;
        set_nonblocking(self.fd(), false)
    }
}

pub fn inode(fd: BorrowedFd) -> io::Result<Inode> {
    Ok(fstat(fd)?.st_ino)
}

/// `SO_ACCEPTCONN`: false for what never listened, and for what was shut down.
pub fn listens(fd: BorrowedFd) -> bool {
    sys::socket_option(fd, libc::SOL_SOCKET, libc::SO_ACCEPTCONN).is_ok_and(|value| value == 1)
}

pub fn set_nonblocking(fd: BorrowedFd, on: bool) -> io::Result<()> {
    let mut flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    if flags.contains(OFlag::O_NONBLOCK) != on {
        flags.set(OFlag::O_NONBLOCK, on);
        fcntl(fd, FcntlArg::F_SETFL(flags))?;
    }
    Ok(())
}

pub fn connect(socket: BorrowedFd, to: &dyn nix::sys::socket::SockaddrLike) -> nix::Result<()> {
    nix::sys::socket::connect(socket.as_raw_fd(), to)
}
