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
        let SavedState {
            last,
            serving,
            draining,
            orphans,
            has_served,
            restarts,
            last_good,
            fallen_back,
            rejected,
            longest_start,
            clients_wait_until,
            previous,
            restart_at,
        } = saved;
        let next = Generation(last.0 + 1);
        Self {
            last,
            swap: restart_at
                .map(|until| Swap::new(next, Cause::Restart, Stage::BackingOff { until })),
            serving,
            draining,
            orphans,
            has_served,
            restarts,
            last_good,
            fallen_back,
            on_disk: if rejected {
                OnDisk::Rejected
            } else {
                OnDisk::Same
            },
            longest_start,
            clients_wait_until,
            previous,
            ..Self::new(policy)
        }
    }

    /// Nothing starts: at most a restart waits for its back-off.
    pub(super) fn is_idle(&self) -> bool {
        let waits = self
            .swap
            .as_ref()
            .is_none_or(|swap| matches!(swap.stage, Stage::BackingOff { .. }));
        let is_judging = self.hold.held || self.hold.judged_by.is_some();
        waits && self.pending.is_none() && !is_judging
    }
}
