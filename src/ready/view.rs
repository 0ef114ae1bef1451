//! What is known of a candidate when it is looked at.

use std::time::Duration;

use nix::unistd::Pid;

use super::auto::{Need, Rank};
use crate::listener::{GenerationSocket, ListenerId};
use crate::supervisor::Time;

/// A listener that counts: the candidate must have a socket there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Required {
    pub listener: ListenerId,
    /// [`Need::Accept`] if the serving generation was seen accepting there.
    pub need: Need,
}

/// The current state of a candidate.
#[derive(Clone, Copy)]
pub struct CandidateView<'a> {
    /// Its sockets.
    pub held: &'a [GenerationSocket<'a>],
    /// Where it must have a socket, because the serving generation does; a restart on one of those of the dead one.
    pub required: &'a [Required],
    /// Where it need not have one, whatever it was given.
    pub optional: &'a [ListenerId],
    /// Its main process.
    pub main: Pid,
    /// Finds all of its processes. That takes much longer than the rest, so it is called only if there is something to
    /// look for.
    pub processes: &'a dyn Fn() -> Vec<Pid>,
    pub rank: Rank,
    /// It has called bind or listen itself.
    pub captured: bool,
    /// It has bound something that could not be looked into.
    pub hidden: bool,
    /// It listens on a port that the kernel has chosen for it.
    pub chosen_port: bool,
    /// Under `--dev`: how long to wait for the last address once another accepts.
    pub patience: Option<Duration>,
    /// [`crate::sys::cpu_time`] before any of this was collected.
    pub cpu_time: Time,
}

impl CandidateView<'_> {
    /// The required listeners where it does not listen. On sockets that hotswap has made hotswap itself listens.
    pub(super) fn does_not_listen(&self) -> Vec<ListenerId> {
        let listens = |listener| {
            let mut held = self.held.iter();
            held.any(|held| held.listener == listener && (held.listens || !held.captured))
        };
        let required = self.required.iter().map(|required| required.listener);
        let missing: Vec<_> = required.filter(|listener| !listens(*listener)).collect();
        // nothing else serves, so one of them is enough
        if self.rank == Rank::Restart && missing.len() < self.required.len() {
            return Vec::new();
        }
        missing
    }
}
