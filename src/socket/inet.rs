//! TCP and UDP sockets: their family, and binding one to an address.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, socket};
use serde::{Deserialize, Serialize};

use crate::sys;

/// `SO_BINDTOIFINDEX` of socket(7), which libc does not name.
pub const SO_BINDTOIFINDEX: i32 = 62;

/// Which of the kernel's two tables a socket is in: an accepted connection is in that of its listener, whatever the
/// client spoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub fn of(address: SocketAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }

    /// # Errors
    /// Those of getsockopt(2).
    pub fn of_socket(socket: BorrowedFd) -> io::Result<Self> {
        let domain = sys::socket_option(socket, libc::SOL_SOCKET, libc::SO_DOMAIN)?;
        Ok(if domain == libc::AF_INET6 {
            Self::V6
        } else {
            Self::V4
        })
    }
}

impl From<Family> for AddressFamily {
    fn from(family: Family) -> Self {
        match family {
            Family::V4 => Self::Inet,
            Family::V6 => Self::Inet6,
        }
    }
}

/// Where sockets are bound, and what all that share the address must have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct InetAddress {
    pub at: SocketAddr,
    /// `IPV6_V6ONLY`; as the system has it if not given.
    pub only_v6: Option<bool>,
    /// The network device it is bound to; 0 if it is not.
    pub device: u32,
}

impl InetAddress {
    pub fn new(at: SocketAddr, only_v6: Option<bool>) -> Self {
        Self {
            at,
            only_v6,
            device: 0,
        }
    }

    /// That of this socket, which is bound to `at`.
    ///
    /// # Errors
    /// Those of getsockopt(2).
    pub fn of(socket: BorrowedFd, at: SocketAddr) -> io::Result<Self> {
        let device = sys::socket_option(socket, libc::SOL_SOCKET, SO_BINDTOIFINDEX)?;
        let only_v6 = match Family::of_socket(socket)? {
            Family::V4 => None,
            Family::V6 => {
                let only = sys::socket_option(socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY)?;
                Some(only != 0)
            }
        };
        Ok(Self {
            at,
            only_v6,
            device: device.try_into().unwrap_or(0),
        })
    }

    /// Whether sockets there share a group with those at the other.
    pub fn is_same(&self, other: &Self) -> bool {
        let alike = self.is_only_v6() == other.is_only_v6();
        self.at == other.at && self.device == other.device && alike
    }

    pub fn family(&self) -> Family {
        Family::of(self.at)
    }

    /// Whether the kernel takes it for IPv6 only: any address but the wildcard is, whatever the option says.
    pub fn is_only_v6(&self) -> bool {
        let IpAddr::V6(ip) = self.at.ip() else {
            return false;
        };
        let is_wildcard = ip.is_unspecified() || ip.to_ipv4_mapped().is_some();
        !is_wildcard || self.only_v6 == Some(true)
    }

    /// A socket that is only bound.
    ///
    /// # Errors
    /// Those of socket(2), setsockopt(2) and bind(2).
    pub fn bind(&self, kind: SockType) -> io::Result<OwnedFd> {
        let fd = self.unbound(kind)?;
        bind(fd.as_raw_fd(), &SockaddrStorage::from(self.at))?;
        Ok(fd)
    }

    /// A TCP socket bound there with `SO_REUSEPORT`; `join` says that the group has members already. The first is bound
    /// alone, so that nobody else can be there, and opened to the others after.
    ///
    /// # Errors
    /// Those of socket(2), setsockopt(2) and bind(2).
    pub fn bind_in_group(&self, join: bool) -> io::Result<OwnedFd> {
        let fd = self.unbound(SockType::Stream)?;
        let reuse_port =
            || sys::set_socket_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEPORT, 1);
        if join {
            reuse_port()?;
        }
        bind(fd.as_raw_fd(), &SockaddrStorage::from(self.at))?;
        if !join {
            reuse_port()?;
        }
        Ok(fd)
    }

    fn unbound(&self, kind: SockType) -> io::Result<OwnedFd> {
        let fd = socket(self.family().into(), kind, SockFlag::SOCK_CLOEXEC, None)?;
        let set = |level, name, value| sys::set_socket_option(fd.as_fd(), level, name, value);
        if kind == SockType::Stream {
            set(libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        }
        if let (Family::V6, Some(only)) = (self.family(), self.only_v6) {
            set(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, only.into())?;
        }
        if let Ok(device @ 1..) = i32::try_from(self.device) {
            set(libc::SOL_SOCKET, SO_BINDTOIFINDEX, device)?;
        }
        Ok(fd)
    }
}
