//! The sockets that a candidate must accept on.

use crate::listener::{GenerationSocket, ListenerId, SocketKind};
use crate::socket::listens;

use super::CandidateView;
use super::blocked_threads::SoughtSocket;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadyTarget {
    pub listener: ListenerId,
    /// The candidate's socket there, if it listens.
    pub socket: Option<SoughtSocket>,
    pub captured: bool,
    /// It takes connections, and only the candidate can accept them.
    pub probeable: bool,
}

impl ReadyTarget {
    pub fn can_be_probed(&self) -> bool {
        self.probeable && self.socket.is_some()
    }

    fn of(held: &GenerationSocket, first: bool) -> Self {
        let datagrams = matches!(held.kind, SocketKind::Udp { .. });
        let inode = held.inode;
        let listens = datagrams || listens(held.fd);
        Self {
            listener: held.listener,
            socket: listens.then_some(SoughtSocket { inode, datagrams }),
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
pub fn targets(view: &CandidateView) -> Vec<ReadyTarget> {
    let known = |held: &&GenerationSocket| held.kind != SocketKind::Other;
    if view.wanted.is_empty() {
        let held = view.held.iter().filter(known);
        return held.map(|held| ReadyTarget::of(held, view.first)).collect();
    }
    let target = |listener: &ListenerId| {
        let held = view.held.iter().find(|held| held.listener == *listener);
        match held {
            Some(held) if known(&held) => Some(ReadyTarget::of(held, view.first)),
            // It is unknown how a server waits on such a socket.
            Some(_) => None,
            None => Some(ReadyTarget::awaited(*listener)),
        }
    };
    view.wanted.iter().filter_map(target).collect()
}
