//! Plain calls on sockets, and the types that other rooms share: family, kind, owner.
//!
//! It knows no listener, and none of the kernel's tables.

pub mod client;
pub mod generation_socket;
pub mod inet;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrLike, SockaddrStorage, getpeername, getsockname,
    setsockopt, socket, sockopt,
};
use nix::sys::stat::fstat;

use crate::sys;

/// The inode by which /proc and sock_diag(7) name a socket.
pub type Inode = u64;

/// # Errors
/// Those of fstat(2).
pub fn inode_of(socket: BorrowedFd) -> io::Result<Inode> {
    Ok(fstat(socket)?.st_ino)
}

/// `SO_ACCEPTCONN`: false for a socket that never listened or was shut down.
pub fn listens(socket: BorrowedFd) -> bool {
    let listens = sys::socket_option(socket, libc::SOL_SOCKET, libc::SO_ACCEPTCONN);
    listens.is_ok_and(|value| value == 1)
}

pub fn is_nonblocking(socket: BorrowedFd) -> bool {
    let flags = fcntl(socket, FcntlArg::F_GETFL);
    flags.is_ok_and(|flags| OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK))
}

/// How it was before is returned.
///
/// # Errors
/// Those of fcntl(2).
pub fn set_nonblocking(socket: BorrowedFd, on: bool) -> io::Result<bool> {
    let mut flags = OFlag::from_bits_retain(fcntl(socket, FcntlArg::F_GETFL)?);
    let before = flags.contains(OFlag::O_NONBLOCK);
    if before != on {
        flags.set(OFlag::O_NONBLOCK, on);
        fcntl(socket, FcntlArg::F_SETFL(flags))?;
    }
    Ok(before)
}

/// Whether accept(2) would find a client, or fail at once.
pub fn has_client(listener: BorrowedFd) -> bool {
    let mut polled = [PollFd::new(listener, PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// The other end is closed or was reset: nothing that is sent now arrives.
pub fn has_hung_up(connection: BorrowedFd) -> bool {
    let mut polled = [PollFd::new(connection, PollFlags::empty())];
    poll(&mut polled, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// Once this is closed the other end sees a reset, and does not take it for the end of an answer.
pub fn reset(connection: &impl AsFd) {
    let now = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    let _ = setsockopt(connection, sockopt::Linger, &now);
}

/// connect(2).
///
/// # Errors
/// Those of connect(2), `EINPROGRESS` too.
pub fn connect(socket: BorrowedFd, to: &dyn SockaddrLike) -> nix::Result<()> {
    nix::sys::socket::connect(socket.as_raw_fd(), to)
}

/// The internet address that a socket is bound to.
///
/// # Errors
/// Those of getsockname(2); `EAFNOSUPPORT` if it has another kind of address.
pub fn bound_to(socket: BorrowedFd) -> io::Result<SocketAddr> {
    let name: SockaddrStorage = getsockname(socket.as_raw_fd())?;
    inet_address(&name).ok_or_else(|| Errno::EAFNOSUPPORT.into())
}

pub fn inet_address(name: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = name.as_sockaddr_in().map(|name| SocketAddr::from(*name));
    let v6 = name.as_sockaddr_in6().map(|name| SocketAddr::from(*name));
    v4.or(v6)
}

/// The internet address of the other end.
pub fn peer_of(connection: &OwnedFd) -> Option<SocketAddr> {
    let name = getpeername::<SockaddrStorage>(connection.as_raw_fd()).ok()?;
    inet_address(&name).map(canonical)
}

/// A dual-stack socket writes IPv4 addresses its own way.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// A unix stream socket.
///
/// # Errors
/// Those of socket(2).
pub fn unix_stream() -> io::Result<OwnedFd> {
    Ok(unix_socket(SockType::Stream, SockFlag::empty())?)
}

/// The same of any type, with these flags besides close-on-exec.
///
/// # Errors
/// Those of socket(2).
pub fn unix_socket(kind: SockType, flags: SockFlag) -> nix::Result<OwnedFd> {
    let flags = flags | SockFlag::SOCK_CLOEXEC;
    socket(AddressFamily::Unix, kind, flags, None)
}

/// A unix socket of the same type, stream or sequenced-packet.
///
/// # Errors
/// Those of socket(2).
pub fn unix_socket_like(other: BorrowedFd) -> io::Result<OwnedFd> {
    let kind = if has_packets(other) {
        SockType::SeqPacket
    } else {
        SockType::Stream
    };
    Ok(unix_socket(kind, SockFlag::empty())?)
}

/// Whether it keeps messages apart, which a relay would not.
pub fn has_packets(socket: BorrowedFd) -> bool {
    let kind = sys::socket_option(socket, libc::SOL_SOCKET, libc::SO_TYPE);
    kind.is_ok_and(|kind| kind == libc::SOCK_SEQPACKET)
}
