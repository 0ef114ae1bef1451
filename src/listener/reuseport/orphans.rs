//! Joins the group that a hotswap which is gone has left, without a descriptor of any of its sockets.
//!
//! The order of its members is unknown, but a member that joins is the last. The program that is still attached may name
//! that very index: so the first to join is a spare of ours, a known index is attached at once, and only then may a
//! candidate join.
//!
//! A group may also go on with a socket that a service manager has kept. While that socket lives, so do the group and its
//! program, whatever dies. An index beyond the members is hashed over them, so the one that is left alone gets every
//! client.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;

use super::{ReuseportGroup, too_many_strangers};
use crate::connections::inet::inode_of_server_end;
use crate::connections::listening::listening;
use crate::listener::context::ListenerContext;
use crate::listener::listening_socket::ListeningSocket;
use crate::listener::member_index::{MemberIndex, MemberRole, to_member};
use crate::listener::orphan::{OrphanSocket, Orphans};
use crate::listener::snapshot::Snapshot;
use crate::retry::retry_while_blocked;
use crate::socket::inet::InetAddress;
use crate::socket::{Inode, bound_to, inode_of, peer_of};
use crate::sys;

/// How often to join if others join or leave at the same moment.
const ATTEMPTS: usize = 20;
/// How long a server may take to accept a probe.
const ACCEPT_TIMEOUT: Duration = Duration::from_millis(50);

impl ReuseportGroup {
    /// Joins them with a spare, and leads new connections to the serving one among them. What was kept beside them is a
    /// spare, too.
    ///
    /// # Errors
    /// `EADDRINUSE` where the sockets there share the address with nobody; those of socket(2) and of the sock_diag(7) answer.
    pub fn beside(
        address: InetAddress,
        is_captured: bool,
        orphans: &Orphans,
        kept: Option<OwnedFd>,
        context: &mut ListenerContext,
    ) -> io::Result<Self> {
        let mut group = Self::without_members(address, is_captured);
        let mut others = group.join_as_last(context)?;
        group.orphans = orphans.at(&address);
        group.orphans.retain(|one| others.contains(&one.inode));
        if let Some(kept) = kept {
            let inode = inode_of(kept.as_fd())?;
            // one that an orphan serves is that one's alone
            if !group.is_orphan(Some(inode)) && others.remove(&inode) {
                group.add_kept(context.watched(kept, None)?);
            }
        }
        group.meet_strangers(others, context);
        let serving = |one: &&OrphanSocket| one.generation == orphans.serving;
        let serving = group.orphans.iter().find(serving);
        let newest = group.orphans.iter().max_by_key(|one| one.generation);
        let target = serving.or(newest).map(|one| one.inode);
        let target = target.ok_or(Errno::EADDRINUSE)?;
        if group.members.index_of(target).is_none() {
            group.look_for(target, orphans)?;
        }
        group.steer(target)?;
        group.guard(context)?;
        group.see_members(context);
        group.update_interests(context);
        Ok(group)
    }

    /// Clients wait in it for the next generation, as in that of a generation that is dead.
    ///
    /// # Errors
    /// Those of listen(2) and setsockopt(2), and of [`Self::join_as_last`].
    pub fn kept(
        address: InetAddress,
        is_captured: bool,
        socket: OwnedFd,
        context: &mut ListenerContext,
    ) -> io::Result<Self> {
        let mut group = Self::without_members(address, is_captured);
        // it may have been shut down
        sys::listen(socket.as_fd(), context.options.backlog)?;
        let kept = context.watched(socket, None)?;
        let inode = kept.inode;
        // where the kernel does not show who is there, nobody else is likely to be
        if members(&address).map_or(1, |members| members.len()) == 1 {
            group.members.append(inode, MemberRole::Spare);
            group.sockets.push(kept);
            group.steer(inode)?;
        } else {
            // the order of those that are there is unknown: clients come to one of ours that is not, until it is
            let mut others = group.join_as_last(context)?;
            others.remove(&inode);
            group.add_kept(kept);
            group.meet_strangers(others, context);
            group.wait_in_spare(context);
            group.find_out(context);
        }
        group.see_members(context);
        group.update_interests(context);
        Ok(group)
    }

    /// It was there before us, at an index that is found out when it is needed.
    fn add_kept(&mut self, kept: ListeningSocket) {
        self.members.set_role(kept.inode, MemberRole::Spare);
        self.sockets.push(kept);
    }

    fn meet_strangers(&mut self, others: HashSet<Inode>, context: &mut ListenerContext) {
        for other in &others {
            if !self.is_orphan(Some(*other)) {
                context.found_stranger(self.address.at.to_string(), *other);
                self.is_wary = true;
            }
        }
        self.strangers = others;
    }

    /// Returns who was there before.
    fn join_as_last(&mut self, context: &ListenerContext) -> io::Result<HashSet<Inode>> {
        for _ in 0..ATTEMPTS {
            let before = members(&self.address)?;
            let spare = self.address.bind_in_group(true)?;
            let inode = inode_of(spare.as_fd())?;
            sys::listen(spare.as_fd(), context.options.backlog)?;
            // one that is alone there has the first index; else clients wait in ours until the order is known
            let index = if before.len() == 1 { 0 } else { before.len() };
            let index = u32::try_from(index).map_err(|_| too_many_strangers())?;
            sys::attach_reuseport_program(spare.as_fd(), &to_member(index))?;
            let mut expected = before.clone();
            expected.insert(inode);
            if members(&self.address)? == expected {
                let others: Vec<Inode> = before.iter().copied().collect();
                self.members = MemberIndex::joined(&others, inode);
                self.sockets.push(context.watched(spare, None)?);
                return Ok(before);
            }
        }
        Err(too_many_strangers())
    }

    /// Finds the index of the serving generation's socket by connections of our own: it accepts the one that was led to it,
    /// or has one more in its queue. Clients wait in our spare meanwhile.
    fn look_for(&mut self, target: Inode, orphans: &Orphans) -> io::Result<()> {
        let spare = self.sockets.first().ok_or(Errno::ENOENT)?;
        let last = self.members.index_of(spare.inode).ok_or(Errno::ENOENT)?;
        for index in 0..last {
            let queued = self.queue(target);
            let probe = match self.probe_at(index, last) {
                Ok(probe) => probe,
                Err(error) if is_turned_down(&error) => continue,
                Err(error) => return Err(error),
            };
            let from = bound_to(probe.as_fd())?;
            let Some(to) = peer_of(&probe) else {
                continue; // its server resets what it accepts
            };
            let accepted = retry_while_blocked(ACCEPT_TIMEOUT, || {
                let inode = inode_of_server_end(from, to).ok().flatten();
                let inode = inode.filter(|inode| *inode != 0);
                inode.ok_or(io::ErrorKind::WouldBlock.into())
            });
            let is_there = match accepted {
                Ok(inode) => (orphans.serving_has)(inode.into()),
                Err(_) => self.queue(target) > queued,
            };
            if is_there {
                self.members.found(target, index);
                return Ok(());
            }
        }
        Err(io::Error::other("it does not accept connections"))
    }

    fn queue(&self, socket: Inode) -> u32 {
        let there = listening(self.address.family(), self.address.at.port()).unwrap_or_default();
        let own = there.iter().find(|there| there.inode == socket);
        own.map_or(0, |own| own.queue)
    }

    /// Whether that is an orphan's socket.
    pub(super) fn is_orphan(&self, socket: Option<Inode>) -> bool {
        let mut orphans = self.orphans.iter();
        orphans.any(|orphan| Some(orphan.inode) == socket)
    }

    /// The orphan that served is dead: clients wait in a spare of ours for the next generation.
    pub(super) fn wait_in_spare(&mut self, context: &mut ListenerContext) {
        let known = |socket: &&ListeningSocket| {
            socket.owner.is_none() && self.members.index_of(socket.inode).is_some()
        };
        let spare = self.sockets.iter().find(known).map(|spare| spare.inode);
        let waits = spare.ok_or_else(too_many_strangers);
        let waits = waits.and_then(|spare| self.steer(spare));
        if let Err(error) = waits {
            log::debug!(
                "cannot keep clients waiting on {}: {error}",
                self.address.at
            );
        }
        if let Err(error) = self.guard(context) {
            log::debug!("cannot guard {}: {error}", self.address.at);
        }
    }
}

/// Whether a probe failed for the member that it came to: its queue is full, or its server resets what it accepts.
fn is_turned_down(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock
            | io::ErrorKind::Interrupted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
    )
}

/// The sockets that listen there.
fn members(address: &InetAddress) -> io::Result<HashSet<Inode>> {
    let members = Snapshot::of(*address, Vec::new()).members;
    members.ok_or_else(|| io::Error::other("the kernel does not show who listens there"))
}
