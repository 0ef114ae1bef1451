//! One look at the kernel's tables for all groups: which parked sockets are idle, and who else has joined.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::reuseport::ReuseportGroup;
use super::steer::Inode;
use crate::connections::listening::{Listening, listening};
use crate::connections::{half_open, inet};
use crate::sys;

/// An address, and the network device that is asked for there.
type ListenAddress = (IpAddr, u16, u32);

pub struct Snapshot {
    /// The parked sockets on which neither a connection nor a handshake is open.
    idle: HashSet<Inode>,
    /// The listening sockets of this host by their addresses, if the kernel tells.
    listening: Option<HashMap<ListenAddress, HashSet<Inode>>>,
}

impl Snapshot {
    pub fn of(groups: &[&ReuseportGroup]) -> Self {
        let mut snapshot = Self {
            idle: HashSet::new(),
            listening: Some(HashMap::new()),
        };
        for family in [inet::Family::V4, inet::Family::V6] {
            let groups = groups.iter().copied();
            let groups: Vec<&ReuseportGroup> = groups
                .filter(|group| group.family().table() == family)
                .collect();
            if !groups.is_empty() {
                snapshot.look(family, &groups);
            }
        }
        snapshot
    }

    fn look(&mut self, family: inet::Family, groups: &[&ReuseportGroup]) {
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
        if !half_open::can_be_seen() {
            let now = sys::now();
            self.idle.extend(groups.flat_map(|group| group.rested(now)));
            return;
        }
        let resting: Vec<Inode> = groups.flat_map(|group| group.resting()).collect();
        let references = half_open::references(family, &resting).unwrap_or_default();
        let pairs = resting.into_iter().zip(references);
        let idle = pairs.filter(|(_, references)| *references == Some(half_open::IDLE));
        self.idle.extend(idle.map(|(inode, _)| inode));
    }

    pub fn is_idle(&self, inode: Inode) -> bool {
        self.idle.contains(&inode)
    }

    /// The sockets that listen at the address of this group.
    pub fn members(&self, group: &ReuseportGroup) -> Option<HashSet<Inode>> {
        let all = self.listening.as_ref()?;
        let at = group.address();
        let here = all.get(&(at.ip(), at.port(), group.device()));
        Some(here.cloned().unwrap_or_default())
    }
}
