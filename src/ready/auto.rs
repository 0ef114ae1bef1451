//! The rule of `--ready auto`, without the means to look.
//!
//! Its input is what was seen, probed and said, and the time. Its output is what to probe, and whether the candidate is
//! ready.

mod observation;

use std::time::Duration;

use super::NotReadyReason;
use super::cpu_use::CpuUse;
use super::outcome::{Ready, ReadyBy};
use crate::listener::ListenerId;
use crate::supervisor::Time;
pub use observation::{Evidence, Need, Observation, ObservedListener, Rank, Work};

/// How long a listening socket is watched before it is probed, and how long a server without listeners must live.
const WHILE: Duration = Duration::from_secs(1);
/// How long a generation that accepts somewhere may take for the listeners that it need not accept on.
const GRACE: Duration = Duration::from_millis(1500);
/// A first generation that listens nowhere is ready when it has not used the processor for this long.
const IDLE: Duration = Duration::from_secs(10);
/// What may be between its own processes, as pm2's sockets and the port of an Erlang node for other nodes are, counts
/// once the first generation has been at rest for this long, or if nothing else has come by then.
const AT_REST: Duration = Duration::from_millis(200);
const ALONE_AFTER: Duration = Duration::from_secs(5);
/// When the user is told that a first generation listens nowhere.
const EXPLAIN: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct ListenerProgress {
    listener: ListenerId,
    need: Need,
    listens_since: Option<Time>,
    /// Why it counts as accepting, and since when.
    proof: Option<(ReadyBy, Time)>,
}

impl ListenerProgress {
    fn satisfies(&self, need: Need) -> bool {
        match need {
            Need::Accept => self.proof.is_some(),
            Need::Listen => self.listens_since.is_some(),
            Need::Nothing => true,
        }
    }
}

#[derive(Debug)]
pub struct Auto {
    started: Time,
    give_up: Time,
    /// This server has said READY=1 before, so it must say it again.
    must_say: bool,
    said: bool,
    /// It says how far it is, and so will say READY=1: until then that is waited for.
    announced_until: Option<Time>,
    progress: Vec<ListenerProgress>,
    cpu_use: CpuUse,
    /// It listens nowhere, as far as the last look showed.
    listens_nowhere: bool,
    /// What it does cannot be seen, and it has no listener, since then.
    hidden_since: Option<Time>,
    /// When to tell the user that, unless they were told.
    explain_at: Option<Time>,
    /// From when on that is enough, unless it is busy: somebody waits for what comes after it.
    enough_at: Option<Time>,
}

impl Auto {
    pub fn new(started: Time, give_up: Time, must_say: bool) -> Self {
        Self {
            started,
            give_up,
            must_say,
            said: false,
            announced_until: None,
            progress: Vec::new(),
            cpu_use: CpuUse::since(started),
            listens_nowhere: false,
            hidden_since: None,
            explain_at: Some(started + EXPLAIN),
            enough_at: None,
        }
    }

    pub fn said_ready(&mut self) {
        self.said = true;
    }

    /// Whether it has said so for the first time.
    pub fn said_status(&mut self) -> bool {
        self.announced_until.replace(self.give_up).is_none()
    }

    /// A request waits for the verdict on it.
    pub fn is_waited_for(&mut self) {
        self.enough_at = Some(self.started + EXPLAIN);
    }

    /// When the last of its listeners was first seen to listen.
    pub fn listens_since(&self) -> Option<Time> {
        self.progress
            .iter()
            .filter_map(|progress| progress.listens_since)
            .max()
    }

    /// Where it was proven to accept.
    pub fn accepts(&self) -> Vec<ListenerId> {
        let proven = self.progress.iter().filter(|one| one.proof.is_some());
        proven.map(|one| one.listener).collect()
    }

    /// Only READY=1 is missing, so there is nothing to look for.
    pub fn only_lacks_ready_message(&self) -> bool {
        let needed = |one: &&ListenerProgress| one.need != Need::Nothing;
        let mut needed = self.progress.iter().filter(needed);
        let satisfied = needed.all(|one| one.satisfies(Need::Accept));
        let accepts = self.progress.iter().any(|one| one.proof.is_some());
        self.lacks_ready_message() && satisfied && accepts
    }

    /// It has not said READY=1, which this server has said before.
    pub fn lacks_ready_message(&self) -> bool {
        self.must_say && !self.said
    }

    /// When READY=1 is no longer waited for.
    pub fn waits_for_message_until(&self, rank: Rank) -> Option<Time> {
        (rank == Rank::Restart).then_some(self.give_up)
    }

    /// True once, when it is time to tell the user that it listens nowhere.
    pub fn take_explanation(&mut self, now: Time) -> bool {
        let nowhere = self.listens_nowhere;
        let due = self.explain_at.take_if(|at| nowhere && now >= *at);
        due.is_some()
    }

    /// What it has not shown yet.
    pub fn not_ready_reason(&self, name: &dyn Fn(ListenerId) -> String) -> Option<NotReadyReason> {
        let does_not_accept = |listeners: Vec<ListenerId>| {
            NotReadyReason::DoesNotAccept(listeners.into_iter().map(name).collect())
        };
        let lacks = |progress: &&ListenerProgress| !progress.satisfies(progress.need);
        let lacking = self.progress.iter().filter(lacks);
        let mut lacking: Vec<_> = lacking.map(|progress| progress.listener).collect();
        let proven = self.progress.iter().any(|one| one.proof.is_some());
        if lacking.is_empty() && !proven {
            lacking = self.progress.iter().map(|one| one.listener).collect();
        }
        if !lacking.is_empty() {
            return Some(does_not_accept(lacking));
        }
        if self.lacks_ready_message() {
            return Some(NotReadyReason::NoReadyMessageAgain);
        }
        if self.listens_nowhere {
            return Some(NotReadyReason::ListensNowhere);
        }
        // a first generation that has only opened another address than it was given
        let unproven = self.progress.iter().filter(|one| one.proof.is_none());
        let unproven: Vec<_> = unproven.map(|one| one.listener).collect();
        (!unproven.is_empty()).then(|| does_not_accept(unproven))
    }

    /// Judges one look, and returns the listeners that need a probe.
    pub fn judge(&mut self, now: Time, look: &Observation) -> (Option<Ready>, Vec<ListenerId>) {
        let probes = self.note(now, look);
        if let Some(work) = look.work {
            self.cpu_use.note(now, work.cpu_time);
            if work.stopped {
                self.cpu_use.begin_again(now);
            }
            self.cpu_use.note_running(now, work.running);
        }
        let outside = look.outside != Evidence::Nothing;
        let nowhere = look.listeners.is_empty() && !look.captured && !outside;
        self.listens_nowhere = nowhere && !look.blind;
        if nowhere && look.blind {
            self.hidden_since.get_or_insert(now);
        }
        let ready = if nowhere {
            self.without_listener(now, look).map(Ready::from)
        } else if self.awaits_ready_message(now, look) {
            None
        } else if look.has_requirements() {
            self.beside_another(now, look)
        } else {
            self.alone(now, look)
        };
        (ready, probes)
    }

    /// A first generation and a restart that never say it may be ready all the same, when their time is over: nothing else
    /// serves.
    fn awaits_ready_message(&self, now: Time, look: &Observation) -> bool {
        let is_first = look.rank == Rank::First;
        let is_announced = self.announced_until.is_some_and(|until| now < until);
        self.must_say_by(now, look.rank) || (!self.said && is_first && is_announced)
    }

    fn must_say_by(&self, now: Time, rank: Rank) -> bool {
        let until = self.waits_for_message_until(rank);
        self.lacks_ready_message() && until.is_none_or(|until| now < until)
    }

    /// Records what was seen, and returns the listeners for which that is not enough.
    fn note(&mut self, now: Time, look: &Observation) -> Vec<ListenerId> {
        let mut unseen = Vec::new();
        let started = self.started;
        let beside = look.has_requirements();
        self.progress.retain(|known| {
            look.listeners
                .iter()
                .any(|one| one.listener == known.listener)
        });
        for observed in look.listeners {
            let progress = self.progress_of(observed.listener);
            progress.need = observed.need;
            let proof = match observed.evidence {
                Evidence::Nothing => continue,
                Evidence::Listens => None,
                Evidence::Registered if observed.probeable => None,
                Evidence::Registered | Evidence::Waits => Some((ReadyBy::Accepting, now)),
                Evidence::AcceptedAProbe => Some((ReadyBy::AcceptedAProbe, now)),
            };
            let since = *progress.listens_since.get_or_insert(now);
            progress.proof = progress.proof.take().or(proof);
            if progress.proof.is_some() {
                continue;
            }
            let counts = observed.need != Need::Nothing || !beside;
            let at_once = look.blind || observed.evidence == Evidence::Registered;
            if observed.probeable && counts && (at_once || now >= since + WHILE) {
                unseen.push(observed.listener);
            } else if !observed.probeable && look.blind && now >= started + WHILE {
                progress.proof = Some((ReadyBy::Assumed, now));
            }
        }
        unseen
    }

    /// Neither it nor the one before it has a listener, or it is the first and has none yet.
    fn without_listener(&self, now: Time, look: &Observation) -> Option<ReadyBy> {
        let work = look.work.unwrap_or_default();
        let hidden = self.hidden_since.filter(|_| !work.stopped);
        match look.rank {
            Rank::Candidate | Rank::Restart if self.said => Some(ReadyBy::SaidReady),
            rank @ (Rank::Candidate | Rank::Restart) if self.must_say_by(now, rank) => None,
            Rank::Candidate | Rank::Restart if now >= self.started + WHILE => {
                Some(ReadyBy::Assumed)
            }
            Rank::First if hidden.is_some_and(|since| now >= since + WHILE) => {
                Some(ReadyBy::Assumed)
            }
            Rank::First if self.cpu_use.idle_for(now) >= IDLE => Some(ReadyBy::Assumed),
            Rank::First if now >= self.give_up && self.said => Some(ReadyBy::SaidReady),
            Rank::First if work.stopped || now < self.enough_at.unwrap_or(self.give_up) => None,
            Rank::First if !self.cpu_use.is_busy(now) => Some(ReadyBy::Assumed),
            Rank::Candidate | Rank::Restart | Rank::First => None,
        }
    }

    /// Another one serves, and this one must have a socket wherever that one's count.
    fn beside_another(&self, now: Time, look: &Observation) -> Option<Ready> {
        let lacks = |one: &&ListenerProgress| !one.satisfies(one.need);
        let lacking = self.progress.iter().filter(lacks);
        let missing: Vec<_> = lacking.map(|one| one.listener).collect();
        let since_last = self.last_proof().map(|last| now.saturating_sub(last));
        let forgiven = since_last
            .zip(look.patience)
            .is_some_and(|(age, most)| age >= most);
        let doubted_until = self.listens_since().map(|since| since + GRACE);
        if since_last.is_none() && doubted_until.is_none_or(|until| now < until) {
            return None;
        }
        if missing.is_empty() || forgiven {
            // the serving one accepts nowhere either: the benefit of the doubt
            let how = since_last.map_or(ReadyBy::Assumed, |_| self.worst_proof());
            return Some(Ready::but_for(missing, how));
        }
        None
    }

    /// Nothing serves, or no address counts: it has to accept on something.
    fn alone(&self, now: Time, look: &Observation) -> Option<Ready> {
        let unproven = |one: &&ListenerProgress| one.proof.is_none();
        let unproven = self.progress.iter().filter(unproven);
        let missing: Vec<_> = unproven.map(|one| one.listener).collect();
        if self.accepts_where_it_should(look) {
            let last = self.last_proof().unwrap_or(now);
            if self.may_be_unfinished(now, last, look) {
                return None;
            }
            if missing.is_empty() || now >= last + GRACE {
                return Some(Ready::but_for(missing, self.worst_proof()));
            }
            return None;
        }
        let has_clients = look.listeners.iter().any(ObservedListener::has_clients);
        let listens = |one: &ObservedListener| one.evidence != Evidence::Nothing;
        let may_be_doubted = match look.rank {
            Rank::First => true,
            Rank::Restart => look.listeners.iter().any(listens),
            Rank::Candidate => false,
        };
        if may_be_doubted && !has_clients && now >= self.give_up {
            return Some(Ready::but_for(missing, ReadyBy::Assumed));
        }
        None
    }

    /// It accepts, but perhaps not yet where its clients come.
    fn may_be_unfinished(&self, now: Time, last: Time, look: &Observation) -> bool {
        let private = look.may_be_private() && (look.chosen_port || !look.listeners.is_empty());
        private && now < last + ALONE_AFTER && self.cpu_use.at_rest_for(now) < AT_REST
    }

    /// On one of the listeners at least; a server that accepts on none of those that have clients is misconfigured.
    fn accepts_where_it_should(&self, look: &Observation) -> bool {
        let has_clients = look.listeners.iter().any(ObservedListener::has_clients);
        let proven = |listener| {
            let mut all = self.progress.iter();
            all.any(|one| one.listener == listener && one.proof.is_some())
        };
        let eligible = |one: &&ObservedListener| !has_clients || one.has_clients();
        let mut eligible = look.listeners.iter().filter(eligible);
        let accepts = eligible.any(|one| proven(one.listener));
        accepts || (!has_clients && look.outside == Evidence::Waits)
    }

    fn last_proof(&self) -> Option<Time> {
        let proofs = self.progress.iter().filter_map(|one| one.proof.as_ref());
        proofs.map(|(_, at)| *at).max()
    }

    fn worst_proof(&self) -> ReadyBy {
        let proofs = self.progress.iter().filter_map(|one| one.proof.as_ref());
        let worst = proofs.map(|(proof, _)| proof).max();
        worst.cloned().unwrap_or(ReadyBy::Accepting)
    }

    fn progress_of(&mut self, listener: ListenerId) -> &mut ListenerProgress {
        let known = self
            .progress
            .iter()
            .position(|progress| progress.listener == listener);
        let at = known.unwrap_or_else(|| {
            self.progress.push(ListenerProgress {
                listener,
                need: Need::Nothing,
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
