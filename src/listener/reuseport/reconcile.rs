//! Reconciles a group with the kernel: sockets that were shut down, strangers that came and went, and where the rest moved.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{Shutdown, shutdown};
use nix::sys::time::TimeSpec;

use super::{ReuseportGroup, role_of, too_many_strangers};
use crate::listener::context::ListenerContext;
use crate::listener::member_index::MemberRole;
use crate::listener::relay::Destination;
use crate::listener::snapshot::Snapshot;
use crate::listener::steering::Steering;
use crate::socket::{Inode, bound_to, canonical, listens};
use crate::sys;

/// How often, and for how long, a socket joins again because strangers join or leave at the same moment.
const ATTEMPTS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a connection of our own may take to its queue after it is made.
const ON_THE_WAY: Duration = Duration::from_millis(5);

impl ReuseportGroup {
    /// Updates the model from the kernel: a server may just have shut its socket down, and a process of the same user can join
    /// and leave at any moment.
    pub(super) fn snapshot(&mut self, context: &mut ListenerContext) -> Snapshot {
        self.look_at_kernel(Self::spare_inodes, context)
    }

    /// The same, without a look at which spares are idle, which takes much longer: nobody shall come or go meanwhile.
    pub(super) fn see_members(&mut self, context: &mut ListenerContext) {
        self.look_at_kernel(|_| Vec::new(), context);
    }

    /// Unless somebody has looked for all listeners.
    fn look_at_kernel(
        &mut self,
        asked: fn(&Self) -> Vec<Inode>,
        context: &mut ListenerContext,
    ) -> Snapshot {
        let seen = context.snapshots.take(&self.address);
        let mut snapshot = seen.unwrap_or_else(|| Snapshot::of(self.address, asked(self)));
        match snapshot.members.take() {
            Some(members) => self.members_seen(members, context),
            None => self.members.show(false),
        }
        snapshot
    }

    fn members_seen(&mut self, there: HashSet<Inode>, context: &mut ListenerContext) {
        let ours = self.sockets.iter().filter(|socket| socket.listens);
        // one that listens and is not shown can only be in another group: to join again would not help it
        let shut: Vec<Inode> = ours
            .filter(|socket| !there.contains(&socket.inode) && !listens(socket.fd()))
            .map(|socket| socket.inode)
            .collect();
        if !shut.is_empty() {
            self.shut_down(&shut, context);
        }
        let gone = self.strangers.difference(&there);
        let gone: Vec<Inode> = gone.copied().collect();
        let mut strangers_moved = !gone.is_empty();
        self.members.leave_together(&gone);
        self.is_wary |= gone.iter().any(|inode| !self.is_orphan(Some(*inode)));
        self.strangers.retain(|inode| there.contains(inode));
        self.orphans.retain(|orphan| there.contains(&orphan.inode));
        if self.members.target().is_some_and(|t| gone.contains(&t)) {
            self.wait_in_spare(context);
        }
        for inode in there {
            let ours = self.position(inode);
            // its server has called listen(2) itself after a shutdown(2)
            if let Some(socket) = ours.map(|at| &mut self.sockets[at]) {
                socket.listens = true;
                self.members.append(inode, role_of(socket));
            } else if self.strangers.insert(inode) {
                strangers_moved = true;
                self.is_wary = true;
                self.members.append(inode, MemberRole::ServerHeld);
                context.found_stranger(self.address(), inode);
            }
        }
        self.members.show(strangers_moved);
    }

    /// A stranger may have joined or left at the moment this unused socket joined: then it joins once more, behind the members
    /// of now. What must stand behind it follows once its index is known: where strangers come and go, two sockets that
    /// join between two looks may be in another order than they seem.
    pub(super) fn make_sure(
        &mut self,
        inode: Inode,
        context: &mut ListenerContext,
    ) -> io::Result<()> {
        let until = sys::now() + PATIENCE;
        let mut attempts = 0;
        let mut is_settled = !self.members.is_new(inode);
        while !is_settled {
            let is_exact = !self.members.is_new(inode) || self.members.has_joined_alone(inode);
            self.see_members(context);
            if (is_exact || !self.is_wary) && self.members.index_of(inode).is_some() {
                is_settled = !self.grow_as_needed(inode, context)?;
                continue;
            }
            attempts += 1;
            if attempts > ATTEMPTS && sys::now() >= until {
                return Err(too_many_strangers());
            }
            self.join_again(inode, context)?;
        }
        Ok(())
    }

    /// Leaves, and joins last. There is a look between the two unless clients need it: a stranger that is never seen could
    /// have taken the place that it leaves, and left that to it again.
    fn join_again(&mut self, inode: Inode, context: &mut ListenerContext) -> io::Result<()> {
        let at = self.position(inode).ok_or(Errno::EBADF)?;
        let socket = &mut self.sockets[at];
        let role = role_of(socket);
        shutdown(socket.fd().as_raw_fd(), Shutdown::Both)?;
        self.members.leave(inode);
        if self.members.target() != Some(inode) {
            socket.listens = false;
            self.see_members(context);
        }
        let at = self.position(inode).ok_or(Errno::EBADF)?;
        let socket = &mut self.sockets[at];
        sys::listen(socket.fd(), context.options.backlog)?;
        socket.listens = true;
        self.members.append(inode, role);
        if self.members.target() == Some(inode) {
            self.steer(inode)?;
        }
        Ok(())
    }

    /// Makes spares that are missing behind the target or this one: one at a time where strangers come and go. Whether
    /// any was missing.
    fn grow_as_needed(&mut self, inode: Inode, context: &ListenerContext) -> io::Result<bool> {
        let guarded = self.members.target().into_iter().chain([inode]);
        let missing = guarded.map(|one| self.members.fillers_needed(one)).max();
        let missing = missing.unwrap_or(0);
        let at_once = if self.is_wary { 1 } else { missing };
        for _ in 0..missing.min(at_once) {
            self.grow(context)?;
        }
        Ok(missing > 0)
    }

    /// Finds uncertain indexes by connections of our own: the socket that gets one is at that index.
    pub(super) fn find_out(&mut self, context: &mut ListenerContext) {
        if let Err(error) = self.try_to_find_out(context) {
            let address = self.address();
            log::debug!("cannot tell the order of the sockets of {address}: {error}");
        }
    }

    fn try_to_find_out(&mut self, context: &mut ListenerContext) -> io::Result<()> {
        let target = self.members.target();
        let target = target.and_then(|inode| self.members.index_of(inode));
        let target = target.ok_or(Errno::ENOENT)?;
        for (index, _) in self.members.uncertain_indexes() {
            let mut spares = self.spare_inodes();
            spares.retain(|one| self.is_uncertain(*one));
            if spares.is_empty() {
                break;
            }
            let probe = self.probe_at(index, target)?;
            // otherwise a server got it; which one is known once all others are found
            let receiver = self.receiver_of(&probe, &spares, context);
            context.probes.sought = None;
            if let Some(inode) = receiver? {
                self.members.found(inode, index);
            }
        }
        Ok(())
    }

    /// Which of these spares gets this connection. Its last ACK may still be on its way, and another probe or a client may
    /// have come before it.
    fn receiver_of(
        &self,
        probe: &OwnedFd,
        spares: &[Inode],
        context: &mut ListenerContext,
    ) -> io::Result<Option<Inode>> {
        let from = bound_to(probe.as_fd())?;
        let sockets = self.sockets.iter();
        let spares = sockets.filter(|socket| spares.contains(&socket.inode));
        let (listener, to) = (self.address(), Destination::Inet(self.address.at));
        context.probes.sought = Some(canonical(from));
        let until = sys::now() + ON_THE_WAY;
        loop {
            for socket in spares.clone() {
                context.empty(socket, &listener, &to);
                if context.probes.sought.is_none() {
                    return Ok(Some(socket.inode));
                }
            }
            let fds = spares.clone().map(|socket| socket.fd());
            let mut waiting: Vec<_> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            let left = until.saturating_sub(sys::now());
            if left.is_zero() {
                return Ok(None);
            }
            ppoll(&mut waiting, Some(TimeSpec::from_duration(left)), None)?;
        }
    }
}
