//! Where a socket is bound: read from the socket, and as users see it.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sys::socket::{UnixAddr, getsockname};

use crate::socket::bound_to;
use crate::sys;

#[derive(Default)]
pub enum BoundAddress {
    Tcp(SocketAddr),
    Udp(SocketAddr),
    Unix(UnixAddr),
    #[default]
    Unknown,
}

impl BoundAddress {
    pub fn of(fd: BorrowedFd) -> Self {
        let option = |name| sys::socket_option(fd, libc::SOL_SOCKET, name).unwrap_or(-1);
        let unix = || getsockname::<UnixAddr>(fd.as_raw_fd()).ok();
        let at = match (option(libc::SO_DOMAIN), option(libc::SO_TYPE)) {
            (libc::AF_INET | libc::AF_INET6, libc::SOCK_STREAM) => bound_to(fd).ok().map(Self::Tcp),
            (libc::AF_INET | libc::AF_INET6, libc::SOCK_DGRAM) => bound_to(fd).ok().map(Self::Udp),
            (libc::AF_UNIX, libc::SOCK_STREAM) => unix().map(Self::Unix),
            _ => None,
        };
        at.unwrap_or(Self::Unknown)
    }
}

impl fmt::Display for BoundAddress {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Udp(address) => write!(f, "udp:{address}"),
            Self::Unix(address) => match (address.path(), address.as_abstract()) {
                (Some(path), _) => path.display().fmt(f),
                (None, Some(name)) => write!(f, "unix:@{}", String::from_utf8_lossy(name)),
                (None, None) => f.write_str("a unix socket"),
            },
            Self::Unknown => f.write_str("a descriptor"),
        }
    }
}
