//! The sockets that a candidate must accept on.

use crate::listener::{Held, Kind, ListenerId, listens};

use super::View;
use super::seen::Sought;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub listener: ListenerId,
    /// The candidate's socket there, if it listens.
    pub socket: Option<Sought>,
    pub captured: bool,
    /// It takes connections, and only the candidate can accept them.
    pub probeable: bool,
}

impl Target {
    pub fn can_be_probed(&self) -> bool {
        self.probeable && self.socket.is_some()
    }

    fn of(held: &Held, first: bool) -> Self {
        let datagrams = matches!(held.kind, Kind::Udp { .. });
        let inode = held.inode;
        let listens = datagrams || listens(held.fd);
        Self {
            listener: held.listener,
            socket: listens.then_some(Sought { inode, datagrams }),
            captured: held.captured,
            probeable: !datagrams && (held.steered || first),
        }
    }

    /// The candidate has no socket there yet. The server will bind it: hotswap has made all others already.
    fn awaited(listener: ListenerId) -> Self {
        Self {
            listener,
            socket: None,
            captured: true,
            probeable: true,
        }
    }
}

/// The wanted ones; if none is, those that the candidate has.
pub fn targets(view: &View) -> Vec<Target> {
    let known = |held: &&Held| held.kind != Kind::Other;
    if view.wanted.is_empty() {
        let held = view.held.iter().filter(known);
        return held.map(|held| Target::of(held, view.first)).collect();
    }
    let target = |listener: &ListenerId| {
        let held = view.held.iter().find(|held| held.listener == *listener);
        match held {
            Some(held) if known(&held) => Some(Target::of(held, view.first)),
            // It is unknown how a server waits on such a socket.
            Some(_) => None,
            None => Some(Target::awaited(*listener)),
        }
    };
    view.wanted.iter().filter_map(target).collect()
}
