//! Where a client is relayed to, and how the connection to there is made.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::socket::{
    SockFlag, SockType, SockaddrStorage, UnixAddr, bind, getsockopt, socket, sockopt,
};
use nix::unistd::geteuid;

use crate::socket::client::unix_client;
use crate::socket::inet::Family;
use crate::socket::{bound_to, connect, has_packets};

/// The address of the target, as clients see it.
#[derive(Clone, Debug)]
pub enum Destination {
    Inet(SocketAddr),
    Path(PathBuf),
}

impl Destination {
    /// What a client needs that is handed on, before it is accepted: one that cannot be had leaves the client queued.
    ///
    /// # Errors
    /// When descriptors are out, or the queue there is full.
    pub fn open(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Inet(address) => {
                let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
                let family = Family::of(*address).into();
                Ok(socket(family, SockType::Stream, flags, None)?)
            }
            Self::Path(path) => unix_client(&UnixAddr::new(path)?),
        }
    }

    /// Leads the client there, from the very address that it had connected to: a client of another host must not look
    /// like one of this host. Over a unix path the server would see hotswap's user, so that no other may come in.
    pub fn lead(&self, client: &OwnedFd, server: &OwnedFd) -> io::Result<()> {
        if let Self::Path(_) = self {
            if has_packets(client.as_fd()) {
                return Err(Errno::EPROTOTYPE.into());
            }
            let peer = getsockopt(client, sockopt::PeerCredentials)?;
            let ours = peer.uid() == geteuid().as_raw();
            return ours.then_some(()).ok_or_else(|| Errno::EPERM.into());
        }
        let to = bound_to(client.as_fd())?;
        let mut from = to;
        from.set_port(0);
        bind(server.as_raw_fd(), &SockaddrStorage::from(from))?;
        match connect(server.as_fd(), &SockaddrStorage::from(to)) {
            Ok(()) | Err(Errno::EINPROGRESS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
