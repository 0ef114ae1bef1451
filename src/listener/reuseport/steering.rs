//! A group as one of the kinds of listener.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::{ReuseportGroup, role_of};
use crate::listener::captured_address::BoundPath;
use crate::listener::context::ListenerContext;
use crate::listener::incident::Incident;
use crate::listener::listening_socket::ListeningSocket;
use crate::listener::member_index::MemberRole;
use crate::listener::relay::Destination;
use crate::listener::steering::Steering;
use crate::socket::generation_socket::SocketKind;
use crate::socket::inet::InetAddress;
use crate::socket::{Inode, listens};
use crate::supervisor::{Generation, SocketChoice, Time};
use crate::sys;

impl Steering for ReuseportGroup {
    fn kind(&self) -> SocketKind {
        let port = self.address.at.port();
        SocketKind::Tcp { port }
    }

    fn address(&self) -> String {
        self.address.at.to_string()
    }

    fn is_steered(&self) -> bool {
        true
    }

    fn has(&self, inode: Inode) -> bool {
        self.position(inode).is_some()
    }

    fn socket_of(&self, generation: Generation) -> Option<&ListeningSocket> {
        let own = |socket: &&ListeningSocket| socket.owner == Some(generation);
        self.sockets.iter().find(own)
    }

    fn orphan_of(&self, generation: Generation) -> Option<Inode> {
        let mut orphans = self.orphans.iter();
        let orphan = orphans.find(|orphan| orphan.generation == generation)?;
        Some(orphan.inode)
    }

    fn inherited_socket(
        &mut self,
        generation: Generation,
        sockets: SocketChoice,
        context: &mut ListenerContext,
    ) -> io::Result<OwnedFd> {
        let snapshot = self.snapshot(context);
        if let Some(socket) = self.socket_of(generation) {
            return socket.duplicate();
        }
        let target = self.members.target();
        let target = target.and_then(|inode| self.position(inode));
        let chosen = match sockets {
            SocketChoice::Target if !context.lets_nobody_in() && !self.is_parked => target,
            SocketChoice::Target | SocketChoice::Own => target
                .filter(|at| self.sockets[*at].owner.is_none())
                .filter(|_| !context.is_closed() && !self.is_parked)
                .or_else(|| self.settled(&snapshot)),
        };
        let at = if let Some(at) = chosen {
            at
        } else {
            let inode = self.grow(context)?;
            self.position(inode).ok_or(Errno::EBADF)?
        };
        if Some(at) != target {
            let to = Destination::Inet(self.address.at);
            context.empty(&self.sockets[at], &self.address(), &to);
        }
        let socket = &mut self.sockets[at];
        let listened = socket.listens;
        socket.restore(context.options.backlog)?;
        let duplicate = socket.duplicate()?;
        socket.owner = Some(generation);
        let inode = socket.inode;
        self.members.append(inode, MemberRole::ServerHeld);
        self.members.set_role(inode, MemberRole::ServerHeld);
        if Some(at) == target && !listened {
            self.steer(inode)?;
        }
        self.guard(context)?;
        self.fill(inode, context)?;
        if !self.orphans.is_empty() {
            // one may die unseen: only what has been seen before then keeps its order
            self.see_members(context);
        }
        self.update_interests(context);
        Ok(duplicate)
    }

    fn is_settled(&self, generation: Generation) -> bool {
        let socket = self.socket_of(generation);
        socket.is_none_or(|socket| !self.members.is_new(socket.inode))
    }

    /// A stranger may have come or gone just when this generation's socket joined.
    fn settle(&mut self, generation: Generation, context: &mut ListenerContext) -> io::Result<()> {
        let socket = self.socket_of(generation).map(|socket| socket.inode);
        socket.map_or(Ok(()), |inode| self.make_sure(inode, context))
    }

    /// What must stand behind the socket is made.
    fn prepare(&mut self, generation: Generation, context: &mut ListenerContext) -> io::Result<()> {
        self.snapshot(context);
        match self.listening_socket_of(generation) {
            Some(inode) => self.fill(inode, context),
            None => Ok(()),
        }
    }

    fn cut_over(
        &mut self,
        generation: Generation,
        context: &mut ListenerContext,
    ) -> io::Result<Option<Inode>> {
        let Some(inode) = self.listening_socket_of(generation) else {
            return Ok(None);
        };
        self.show_all()?;
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

    fn park(&mut self, _: Generation, context: &mut ListenerContext) -> io::Result<Option<Inode>> {
        let before = self.members.target();
        if !self.is_waiting() {
            self.hold(context)?;
        }
        self.is_parked = true;
        let target = self.members.target();
        if let Some(at) = target.and_then(|target| self.position(target)) {
            self.sockets[at].held = true;
        }
        Ok(before)
    }

    fn is_parked(&self) -> bool {
        self.is_parked
    }

    fn unpark(&mut self) {
        self.is_parked = false;
    }

    fn steer_back(&mut self, before: Inode, context: &mut ListenerContext) {
        if let Err(error) = self.steer(before) {
            context.incident(Incident::broken(self.address(), &error));
        }
        self.is_parked &= self.is_waiting();
        self.update_interests(context);
    }

    /// No client comes to it before the cut-over, since the program picks another; what the generation had before is given
    /// up.
    fn join(
        &mut self,
        generation: Generation,
        socket: OwnedFd,
        _: Option<BoundPath>,
        context: &mut ListenerContext,
    ) -> io::Result<()> {
        let now = sys::now();
        let snapshot = self.snapshot(context);
        // the group grows with every swap if nothing can leave it: one more of ours behind the target lets one before go
        if self.could_shrink(&snapshot, now) {
            self.grow(context)?;
        }
        let inode = self.listen(socket, Some(generation), context)?;
        self.make_spares_of(generation, Some(inode), now);
        self.update_interests(context);
        self.guard(context)?;
        if !self.is_wary {
            self.close_idle(&snapshot, now, context);
        }
        self.fill(inode, context)?;
        self.make_sure(inode, context)
    }

    /// The backlog is ours, and if it was shut down meanwhile it is the last now.
    fn listen_again(&mut self, inode: Inode, context: &mut ListenerContext) -> io::Result<()> {
        let Some(at) = self.position(inode) else {
            return Ok(());
        };
        let socket = &mut self.sockets[at];
        let was_shut = !listens(socket.fd());
        sys::listen(socket.fd(), context.options.backlog)?;
        if was_shut && socket.listens {
            self.shut_down(&[inode], context);
        } else if !std::mem::replace(&mut socket.listens, true) {
            let role = role_of(socket);
            self.members.append(inode, role);
            self.guard(context)?;
        }
        self.update_interests(context);
        Ok(())
    }

    fn leave(&mut self, generation: Generation, now: Time, context: &mut ListenerContext) {
        if self.orphan_of(generation).is_some() {
            self.snapshot(context);
            self.orphans.retain(|one| one.generation != generation);
        }
        self.make_spares_of(generation, None, now);
        self.update_interests(context);
    }

    /// New connections go to a socket that only hotswap has.
    fn hold(&mut self, context: &mut ListenerContext) -> io::Result<()> {
        self.snapshot(context);
        let spare = self.spare().find(|spare| {
            let known = self.members.index_of(spare.inode).is_some();
            spare.listens && known
        });
        let spare = match spare.map(|spare| spare.inode) {
            Some(spare) => spare,
            None => self.grow(context)?,
        };
        self.fill(spare, context)?;
        self.make_sure(spare, context)?;
        self.steer(spare)?;
        if let Some(at) = self.position(spare) {
            self.sockets[at].held |= context.holds();
        }
        self.update_interests(context);
        Ok(())
    }

    fn leave_kept(&mut self, context: &mut ListenerContext) {
        self.leave_target_alone(context);
    }

    /// The target stays where it is, whenever they leave: as they may do unseen from now on.
    fn let_go(&mut self, generation: Generation, context: &mut ListenerContext) {
        let target = self.members.target();
        let (strangers, listener) = (&mut self.strangers, self.address.at.to_string());
        self.sockets.retain_mut(|socket| {
            let theirs = socket.owner == Some(generation) && Some(socket.inode) != target;
            if theirs {
                context.try_to_watch(socket, None, &listener);
                strangers.insert(socket.inode);
            }
            !theirs
        });
    }

    fn is_hidden(&self) -> bool {
        self.hidden.is_some()
    }

    fn hide(&mut self, context: &mut ListenerContext) -> io::Result<()> {
        self.hide_all()?;
        if self.is_hidden() && !self.is_owned() {
            let to = Destination::Inet(self.address.at);
            for socket in self.sockets.iter().filter(|socket| socket.listens) {
                context.empty(socket, &self.address(), &to);
            }
        }
        Ok(())
    }

    fn probe(&mut self, generation: Generation) -> io::Result<OwnedFd> {
        if self.hidden.is_some() {
            return Err(Errno::ENOENT.into());
        }
        let socket = self.socket_of(generation).ok_or(Errno::ENOENT)?;
        let candidate = self.members.index_of(socket.inode).ok_or(Errno::ENOENT)?;
        let target = self.members.target().ok_or(Errno::ENOENT)?;
        let index = self.members.index_of(target).ok_or(Errno::ENOENT)?;
        self.probe_at(candidate, index)
    }

    fn woken(&mut self, events: &[(Inode, bool)], context: &mut ListenerContext) {
        let shut = events.iter().filter(|event| event.1);
        let shut: Vec<Inode> = shut.map(|event| event.0).collect();
        if !shut.is_empty() {
            self.shut_down(&shut, context);
        }
        if self.is_orphan(self.members.target()) {
            // nobody may be carried back to the socket that it came from
            self.snapshot(context);
        }
        self.update_interests(context);
    }

    fn deadline(&self) -> Option<Time> {
        self.rest_deadline()
    }

    fn look(&mut self, now: Time, context: &mut ListenerContext) {
        let snapshot = self.snapshot(context);
        if self.strangers.is_empty() && !self.members.uncertain_indexes().is_empty() {
            self.find_out(context);
        }
        self.close_idle(&snapshot, now, context);
        self.update_interests(context);
    }

    fn to_look_at(&self) -> Option<(InetAddress, Vec<Inode>)> {
        Some((self.address, self.spare_inodes()))
    }

    fn recognize(&mut self, context: &mut ListenerContext) {
        self.snapshot(context);
    }

    fn target(&self) -> Option<&ListeningSocket> {
        let at = self.position(self.members.target()?)?;
        Some(&self.sockets[at])
    }

    fn is_owned(&self) -> bool {
        !self.orphans.is_empty() || self.sockets.iter().any(|socket| socket.owner.is_some())
    }

    fn close(&mut self, context: &mut ListenerContext) {
        let listener = self.address();
        for socket in &mut self.sockets {
            context.close(socket, &listener);
        }
    }

    fn resume(&mut self, context: &mut ListenerContext) {
        self.update_interests(context);
    }

    fn inet(&self) -> Option<(SocketAddr, BorrowedFd<'_>)> {
        Some((self.address.at, self.sockets.first()?.fd()))
    }

    fn destination(&self) -> Option<Destination> {
        self.has_target()
            .then_some(Destination::Inet(self.address.at))
    }
}
