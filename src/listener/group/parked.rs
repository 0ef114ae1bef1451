//! The sockets of a group that no generation has, and those that are not ours at all: what may leave, and when.

use std::time::Duration;

use super::{Group, Inode, Means, Role, Socket, Survey};
use crate::listener::{Note, owner};
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

    /// Takes note of what the kernel knows and we do not yet: a server may have shut its socket down a moment ago, and a
    /// process of our own user can join, and leave at any moment.
    pub(super) fn recognize(&mut self, survey: &Survey, means: &mut Means) {
        let Some(there) = survey.members(self) else {
            return;
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
        self.order.leave_together(&gone);
        self.strangers.retain(|inode| there.contains(inode));
        for inode in there {
            let ours = self.position(inode);
            // its server has called listen(2) by itself after a shutdown(2)
            if let Some(socket) = ours.map(|at| &mut self.sockets[at]) {
                socket.listens = true;
                let role = socket.owner.map_or(Role::Parked, |_| Role::Loose);
                self.order.append(inode, role);
            } else if self.strangers.insert(inode) {
                self.order.append(inode, Role::Loose);
                means.note(Note::Stranger {
                    listener: self.address.to_string(),
                    who: owner::holder_of(inode),
                });
            }
        }
    }

    /// As if every parked socket had been so for long.
    #[cfg(test)]
    pub fn age(&mut self) {
        for socket in &mut self.sockets {
            socket.since = Time::ZERO;
        }
    }
}
