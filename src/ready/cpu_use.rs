//! Whether a generation uses the processor, by the total that its processes have used so far.

use std::time::Duration;

use nix::unistd::Pid;

use crate::supervisor::Time;
use crate::sys;

/// Whether it is busy is judged by the last second.
const WINDOW: Duration = Duration::from_secs(1);
/// Using more than this within the window is being busy: a server that only looks for its database now and then is not.
const BUSY: Duration = Duration::from_millis(100);
/// Using no more than this is being at rest: a runtime does a little now and then.
const LITTLE: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub struct CpuUse {
    total: Time,
    /// When the total was last seen to change.
    changed: Time,
    /// When the current window began, with the total then.
    window: (Time, Time),
    /// The window before, which is a whole one.
    last_window: Option<Time>,
    /// Since when it has used no more than [`LITTLE`], with the total then.
    rest: (Time, Time),
    /// Since when one of its processes was seen at each look to use a processor or to wait for one.
    wanted: Option<Time>,
}

impl CpuUse {
    pub fn since(start: Time) -> Self {
        Self {
            total: Time::ZERO,
            changed: start,
            window: (start, Time::ZERO),
            last_window: None,
            rest: (start, Time::ZERO),
            wanted: None,
        }
    }

    /// The total is this by now; a process that has ended makes it smaller, which is a change, too.
    pub fn note(&mut self, now: Time, total: Time) {
        if total != self.total {
            self.changed = now;
        }
        self.total = total;
        let (_, before) = self.rest;
        if total < before || total > before + LITTLE {
            self.rest = (now, total);
        }
        let (began, at_start) = self.window;
        if now >= began + WINDOW {
            self.last_window = Some(total.saturating_sub(at_start));
            self.window = (now, total);
        }
    }

    /// It has not been idle until now, for another reason.
    pub fn begin_again(&mut self, now: Time) {
        self.changed = now;
    }

    /// Whether one of them runs or waits for a processor: on a busy machine it may be long until it has used it.
    pub fn note_running(&mut self, now: Time, is_running: bool) {
        if is_running {
            self.rest = (now, self.total);
        }
        self.wanted = is_running.then(|| self.wanted.unwrap_or(now));
    }

    pub fn idle_for(&self, now: Time) -> Duration {
        now.saturating_sub(self.changed)
    }

    pub fn at_rest_for(&self, now: Time) -> Duration {
        now.saturating_sub(self.rest.0)
    }

    /// Within the last whole window, or since; or it would be, if it had a processor.
    pub fn is_busy(&self, now: Time) -> bool {
        let current = self.total.saturating_sub(self.window.1);
        let has_used = current.max(self.last_window.unwrap_or(current)) > BUSY;
        has_used || self.wanted.is_some_and(|since| now >= since + WINDOW)
    }
}

/// What these processes have used of the processor.
pub fn total(processes: &[Pid]) -> Time {
    processes.iter().map(|pid| sys::cpu_time_of(*pid)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Time = Time::from_secs(7);

    fn at(millis: u64) -> Time {
        START + Duration::from_millis(millis)
    }

    #[test]
    fn a_total_that_stays_the_same_is_idle() {
        let mut cpu_use = CpuUse::since(START);
        cpu_use.note(at(500), Duration::from_millis(80));
        assert_eq!(cpu_use.idle_for(at(500)), Duration::ZERO);
        cpu_use.note(at(4500), Duration::from_millis(80));
        assert_eq!(cpu_use.idle_for(at(4500)), Duration::from_secs(4));
        cpu_use.note(at(5000), Duration::from_millis(81));
        assert_eq!(cpu_use.idle_for(at(5000)), Duration::ZERO);
    }

    #[test]
    fn a_little_work_is_being_at_rest() {
        let mut cpu_use = CpuUse::since(START);
        cpu_use.note(at(300), Duration::from_millis(200));
        assert_eq!(cpu_use.at_rest_for(at(300)), Duration::ZERO);
        cpu_use.note(at(400), Duration::from_millis(210));
        assert_eq!(cpu_use.at_rest_for(at(500)), Duration::from_millis(200));
        cpu_use.note(at(500), Duration::from_millis(221));
        assert_eq!(cpu_use.at_rest_for(at(500)), Duration::ZERO);
        // one of its processes has ended
        cpu_use.note(at(600), Duration::from_millis(90));
        assert_eq!(cpu_use.at_rest_for(at(700)), Duration::from_millis(100));
    }

    /// A worker may be seen in the middle of its little work.
    #[test]
    fn to_be_seen_running_once_is_not_being_busy_and_a_second_of_it_is() {
        let mut cpu_use = CpuUse::since(START);
        for (millis, is_running) in [(0, true), (900, false), (1000, true), (1900, true)] {
            cpu_use.note_running(at(millis), is_running);
            assert!(!cpu_use.is_busy(at(millis)), "after {millis} ms");
        }
        cpu_use.note_running(at(2000), true);
        assert!(cpu_use.is_busy(at(2000)));
    }

    #[test]
    fn a_little_work_now_and_then_is_not_being_busy() {
        let mut cpu_use = CpuUse::since(START);
        for second in 1..10 {
            cpu_use.note(at(second * 1000), Duration::from_millis(second * 5));
            assert!(!cpu_use.is_busy(at(second * 1000)), "after {second} s");
        }
        for second in 10..20 {
            cpu_use.note(at(second * 1000), Duration::from_millis(second * 900));
        }
        assert!(cpu_use.is_busy(at(19_000)));
        let last = Duration::from_millis(19 * 900);
        cpu_use.note(at(20_000), last);
        cpu_use.note(at(21_000), last);
        assert!(!cpu_use.is_busy(at(21_000)));
    }
}
