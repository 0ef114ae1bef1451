//! One listening socket that hotswap holds a descriptor of, and what little is done to any of them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{SockaddrLike, SockaddrStorage, bind, getsockname};
use nix::sys::stat::fstat;

use super::open::SocketFamily;
use super::steer::Inode;
use crate::address::ways_to;
use crate::supervisor::{Generation, Time};
use crate::sys;

/// How long a probe may take to connect: on this host it takes microseconds, unless the queue is full.
const PROBE_MILLISECONDS: u16 = 50;

pub struct ListeningSocket {
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

impl ListeningSocket {
    pub fn new(fd: OwnedFd, owner: Option<Generation>, now: Time) -> io::Result<Self> {
        let (inode, listens) = (inode(fd.as_fd())?, listens(fd.as_fd()));
        Ok(Self::known(fd, inode, owner, listens, now))
    }

    /// One that has been looked at before.
    pub fn known(
        fd: OwnedFd,
        inode: Inode,
        owner: Option<Generation>,
        listens: bool,
        since: Time,
    ) -> Self {
        Self {
            fd,
            inode,
            owner,
            listens,
            since,
            interest: None,
        }
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

pub fn connect(socket: BorrowedFd, to: &dyn SockaddrLike) -> nix::Result<()> {
    nix::sys::socket::connect(socket.as_raw_fd(), to)
}

/// The internet address a socket is bound to.
pub fn bound_to(socket: BorrowedFd) -> io::Result<SocketAddr> {
    let name: SockaddrStorage = getsockname(socket.as_raw_fd())?;
    inet(&name).ok_or_else(|| Errno::EAFNOSUPPORT.into())
}

pub fn inet(name: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = name.as_sockaddr_in().map(|name| SocketAddr::from(*name));
    let v6 = name.as_sockaddr_in6().map(|name| SocketAddr::from(*name));
    v4.or(v6)
}

/// A socket, non-blocking, from which that address of this host can be connected to, and how to get there. It is bound,
/// so that its own address is known.
pub fn client_of(address: SocketAddr) -> io::Result<(OwnedFd, SocketAddr)> {
    let mut result = Err(Errno::EADDRNOTAVAIL.into());
    for to in ways_to(address) {
        let mut from = to;
        from.set_port(0);
        result = SocketFamily::of(to).socket().and_then(|client| {
            bind(client.as_raw_fd(), &SockaddrStorage::from(from))?;
            Ok((client, to))
        });
        if result.is_ok() {
            break;
        }
    }
    result
}

/// connect(2) to a socket of this host, whose kernel answers within the call, or never: then its queue is full.
pub fn connect_now(socket: BorrowedFd, to: SocketAddr) -> io::Result<()> {
    match connect(socket, &SockaddrStorage::from(to)) {
        Ok(()) => return Ok(()),
        Err(Errno::EINPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let mut waiting = [PollFd::new(socket, PollFlags::POLLOUT)];
    if poll(&mut waiting, PollTimeout::from(PROBE_MILLISECONDS))? == 0 {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    match sys::socket_option(socket, libc::SOL_SOCKET, libc::SO_ERROR)? {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}
