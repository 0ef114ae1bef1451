//! The server's own socket before bind(2).

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::stat::fstat;
use nix::unistd::{fchown, geteuid};

use super::caller::Caller;
use super::options;
use crate::proc::descriptor;
use crate::socket::inet::SO_BINDTOIFINDEX;
use crate::sys;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketType {
    Tcp,
    /// Multipath TCP, which no program can steer.
    Mptcp,
    Udp,
    UnixStream,
}

/// A socket of a type that can listen.
pub struct ServerSocket {
    /// A duplicate, if that is allowed; otherwise only its type is known.
    pub socket: Option<OwnedFd>,
    pub inode: u64,
    pub sort: SocketType,
    pub v6: bool,
    /// As of open(2).
    pub flags: i32,
}

impl ServerSocket {
    /// `None` for another kind of socket.
    ///
    /// # Errors
    /// Those of pidfd_getfd(2), but for `EPERM` and `ENOSYS`.
    pub fn of(caller: &Caller, fd: RawFd) -> io::Result<Option<Self>> {
        let Some(inode) = descriptor::socket_inode(caller.thread, fd) else {
            return Ok(None);
        };
        let socket = match caller.descriptor(fd) {
            Ok(socket) => Some(socket),
            // forbidden in many containers
            Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)) => None,
            Err(error) => return Err(error),
        };
        let described = match &socket {
            Some(socket) => describe(socket.as_fd()),
            None => read_name(&protocol_of(caller, fd)?),
        };
        let Some((sort, v6)) = described else {
            return Ok(None);
        };
        // another thread may have replaced the descriptor
        let inode = match &socket {
            Some(socket) => fstat(socket)?.st_ino,
            None => inode,
        };
        Ok(Some(Self {
            socket,
            inode,
            sort,
            v6,
            flags: descriptor::flags(caller.thread, fd),
        }))
    }

    /// Whether its server set `SO_REUSEPORT`: it means to bind the same address again.
    pub fn reuses_port(&self) -> bool {
        let socket = self.socket.as_ref();
        socket.is_some_and(|socket| option(socket.as_fd(), libc::SO_REUSEPORT) == 1)
    }

    /// The network device it is bound to; 0 if it is not.
    pub fn device(&self) -> u32 {
        let socket = self.socket.as_ref();
        let device = socket.map_or(0, |socket| option(socket.as_fd(), SO_BINDTOIFINDEX));
        u32::try_from(device).unwrap_or(0)
    }

    /// Whether an IPv6 wildcard excludes IPv4 clients.
    pub fn only_v6(&self) -> bool {
        let (level, name) = (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY);
        let socket = self.socket.as_ref();
        socket.is_some_and(|socket| {
            sys::socket_option(socket.as_fd(), level, name).is_ok_and(|only| only == 1)
        })
    }

    /// An unbound socket that can replace it.
    pub fn another(&self) -> io::Result<OwnedFd> {
        let family = match self.sort {
            SocketType::UnixStream => AddressFamily::Unix,
            SocketType::Tcp | SocketType::Mptcp | SocketType::Udp if self.v6 => {
                AddressFamily::Inet6
            }
            SocketType::Tcp | SocketType::Mptcp | SocketType::Udp => AddressFamily::Inet,
        };
        let other = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        match &self.socket {
            Some(socket) => options::copy(socket.as_fd(), other.as_fd()),
            // nearly every server sets it, since it could not restart otherwise
            None => sys::set_socket_option(other.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?,
        }
        set_nonblocking(other.as_fd(), self.flags)?;
        Ok(other)
    }
}

fn option(socket: BorrowedFd, name: i32) -> i32 {
    sys::socket_option(socket, libc::SOL_SOCKET, name).unwrap_or(0)
}

fn describe(socket: BorrowedFd) -> Option<(SocketType, bool)> {
    let domain = option(socket, libc::SO_DOMAIN);
    let v6 = domain == libc::AF_INET6;
    let sort = match (
        domain,
        option(socket, libc::SO_TYPE),
        option(socket, libc::SO_PROTOCOL),
    ) {
        (libc::AF_INET | libc::AF_INET6, libc::SOCK_STREAM, libc::IPPROTO_TCP) => SocketType::Tcp,
        (libc::AF_INET | libc::AF_INET6, libc::SOCK_STREAM, libc::IPPROTO_MPTCP) => {
            SocketType::Mptcp
        }
        (libc::AF_INET | libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_UDP) => SocketType::Udp,
        (libc::AF_UNIX, libc::SOCK_STREAM, _) => SocketType::UnixStream,
        _ => return None,
    };
    Some((sort, v6))
}

/// The protocol in an extended attribute, which can be read even if the socket cannot be duplicated.
fn protocol_of(caller: &Caller, fd: RawFd) -> io::Result<Vec<u8>> {
    let path = descriptor::path(caller.thread, fd);
    let path = CString::new(path.into_os_string().into_vec())?;
    let mut name = vec![0; 32];
    let length = sys::extended_attribute(&path, c"system.sockprotoname", &mut name)?;
    name.truncate(length);
    name.retain(|byte| *byte != 0);
    Ok(name)
}

fn read_name(protocol: &[u8]) -> Option<(SocketType, bool)> {
    Some(match protocol {
        b"TCP" => (SocketType::Tcp, false),
        b"TCPv6" => (SocketType::Tcp, true),
        b"MPTCP" => (SocketType::Mptcp, false),
        b"MPTCPv6" => (SocketType::Mptcp, true),
        b"UDP" => (SocketType::Udp, false),
        b"UDPv6" => (SocketType::Udp, true),
        b"UNIX-STREAM" | b"UNIX" => (SocketType::UnixStream, false),
        _ => return None,
    })
}

/// `O_NONBLOCK` as in those flags.
pub fn set_nonblocking(socket: BorrowedFd, flags: i32) -> io::Result<()> {
    let mut now = OFlag::from_bits_retain(fcntl(socket, FcntlArg::F_GETFL)?);
    now.set(OFlag::O_NONBLOCK, flags & libc::O_NONBLOCK != 0);
    fcntl(socket, FcntlArg::F_SETFL(now))?;
    Ok(())
}

/// All sockets of a group have the same owner: a socket made by a server of another user must become ours.
pub fn make_ours(socket: BorrowedFd) -> io::Result<()> {
    let us = geteuid();
    if fstat(socket)?.st_uid != us.as_raw() {
        fchown(socket, Some(us), None)?;
    }
    Ok(())
}
