//! Relays clients of a dead generation to the serving one, in both directions, until both sides have ended.
//!
//! The server sees hotswap as its client: nothing better is possible for a connection that was never accepted. It never
//! blocks, and is bounded in number, in time, and in memory per connection.

mod connection;
mod end;

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{
    SockFlag, SockType, SockaddrStorage, UnixAddr, bind, getsockopt, socket, sockopt,
};
use nix::unistd::geteuid;

use super::watcher::Watcher;
use crate::record::plural;
use crate::socket::client::unix_client;
use crate::socket::inet::Family;
use crate::socket::{Inode, bound_to, connect, has_packets, peer_of, reset};
use crate::supervisor::Time;
use crate::sys;
pub use connection::Relay;
pub use end::{is_request, peek, read_early};

/// How many at a time; more wait in the queue until one ends.
pub const MOST: usize = 1_000;
/// A client that waits while the one it is relayed to is replaced once more is relayed twice.
const MOST_HOPS: u32 = 2;

/// All relayed connections.
#[derive(Default)]
pub struct Relays {
    /// By the client's socket.
    all: HashMap<Inode, Relay>,
    /// The client's socket by the server's.
    clients: HashMap<Inode, Inode>,
    /// The addresses that the server sees as its clients, and how many relays are on the way.
    sources: HashMap<SocketAddr, u32>,
    /// Clients of keep-alive connections wait with their next request.
    held: bool,
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

    /// Relays a connection of HTTP/1 to where new connections go, with what was read of its next request.
    ///
    /// # Errors
    /// Those of socket(2), connect(2) and epoll_ctl(2).
    pub fn keep(&mut self, client: OwnedFd, early: Vec<u8>, watcher: &Watcher) -> io::Result<()> {
        let to = Destination::Inet(bound_to(client.as_fd())?);
        let server = to.open()?;
        to.lead(&client, &server)?;
        let mut relay = Relay::new(client, server, 1)?;
        relay.early = early;
        self.add(relay, watcher)
    }

    /// From now on idle clients of keep-alive connections wait with their next request.
    pub fn hold(&mut self, watcher: &Watcher) {
        self.held = true;
        let idle = self.all.values().filter(|relay| relay.is_idle()).count();
        if idle > 0 {
            log::debug!("holding {}", plural(idle, "keep-alive connection"));
        }
        self.go_on_with_all(watcher);
    }

    /// They go on: at another server if there is one by now.
    pub fn release(&mut self, is_another: bool, watcher: &Watcher) {
        self.held = false;
        for relay in self.all.values_mut() {
            relay.replaced |= is_another;
        }
        self.go_on_with_all(watcher);
    }

    fn go_on_with_all(&mut self, watcher: &Watcher) {
        let all: Vec<Inode> = self.all.keys().copied().collect();
        for client in all {
            self.go_on(client, watcher);
        }
    }

    /// Carries what there is, without an event; false if the client is not relayed any more.
    pub fn go_on(&mut self, client: Inode, watcher: &Watcher) -> bool {
        self.woken(client, EpollFlags::empty(), watcher, sys::now());
        self.all.contains_key(&client)
    }

    /// Takes what the client has sent while it waits, before the process that had it can.
    pub fn read_early(&mut self, client: Inode) {
        if let Some(relay) = self.all.get_mut(&client).filter(|relay| relay.is_idle()) {
            read_early(&relay.client.fd, &mut relay.early);
        }
    }

    /// The next request of a keep-alive connection goes to the generation that serves by now.
    fn switch(&mut self, client: Inode, watcher: &Watcher) {
        let Some(Relay { client, early, .. }) = self.forget(client) else {
            return;
        };
        let unwatched = watcher.change(client.fd.as_fd(), client.inode, client.interest, None);
        if let Err(error) = unwatched.and_then(|()| self.keep(client.fd, early, watcher)) {
            log::debug!("a keep-alive connection has ended: {error}");
        }
    }

    pub fn client(&self, client: Inode) -> Option<BorrowedFd<'_>> {
        Some(self.all.get(&client)?.client.fd.as_fd())
    }

    /// Whether a server sees a relay of ours at this address.
    pub fn comes_from(&self, peer: Option<SocketAddr>) -> bool {
        peer.is_some_and(|peer| self.sources.contains_key(&peer))
    }

    /// What crosses an upgrade.
    pub fn all(&self) -> Vec<&Relay> {
        self.all.values().collect()
    }

    pub fn add(&mut self, mut relay: Relay, watcher: &Watcher) -> io::Result<()> {
        relay.watch(self.held, watcher)?;
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
        let asks_next = |relay: &Relay| relay.replaced && relay.is_idle() && relay.has_request();
        if !self.held && self.all.get(&client).is_some_and(asks_next) {
            self.switch(client, watcher);
        }
        let Some(relay) = self.all.get_mut(&client) else {
            return false;
        };
        let result = if flags.contains(EpollFlags::EPOLLERR) {
            Err(ErrorKind::ConnectionReset.into())
        } else {
            let held = self.held;
            let carried = relay.carry(held, now);
            carried.and_then(|()| relay.watch(held, watcher))
        };
        match result {
            Ok(()) if !relay.is_over() => {}
            Ok(()) => drop(self.forget(client)),
            Err(error) => {
                log::debug!("a relayed connection has ended: {error}");
                self.break_off(client);
            }
        }
        true
    }

    /// When the next one will have lasted too long.
    pub fn deadline(&self) -> Option<Time> {
        let moving = self.all.values().filter(|relay| !self.waits(relay));
        moving.map(Relay::deadline).min()
    }

    /// Ends those that have lasted too long.
    pub fn look(&mut self, now: Time) {
        let is_over = |relay: &Relay| !self.waits(relay) && relay.deadline() <= now;
        let over = self.all.iter().filter(|(_, relay)| is_over(relay));
        let over: Vec<Inode> = over.map(|(client, _)| *client).collect();
        for client in over {
            let was_answered = |relay: &Relay| relay.is_http == Some(true) && relay.is_idle();
            if self.all.get(&client).is_some_and(was_answered) {
                self.forget(client);
            } else {
                self.break_off(client);
            }
        }
    }

    /// Its client waits for the next version, however long that takes.
    fn waits(&self, relay: &Relay) -> bool {
        self.held && relay.is_idle()
    }

    /// Nobody waits for the answer any more.
    pub fn give_up_unanswered(&mut self, client: Inode) {
        if self.all.get(&client).is_some_and(|relay| relay.asks) {
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
    fn forget(&mut self, client: Inode) -> Option<Relay> {
        let relay = self.all.remove(&client)?;
        self.clients.remove(&relay.server.inode);
        if let Some(source) = relay.source() {
            self.sources.remove(&source);
        }
        Some(relay)
    }
}

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
