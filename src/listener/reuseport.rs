//! A TCP address with a socket for every generation, all of one reuseport group that a program steers.
//!
//! The rules are those of [`MemberIndex`]: no socket is closed that would move the target, and enough spares stand behind
//! the target that no other member's leaving moves it either.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::context::ListenerContext;
use super::incident::Incident;
use super::listening_socket::{Interest, ListeningSocket};
use super::member_index::{MemberIndex, MemberRole, to_member, to_member_but_for};
use super::orphan::OrphanSocket;
use super::relay::Destination;
use super::steering::Steering;
use crate::socket::client::{client_of, connect_now};
use crate::socket::inet::InetAddress;
use crate::socket::{Inode, bound_to, listens};
use crate::supervisor::Generation;
use crate::sys;
use hidden::Hidden;

mod hidden;
mod orphans;
mod reconcile;
mod spares;
mod steering;

#[derive(Serialize, Deserialize)]
pub struct ReuseportGroup {
    address: InetAddress,
    members: MemberIndex,
    sockets: Vec<ListeningSocket>,
    /// Listening sockets in the group that are not ours.
    strangers: HashSet<Inode>,
    /// A server has bound it by itself, and may close it at any moment.
    #[serde(default)]
    is_captured: bool,
    /// No client comes to it: they have another way, by an address that overlaps.
    #[serde(default)]
    hidden: Option<Hidden>,
    /// There was one: others may come and go at any moment, unseen.
    #[serde(default)]
    is_wary: bool,
    /// Those among them that are of generations of a hotswap that is gone.
    #[serde(default)]
    orphans: Vec<OrphanSocket>,
    /// Clients wait on the target until the next cut-over, and no generation is given that socket.
    #[serde(default)]
    is_parked: bool,
}

impl ReuseportGroup {
    /// A group of one: a bound socket, which listens from now on, of this generation or a spare. That of a candidate may
    /// be hidden from clients until the cut-over.
    pub fn new(
        first: OwnedFd,
        owner: Option<Generation>,
        is_hidden: bool,
        context: &ListenerContext,
    ) -> io::Result<Self> {
        let at = bound_to(first.as_fd())?;
        // a link-local address has the device of its scope
        let address = InetAddress::of(first.as_fd(), at)?;
        let mut group = Self::without_members(address, owner.is_some());
        if is_hidden {
            group.begin_hidden(first.as_fd())?;
        }
        let first = group.listen(first, owner, context)?;
        group.steer(first)?;
        Ok(group)
    }

    fn without_members(address: InetAddress, is_captured: bool) -> Self {
        Self {
            address,
            members: MemberIndex::default(),
            sockets: Vec::new(),
            strangers: HashSet::new(),
            is_captured,
            hidden: None,
            is_wary: false,
            orphans: Vec::new(),
            is_parked: false,
        }
    }

    #[cfg(test)]
    pub fn members(&self) -> &MemberIndex {
        &self.members
    }

    #[cfg(test)]
    pub fn size(&self) -> usize {
        self.sockets.len()
    }

    #[cfg(test)]
    pub fn spares(&self) -> Vec<&ListeningSocket> {
        self.spare().collect()
    }

    /// A client at the index where the model has this member.
    #[cfg(test)]
    pub fn client_of(&self, inode: Inode) -> io::Result<OwnedFd> {
        let index = |inode| self.members.index_of(inode).ok_or(Errno::ENOENT);
        let target = self.members.target().ok_or(Errno::ENOENT)?;
        self.probe_at(index(inode)?, index(target)?)
    }

    fn listening_socket_of(&self, generation: Generation) -> Option<Inode> {
        let socket = self.socket_of(generation).filter(|socket| socket.listens);
        let own = socket.map(|socket| socket.inode);
        own.or_else(|| self.orphan_of(generation))
    }

    /// A connection to the member at that index, while all others go to the target.
    fn probe_at(&self, candidate: u32, target: u32) -> io::Result<OwnedFd> {
        let listening = self.sockets.iter().find(|socket| socket.listens);
        let group = listening.ok_or(Errno::ENOENT)?.fd();
        let (probe, to) = client_of(self.address.at)?;
        let from = bound_to(probe.as_fd())?;
        let program = to_member_but_for(from, candidate, target);
        sys::attach_reuseport_program(group, &program)?;
        let connected = connect_now(probe.as_fd(), to);
        sys::attach_reuseport_program(group, &to_member(target))?;
        connected.map(|()| probe)
    }

    /// The kernel has removed these from the group. If clients need one, a spare takes its place: if it listened again, the
    /// threads of its server would stay in accept(2), which they leave when it is shut down.
    fn shut_down(&mut self, inodes: &[Inode], context: &mut ListenerContext) {
        self.members.leave_together(inodes);
        for inode in inodes {
            let Some(at) = self.position(*inode) else {
                continue;
            };
            let socket = &mut self.sockets[at];
            // The server itself may have called listen(2) again.
            socket.listens = listens(socket.fd());
            if socket.listens {
                self.members.append(*inode, role_of(socket));
            }
        }
        let target = self.members.target();
        let Some(target) =
            target.filter(|target| inodes.contains(target) || self.is_member(*target))
        else {
            return;
        };
        let is_there = self.is_member(target);
        if !is_there && !context.repairs {
            return;
        }
        // attached first: a new connection may come at any moment
        let attached = if is_there {
            self.steer(target)
        } else {
            // a new one, whose index is known for sure: others may have left as well
            self.grow(context).and_then(|spare| self.steer(spare))
        };
        let guarded = attached.and_then(|()| self.guard(context));
        let target = self.members.target().unwrap_or(target);
        let sure = guarded.and_then(|()| self.make_sure(target, context));
        match sure {
            Ok(()) if is_there => {}
            done => context.incident(Incident::listens_again(self.address(), done)),
        }
        self.find_out(context);
    }

    /// Whether a socket is known that new connections go to: otherwise a relayed one could come back here.
    fn has_target(&self) -> bool {
        self.target().is_some_and(|target| target.listens) || self.is_orphan(self.members.target())
    }

    fn is_member(&self, inode: Inode) -> bool {
        self.members.index_of(inode).is_some()
    }

    /// Attaches the program that picks this socket.
    fn steer(&mut self, inode: Inode) -> io::Result<()> {
        let index = self.members.index_of(inode);
        let index = index.ok_or_else(too_many_strangers)?;
        // any member will do: for an orphan's, hotswap has no member of its own
        let by = self.position(inode).or_else(|| self.first_listening());
        let by = self.sockets[by.ok_or(Errno::EBADF)?].fd();
        sys::attach_reuseport_program(by, &to_member(index))?;
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

    /// One more spare, last in the group.
    fn grow(&mut self, context: &ListenerContext) -> io::Result<Inode> {
        let socket = self.bound_address().bind_in_group(true)?;
        self.listen(socket, None, context)
    }

    /// It listens from now on, last in the group.
    fn listen(
        &mut self,
        fd: OwnedFd,
        owner: Option<Generation>,
        context: &ListenerContext,
    ) -> io::Result<Inode> {
        self.hide_member(fd.as_fd())?;
        sys::listen(fd.as_fd(), context.options.backlog)?;
        let socket = context.watched(fd, owner)?;
        let inode = socket.inode;
        self.members.append(inode, role_of(&socket));
        self.sockets.push(socket);
        Ok(inode)
    }

    /// Empties the spares, and watches every socket for what matters.
    fn update_interests(&mut self, context: &mut ListenerContext) {
        let target = self.members.target();
        let listener = self.address();
        let served = self.has_target();
        for socket in &mut self.sockets {
            let is_target = Some(socket.inode) == target && !context.refuses();
            let spare = socket.owner.is_none() && !is_target;
            // while new connections are held, these would be carried to where they wait
            if spare && socket.listens && !context.holds() {
                if context.refuses() {
                    context.refuse_clients(socket, &listener);
                } else if served {
                    context.take_off(socket, &listener, &Destination::Inet(self.address.at));
                } else {
                    context.close_clients(socket, &listener);
                }
            }
            let interest = match (socket.listens, spare) {
                (false, _) => None,
                (true, true) => Some(context.interest_in_spares()),
                (true, false) if is_target && self.is_captured => Some(Interest::Arrivals),
                (true, false) => Some(Interest::Shutdown),
            };
            context.try_to_watch(socket, interest, &listener);
        }
        // Not in the group and not in use: closing these moves nothing.
        self.sockets.retain(|socket| {
            socket.listens || socket.owner.is_some() || Some(socket.inode) == target
        });
    }

    fn first_listening(&self) -> Option<usize> {
        self.sockets.iter().position(|socket| socket.listens)
    }

    fn position(&self, inode: Inode) -> Option<usize> {
        self.sockets.iter().position(|socket| socket.inode == inode)
    }
}

/// The role of a socket that has just joined.
fn role_of(socket: &ListeningSocket) -> MemberRole {
    socket
        .owner
        .map_or(MemberRole::Spare, |_| MemberRole::ServerHeld)
}

/// The error if strangers join and leave without a pause.
fn too_many_strangers() -> io::Error {
    io::Error::other("other processes keep joining and leaving the port")
}
