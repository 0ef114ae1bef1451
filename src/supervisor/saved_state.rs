//! The state of the core that survives an upgrade, which happens only while nothing starts.

use std::time::Duration;

use super::{Cause, Draining, Generation, OnDisk, Policy, Serving, Stage, Supervisor, Swap, Time};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedState {
    pub last: Generation,
    pub serving: Option<Serving>,
    pub draining: Vec<Draining>,
    pub orphans: Vec<Generation>,
    pub has_served: bool,
    pub restarts: u32,
    pub last_good: Option<Generation>,
    pub fallen_back: Option<Generation>,
    pub rejected: bool,
    pub longest_start: Duration,
    pub clients_wait_until: Option<Time>,
    pub previous: Vec<Generation>,
    /// When the next restart is due.
    pub restart_at: Option<Time>,
}

impl Supervisor {
    pub fn saved_state(&self) -> SavedState {
        // all of them by name, so that none is forgotten
        let Self {
            policy: _,
            last,
            swap,
            pending: _,
            serving,
            draining,
            orphans,
            shutdown: _,
            upgrade_asked: _,
            has_served,
            restarts,
            last_good,
            fallen_back,
            on_disk,
            longest_start,
            clients_wait_until,
            previous,
            hold: _,
        } = self;
        SavedState {
            last: *last,
            serving: serving.clone(),
            draining: draining.clone(),
            orphans: orphans.clone(),
            has_served: *has_served,
            restarts: *restarts,
            last_good: *last_good,
            fallen_back: *fallen_back,
            rejected: *on_disk == OnDisk::Rejected,
            longest_start: *longest_start,
            clients_wait_until: *clients_wait_until,
            previous: previous.clone(),
            restart_at: swap.as_ref().and_then(Swap::deadline),
        }
    }

    pub fn restore(policy: Policy, saved: SavedState) -> Self {
        let next = Generation(saved.last.0 + 1);
        Self {
            last: saved.last,
            swap: saved
                .restart_at
                .map(|until| Swap::new(next, Cause::Restart, Stage::BackingOff { until })),
            serving: saved.serving,
            draining: saved.draining,
            orphans: saved.orphans,
            has_served: saved.has_served,
            restarts: saved.restarts,
            last_good: saved.last_good,
            fallen_back: saved.fallen_back,
            on_disk: if saved.rejected {
                OnDisk::Rejected
            } else {
                OnDisk::Same
            },
            longest_start: saved.longest_start,
            clients_wait_until: saved.clients_wait_until,
            previous: saved.previous,
            ..Self::new(policy)
        }
    }

    /// Nothing starts: at most a restart waits for its back-off.
    pub(super) fn is_idle(&self) -> bool {
        let is_judging = self.hold.held || self.hold.judged_by.is_some();
        let waits = self.swap.is_none() || self.backs_off();
        waits && self.pending.is_none() && !is_judging
    }
}
