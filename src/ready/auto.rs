//! The rule of `--ready auto`, without the means to look.
//!
//! Its input is what was seen, probed and said, and the time. Its output is what to probe, and whether the candidate is
//! ready.

use std::time::Duration;

use super::Lack;
use crate::listener::ListenerId;
use crate::supervisor::Time;

/// How long a listening socket is watched before it is probed, how long to wait for the last listener once the others
/// accept, and how long a server without listeners must live.
const WHILE: Duration = Duration::from_secs(1);
/// A first generation with captured listeners is assumed ready this long before the ready timeout, or a tenth of it.
const MARGIN: Duration = Duration::from_millis(100);
/// One listener that the candidate must accept on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    pub listener: ListenerId,
    pub captured: bool,
    /// A connection can be made to it that only the candidate can accept.
    pub probeable: bool,
    pub shown: Shown,
}

/// What the candidate has shown there so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    Nothing,
    /// Not a proof: hotswap itself may have called listen(2).
    Listens,
    /// A thread waits on it.
    Waits,
    AcceptedAProbe,
}

/// What one look at the candidate showed.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    pub sights: &'a [Sight],
    /// Some of its processes could not be inspected.
    pub blind: bool,
    pub first: bool,
    /// It has called bind or listen itself.
    pub captured: bool,
}

/// Why a listener counts as accepting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proof {
    Seen,
    Probed,
    /// It can be neither seen nor probed.
    Assumed,
}

/// What follows from a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Wait,
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
struct Place {
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
    places: Vec<Place>,
}

impl Auto {
    pub fn new(started: Time, give_up: Time, must_say: bool) -> Self {
        Self {
            started,
            give_up,
            must_say,
            said: false,
            places: Vec::new(),
        }
    }

    pub fn said_ready(&mut self) {
        self.said = true;
    }

    /// When the last of its listeners was first seen to listen.
    pub fn listens_since(&self) -> Option<Time> {
        self.places
            .iter()
            .filter_map(|place| place.listens_since)
            .max()
    }

    /// Only READY=1 is missing, so there is nothing to look for.
    pub fn only_waits_for_word(&self) -> bool {
        let proven = self.places.iter().all(|place| place.proof.is_some());
        self.must_say && !self.said && proven && !self.places.is_empty()
    }

    /// What it has not shown yet.
    pub fn lack(&self) -> Option<Lack> {
        let unproven = self.places.iter().filter(|place| place.proof.is_none());
        let unproven: Vec<_> = unproven.map(|place| place.listener).collect();
        if !unproven.is_empty() {
            return Some(Lack::Accepting(unproven));
        }
        (self.must_say && !self.said).then_some(Lack::Word)
    }

    /// Judges one look, and returns the listeners that need a probe.
    pub fn judge(&mut self, now: Time, look: &Look) -> (Verdict, Vec<ListenerId>) {
        if look.sights.is_empty() && !look.captured {
            return (self.without_listener(now), Vec::new());
        }
        let probes = self.note(now, look);
        (self.verdict(now, look), probes)
    }

    fn without_listener(&self, now: Time) -> Verdict {
        if self.said {
            Verdict::Said
        } else if !self.must_say && now >= self.started + WHILE {
            Verdict::Alive
        } else {
            Verdict::Wait
        }
    }

    /// Records what was seen, and returns the listeners for which that is not enough.
    fn note(&mut self, now: Time, look: &Look) -> Vec<ListenerId> {
        let mut unseen = Vec::new();
        let started = self.started;
        for sight in look.sights {
            let place = self.place(sight.listener);
            let proof = match sight.shown {
                Shown::Nothing => continue,
                Shown::Listens => None,
                Shown::Waits => Some((Proof::Seen, now)),
                Shown::AcceptedAProbe => Some((Proof::Probed, now)),
            };
            let since = *place.listens_since.get_or_insert(now);
            place.proof = place.proof.or(proof);
            if place.proof.is_some() {
                continue;
            }
            if sight.probeable && (look.blind || now >= since + WHILE) {
                unseen.push(sight.listener);
            } else if !sight.probeable && look.blind && now >= started + WHILE {
                place.proof = Some((Proof::Assumed, now));
            }
        }
        unseen
    }

    fn verdict(&mut self, now: Time, look: &Look) -> Verdict {
        if self.must_say && !self.said {
            return Verdict::Wait;
        }
        let mut proofs = Vec::new();
        let mut missing = Vec::new();
        for sight in look.sights {
            match self.place(sight.listener).proof {
                Some(proof) => proofs.push((proof, sight.captured)),
                None => missing.push(sight),
            }
        }
        let names = || missing.iter().map(|sight| sight.listener).collect();
        let all_captured = |sights: &[&Sight]| sights.iter().all(|sight| sight.captured);
        let last = proofs.iter().map(|((_, at), _)| *at).max();
        let worst = proofs.iter().map(|((proof, _), _)| *proof).max();
        if let (Some(last), Some(proof)) = (last, worst) {
            // A first generation that is given sockets and accepts on none of them is misconfigured.
            let took_one = !look.first
                || all_captured(&missing)
                || proofs.iter().any(|(_, captured)| !captured);
            let waited = now >= last + WHILE && missing.len() <= proofs.len() && took_one;
            if missing.is_empty() || waited {
                return Verdict::Accepts {
                    proof,
                    missing: names(),
                };
            }
        }
        let margin = MARGIN.min(self.give_up.saturating_sub(self.started) / 10);
        if look.first && look.captured && all_captured(&missing) && now + margin >= self.give_up {
            return Verdict::Benefit { missing: names() };
        }
        Verdict::Wait
    }

    fn place(&mut self, listener: ListenerId) -> &mut Place {
        let known = self
            .places
            .iter()
            .position(|place| place.listener == listener);
        let at = known.unwrap_or_else(|| {
            self.places.push(Place {
                listener,
                listens_since: None,
                proof: None,
            });
            self.places.len() - 1
        });
        &mut self.places[at]
    }
}

#[cfg(test)]
mod tests;
