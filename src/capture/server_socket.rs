//! The server's own socket before bind(2).

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::stat::fstat;
use nix::unistd::{fchown, geteuid};

use super::caller::Caller;
use super::learned::LearnedOptions;
use super::options;
use crate::proc::{descriptor, path_of};
use crate::socket::inet::SO_BINDTOIFINDEX;
use crate::socket::{set_nonblocking, unix_stream};
use crate::sys;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketType {
    Tcp,
    /// Multipath TCP, which no program can steer.
    Mptcp,
    Udp,
    UnixStream,
    UnixPacket,
}

/// A socket of a type that can listen.
pub struct ServerSocket {
    /// A duplicate of it, or a copy where duplicates are forbidden.
    pub socket: OwnedFd,
    /// It is a copy: another socket, on which the same options are set.
    pub is_copy: bool,
    /// Why that copy is not like it.
    pub lacks: Option<&'static str>,
    pub inode: u64,
    pub kind: SocketType,
    pub v6: bool,
    /// As of open(2).
    pub flags: i32,
}

impl ServerSocket {
    /// `None` for another kind of socket. Where `learned` is given, its sockets may not be duplicated.
    ///
    /// # Errors
    /// Those of pidfd_getfd(2).
    pub fn of(
        caller: &Caller,
        fd: RawFd,
        learned: Option<&LearnedOptions>,
    ) -> io::Result<Option<Self>> {
        let Some(inode) = descriptor::socket_inode(caller.thread, fd) else {
            return Ok(None);
        };
        let flags = descriptor::flags(caller.thread, fd);
        let Some(learned) = learned else {
            let socket = caller.descriptor(fd)?;
            // another thread may have replaced the descriptor
            let inode = fstat(&socket)?.st_ino;
            return Ok(describe(socket.as_fd()).map(|(kind, v6)| Self {
                socket,
                is_copy: false,
                lacks: None,
                inode,
                kind,
                v6,
                flags,
            }));
        };
        let Some((kind, v6)) = kind_at(&descriptor::path(caller.thread, fd))? else {
            return Ok(None);
        };
        let socket = kind.make(v6)?;
        set_nonblocking(socket.as_fd(), flags & libc::O_NONBLOCK != 0)?;
        let mut lacks = learned.replay(caller, inode, socket.as_fd()).err();
        if caller.waits_on_by_epoll(fd, inode) {
            lacks = Some("it has registered the socket with epoll");
        }
        Ok(Some(Self {
            socket,
            is_copy: true,
            lacks,
            inode,
            kind,
            v6,
            flags,
        }))
    }

    pub fn is_nonblocking(&self) -> bool {
        self.flags & libc::O_NONBLOCK != 0
    }

    /// Whether its server set `SO_REUSEPORT`: it means to bind the same address again.
    pub fn reuses_port(&self) -> bool {
        option(self.socket.as_fd(), libc::SO_REUSEPORT) == 1
    }

    /// Whether its server lets others have the same UDP port.
    pub fn shares_address(&self) -> bool {
        self.reuses_port() || option(self.socket.as_fd(), libc::SO_REUSEADDR) == 1
    }

    /// The network device it is bound to; 0 if it is not.
    pub fn device(&self) -> u32 {
        u32::try_from(option(self.socket.as_fd(), SO_BINDTOIFINDEX)).unwrap_or(0)
    }

    /// Whether an IPv6 wildcard excludes IPv4 clients.
    pub fn only_v6(&self) -> bool {
        let (level, name) = (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY);
        sys::socket_option(self.socket.as_fd(), level, name).is_ok_and(|only| only == 1)
    }

    /// An unbound socket that can replace it.
    pub fn another(&self) -> io::Result<OwnedFd> {
        let other = self.kind.make(self.v6)?;
        options::copy(self.socket.as_fd(), other.as_fd());
        set_nonblocking(other.as_fd(), self.is_nonblocking())?;
        Ok(other)
    }
}

impl SocketType {
    /// An unbound socket; plain TCP for multipath TCP.
    fn make(self, v6: bool) -> io::Result<OwnedFd> {
        let family = match self {
            Self::UnixStream | Self::UnixPacket => AddressFamily::Unix,
            Self::Tcp | Self::Mptcp | Self::Udp if v6 => AddressFamily::Inet6,
            Self::Tcp | Self::Mptcp | Self::Udp => AddressFamily::Inet,
        };
        let style = match self {
            Self::Udp => SockType::Datagram,
            Self::UnixPacket => SockType::SeqPacket,
            Self::UnixStream | Self::Tcp | Self::Mptcp => SockType::Stream,
        };
        Ok(socket(family, style, SockFlag::SOCK_CLOEXEC, None)?)
    }
}

fn option(socket: BorrowedFd, name: i32) -> i32 {
    sys::socket_option(socket, libc::SOL_SOCKET, name).unwrap_or(0)
}

fn describe(socket: BorrowedFd) -> Option<(SocketType, bool)> {
    let domain = option(socket, libc::SO_DOMAIN);
    let v6 = domain == libc::AF_INET6;
    let kind = match (
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
        (libc::AF_UNIX, libc::SOCK_SEQPACKET, _) => SocketType::UnixPacket,
        _ => return None,
    };
    Some((kind, v6))
}

/// As the socket's protocol says, which can be read even if the socket cannot be duplicated.
fn kind_at(path: &Path) -> io::Result<Option<(SocketType, bool)>> {
    let name = protocol_at(path)?;
    // the name of all unix sockets, until that of a stream became another
    if name == b"UNIX" && protocol_at(&path_of(&unix_stream()?))? != name {
        return Ok(None);
    }
    Ok(read_name(&name))
}

/// The protocol, in an extended attribute.
fn protocol_at(path: &Path) -> io::Result<Vec<u8>> {
    let path = CString::new(path.as_os_str().as_bytes())?;
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

/// All sockets of a group have the same owner: a socket made by a server of another user must become ours.
pub fn make_ours(socket: BorrowedFd) -> io::Result<()> {
    let us = geteuid();
    if fstat(socket)?.st_uid != us.as_raw() {
        fchown(socket, Some(us), None)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use super::*;

    #[test]
    fn a_unix_socket_of_datagrams_is_no_stream() {
        let directory = tempfile::tempdir().unwrap();
        let stream = UnixListener::bind(directory.path().join("stream")).unwrap();
        let stream = kind_at(&path_of(&stream)).unwrap();
        assert_eq!(stream, Some((SocketType::UnixStream, false)));
        let datagrams = UnixDatagram::unbound().unwrap();
        let is_named_apart = protocol_at(&path_of(&datagrams)).unwrap() == b"UNIX";
        if is_named_apart {
            assert_eq!(kind_at(&path_of(&datagrams)).unwrap(), None);
        }
    }
}
