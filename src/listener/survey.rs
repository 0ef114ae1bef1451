//! One look at the kernel's tables for all groups: which parked sockets are idle, and who else has joined.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::group::Group;
use super::steer::Inode;
use crate::connections::listening::{Listening, listening};
use crate::connections::{handshakes, inet};
use crate::sys;

/// An address, and the network device that is asked for there.
type At = (IpAddr, u16, u32);

pub struct Survey {
    /// The parked sockets on which neither a connection nor a handshake is open.
    idle: HashSet<Inode>,
    /// The listening sockets of this host by their addresses, if the kernel tells.
    listening: Option<HashMap<At, HashSet<Inode>>>,
}

impl Survey {
    pub fn of(groups: &[&Group]) -> Self {
        let mut survey = Self {
            idle: HashSet::new(),
            listening: Some(HashMap::new()),
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
            (Some(all), Ok(more)) => {
                for Listening {
                    address,
                    device,
                    inode,
                } in more
                {
                    let at = (address.ip(), address.port(), device);
                    all.entry(at).or_default().insert(inode);
                }
            }
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
        let all = self.listening.as_ref()?;
        let at = group.address();
        let here = all.get(&(at.ip(), at.port(), group.device()));
        Some(here.cloned().unwrap_or_default())
    }
}
