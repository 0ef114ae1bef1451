//! Connections that hotswap makes to an address of this host.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{SockFlag, SockType, SockaddrLike, SockaddrStorage, UnixAddr, bind, socket};

use super::inet::Family;
use super::{connect, unix_socket};
use crate::address::ways_to;
use crate::sys;

/// How long a probe may take to connect: on this host it takes microseconds, unless the queue is full.
const PROBE_MILLISECONDS: u16 = 50;

/// A non-blocking socket that can connect to that address of this host, and the address to use. It is bound, so that its
/// own address is known.
///
/// # Errors
/// Those of socket(2) and bind(2).
pub fn client_of(address: SocketAddr) -> io::Result<(OwnedFd, SocketAddr)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let mut result = Err(Errno::EADDRNOTAVAIL.into());
    for to in ways_to(address) {
        let mut from = to;
        from.set_port(0);
        let client = socket(Family::of(to).into(), SockType::Stream, flags, None);
        result = client.map_err(io::Error::from).and_then(|client| {
            bind(client.as_raw_fd(), &SockaddrStorage::from(from))?;
            Ok((client, to))
        });
        if result.is_ok() {
            break;
        }
    }
    result
}

/// connect(2) to a socket of this host. The kernel answers within the call, or never: then the queue is full.
///
/// # Errors
/// `WouldBlock` if its queue is full, else those of connect(2).
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

/// A non-blocking connection to a unix socket, stream or sequenced-packet.
///
/// # Errors
/// `EAGAIN` if its queue is full, else those of socket(2) and connect(2).
pub fn unix_client(to: &dyn SockaddrLike) -> io::Result<OwnedFd> {
    let connected = |kind| {
        let client = unix_socket(kind, SockFlag::SOCK_NONBLOCK)?;
        connect(client.as_fd(), to)?;
        Ok(client)
    };
    match connected(SockType::Stream) {
        Err(Errno::EPROTOTYPE) => Ok(connected(SockType::SeqPacket)?),
        connected => Ok(connected?),
    }
}

/// Nobody listens on the socket at this path any more; a full queue means that somebody does.
pub fn is_refused(path: &Path) -> bool {
    let client = UnixAddr::new(path).map_err(io::Error::from);
    let client = client.and_then(|address| unix_client(&address));
    client.is_err_and(|error| error.raw_os_error() == Some(libc::ECONNREFUSED))
}
