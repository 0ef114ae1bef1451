//! Lets a candidate come to its verdict although files change faster than it starts.
//!
//! When five in a row were replaced by the next change before there was a verdict on them, the next change waits for that
//! verdict: for 2.5s at first, then for twice as long each time, and for 1s in any case. What is there at the end of the
//! wait counts, so nothing is lost.

use std::mem;
use std::time::Duration;

use crate::supervisor::Time;

/// The number of candidates in a row without a verdict.
const MANY: u32 = 5;
const LEAST: Duration = Duration::from_secs(1);
const FIRST: Duration = Duration::from_millis(2500);
const MOST: Duration = Duration::from_secs(30);

#[derive(Default)]
pub struct Pace {
    /// Candidates in a row that were replaced before their verdict.
    replaced: u32,
    /// When the last change started one, and whether there is a verdict on it.
    last: Option<Time>,
    is_decided: bool,
    /// A change had to wait since then.
    held: bool,
}

impl Pace {
    /// There is a verdict on the candidate: it serves or has failed, and was not replaced.
    pub fn decided(&mut self) {
        self.is_decided = true;
    }

    /// Changes have become too fast for the server.
    pub fn is_slowed(&self) -> bool {
        self.replaced >= MANY
    }

    /// When the next change counts, if it has to wait.
    pub fn due(&self) -> Option<Time> {
        let last = self.last.filter(|_| self.is_slowed())?;
        let doubled = FIRST * 2u32.saturating_pow((self.replaced - MANY).min(8));
        let rest = if self.is_decided { LEAST } else { doubled };
        Some(last + rest.min(MOST))
    }

    /// Whether a change has to wait.
    pub fn holds(&mut self, now: Time) -> bool {
        let holds = self.due().is_some_and(|due| now < due);
        self.held |= holds;
        holds
    }

    /// A change starts a candidate now. Returns true when the next ones begin to wait.
    pub fn starts(&mut self, now: Time) -> bool {
        let was_slowed = self.is_slowed();
        let was_held = mem::take(&mut self.held);
        if mem::take(&mut self.is_decided) {
            self.replaced = if was_held { self.replaced } else { 0 };
        } else if self.last.is_some() {
            self.replaced += 1;
        }
        self.last = Some(now);
        self.is_slowed() && !was_slowed
    }

    /// Somebody asked for a swap.
    pub fn end(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Time {
        Time::from_millis(milliseconds)
    }

    /// Five were replaced within half a second.
    fn slowed() -> Pace {
        let mut pace = Pace::default();
        for change in 0..5 {
            assert!(!pace.starts(at(change * 100)));
            assert!(!pace.holds(at(change * 100 + 99)));
        }
        assert!(pace.starts(at(500)));
        pace
    }

    #[test]
    fn after_five_candidates_without_a_verdict_a_change_waits_for_one() {
        let mut pace = slowed();
        assert!(pace.holds(at(2999)));
        assert!(!pace.holds(at(3000)));
        pace.starts(at(3000));
        assert_eq!(pace.due(), Some(at(8000)), "twice as long");
        pace.decided();
        assert_eq!(pace.due(), Some(at(4000)));
        for _ in 0..20 {
            pace.starts(at(9000));
        }
        assert_eq!(pace.due(), Some(at(39_000)));
    }

    #[test]
    fn changes_wait_no_longer_once_they_come_more_slowly_or_somebody_asks() {
        let mut pace = slowed();
        pace.decided();
        assert!(pace.holds(at(600)));
        pace.starts(at(1500));
        assert!(pace.is_slowed(), "it had to wait");
        pace.decided();
        pace.starts(at(9000));
        assert!(!pace.is_slowed());
        let mut pace = slowed();
        pace.end();
        assert_eq!(pace.due(), None);
    }

    #[test]
    fn verdicts_of_any_kind_keep_changes_from_waiting() {
        let mut pace = Pace::default();
        for change in 0..50 {
            assert!(!pace.holds(at(change * 100)));
            pace.starts(at(change * 100));
            pace.decided();
        }
    }
}
