//! The rule of `--ready auto`, without the means to look.
//!
//! Its input is what was seen, probed and said, and the time. Its output is what to probe, and whether the candidate is
//! ready.

use std::time::Duration;

use super::NotReadyReason;
use crate::listener::ListenerId;
use crate::supervisor::Time;

/// How long a listening socket is watched before it is probed, how long to wait for the last listener once the others
/// accept, and how long a server without listeners must live.
const WHILE: Duration = Duration::from_secs(1);
/// A first generation with captured listeners is assumed ready this long before the ready timeout, or a tenth of it.
const MARGIN: Duration = Duration::from_millis(100);
/// One listener that the candidate must accept on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObservedListener {
    pub listener: ListenerId,
    pub captured: bool,
    /// A connection can be made to it that only the candidate can accept.
    pub probeable: bool,
    pub shown: Evidence,
}

/// What the candidate has shown there so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    Nothing,
    /// Not a proof: hotswap itself may have called listen(2).
    Listens,
    /// A thread waits on it.
    Waits,
    AcceptedAProbe,
}

/// What one look at the candidate showed.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    pub observed_listeners: &'a [ObservedListener],
    /// Some of its processes could not be inspected.
    pub blind: bool,
    pub first: bool,
    /// It has called bind or listen itself.
    pub captured: bool,
}

/// Why a listener counts as accepting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proof {
    BlockedThreads,
    Probed,
    /// It can be neither seen nor probed.
    Assumed,
}

/// What follows from a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AutoVerdict {
    BlockedCall,
    /// On all listeners except these.
    Accepts {
        proof: Proof,
        missing: Vec<ListenerId>,
    },
    /// It has no listener and has said READY=1.
    Said,
    /// It has no listener and is alive.
    Alive,
    /// A first generation with captured listeners that was never seen accepting on these.
    Benefit {
        missing: Vec<ListenerId>,
    },
}

#[derive(Debug)]
struct ListenerProgress {
    listener: ListenerId,
    listens_since: Option<Time>,
    proof: Option<(Proof, Time)>,
}

#[derive(Debug)]
pub struct Auto {
    started: Time,
    give_up: Time,
    /// This server has said READY=1 before, so it must say it again.
    must_say: bool,
    said: bool,
    progress: Vec<ListenerProgress>,
}

impl Auto {
    pub fn new(started: Time, give_up: Time, must_say: bool) -> Self {
        Self {
            started,
            give_up,
            must_say,
            said: false,
            progress: Vec::new(),
        }
    }

    pub fn said_ready(&mut self) {
        self.said = true;
    }

    /// When the last of its listeners was first seen to listen.
    pub fn listens_since(&self) -> Option<Time> {
        self.progress
            .iter()
            .filter_map(|progress_of| progress_of.listens_since)
            .max()
    }

    /// Only READY=1 is missing, so there is nothing to look for.
    pub fn only_lacks_ready_message(&self) -> bool {
        let proven = self
            .progress
            .iter()
            .all(|progress_of| progress_of.proof.is_some());
        self.must_say && !self.said && proven && !self.progress.is_empty()
    }

    /// What it has not shown yet.
    pub fn not_ready_reason(&self) -> Option<NotReadyReason> {
        let unproven = self
            .progress
            .iter()
            .filter(|progress_of| progress_of.proof.is_none());
        let unproven: Vec<_> = unproven.map(|progress_of| progress_of.listener).collect();
        if !unproven.is_empty() {
            return Some(NotReadyReason::Accepting(unproven));
        }
        (self.must_say && !self.said).then_some(NotReadyReason::NoReadyMessage)
    }

    /// Judges one look, and returns the listeners that need a probe.
    pub fn judge(&mut self, now: Time, look: &Observation) -> (AutoVerdict, Vec<ListenerId>) {
        if look.observed_listeners.is_empty() && !look.captured {
            return (self.without_listener(now), Vec::new());
        }
        let probes = self.note(now, look);
        (self.verdict(now, look), probes)
    }

    fn without_listener(&self, now: Time) -> AutoVerdict {
        if self.said {
            AutoVerdict::Said
        } else if !self.must_say && now >= self.started + WHILE {
            AutoVerdict::Alive
        } else {
            AutoVerdict::BlockedCall
        }
    }

    /// Records what was seen, and returns the listeners for which that is not enough.
    fn note(&mut self, now: Time, look: &Observation) -> Vec<ListenerId> {
        let mut unseen = Vec::new();
        let started = self.started;
        for observed in look.observed_listeners {
            let progress_of = self.progress_of(observed.listener);
            let proof = match observed.shown {
                Evidence::Nothing => continue,
                Evidence::Listens => None,
                Evidence::Waits => Some((Proof::BlockedThreads, now)),
                Evidence::AcceptedAProbe => Some((Proof::Probed, now)),
            };
            let since = *progress_of.listens_since.get_or_insert(now);
            progress_of.proof = progress_of.proof.or(proof);
            if progress_of.proof.is_some() {
                continue;
            }
            if observed.probeable && (look.blind || now >= since + WHILE) {
                unseen.push(observed.listener);
            } else if !observed.probeable && look.blind && now >= started + WHILE {
                progress_of.proof = Some((Proof::Assumed, now));
            }
        }
        unseen
    }

    fn verdict(&mut self, now: Time, look: &Observation) -> AutoVerdict {
        if self.must_say && !self.said {
            return AutoVerdict::BlockedCall;
        }
        let mut proofs = Vec::new();
        let mut missing = Vec::new();
        for observed in look.observed_listeners {
            match self.progress_of(observed.listener).proof {
                Some(proof) => proofs.push((proof, observed.captured)),
                None => missing.push(observed),
            }
        }
        let names = || missing.iter().map(|observed| observed.listener).collect();
        let all_captured = |observed_listeners: &[&ObservedListener]| {
            observed_listeners.iter().all(|observed| observed.captured)
        };
        let last = proofs.iter().map(|((_, at), _)| *at).max();
        let worst = proofs.iter().map(|((proof, _), _)| *proof).max();
        if let (Some(last), Some(proof)) = (last, worst) {
            // A first generation that is given sockets and accepts on none of them is misconfigured.
            let took_one = !look.first
                || all_captured(&missing)
                || proofs.iter().any(|(_, captured)| !captured);
            let waited = now >= last + WHILE && missing.len() <= proofs.len() && took_one;
            if missing.is_empty() || waited {
                return AutoVerdict::Accepts {
                    proof,
                    missing: names(),
                };
            }
        }
        let margin = MARGIN.min(self.give_up.saturating_sub(self.started) / 10);
        if look.first && look.captured && all_captured(&missing) && now + margin >= self.give_up {
            return AutoVerdict::Benefit { missing: names() };
        }
        AutoVerdict::BlockedCall
    }

    fn progress_of(&mut self, listener: ListenerId) -> &mut ListenerProgress {
        let known = self
            .progress
            .iter()
            .position(|progress_of| progress_of.listener == listener);
        let at = known.unwrap_or_else(|| {
            self.progress.push(ListenerProgress {
                listener,
                listens_since: None,
                proof: None,
            });
            self.progress.len() - 1
        });
        &mut self.progress[at]
    }
}

#[cfg(test)]
mod tests;
