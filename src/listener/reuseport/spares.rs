//! The sockets of a group that no generation has: what may leave, and when.

use std::time::Duration;

use super::{Inode, ListenerContext, ListeningSocket, ReuseportGroup, Snapshot};
use crate::supervisor::Time;

/// How long a parked socket is kept after its last cut-over: a handshake begun before that has come to its end.
const REST: Duration = Duration::from_secs(3);

impl ReuseportGroup {
    /// When a parked socket may be closed, as far as time is concerned.
    pub fn deadline(&self) -> Option<Time> {
        let spare = self
            .sockets
            .iter()
            .filter(|socket| socket.owner.is_none() && self.members.may_close(socket.inode));
        spare.map(|socket| socket.since + REST).min()
    }

    /// The parked sockets that could be closed or given away if nothing is open on them.
    pub fn resting(&self) -> impl Iterator<Item = Inode> {
        self.spare().map(|socket| socket.inode)
    }

    /// Those of them on which every handshake must have come to its end, for a kernel that does not show them.
    pub fn rested(&self, now: Time) -> impl Iterator<Item = Inode> {
        let rested = self
            .spare()
            .filter(move |socket| socket.since + REST <= now);
        rested.map(|socket| socket.inode)
    }

    pub(super) fn spare(&self) -> impl Iterator<Item = &ListeningSocket> {
        let target = self.members.target();
        self.sockets
            .iter()
            .filter(move |socket| socket.owner.is_none() && Some(socket.inode) != target)
    }

    /// Closes the parked sockets of which nobody has need. The first go first: so the last, which may be a candidate,
    /// comes to stand before the target, and leaves room behind itself once it is the target.
    pub fn reap(&mut self, snapshot: &Snapshot, now: Time, context: &mut ListenerContext) {
        self.recognize(snapshot, context);
        if self.strangers.is_empty() && !self.members.is_uncertain().is_empty() {
            self.find_out();
        }
        self.close_idle(snapshot, now, context);
    }

    pub(super) fn close_idle(
        &mut self,
        snapshot: &Snapshot,
        now: Time,
        context: &mut ListenerContext,
    ) {
        let members: Vec<Inode> = self.members.members().collect();
        for inode in members {
            let Some(at) = self.position(inode) else {
                continue;
            };
            if !self.is_rested(at, now) || !self.members.may_close(inode) {
                continue;
            }
            let socket = &mut self.sockets[at];
            if self.strangers.is_empty()
                && snapshot.is_idle(inode)
                && context.watch(socket, None).is_ok()
            {
                self.members.leave(inode);
                self.sockets.remove(at);
            } else {
                socket.since = now;
            }
        }
    }

    pub(super) fn is_rested(&self, at: usize, now: Time) -> bool {
        let socket = &self.sockets[at];
        socket.owner.is_none() && socket.since + REST <= now
    }

    /// As if every parked socket had been so for long.
    #[cfg(test)]
    pub fn age(&mut self) {
        for socket in &mut self.sockets {
            socket.since = Time::ZERO;
        }
    }
}
