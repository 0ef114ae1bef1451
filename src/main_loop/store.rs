//! The sockets that a service manager keeps from one hotswap to the next.

use std::os::fd::{AsFd, OwnedFd};

use super::World;
use crate::listener::{KeptAt, KeptSocket};
use crate::socket::{Inode, inode_of};
use crate::supervisor::{Generation, Time};
use crate::systemd::store;
use crate::systemd::{self, ServiceManager};

/// What the service manager has passed.
#[derive(Default)]
pub(super) struct Passed {
    pub kept: Vec<KeptSocket>,
    pub inherited: Vec<(OwnedFd, String)>,
    pub names: Vec<(String, Inode)>,
}

impl Passed {
    /// Call it once, at the start, before anything else is opened.
    pub fn at_start() -> Self {
        let mut passed = Self::default();
        for (socket, name) in systemd::inherited() {
            let at = KeptAt::of(socket.as_fd());
            let is_kept = |at: &KeptAt| store::name_of(&at.to_string()) == name;
            match at.filter(is_kept) {
                Some(at) => {
                    let inode = inode_of(socket.as_fd()).unwrap_or_default();
                    passed.names.push((name, inode));
                    passed.kept.push(KeptSocket { socket, at });
                }
                None if store::is_of_no_use(&name) => passed.names.push((name, 0)),
                None => passed.inherited.push((socket, name)),
            }
        }
        passed
    }

    /// The manager that has passed it.
    pub fn by(names: Vec<(String, Inode)>, now: Time) -> ServiceManager {
        let mut manager = ServiceManager::around_us(now);
        for (name, inode) in names {
            manager.store_mut().came_back(name, inode);
        }
        manager
    }
}

impl World {
    /// The service manager keeps what new connections go to.
    pub(super) fn keep_sockets(&mut self, now: Time) {
        let (listeners, served) = (&self.listeners, self.has_served);
        self.manager.keep(|| listeners.to_keep(served), now);
    }

    /// The first generation serves: what it has not bound soon is not bound by this version.
    pub(super) fn await_kept(&mut self, generation: Generation) {
        if let Some(one) = self.generations.get(&generation) {
            let until = one.server.started() + one.ready_timeout;
            self.listeners.await_kept_until(until);
        }
    }

    /// hotswap ends: clients wait for the next one if that is possible.
    pub(super) fn leave_kept(&mut self) {
        self.manager.finish();
        if self.manager.keeps_sockets() {
            self.listeners.leave_kept();
        }
    }
}
