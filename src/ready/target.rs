//! The sockets of a candidate that are looked at, and what it must do on them.

use crate::listener::{GenerationSocket, ListenerId, SocketKind};
use crate::socket::listens;

use super::auto::Need;
use super::blocked_threads::SoughtSocket;
use super::{CandidateView, Rank, Required};

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadyTarget {
    pub listener: ListenerId,
    pub need: Need,
    /// The candidate's socket there, if it listens.
    pub socket: Option<SoughtSocket>,
    pub captured: bool,
    /// It takes connections, and only the candidate can accept them.
    pub probeable: bool,
    /// Unknown where it has no socket yet.
    pub kind: Option<SocketKind>,
}

impl ReadyTarget {
    pub fn can_be_probed(&self) -> bool {
        self.probeable && self.socket.is_some()
    }

    pub fn is_tcp(&self) -> bool {
        matches!(self.kind, Some(SocketKind::Tcp { .. }))
    }

    pub fn of(held: &GenerationSocket, need: Need, alone: bool) -> Self {
        let datagrams = matches!(held.kind, SocketKind::Udp { .. });
        let inode = held.inode;
        let listens = datagrams || held.fd.is_some_and(listens);
        Self {
            listener: held.listener,
            need,
            socket: listens.then_some(SoughtSocket { inode, datagrams }),
            captured: held.captured,
            probeable: !datagrams && (held.steered || alone),
            kind: Some(held.kind),
        }
    }

    /// The candidate has no socket there yet. The server will bind it: hotswap has made all others already.
    fn awaited(required: Required) -> Self {
        Self {
            listener: required.listener,
            need: required.need,
            socket: None,
            captured: true,
            probeable: true,
            kind: None,
        }
    }
}

/// Those that are required, and others that the candidate has.
pub fn targets(view: &CandidateView) -> Vec<ReadyTarget> {
    // It is unknown how a server waits on such a socket.
    let known = |held: &&GenerationSocket| held.kind != SocketKind::Other;
    let alone = view.rank == Rank::First;
    let held_at = |listener| view.held.iter().find(|held| held.listener == listener);
    let target = |required: &Required| match held_at(required.listener) {
        Some(held) if known(&held) => Some(ReadyTarget::of(held, required.need, alone)),
        Some(_) => None,
        None => Some(ReadyTarget::awaited(*required)),
    };
    let mut all: Vec<_> = view.required.iter().filter_map(target).collect();
    let is_required = |held: &&GenerationSocket| {
        let mut required = view.required.iter();
        required.any(|required| required.listener == held.listener)
    };
    let others = view.held.iter().filter(known);
    let others = others.filter(|held| !is_required(held));
    all.extend(others.map(|held| ReadyTarget::of(held, Need::Nothing, alone)));
    all
}
