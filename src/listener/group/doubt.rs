//! What the kernel knows of a group and we do not yet: who has shut a socket down, which strangers came and went, and
//! where our sockets are since.

use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{Shutdown, shutdown};

use super::{ATTEMPTS, Group, Inode, Means, Role, Socket, Survey, role_of, set_nonblocking};
use crate::supervisor::Generation;
use crate::sys;

/// What is said where they come and go without a pause.
pub fn too_many_strangers() -> io::Error {
    io::Error::other("others join the port and leave it all the time")
}

impl Group {
    /// Takes note of what the kernel knows and we do not yet: a server may have shut its socket down a moment ago, and a
    /// process of our own user can join, and leave at any moment.
    pub fn recognize(&mut self, survey: &Survey, means: &mut Means) {
        let Some(there) = survey.members(self) else {
            return self.order.show(false);
        };
        let ours = self.sockets.iter().filter(|socket| socket.listens);
        let shut: Vec<Inode> = ours
            .map(|socket| socket.inode)
            .filter(|inode| !there.contains(inode))
            .collect();
        if !shut.is_empty() {
            self.shut_down(&shut, means);
        }
        let gone = self.strangers.difference(&there);
        let gone: Vec<Inode> = gone.copied().collect();
        let mut strangers_moved = !gone.is_empty();
        self.order.leave_together(&gone);
        self.strangers.retain(|inode| there.contains(inode));
        for inode in there {
            let ours = self.position(inode);
            // its server has called listen(2) by itself after a shutdown(2)
            if let Some(socket) = ours.map(|at| &mut self.sockets[at]) {
                socket.listens = true;
                self.order.append(inode, role_of(socket));
            } else if self.strangers.insert(inode) {
                strangers_moved = true;
                self.order.append(inode, Role::Loose);
                means.found_stranger(self.address.to_string(), inode);
            }
        }
        self.order.show(strangers_moved);
    }

    /// Whether this generation's socket has joined since the kernel last showed who is there.
    pub fn is_new(&self, generation: Generation) -> bool {
        let socket = self.socket_of(generation);
        socket.is_some_and(|socket| self.order.is_new(socket.inode))
    }

    /// A stranger may have come or gone just when this generation's socket joined, which nobody uses yet: then it joins
    /// once more, behind whoever is there now.
    pub fn settle(
        &mut self,
        generation: Generation,
        survey: &Survey,
        means: &mut Means,
    ) -> io::Result<()> {
        self.recognize(survey, means);
        let inode = self.socket_of(generation).map(|socket| socket.inode);
        match inode.filter(|inode| self.order.index_of(*inode).is_none()) {
            Some(inode) => self.join_again(inode, means),
            None => Ok(()),
        }
    }

    /// The same for one socket alone.
    pub(super) fn make_sure(&mut self, inode: Inode, means: &mut Means) -> io::Result<()> {
        for _ in 0..ATTEMPTS {
            if !self.order.is_new(inode) {
                return Ok(());
            }
            self.recognize(&Survey::of(&[self]), means);
            if self.order.index_of(inode).is_none() {
                self.join_again(inode, means)?;
            }
        }
        Err(too_many_strangers())
    }

    fn join_again(&mut self, inode: Inode, means: &Means) -> io::Result<()> {
        let at = self.position(inode).ok_or(Errno::EBADF)?;
        let socket = &self.sockets[at];
        let role = role_of(socket);
        shutdown(socket.fd().as_raw_fd(), Shutdown::Both)?;
        self.order.leave(inode);
        sys::listen(socket.fd(), means.options.backlog)?;
        self.order.append(inode, role);
        if self.order.target() == Some(inode) {
            self.steer(inode)?;
        }
        self.guard(means)?;
        self.fill(inode, means)
    }

    /// Finds out where the sockets are whose place is in doubt, by connections of our own: who gets one is there.
    pub(super) fn find_out(&mut self) {
        if let Err(error) = self.try_to_find_out() {
            let address = self.address;
            log::debug!("cannot tell the order of the sockets of {address}: {error}");
        }
    }

    fn try_to_find_out(&mut self) -> io::Result<()> {
        let target = self.order.target();
        let target = target.and_then(|inode| self.order.index_of(inode));
        let target = target.ok_or(Errno::ENOENT)?;
        let in_doubt = self.order.in_doubt();
        for (index, _) in &in_doubt {
            let _probe = self.probe_at(*index, target)?;
            let doubtful =
                |socket: &&Socket| in_doubt.iter().any(|(_, inode)| *inode == socket.inode);
            let parked = self.parked().filter(doubtful);
            let got_it = parked.map(|socket| {
                (
                    socket.inode,
                    set_nonblocking(socket.fd(), true).and_then(|()| sys::accept(socket.fd())),
                )
            });
            let got_it = got_it
                .filter(|(_, accepted)| accepted.is_ok())
                .map(|(inode, _)| inode)
                .next();
            // else a server got it; it is known which once all others are found
            if let Some(inode) = got_it {
                self.order.found(inode, *index);
            }
        }
        Ok(())
    }
}
