//! Lets new connections wait for the next version, from the first sign of a change.
//!
//! They wait only while something is on its way that may serve them: a change that is being judged, or a swap. If nothing
//! comes of it, they go to the generation that serves, at once.

use super::{Action, Cause, Generation, Stage, Supervisor, Swap, Time};

/// When to retry a release that failed.
const RETRY: Time = Time::from_secs(1);

/// What new connections wait for.
#[derive(Clone, Debug, Default)]
pub struct Hold {
    /// They wait.
    pub held: bool,
    /// A change is being judged, and is waited for until then.
    pub judged_by: Option<Time>,
}

impl Supervisor {
    /// Does nothing if connections already wait, or no generation serves.
    pub(super) fn hold(&mut self) -> Vec<Action> {
        let is_cutting_over = |swap: &Swap| matches!(swap.stage, Stage::CuttingOver { .. });
        let may = self.policy.hold && self.serving.is_some() && self.shutdown.is_none();
        if !may || self.hold.held || self.swap.as_ref().is_some_and(is_cutting_over) {
            return Vec::new();
        }
        self.hold.held = true;
        vec![Action::Hold]
    }

    /// A judgment takes no longer than a start may.
    pub(super) fn touched(&mut self, now: Time) -> Vec<Action> {
        if !self.policy.hold || self.serving.is_none() || self.shutdown.is_some() {
            return Vec::new();
        }
        let until = now + self.ready_timeout();
        self.hold.judged_by.get_or_insert(until);
        self.hold()
    }

    /// Nobody serves any more: they wait for the next generation in any case.
    pub(super) fn nobody_serves(&mut self) {
        self.hold = Hold::default();
    }

    /// A candidate that has waited for a judgment takes over. If nothing is on its way any more, those who wait go to the
    /// generation that serves.
    pub(super) fn release(&mut self, now: Time) -> Vec<Action> {
        let is_waiting = |swap: &Swap| swap.is_starting() && swap.is_ready;
        if self.hold.judged_by.is_none() && self.swap.as_ref().is_some_and(is_waiting) {
            return self.cut_over(now);
        }
        let comes = |swap: &Swap| !swap.check && swap.cause != Cause::Restart;
        let waits = self.swap.as_ref().is_some_and(comes)
            || self.pending.is_some()
            || self.hold.judged_by.is_some();
        if waits || !std::mem::take(&mut self.hold.held) {
            return Vec::new();
        }
        self.serving_generation()
            .map(Action::CutOver)
            .into_iter()
            .collect()
    }

    /// They still wait: soon they are released once more.
    pub(super) fn not_released(&mut self, now: Time, to: Generation) {
        let is_back =
            self.serving_generation() == Some(to) && self.policy.hold && self.shutdown.is_none();
        if is_back {
            self.hold.held = true;
            self.hold.judged_by.get_or_insert(now + RETRY);
        }
    }
}
