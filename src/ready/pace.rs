//! How often a candidate is looked at: at once after its start and when it begins to listen, less often from then on,
//! and never so often that looks take more than their share of the time.

use std::time::Duration;

use nix::unistd::Pid;

use super::{Glance, Rank};
use crate::supervisor::Time;

/// The time between two looks: the shortest, that of a first generation, and the longest. A first generation is not in
/// a hurry: it may open a second address just after it accepts on one, and clients of that are refused until then.
pub(super) const SHORTEST: Duration = Duration::from_micros(50);
const UNHURRIED: Duration = Duration::from_millis(5);
pub(super) const LONGEST: Duration = Duration::from_millis(50);
/// Between those, the next look comes after this fraction of the time since then; and looks take at most one part in
/// `SHARE` of the time. While that time is short, they take half of it.
const FRACTION: u32 = 180;
const SHARE: u32 = 5;
const EARLY: Duration = Duration::from_millis(10);
/// In between it is seen whether a look is worth it, after this fraction of the time since the start.
const GLANCES: u32 = 2000;

#[derive(Debug)]
pub struct LookPace {
    started: Time,
    /// What all looks together have taken of the processor.
    spent: Duration,
}

impl LookPace {
    pub fn new(started: Time) -> Self {
        Self {
            started,
            spent: Duration::ZERO,
        }
    }

    /// When to look again after a look that took so much of the processor.
    pub fn next_look(
        &mut self,
        now: Time,
        took: Duration,
        rank: Rank,
        listens_since: Option<Time>,
    ) -> Time {
        self.spent += took;
        let age = now.saturating_sub(listens_since.unwrap_or(self.started));
        let (shortest, share) = match rank {
            Rank::First => (UNHURRIED, SHARE),
            Rank::Candidate | Rank::Restart if age < EARLY => (SHORTEST, 1),
            Rank::Candidate | Rank::Restart => (SHORTEST, SHARE),
        };
        now + (age / FRACTION).clamp(shortest, LONGEST).max(took * share)
    }

    /// How to see before that whether this process has run since it had used so much of the processor.
    pub fn glance(&self, now: Time, process: Pid, used: Time) -> Glance {
        Glance {
            process,
            used,
            from: self.started + self.spent * SHARE,
            pause: (now.saturating_sub(self.started) / GLANCES).clamp(SHORTEST, LONGEST),
        }
    }
}
