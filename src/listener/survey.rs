//! One look at the kernel's tables for all groups: which parked sockets are idle, and who else has joined.

use std::collections::HashSet;

use super::group::Group;
use super::steer::Inode;
use crate::connections::listening::{Listening, listening};
use crate::connections::{handshakes, inet};
use crate::sys;

pub struct Survey {
    /// The parked sockets on which neither a connection nor a handshake is open.
    idle: HashSet<Inode>,
    /// Every listening socket of this host, if the kernel tells.
    listening: Option<Vec<Listening>>,
}

impl Survey {
    pub fn of(groups: &[&Group]) -> Self {
        let mut survey = Self {
            idle: HashSet::new(),
            listening: Some(Vec::new()),
        };
        for family in [inet::Family::V4, inet::Family::V6] {
            let groups = groups.iter().copied();
            let groups: Vec<&Group> = groups
                .filter(|group| group.family().table() == family)
                .collect();
            if !groups.is_empty() {
                survey.look(family, &groups);
            }
        }
        survey
    }

    fn look(&mut self, family: inet::Family, groups: &[&Group]) {
        match (&mut self.listening, listening(family)) {
            (Some(all), Ok(more)) => all.extend(more),
            (all, Err(error)) => {
                log::debug!("cannot see who listens: {error}");
                *all = None;
            }
            (None, Ok(_)) => {}
        }
        let groups = groups.iter();
        if !handshakes::can_be_seen() {
            let now = sys::now();
            self.idle.extend(groups.flat_map(|group| group.rested(now)));
            return;
        }
        let resting: Vec<Inode> = groups.flat_map(|group| group.resting()).collect();
        let references = handshakes::references(family, &resting).unwrap_or_default();
        let pairs = resting.into_iter().zip(references);
        let idle = pairs.filter(|(_, references)| *references == Some(handshakes::IDLE));
        self.idle.extend(idle.map(|(inode, _)| inode));
    }

    pub fn is_idle(&self, inode: Inode) -> bool {
        self.idle.contains(&inode)
    }

    /// The sockets that listen at the address of this group.
    pub fn members(&self, group: &Group) -> Option<HashSet<Inode>> {
        let all = self.listening.as_ref()?.iter();
        let at = group.address();
        let here = all.filter(|listening| {
            listening.address == (at.ip(), at.port()).into() && listening.device == group.device()
        });
        Some(here.map(|listening| listening.inode).collect())
    }
}
