//! Relays clients of a dead generation to the serving one, in both directions, until both sides have ended.
//!
//! The server sees hotswap as its client: nothing better is possible for a connection that was never accepted. It never
//! blocks, and is bounded in number, in time, and in memory per connection.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{
    MsgFlags, Shutdown, SockFlag, SockType, SockaddrStorage, UnixAddr, bind, getpeername,
    getsockopt, recv, send, shutdown, socket, sockopt,
};
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use super::watcher::Watcher;
use crate::handoff;
use crate::socket::client::unix_client;
use crate::socket::inet::Family;
use crate::socket::{Inode, bound_to, connect, inet_address, inode_of, reset};
use crate::supervisor::Time;
use crate::sys;

/// How many at a time; more wait in the queue until one ends.
pub const MOST: usize = 1_000;
/// How long a connection may be silent.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a connection may last: enough for a slow request, not for a subscription.
const LONGEST: Duration = Duration::from_secs(600);
/// A client that waits while the one it is relayed to is replaced once more is relayed twice.
const MOST_HOPS: u32 = 2;
const PIECE: usize = 16 * 1024;
/// How many pieces are copied at once, so that a fast connection does not block the loop.
const AT_ONE_GO: usize = 16;

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
    fn lead(&self, client: &OwnedFd, server: &OwnedFd) -> io::Result<()> {
        if let Self::Path(_) = self {
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

/// One of the two sides.
#[derive(Serialize, Deserialize)]
struct RelayEnd {
    #[serde(with = "handoff::descriptor")]
    fd: OwnedFd,
    inode: Inode,
    /// What is still to be sent to it.
    pending: Vec<u8>,
    /// It has closed its sending side.
    ended: bool,
    /// It has been told that the other side has ended.
    end_sent: bool,
    #[serde(skip)]
    interest: Option<EpollFlags>,
}

/// A client and the server that it is relayed to.
#[derive(Serialize, Deserialize)]
pub struct Relay {
    client: RelayEnd,
    server: RelayEnd,
    /// How many relays there are from the first client on, this one included.
    #[serde(default)]
    hops: u32,
    begun: Time,
    moved: Time,
}

/// All relayed connections.
#[derive(Default)]
pub struct Relays {
    /// By the client's socket.
    all: HashMap<Inode, Relay>,
    /// The client's socket by the server's.
    clients: HashMap<Inode, Inode>,
    /// The addresses that the server sees as its clients, and how many relays are on the way.
    sources: HashMap<SocketAddr, u32>,
}

impl Relays {
    pub fn is_full(&self) -> bool {
        self.all.len() >= MOST
    }

    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// Relays this client from now on, by a socket that [`Destination::open`] has made.
    ///
    /// # Errors
    /// If the destination cannot be connected to, the client may not be led there, or the client has been relayed too often:
    /// then the destination leads back here, in an endless loop.
    pub fn take(
        &mut self,
        client: OwnedFd,
        server: OwnedFd,
        to: &Destination,
        watcher: &Watcher,
    ) -> io::Result<()> {
        let source = peer_of(&client);
        let hops = source.and_then(|source| self.sources.get(&source).copied());
        let hops = hops.unwrap_or(0) + 1;
        if hops > MOST_HOPS {
            return Err(Errno::ELOOP.into());
        }
        to.lead(&client, &server)?;
        self.add(Relay::new(client, server, hops)?, watcher)
    }

    /// Relays between these two, which have been connected already.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub fn join(&mut self, client: OwnedFd, server: OwnedFd, watcher: &Watcher) -> io::Result<()> {
        self.add(Relay::new(client, server, 1)?, watcher)
    }

    /// What crosses an upgrade.
    pub fn all(&self) -> Vec<&Relay> {
        self.all.values().collect()
    }

    pub fn add(&mut self, mut relay: Relay, watcher: &Watcher) -> io::Result<()> {
        relay.watch(watcher)?;
        self.clients.insert(relay.server.inode, relay.client.inode);
        let source = relay.source();
        self.sources
            .extend(source.map(|source| (source, relay.hops)));
        self.all.insert(relay.client.inode, relay);
        Ok(())
    }

    /// An event on one of the sockets; false if it is not a relayed one.
    pub fn woken(&mut self, inode: Inode, flags: EpollFlags, watcher: &Watcher, now: Time) -> bool {
        let client = self.clients.get(&inode).copied().unwrap_or(inode);
        let Some(relay) = self.all.get_mut(&client) else {
            return false;
        };
        let result = if flags.contains(EpollFlags::EPOLLERR) {
            Err(ErrorKind::ConnectionReset.into())
        } else {
            relay.carry(now).and_then(|()| relay.watch(watcher))
        };
        match result {
            Ok(()) if !relay.is_over() => {}
            Ok(()) => self.forget(client),
            Err(error) => {
                log::debug!("a relayed connection has ended: {error}");
                self.break_off(client);
            }
        }
        true
    }

    /// When the next one will have lasted too long.
    pub fn deadline(&self) -> Option<Time> {
        self.all.values().map(Relay::deadline).min()
    }

    /// Ends those that have lasted too long.
    pub fn look(&mut self, now: Time) {
        let over = self.all.iter().filter(|(_, relay)| relay.deadline() <= now);
        let over: Vec<Inode> = over.map(|(client, _)| *client).collect();
        for client in over {
            self.break_off(client);
        }
    }

    /// Resets both sides, so that they do not take it for a regular end.
    fn break_off(&mut self, client: Inode) {
        if let Some(relay) = self.all.get(&client) {
            reset(&relay.client.fd);
            reset(&relay.server.fd);
        }
        self.forget(client);
    }

    /// Nobody else has these sockets, so closing them also ends the watching.
    fn forget(&mut self, client: Inode) {
        if let Some(relay) = self.all.remove(&client) {
            self.clients.remove(&relay.server.inode);
            if let Some(source) = relay.source() {
                self.sources.remove(&source);
            }
        }
    }
}

impl Relay {
    fn new(client: OwnedFd, server: OwnedFd, hops: u32) -> io::Result<Self> {
        let now = sys::now();
        Ok(Self {
            client: RelayEnd::new(client)?,
            server: RelayEnd::new(server)?,
            hops,
            begun: now,
            moved: now,
        })
    }

    /// The address that the server sees as its client, if it is known.
    fn source(&self) -> Option<SocketAddr> {
        bound_to(self.server.fd.as_fd()).ok().map(canonical)
    }

    fn carry(&mut self, now: Time) -> io::Result<()> {
        let Self { client, server, .. } = self;
        let moved = [client.carry_to(server)?, server.carry_to(client)?];
        if moved.contains(&true) {
            self.moved = now;
        }
        Ok(())
    }

    fn watch(&mut self, watcher: &Watcher) -> io::Result<()> {
        let Self { client, server, .. } = self;
        client.watch(server.pending.is_empty(), watcher)?;
        server.watch(client.pending.is_empty(), watcher)
    }

    fn is_over(&self) -> bool {
        self.client.end_sent && self.server.end_sent
    }

    fn deadline(&self) -> Time {
        (self.begun + LONGEST).min(self.moved + SILENCE)
    }
}

impl RelayEnd {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            inode: inode_of(fd.as_fd())?,
            fd,
            pending: Vec::new(),
            ended: false,
            end_sent: false,
            interest: None,
        })
    }

    /// Whether anything was moved.
    fn carry_to(&mut self, other: &mut Self) -> io::Result<bool> {
        let mut moved = other.flush()?;
        for _ in 0..AT_ONE_GO {
            if self.ended || !other.pending.is_empty() {
                break;
            }
            let mut piece = vec![0; PIECE];
            match recv(self.fd.as_raw_fd(), &mut piece, MsgFlags::empty()) {
                Ok(0) => self.ended = true,
                Ok(bytes) => {
                    piece.truncate(bytes);
                    other.pending = piece;
                    other.flush()?;
                    moved = true;
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        if self.ended && other.pending.is_empty() && !other.end_sent {
            other.end_sent = true;
            // ENOTCONN: it is gone, which its own event will show
            match shutdown(other.fd.as_raw_fd(), Shutdown::Write) {
                Ok(()) | Err(Errno::ENOTCONN) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(moved)
    }

    fn flush(&mut self) -> io::Result<bool> {
        if self.pending.is_empty() {
            return Ok(false);
        }
        match send(self.fd.as_raw_fd(), &self.pending, MsgFlags::MSG_NOSIGNAL) {
            Ok(bytes) => {
                self.pending.drain(..bytes);
                if self.pending.is_empty() {
                    self.pending = Vec::new();
                }
                Ok(true)
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Watches for what can be done next. One that has finished both directions would be reported without end.
    fn watch(&mut self, other_is_free: bool, watcher: &Watcher) -> io::Result<()> {
        let mut flags = EpollFlags::empty();
        flags.set(EpollFlags::EPOLLIN, !self.ended && other_is_free);
        flags.set(EpollFlags::EPOLLOUT, !self.pending.is_empty());
        let interest = (!self.ended || !self.end_sent).then_some(flags);
        watcher.change(self.fd.as_fd(), self.inode, self.interest, interest)?;
        self.interest = interest;
        Ok(())
    }
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

/// Whether the client has left: it was a probe of ours, or has lost its patience.
pub fn has_left(client: &OwnedFd) -> bool {
    let mut byte = [0];
    matches!(
        recv(client.as_raw_fd(), &mut byte, MsgFlags::MSG_PEEK),
        Ok(0)
    )
}
