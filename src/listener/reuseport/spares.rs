//! The spare sockets of a group: which may be closed, and when.
//!
//! Once no other server needs a socket there, the target is left alone in its group. The kernel closes the sockets of a
//! hotswap that is killed one after another. With two spares before the target, it moves to another index when the first
//! of them goes, and until the last has gone new connections are hashed over what is left: those that come to a spare are
//! reset a moment later. A target that is alone gets them all, whatever the program says.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::socket::{Shutdown, shutdown};

use super::ReuseportGroup;
use crate::connections::half_open;
use crate::listener::context::ListenerContext;
use crate::listener::listening_socket::ListeningSocket;
use crate::listener::member_index::{MemberRole, no_packet};
use crate::listener::snapshot::Snapshot;
use crate::socket::Inode;
use crate::supervisor::{Generation, Time};
use crate::sys;

/// How long a spare is kept after its last cut-over: a handshake from before has then ended.
const REST: Duration = Duration::from_secs(3);
/// The same where the kernel's tables show that no handshake is open: a packet that was on its way has then been handled.
const SHORT_REST: Duration = Duration::from_millis(100);

fn rest() -> Duration {
    if half_open::can_be_seen() {
        SHORT_REST
    } else {
        REST
    }
}

impl ListeningSocket {
    /// It is not idle: it is looked at again after the longer time.
    fn rest_again(&mut self, now: Time) {
        self.since = now + REST.saturating_sub(rest());
    }
}

impl ReuseportGroup {
    /// When the next spare will be old enough to be closed, or its index is to be found out once more.
    pub(super) fn rest_deadline(&self) -> Option<Time> {
        if !self.strangers.is_empty() {
            return None;
        }
        let due = |socket: &ListeningSocket| socket.since + rest();
        if self.may_leave_target_alone() {
            // all at once
            return self.spare().map(due).max();
        }
        let is_due = |socket: &&ListeningSocket| {
            self.members.may_close(socket.inode) || self.is_uncertain(socket.inode)
        };
        self.spare().filter(is_due).map(due).min()
    }

    pub(super) fn is_uncertain(&self, inode: Inode) -> bool {
        let mut uncertain = self.members.uncertain_indexes().into_iter();
        uncertain.any(|(_, other)| other == inode)
    }

    /// Of them it is asked whether they are idle.
    pub(super) fn spare_inodes(&self) -> Vec<Inode> {
        self.spare().map(|socket| socket.inode).collect()
    }

    /// The first idle spare with a known index. Where strangers come and go unseen, none is known well enough.
    pub(super) fn settled(&self, snapshot: &Snapshot) -> Option<usize> {
        if self.is_wary {
            return None;
        }
        let now = sys::now();
        self.members.members().find_map(|inode| {
            let known = self.members.index_of(inode).is_some();
            let at = self.position(inode).filter(|_| known)?;
            let spare = self.sockets[at].owner.is_none() && self.members.target() != Some(inode);
            (spare && self.is_idle(at, snapshot, now)).then_some(at)
        })
    }

    /// Whether it is idle: by the kernel's tables, or because every handshake must have ended.
    fn is_idle(&self, at: usize, snapshot: &Snapshot, now: Time) -> bool {
        let inode = self.sockets[at].inode;
        let idle = snapshot.idle.as_ref().map(|idle| idle.contains(&inode));
        idle.unwrap_or_else(|| self.has_rested(at, now))
    }

    /// The sockets of this generation become spares, except that one.
    pub(super) fn make_spares_of(&mut self, generation: Generation, but: Option<Inode>, now: Time) {
        for socket in &mut self.sockets {
            if socket.owner == Some(generation) && Some(socket.inode) != but {
                socket.owner = None;
                socket.since = now;
                self.members.set_role(socket.inode, MemberRole::Spare);
            }
        }
    }

    /// Whether a spare before the target could be closed if there were one more behind it.
    pub(super) fn could_shrink(&self, snapshot: &Snapshot, now: Time) -> bool {
        let target = self.members.target();
        let before = self
            .members
            .members()
            .take_while(|inode| Some(*inode) != target);
        let mut positions = before.filter_map(|inode| self.position(inode));
        positions.any(|at| self.has_rested(at, now) && self.is_idle(at, snapshot, now))
    }

    pub(super) fn spare(&self) -> impl Iterator<Item = &ListeningSocket> {
        let target = self.members.target();
        self.sockets
            .iter()
            .filter(move |socket| socket.owner.is_none() && Some(socket.inode) != target)
    }

    /// Closes spares that are not needed, the first ones first: then the last member, which may be a candidate, moves before
    /// the target. None while a stranger is there; where they come and go unseen, only one between two looks.
    pub(super) fn close_idle(&mut self, snapshot: &Snapshot, now: Time, context: &ListenerContext) {
        if !self.strangers.is_empty() {
            return;
        }
        if self.may_leave_target_alone() {
            self.close_all_spares(snapshot, now, context);
            return;
        }
        let members: Vec<Inode> = self.members.members().collect();
        for inode in members {
            let Some(at) = self.position(inode) else {
                continue;
            };
            let may_close = self.members.may_close(inode);
            if !self.has_rested(at, now) || !(may_close || self.is_uncertain(inode)) {
                continue;
            }
            let idle = may_close && self.is_idle(at, snapshot, now);
            if !idle {
                self.sockets[at].rest_again(now);
                continue;
            }
            self.remove(inode, context);
            if self.is_wary {
                break;
            }
        }
    }

    /// If all have rested and are idle.
    fn close_all_spares(&mut self, snapshot: &Snapshot, now: Time, context: &ListenerContext) {
        let target = self.members.target();
        let spares = (0..self.sockets.len()).filter(|at| Some(self.sockets[*at].inode) != target);
        let spares: Vec<usize> = spares.collect();
        if !spares.iter().all(|at| self.has_rested(*at, now)) {
            return;
        }
        let is_busy = |at: &usize| !self.is_idle(*at, snapshot, now);
        let busy: Vec<usize> = spares.into_iter().filter(is_busy).collect();
        if busy.is_empty() {
            self.leave_target_alone(context);
        }
        for at in busy {
            self.sockets[at].rest_again(now);
        }
    }

    /// Whether only the target has a server, and where each socket is is known.
    fn may_leave_target_alone(&self) -> bool {
        let target = self.members.target();
        let mut sockets = self.sockets.iter();
        sockets.all(|one| one.owner.is_some() == (Some(one.inode) == target))
            && target.is_some_and(|target| self.is_member(target))
            && self.sockets.len() > 1
            && self.strangers.is_empty()
            && !self.is_wary
            && self.members.uncertain_indexes().is_empty()
    }

    /// Closes all others of ours. Those behind the target do not move it, and the first one before it moves it to the
    /// front. Where that takes it past another one, this one is made deaf before: a client that comes just then sends its
    /// first packet again after a second.
    pub(super) fn leave_target_alone(&mut self, context: &ListenerContext) {
        let target = self.members.target();
        let members: Vec<Inode> = self.members.members().collect();
        let at = members.iter().position(|inode| Some(*inode) == target);
        let (Some(target), Some(at)) = (target, at) else {
            return;
        };
        let (before, behind) = members.split_at(at);
        for inode in behind[1..].iter().rev() {
            self.remove(*inode, context);
        }
        if before.len() > 1 {
            let passed = self.sockets.iter();
            let passed = passed.filter(|socket| before.contains(&socket.inode));
            for socket in passed {
                self.or_tell(sys::attach_packet_filter(socket.fd(), &no_packet()));
            }
        }
        for inode in before {
            self.remove(*inode, context);
            let steered = self.steer(target);
            self.or_tell(steered);
        }
    }

    /// It leaves at once, even if somebody else has a duplicate of it, as a child of hotswap may until its program runs.
    pub(super) fn remove(&mut self, inode: Inode, context: &ListenerContext) {
        let Some(at) = self.position(inode) else {
            return;
        };
        let mut socket = self.sockets.remove(at);
        self.or_tell(context.watcher.watch(&mut socket, None));
        if socket.owner.is_none() {
            let shut = shutdown(socket.fd().as_raw_fd(), Shutdown::Both);
            self.or_tell(shut.map_err(Into::into));
        }
        self.members.leave(inode);
    }

    fn or_tell(&self, done: io::Result<()>) {
        if let Err(error) = done {
            let address = self.address.at;
            log::debug!("cannot close the other sockets of {address}: {error}");
        }
    }

    fn has_rested(&self, at: usize, now: Time) -> bool {
        let socket = &self.sockets[at];
        socket.owner.is_none() && socket.since + rest() <= now
    }

    /// As if every spare were old.
    #[cfg(test)]
    pub fn age(&mut self) {
        for socket in &mut self.sockets {
            socket.since = Time::ZERO;
        }
    }
}
