//! What the kernel's tables show of TCP addresses: which parked sockets are idle, and who listens there.
//!
//! One look serves many addresses, since each takes the kernel through all of them.

use std::collections::{HashMap, HashSet};

use crate::connections::half_open;
use crate::connections::listening::listening;
use crate::socket::Inode;
use crate::socket::inet::{Family, InetAddress};

/// What was seen of one address.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Of the sockets that were asked for, those on which neither a connection nor a handshake is open; `None` where the
    /// kernel does not tell.
    pub idle: Option<HashSet<Inode>>,
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
        let mut all = HashMap::new();
        for family in Family::ALL {
            let asked = asked
                .iter()
                .filter(|(address, _)| address.family() == family);
            look(family, &asked.collect::<Vec<_>>(), &mut all);
        }
        Self(all)
    }

    pub fn take(&mut self, address: &InetAddress) -> Option<Snapshot> {
        self.0.remove(address)
    }
}

fn look(
    family: Family,
    asked: &[&(InetAddress, Vec<Inode>)],
    all: &mut HashMap<InetAddress, Snapshot>,
) {
    let port = match asked {
        [] => return,
        [(address, _)] => address.at.port(),
        _ => 0,
    };
    let listening = listening(family, port);
    if let Err(error) = &listening {
        log::debug!("cannot see who listens: {error}");
    }
    let mut members: HashMap<_, HashSet<Inode>> = HashMap::new();
    for one in listening.iter().flatten() {
        let at = (
            one.address.ip(),
            one.address.port(),
            one.device,
            one.only_v6,
        );
        members.entry(at).or_default().insert(one.inode);
    }
    let sockets: Vec<Inode> = asked
        .iter()
        .flat_map(|(_, sockets)| sockets)
        .copied()
        .collect();
    let idle = idle(family, &sockets);
    for (address, sockets) in asked {
        let only_v6 = address.is_only_v6();
        let at = (address.at.ip(), address.at.port(), address.device, only_v6);
        let snapshot = Snapshot {
            idle: idle.as_ref().map(|idle| {
                let ours = sockets.iter().filter(|socket| idle.contains(socket));
                ours.copied().collect()
            }),
            members: listening
                .is_ok()
                .then(|| members.remove(&at).unwrap_or_default()),
        };
        all.insert(*address, snapshot);
    }
}

fn idle(family: Family, sockets: &[Inode]) -> Option<HashSet<Inode>> {
    if !half_open::can_be_seen() {
        return None;
    }
    let references = half_open::references(family, sockets).unwrap_or_default();
    let pairs = sockets.iter().zip(references);
    let idle = pairs.filter(|(_, references)| *references == Some(half_open::IDLE));
    Some(idle.map(|(inode, _)| *inode).collect())
}
