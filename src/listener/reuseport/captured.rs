//! A group whose sockets are its servers' own.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{
    Inode, ListenerContext, MemberIndex, ReuseportGroup, Snapshot, SocketFamily, bound_to,
};
use crate::supervisor::{Generation, Time};
use crate::sys;

impl ReuseportGroup {
    /// A group of one: a server's own socket, which is bound and listens from now on.
    pub fn of_server(
        first: OwnedFd,
        (family, device): (SocketFamily, u32),
        generation: Generation,
        context: &ListenerContext,
    ) -> io::Result<Self> {
        let mut group = Self {
            family,
            address: bound_to(first.as_fd())?,
            device,
            members: MemberIndex::default(),
            sockets: Vec::new(),
            strangers: HashSet::new(),
        };
        sys::listen(first.as_fd(), context.options.backlog)?;
        let first = group.add(first, Some(generation), context)?;
        group.steer(first)?;
        Ok(group)
    }

    /// A server's own socket listens from now on. No client comes to it before the cut-over, since the program picks
    /// another; what the generation had before is given up.
    pub fn join(
        &mut self,
        generation: Generation,
        socket: OwnedFd,
        snapshot: &Snapshot,
        context: &mut ListenerContext,
    ) -> io::Result<()> {
        let now = sys::now();
        self.recognize(snapshot, context);
        // the group grows with every swap if nothing can leave it: one more of ours behind the target lets one before go
        if self.could_shrink(now) {
            self.grow(context)?;
        }
        sys::listen(socket.as_fd(), context.options.backlog)?;
        self.leave(generation, now, context);
        let inode = self.add(socket, Some(generation), context)?;
        self.guard(context)?;
        self.close_idle(snapshot, now, context);
        self.fill(inode, context)?;
        self.make_sure(inode, context)
    }

    fn could_shrink(&self, now: Time) -> bool {
        let target = self.members.target();
        let before = self
            .members
            .members()
            .take_while(|inode| Some(*inode) != target);
        let mut positions = before.filter_map(|inode| self.position(inode));
        positions.any(|at| self.is_rested(at, now))
    }

    /// Its server calls listen(2) once more: the backlog is ours, and if it was shut down meanwhile it is the last now.
    pub fn listen_again(&mut self, inode: Inode, context: &mut ListenerContext) -> io::Result<()> {
        let Some(at) = self.position(inode) else {
            return Ok(());
        };
        if !super::listens(self.sockets[at].fd()) {
            self.shut_down(&[inode], context);
        }
        let socket = &mut self.sockets[at];
        sys::listen(socket.fd(), context.options.backlog)?;
        if !socket.listens {
            socket.listens = true;
            let role = socket
                .owner
                .map_or(super::MemberRole::Spare, |_| super::MemberRole::ServerHeld);
            self.members.append(inode, role);
            self.guard(context)?;
        }
        self.update_interests(context);
        Ok(())
    }

    /// Whether clients wait in a socket that no generation has.
    pub fn is_waiting(&self) -> bool {
        let target = self
            .members
            .target()
            .and_then(|target| self.position(target));
        target.is_some_and(|at| self.sockets[at].owner.is_none())
    }

    pub fn is_owned(&self) -> bool {
        self.sockets.iter().any(|socket| socket.owner.is_some())
    }

    /// Any of its sockets.
    pub fn any(&self) -> Option<BorrowedFd<'_>> {
        self.sockets.first().map(super::ListeningSocket::fd)
    }

    /// Gives the address up; clients that wait are counted and said.
    pub fn close(mut self, context: &mut ListenerContext) {
        let listener = self.address.to_string();
        for socket in &mut self.sockets {
            context.turn_away(socket, &listener);
            if let Err(error) = context.watch(socket, None) {
                log::debug!("cannot stop watching a socket of {listener}: {error}");
            }
        }
    }
}
