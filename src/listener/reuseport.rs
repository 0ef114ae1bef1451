//! A TCP address with a socket for every generation, all of one reuseport group that a program steers.
//!
//! The rules are those of [`MemberIndex`]: nothing leaves the group that would move the target, and behind the target stand
//! enough parked sockets that no generation's leaving moves it either.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use super::context::ListenerContext;
use super::listening_socket::{
    Interest, ListeningSocket, bound_to, client_of, connect_now, listens, set_nonblocking,
};
use super::open::{SocketFamily, tcp_socket};
use super::relay::Destination;
use super::snapshot::Snapshot;
use super::steer::{Inode, MemberIndex, MemberRole, to_member, to_member_but_for};
use super::{Incident, SocketSource};
use crate::supervisor::{Generation, Time};
use crate::sys;

mod captured;
mod hand_over;
mod reconcile;
mod spares;

pub use reconcile::too_many_strangers;

/// How often a socket joins again because strangers come and go just then.
pub const ATTEMPTS: usize = 20;

pub struct ReuseportGroup {
    family: SocketFamily,
    address: SocketAddr,
    /// The network device that all of it is bound to; 0 is none.
    device: u32,
    members: MemberIndex,
    sockets: Vec<ListeningSocket>,
    /// Listening sockets in the group that are not ours.
    strangers: HashSet<Inode>,
}

impl ReuseportGroup {
    /// A group of one: a socket that listens, in nobody's hands yet.
    pub fn new(
        first: OwnedFd,
        family: SocketFamily,
        context: &ListenerContext,
    ) -> io::Result<Self> {
        let address = bound_to(first.as_fd())?;
        let mut group = Self {
            family,
            address,
            device: 0,
            members: MemberIndex::default(),
            sockets: Vec::new(),
            strangers: HashSet::new(),
        };
        let first = group.add(first, None, context)?;
        group.steer(first)?;
        Ok(group)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    #[cfg(test)]
    pub fn members(&self) -> &MemberIndex {
        &self.members
    }

    #[cfg(test)]
    pub fn size(&self) -> usize {
        self.sockets.len()
    }

    pub fn device(&self) -> u32 {
        self.device
    }

    pub fn family(&self) -> SocketFamily {
        self.family
    }

    pub fn has(&self, inode: Inode) -> bool {
        self.position(inode).is_some()
    }

    pub fn has_socket(&self, generation: Generation) -> bool {
        self.socket_of(generation).is_some()
    }

    pub fn socket_of(&self, generation: Generation) -> Option<&ListeningSocket> {
        let own = |socket: &&ListeningSocket| socket.owner == Some(generation);
        self.sockets.iter().find(own)
    }

    /// A duplicate of this generation's own socket, chosen or made now if it has none.
    pub fn inherited_socket(
        &mut self,
        generation: Generation,
        sockets: SocketSource,
        snapshot: &Snapshot,
        context: &mut ListenerContext,
    ) -> io::Result<OwnedFd> {
        self.recognize(snapshot, context);
        if let Some(socket) = self.socket_of(generation) {
            return socket.fd().try_clone_to_owned();
        }
        let target = self.members.target();
        let target = target.and_then(|inode| self.position(inode));
        let chosen = match sockets {
            SocketSource::Target => target,
            SocketSource::Own => target
                .filter(|at| self.sockets[*at].owner.is_none())
                .or_else(|| self.settled(snapshot)),
        };
        let at = if let Some(at) = chosen {
            at
        } else {
            let inode = self.grow(context)?;
            self.position(inode).ok_or(Errno::EBADF)?
        };
        if Some(at) != target {
            let to = Destination::Inet(self.address);
            context.empty(&self.sockets[at], &self.address.to_string(), &to);
        }
        let socket = &mut self.sockets[at];
        let listened = socket.listens;
        socket.restore(context.options.backlog)?;
        let duplicate = socket.fd().try_clone_to_owned()?;
        socket.owner = Some(generation);
        let inode = socket.inode;
        self.members.append(inode, MemberRole::ServerHeld);
        self.members.set_role(inode, MemberRole::ServerHeld);
        if Some(at) == target && !listened {
            self.steer(inode)?;
        }
        self.guard(context)?;
        self.fill(inode, context)?;
        self.update_interests(context);
        Ok(duplicate)
    }

    /// The idle parked socket in a known place that stands before all others.
    fn settled(&self, snapshot: &Snapshot) -> Option<usize> {
        let spare: HashSet<Inode> = self.resting().collect();
        let mut members = self.members.members().filter(|inode| {
            let known = self.members.index_of(*inode).is_some();
            known && snapshot.is_idle(*inode) && spare.contains(inode)
        });
        self.position(members.next()?)
    }

    /// Makes what must stand behind this generation's socket before new connections go to it.
    pub fn prepare(
        &mut self,
        generation: Generation,
        snapshot: &Snapshot,
        context: &mut ListenerContext,
    ) -> io::Result<()> {
        self.recognize(snapshot, context);
        let inode = self.socket_of(generation).filter(|socket| socket.listens);
        match inode.map(|socket| socket.inode) {
            Some(inode) => self.fill(inode, context),
            None => Ok(()),
        }
    }

    /// New connections go to this generation's socket, if it has one that listens; to which they went is returned.
    pub fn cut_over(
        &mut self,
        generation: Generation,
        context: &mut ListenerContext,
    ) -> io::Result<Option<Inode>> {
        let socket = self.socket_of(generation).filter(|socket| socket.listens);
        let Some(inode) = socket.map(|socket| socket.inode) else {
            return Ok(None);
        };
        let before = self.members.target();
        if before == Some(inode) {
            return Ok(None);
        }
        self.steer(inode)?;
        if let Some(at) = before.and_then(|before| self.position(before)) {
            self.sockets[at].since = sys::now();
        }
        self.update_interests(context);
        Ok(before)
    }

    /// As it was before a cut-over that another listener could not follow.
    pub fn steer_back(&mut self, before: Inode, context: &mut ListenerContext) {
        if let Err(error) = self.steer(before) {
            context.incident(self.broken(&error));
        }
        self.update_interests(context);
    }

    /// The generation is gone. Clients that wait on the target wait on for the next generation; all others lose theirs.
    pub fn leave(&mut self, generation: Generation, now: Time, context: &mut ListenerContext) {
        for socket in &mut self.sockets {
            if socket.owner == Some(generation) {
                socket.owner = None;
                socket.since = now;
                self.members.set_role(socket.inode, MemberRole::Spare);
            }
        }
        self.update_interests(context);
    }

    /// A connection that reaches this generation's socket, while all others go where they went.
    pub fn probe(&mut self, generation: Generation) -> io::Result<OwnedFd> {
        let socket = self.socket_of(generation).ok_or(Errno::ENOENT)?;
        let candidate = self.members.index_of(socket.inode).ok_or(Errno::ENOENT)?;
        let target = self.members.target().ok_or(Errno::ENOENT)?;
        let index = self.members.index_of(target).ok_or(Errno::ENOENT)?;
        self.probe_at(candidate, index)
    }

    /// A connection that the member of that index gets, while all others go to the target.
    fn probe_at(&self, candidate: u32, target: u32) -> io::Result<OwnedFd> {
        let listening = self.sockets.iter().find(|socket| socket.listens);
        let group = listening.ok_or(Errno::ENOENT)?.fd();
        let (probe, to) = client_of(self.address)?;
        let from = bound_to(probe.as_fd())?;
        let program = to_member_but_for(from, candidate, target);
        sys::attach_reuseport_program(group, &program)?;
        let connected = connect_now(probe.as_fd(), to);
        sys::attach_reuseport_program(group, &to_member(target))?;
        connected.map(|()| probe)
    }

    /// Something has happened on these: was shut down, or a client came to a parked one.
    pub fn woken(&mut self, events: &[(Inode, bool)], context: &mut ListenerContext) {
        let shut = events.iter().filter(|event| event.1);
        let shut: Vec<Inode> = shut.map(|event| event.0).collect();
        if !shut.is_empty() {
            self.shut_down(&shut, context);
        }
        self.update_interests(context);
    }

    /// The kernel has taken these out of the group. The target is needed: it listens again, and so comes last.
    fn shut_down(&mut self, inodes: &[Inode], context: &mut ListenerContext) {
        self.members.leave_together(inodes);
        for inode in inodes {
            let Some(at) = self.position(*inode) else {
                continue;
            };
            let socket = &mut self.sockets[at];
            // The server itself may have called listen(2) again meanwhile.
            socket.listens = listens(socket.fd());
            if !socket.listens && self.members.target() == Some(*inode) && context.repairs {
                let again = sys::listen(socket.fd(), context.options.backlog);
                socket.listens = again.is_ok();
                let listener = self.address.to_string();
                context.incident(match again {
                    Ok(()) => Incident::Repaired { listener },
                    Err(error) => self.broken(&error),
                });
            }
            let socket = &self.sockets[at];
            if socket.listens {
                self.members.append(*inode, role_of(socket));
            }
        }
        let target = self.members.target();
        if let Some(target) = target.filter(|target| self.members.index_of(*target).is_some()) {
            // attached first: a new connection may come at any moment
            let attached = self.steer(target);
            let guarded = attached.and_then(|()| self.guard(context));
            if let Err(error) = guarded.and_then(|()| self.make_sure(target, context)) {
                context.incident(self.broken(&error));
            }
            self.find_out();
        }
    }

    fn broken(&self, error: &io::Error) -> Incident {
        Incident::Broken {
            listener: self.address.to_string(),
            why: error.to_string(),
        }
    }

    /// Attaches the program that picks this socket.
    fn steer(&mut self, inode: Inode) -> io::Result<()> {
        let at = self.position(inode).ok_or(Errno::EBADF)?;
        let index = self.members.index_of(inode);
        let index = index.ok_or_else(too_many_strangers)?;
        sys::attach_reuseport_program(self.sockets[at].fd(), &to_member(index))?;
        self.members.set_target(inode);
        Ok(())
    }

    fn guard(&mut self, context: &ListenerContext) -> io::Result<()> {
        match self.members.target() {
            Some(target) => self.fill(target, context),
            None => Ok(()),
        }
    }

    fn fill(&mut self, target: Inode, context: &ListenerContext) -> io::Result<()> {
        for _ in 0..self.members.fillers_needed(target) {
            self.grow(context)?;
        }
        Ok(())
    }

    /// One more socket of ours, last in the group.
    fn grow(&mut self, context: &ListenerContext) -> io::Result<Inode> {
        let socket = tcp_socket(self.family, self.address, self.device, true)?;
        sys::listen(socket.as_fd(), context.options.backlog)?;
        self.add(socket, None, context)
    }

    fn add(
        &mut self,
        fd: OwnedFd,
        owner: Option<Generation>,
        context: &ListenerContext,
    ) -> io::Result<Inode> {
        let mut socket = ListeningSocket::new(fd, owner, sys::now())?;
        context.watch(&mut socket, Some(Interest::Shutdown))?;
        let inode = socket.inode;
        self.members.append(inode, role_of(&socket));
        self.sockets.push(socket);
        Ok(inode)
    }

    /// Empties what is parked, and watches every socket for what it should be watched for.
    pub fn update_interests(&mut self, context: &mut ListenerContext) {
        let target = self.members.target();
        let listener = self.address.to_string();
        // while new connections go nowhere in particular, a relayed one could come back
        let mut sockets = self.sockets.iter();
        let served = sockets.any(|socket| socket.listens && Some(socket.inode) == target);
        for socket in &mut self.sockets {
            let spare = socket.owner.is_none() && Some(socket.inode) != target;
            if spare && socket.listens && served {
                context.take_off(socket, &listener, &Destination::Inet(self.address));
            } else if spare && socket.listens {
                context.turn_away(socket, &listener);
            }
            let interest = match (socket.listens, spare) {
                (false, _) => None,
                (true, true) => Some(context.interest_in_spares()),
                (true, false) => Some(Interest::Shutdown),
            };
            if let Err(error) = context.watch(socket, interest) {
                log::debug!("cannot watch a socket of {listener}: {error}");
            }
        }
        // Out of the group and out of use: nothing moves when these are closed.
        self.sockets.retain(|socket| {
            socket.listens || socket.owner.is_some() || Some(socket.inode) == target
        });
    }

    fn position(&self, inode: Inode) -> Option<usize> {
        self.sockets.iter().position(|socket| socket.inode == inode)
    }
}

/// That of a socket which has just joined: its generation may do with it what it likes, a parked one is ours.
fn role_of(socket: &ListeningSocket) -> MemberRole {
    socket
        .owner
        .map_or(MemberRole::Spare, |_| MemberRole::ServerHeld)
}
