//! The sockets of a group that no generation has: what may leave, and when.

use std::time::Duration;

use super::{Group, Inode, Means, Socket, Survey};
use crate::supervisor::Time;

/// How long a parked socket is kept after its last cut-over: a handshake begun before that has come to its end.
const REST: Duration = Duration::from_secs(3);

impl Group {
    /// When a parked socket may be closed, as far as time is concerned.
    pub fn deadline(&self) -> Option<Time> {
        let parked = self
            .sockets
            .iter()
            .filter(|socket| socket.owner.is_none() && self.order.may_close(socket.inode));
        parked.map(|socket| socket.since + REST).min()
    }

    /// The parked sockets that could be closed or given away if nothing is open on them.
    pub fn resting(&self) -> impl Iterator<Item = Inode> {
        self.parked().map(|socket| socket.inode)
    }

    /// Those of them on which every handshake must have come to its end, for a kernel that does not show them.
    pub fn rested(&self, now: Time) -> impl Iterator<Item = Inode> {
        let rested = self
            .parked()
            .filter(move |socket| socket.since + REST <= now);
        rested.map(|socket| socket.inode)
    }

    pub(super) fn parked(&self) -> impl Iterator<Item = &Socket> {
        let target = self.order.target();
        self.sockets
            .iter()
            .filter(move |socket| socket.owner.is_none() && Some(socket.inode) != target)
    }

    /// Closes the parked sockets of which nobody has need. The first go first: so the last, which may be a candidate,
    /// comes to stand before the target, and leaves room behind itself once it is the target.
    pub fn reap(&mut self, survey: &Survey, now: Time, means: &mut Means) {
        self.recognize(survey, means);
        if self.strangers.is_empty() && !self.order.in_doubt().is_empty() {
            self.find_out();
        }
        self.close_idle(survey, now, means);
    }

    pub(super) fn close_idle(&mut self, survey: &Survey, now: Time, means: &mut Means) {
        let members: Vec<Inode> = self.order.members().collect();
        for inode in members {
            let Some(at) = self.position(inode) else {
                continue;
            };
            if !self.is_rested(at, now) || !self.order.may_close(inode) {
                continue;
            }
            let socket = &mut self.sockets[at];
            if self.strangers.is_empty()
                && survey.is_idle(inode)
                && means.watch(socket, None).is_ok()
            {
                self.order.leave(inode);
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
