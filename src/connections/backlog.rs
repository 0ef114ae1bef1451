//! What has not been accepted yet on a generation's own listeners.

use std::io;

use super::handshakes::{self, IDLE};
use super::{accept_queue, family_of, inet::Family, unix};
use crate::listener::{Held, Kind};

/// What one look at the listeners found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// Connections that wait to be accepted.
    pub queued: bool,
    /// Handshakes that are not complete; `None` where the kernel does not tell.
    pub handshakes: Option<bool>,
}

impl Backlog {
    pub const NONE: Self = Self {
        queued: false,
        handshakes: Some(false),
    };

    pub fn is_none(self) -> bool {
        self == Self::NONE
    }

    /// Looks at those of these sockets that are their generation's alone: what waits on a shared one waits for all.
    pub fn of(held: &[Held]) -> Self {
        let mut backlog = Self::NONE;
        let mut tables: [(Family, Vec<u64>); 2] = [(Family::V4, vec![]), (Family::V6, vec![])];
        for one in held.iter().filter(|one| one.steered) {
            let queue = match one.kind {
                Kind::Tcp { .. } => accept_queue(one.fd),
                Kind::Unix => unix::accept_queue(one.inode),
                Kind::Udp { .. } | Kind::Abstract | Kind::Other => Ok(0),
            };
            match queue {
                Ok(length) => backlog.queued |= length > 0,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(_) => backlog.handshakes = None,
            }
            if let (Kind::Tcp { .. }, Ok(family)) = (one.kind, family_of(one.fd)) {
                let tables = tables.iter_mut().filter(|table| table.0 == family);
                tables.for_each(|table| table.1.push(one.inode));
            }
        }
        // A queue is reason enough to wait: whatever else is open need not be read.
        for (family, inodes) in tables.iter().filter(|table| !table.1.is_empty()) {
            if !backlog.queued && backlog.handshakes == Some(false) {
                backlog.handshakes = handshakes(*family, inodes);
            }
        }
        backlog
    }
}

/// Whether any is open on these listeners, if that can be told.
fn handshakes(family: Family, inodes: &[u64]) -> Option<bool> {
    if !handshakes::can_be_seen() {
        return None;
    }
    let references = handshakes::references(family, inodes).ok()?;
    // One that is not in the table does not listen: its server has shut it down.
    Some(references.iter().flatten().any(|count| *count > IDLE))
}
