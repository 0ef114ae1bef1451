//! A group whose sockets are its servers' own.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{Family, Group, Inode, Means, Order, Survey, bound_to};
use crate::supervisor::{Generation, Time};
use crate::sys;

impl Group {
    /// A group of one: a server's own socket, which is bound and listens from now on.
    pub fn of_server(
        first: OwnedFd,
        (family, device): (Family, u32),
        generation: Generation,
        means: &Means,
    ) -> io::Result<Self> {
        let mut group = Self {
            family,
            address: bound_to(first.as_fd())?,
            device,
            order: Order::default(),
            sockets: Vec::new(),
            strangers: HashSet::new(),
        };
        sys::listen(first.as_fd(), means.options.backlog)?;
        let first = group.add(first, Some(generation), means)?;
        group.steer(first)?;
        Ok(group)
    }

    /// A server's own socket listens from now on. No client comes to it before the cut-over, since the program picks
    /// another; what the generation had before is given up.
    pub fn join(
        &mut self,
        generation: Generation,
        socket: OwnedFd,
        survey: &Survey,
        means: &mut Means,
    ) -> io::Result<()> {
        let now = sys::now();
        self.recognize(survey, means);
        // the group grows with every swap if nothing can leave it: one more of ours behind the target lets one before go
        if self.could_shrink(now) {
            self.grow(means)?;
        }
        sys::listen(socket.as_fd(), means.options.backlog)?;
        self.leave(generation, now, means);
        let inode = self.add(socket, Some(generation), means)?;
        self.guard(means)?;
        self.close_idle(survey, now, means);
        self.fill(inode, means)?;
        self.make_sure(inode, means)
    }

    fn could_shrink(&self, now: Time) -> bool {
        let target = self.order.target();
        let before = self
            .order
            .members()
            .take_while(|inode| Some(*inode) != target);
        let mut positions = before.filter_map(|inode| self.position(inode));
        positions.any(|at| self.is_rested(at, now))
    }

    /// Its server calls listen(2) once more: the backlog is ours, and if it was shut down meanwhile it is the last now.
    pub fn listen_again(&mut self, inode: Inode, means: &mut Means) -> io::Result<()> {
        let Some(at) = self.position(inode) else {
            return Ok(());
        };
        if !super::listens(self.sockets[at].fd()) {
            self.shut_down(&[inode], means);
        }
        let socket = &mut self.sockets[at];
        sys::listen(socket.fd(), means.options.backlog)?;
        if !socket.listens {
            socket.listens = true;
            let role = socket
                .owner
                .map_or(super::Role::Parked, |_| super::Role::Loose);
            self.order.append(inode, role);
            self.guard(means)?;
        }
        self.tend(means);
        Ok(())
    }

    /// Whether clients wait in a socket that no generation has.
    pub fn is_waiting(&self) -> bool {
        let target = self.order.target().and_then(|target| self.position(target));
        target.is_some_and(|at| self.sockets[at].owner.is_none())
    }

    pub fn is_owned(&self) -> bool {
        self.sockets.iter().any(|socket| socket.owner.is_some())
    }

    /// Any of its sockets.
    pub fn any(&self) -> Option<BorrowedFd<'_>> {
        self.sockets.first().map(super::Socket::fd)
    }

    /// Gives the address up; clients that wait are counted and said.
    pub fn close(mut self, means: &mut Means) {
        let listener = self.address.to_string();
        for socket in &mut self.sockets {
            means.turn_away(socket, &listener);
            if let Err(error) = means.watch(socket, None) {
                log::debug!("cannot stop watching a socket of {listener}: {error}");
            }
        }
    }
}
