//! What the kernel's tables show of TCP addresses: which parked sockets are idle, and who listens there.
//!
//! One look serves many addresses, since each takes the kernel through all of them.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use crate::connections::half_open;
use crate::connections::listening::listening;
use crate::socket::Inode;
use crate::socket::inet::{Family, InetAddress};

/// What was seen of one address.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Of the sockets that were asked for, there or elsewhere, those on which neither a connection nor a handshake is open;
    /// `None` where the kernel does not tell.
    pub idle: Option<Rc<HashSet<Inode>>>,
    /// The sockets that listen there, if the kernel tells.
    pub members: Option<HashSet<Inode>>,
}

impl Snapshot {
    /// One look at this address alone, and at these sockets of it.
    pub fn of(address: InetAddress, sockets: Vec<Inode>) -> Self {
        let mut seen = Snapshots::of(&[(address, sockets)]);
        seen.take(&address).unwrap_or_default()
    }
}

/// One look at several addresses, of which each takes what was seen of it, once.
#[derive(Debug, Default)]
pub struct Snapshots(HashMap<InetAddress, Snapshot>);

impl Snapshots {
    /// Looks at these addresses, and at these sockets of theirs.
    pub fn of(asked: &[(InetAddress, Vec<Inode>)]) -> Self {
        let mut seen = HashMap::new();
        for family in Family::ALL {
            let asked = asked.iter().filter(|one| one.0.family() == family);
            let asked: Vec<_> = asked.collect();
            let port = match asked[..] {
                [] => continue,
                [(address, _)] => address.at.port(),
                _ => 0,
            };
            let listening = listening(family, port);
            let listening =
                listening.inspect_err(|error| log::debug!("cannot see who listens: {error}"));
            let mut members: HashMap<_, HashSet<Inode>> = HashMap::new();
            for one in listening.iter().flatten() {
                let (ip, port) = (one.address.ip(), one.address.port());
                let at = (ip, port, one.device, one.only_v6);
                members.entry(at).or_default().insert(one.inode);
            }
            let sockets: Vec<Inode> = asked.iter().flat_map(|one| one.1.clone()).collect();
            let idle = idle(family, &sockets).map(Rc::new);
            for (address, _) in asked {
                let (ip, port) = (address.at.ip(), address.at.port());
                let at = (ip, port, address.device, address.is_only_v6());
                let members = members.remove(&at).unwrap_or_default();
                let snapshot = Snapshot {
                    idle: idle.clone(),
                    members: listening.is_ok().then_some(members),
                };
                seen.insert(*address, snapshot);
            }
        }
        Self(seen)
    }

    pub fn take(&mut self, address: &InetAddress) -> Option<Snapshot> {
        self.0.remove(address)
    }
}

fn idle(family: Family, sockets: &[Inode]) -> Option<HashSet<Inode>> {
    if !half_open::can_be_seen() {
        return None;
    }
    let references = half_open::references(family, sockets).unwrap_or_default();
    let idle = references
        .into_iter()
        .filter(|one| one.1 == half_open::IDLE);
    Some(idle.map(|(inode, _)| inode).collect())
}
