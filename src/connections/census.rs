//! How many connections a generation has, and how many of them are busy.

use std::io;

use nix::unistd::Pid;

use super::owners::Owners;
use super::{family_of, inet, unix};
use crate::listener::{Held, Kind};

/// One count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// `None` where it cannot be told whose they are.
    pub connections: Option<usize>,
    pub busy: usize,
}

impl Census {
    /// Counts what these processes have accepted on these sockets. Busy are only those that came through a socket of
    /// their generation alone: on a shared one nobody waits for them. Where processes cannot be looked into, everybody's
    /// connections on the same ports pass for theirs, and nobody knows how many are.
    pub fn take(held: &[Held], pids: &[Pid], owners: &mut Owners) -> Self {
        let Ok(found) = find(held) else {
            return Self {
                connections: None,
                busy: 1,
            };
        };
        if found.is_empty() {
            return Self {
                connections: Some(0),
                busy: 0,
            };
        }
        owners.refresh(pids);
        let is_complete = owners.is_complete();
        let theirs = found
            .iter()
            .filter(|one| !is_complete || one.is_certain || owners.have(one.inode));
        let (count, busy) = theirs.fold((0, 0), |(count, busy), one| {
            (count + 1, busy + usize::from(one.busy))
        });
        Self {
            connections: is_complete.then_some(count),
            busy,
        }
    }
}

/// A connection on one of a generation's sockets.
struct Found {
    inode: u64,
    busy: bool,
    /// It is the generation's, whoever holds it.
    is_certain: bool,
}

/// The connections on these sockets, of whatever process. What is in a queue yet is not of this count.
fn find(held: &[Held]) -> io::Result<Vec<Found>> {
    let (mut ports, mut paths) = (Vec::new(), Vec::new());
    for one in held {
        match one.kind {
            Kind::Tcp { port } => ports.push((family_of(one.fd)?, port, one.steered)),
            Kind::Unix | Kind::Abstract => paths.push((one.inode, one.steered)),
            Kind::Udp { .. } | Kind::Other => {}
        }
    }
    ports.sort_unstable();
    ports.dedup();
    let mut found = Vec::new();
    for (family, port, steered) in ports {
        let accepted = inet::connections(family, port)?;
        let accepted = accepted.into_iter().filter(|one| one.inode != 0);
        found.extend(accepted.map(|one| Found {
            inode: one.inode,
            busy: one.busy && steered,
            is_certain: false,
        }));
    }
    for (inode, steered) in paths {
        // What is said on a unix connection, and when, the kernel does not count: as long as it is open it is busy.
        found.extend(unix::connections(&[inode])?.into_iter().map(|inode| Found {
            inode,
            busy: steered,
            is_certain: steered,
        }));
    }
    Ok(found)
}
