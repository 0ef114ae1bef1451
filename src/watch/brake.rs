//! The brake: a file that the server itself writes must not swap it without end.
//!
//! A file that changes within 1s of the start of five generations in a row is left out, until it has not changed for 30s or
//! somebody asks for a swap. Before the fifth start it is given time: a person who saves often goes on saving while nothing
//! starts, and then it counts. A file that does nothing but grow is a log, at whatever moment: it is left out until it is
//! changed in another way, or somebody asks for a swap.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::own_writes::FileTime;
use crate::supervisor::Time;

/// A change so soon after a start was probably made by what was started.
const AT_A_START: i64 = 1;
/// In so many generations in a row.
const STARTS_IN_A_ROW: u32 = 5;
/// How long the change before the last one is kept back.
const KEPT_BACK: Duration = Duration::from_millis(2500);
/// How often in a row a file is let go on because it changes like one that a person saves.
const LENIENCIES: u32 = 3;
/// A file that is left out counts again when it has not changed for this long.
const RELEASE: Duration = Duration::from_secs(30);

/// What a change is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worth {
    Counts,
    /// Not now; perhaps later.
    KeptBack,
    /// From now on the file is left out, and the user is told why.
    Braked(&'static str),
}

#[derive(Clone, Copy, Debug, Default)]
struct Streak {
    /// The last generation that it changed in the first second of, and in how many up to that.
    generation: u32,
    count: u32,
    /// Kept back until then.
    until: Option<Time>,
    lenient: u32,
    last: Time,
    /// It was left out before: one more change at a start is enough.
    was_braked: bool,
}

struct Braked {
    last: Time,
    /// How long it must not have changed before it counts again.
    rest: Duration,
    /// It was left out for what may happen at any time, not only at a start.
    at_any_time: bool,
    /// It has changed later than in the first second of a generation, and has not only grown.
    late: bool,
}

impl Braked {
    /// When it counts again.
    fn release(&self) -> Option<Time> {
        (self.late || !self.at_any_time).then_some(self.last + self.rest)
    }
}

#[derive(Default)]
pub struct Brake {
    started: Option<FileTime>,
    started_at: Time,
    generation: u32,
    streaks: HashMap<PathBuf, Streak>,
    braked: HashMap<PathBuf, Braked>,
}

impl Brake {
    /// A generation starts.
    pub fn starts(&mut self, now: Time, moment: FileTime) {
        let last = self.generation;
        let is_remembered = |streak: &Streak| {
            streak.generation == last || streak.lenient > 0 && now < streak.last + RELEASE
        };
        self.streaks.retain(|_, streak| is_remembered(streak));
        self.generation += 1;
        (self.started, self.started_at) = (Some(moment), now);
    }

    /// Somebody asked for a swap: everything counts again.
    pub fn release_all(&mut self) {
        self.streaks.clear();
        self.braked.clear();
    }

    /// The files that are left out.
    pub fn braked(&self) -> impl Iterator<Item = &Path> {
        self.braked.keys().map(PathBuf::as_path)
    }

    pub fn leaves_out(&self, path: &Path) -> bool {
        self.braked.contains_key(path)
    }

    /// A file has changed at that moment, if the server may have done it; `grew` if something was only added to its end, as
    /// to a log.
    pub fn weigh(
        &mut self,
        path: &Path,
        changed: Option<FileTime>,
        grew: bool,
        now: Time,
    ) -> Worth {
        let is_log = || self.braked.get(path).is_some_and(|one| one.at_any_time);
        if changed.is_none() && !grew && !is_log() {
            self.streaks.remove(path);
            self.braked.remove(path);
            return Worth::Counts;
        }
        let started = self.started.unwrap_or((i64::MAX, 0));
        let first_second = started..(started.0.saturating_add(AT_A_START), started.1);
        let soon = changed.is_some_and(|changed| first_second.contains(&changed));
        if let Some(braked) = self.braked.get_mut(path) {
            braked.last = now;
            braked.late |= !soon && !grew;
            return Worth::KeptBack;
        }
        let streak = self.streaks.entry(path.to_owned()).or_default();
        streak.last = now;
        if !soon && !grew {
            let kept_back = streak.until.is_some();
            if streak.lenient < LENIENCIES {
                streak.lenient += u32::from(kept_back);
                streak.until = None;
                streak.count = if streak.was_braked { streak.count } else { 0 };
            }
            return if streak.until.is_some() {
                Worth::KeptBack
            } else {
                Worth::Counts
            };
        }
        if streak.count == 0 || streak.generation != self.generation {
            let in_a_row = streak.generation + 1 == self.generation;
            streak.count = if in_a_row { streak.count + 1 } else { 1 };
            streak.generation = self.generation;
        }
        if streak.count >= STARTS_IN_A_ROW {
            self.insert(path, grew, now);
            return Worth::Braked(if soon {
                "changes with every start of the server"
            } else {
                "only grows, like a log"
            });
        }
        if streak.until.is_some() {
            return Worth::KeptBack;
        }
        if soon && streak.count + 1 == STARTS_IN_A_ROW {
            streak.until = Some(self.started_at + KEPT_BACK);
            return Worth::KeptBack;
        }
        Worth::Counts
    }

    /// The server writes it, whenever that is.
    pub fn leave_out(&mut self, path: &Path, now: Time) {
        self.insert(path, true, now);
    }

    /// What it is now counts, once it has been at rest for so long.
    pub fn keep_back(&mut self, path: &Path, rest: Duration, now: Time) {
        self.insert(path, true, now);
        if let Some(braked) = self.braked.get_mut(path) {
            (braked.rest, braked.late) = (rest, true);
        }
    }

    /// It counts at once again.
    pub fn trust(&mut self, path: &Path) {
        self.braked.remove(path);
    }

    fn insert(&mut self, path: &Path, at_any_time: bool, now: Time) {
        self.streaks.remove(path);
        let braked = Braked {
            last: now,
            rest: RELEASE,
            at_any_time,
            late: false,
        };
        self.braked.insert(path.to_owned(), braked);
    }

    /// Whether a change may still count.
    pub fn keeps_back(&self) -> bool {
        self.streaks.values().any(|streak| streak.until.is_some())
    }

    pub fn deadline(&self) -> Option<Time> {
        let kept_back = self.streaks.values().filter_map(|streak| streak.until);
        let braked = self.braked.values().filter_map(Braked::release);
        kept_back.chain(braked).min()
    }

    /// What was kept back long enough, and counts now.
    pub fn release(&mut self, now: Time) -> Vec<PathBuf> {
        let mut counts = Vec::new();
        for (path, streak) in &mut self.streaks {
            if streak.until.take_if(|until| *until <= now).is_some() {
                counts.push(path.clone());
            }
        }
        let generation = self.generation;
        let due = self
            .braked
            .extract_if(|_, braked| braked.release().is_some_and(|due| due <= now));
        for (path, braked) in due {
            if braked.late {
                counts.push(path);
            } else {
                // What wrote it at the last start will write it at the next.
                let streak = Streak {
                    generation,
                    count: STARTS_IN_A_ROW - 1,
                    was_braked: true,
                    ..Streak::default()
                };
                self.streaks.insert(path, streak);
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "src/started.json";
    const AT_STARTS: &str = "changes with every start of the server";

    fn at(seconds: u64) -> Time {
        Time::from_secs(seconds)
    }

    impl Brake {
        fn change(&mut self, seconds: u64, grew: bool) -> Worth {
            let moment = (i64::try_from(seconds).unwrap(), 500);
            self.weigh(Path::new(LOG), Some(moment), grew, at(seconds))
        }

        fn start(&mut self, seconds: u64) {
            self.starts(at(seconds), (i64::try_from(seconds).unwrap(), 0));
        }

        /// A change with each of these starts.
        fn counts_at_starts(&mut self, seconds: &[u64], grew: bool) {
            for second in seconds {
                self.start(*second);
                assert_eq!(self.change(*second, grew), Worth::Counts);
            }
        }
    }

    #[test]
    fn what_changes_with_each_start_is_left_out_at_the_fifth() {
        let mut brake = Brake::default();
        brake.counts_at_starts(&[0, 2, 4], false);
        brake.start(6);
        assert_eq!(brake.change(6, false), Worth::KeptBack);
        assert!(brake.release(at(7)).is_empty());
        assert_eq!(brake.release(at(9)), [PathBuf::from(LOG)]);
        brake.start(9);
        assert_eq!(brake.change(9, false), Worth::Braked(AT_STARTS));
        assert_eq!(brake.change(9, false), Worth::KeptBack);
        assert!(
            brake.release(at(40)).is_empty(),
            "it was written at a start"
        );
        assert_eq!(brake.change(45, false), Worth::Counts);
        brake.start(50);
        assert_eq!(brake.change(50, false), Worth::Braked(AT_STARTS));
        brake.release_all();
        assert_eq!(brake.change(51, false), Worth::Counts);
    }

    #[test]
    fn what_a_person_goes_on_saving_counts() {
        let mut brake = Brake::default();
        brake.counts_at_starts(&[0, 2, 4], false);
        brake.start(6);
        assert_eq!(brake.change(6, false), Worth::KeptBack);
        assert_eq!(brake.change(7, false), Worth::Counts);
    }

    #[test]
    fn a_log_that_grows_on_each_request_is_left_out_until_it_is_edited() {
        let mut brake = Brake::default();
        for second in [0, 10, 20, 30] {
            brake.start(second);
            assert_eq!(brake.change(second + 5, true), Worth::Counts);
        }
        brake.start(40);
        let braked = Worth::Braked("only grows, like a log");
        assert_eq!(brake.change(45, true), braked);
        assert_eq!(brake.change(50, true), Worth::KeptBack);
        assert_eq!(brake.deadline(), None);
        assert!(brake.release(at(99)).is_empty());
        assert_eq!(brake.change(100, false), Worth::KeptBack);
        assert_eq!(
            brake.release(at(131)).len(),
            1,
            "somebody may have edited it"
        );
    }

    #[test]
    fn a_log_that_grows_at_each_start_and_on_each_request_is_left_out() {
        let mut brake = Brake::default();
        brake.counts_at_starts(&[0, 2, 4], true);
        brake.start(6);
        assert_eq!(brake.change(6, true), Worth::KeptBack);
        assert_eq!(brake.change(7, true), Worth::KeptBack);
        assert_eq!(brake.release(at(9)).len(), 1);
        brake.start(9);
        assert_eq!(brake.change(9, true), Worth::Braked(AT_STARTS));
        assert_eq!(brake.change(15, true), Worth::KeptBack);
        assert!(brake.release(at(60)).is_empty());
    }

    #[test]
    fn what_the_server_did_not_write_counts_however_soon_it_comes() {
        let mut brake = Brake::default();
        for second in [0, 2, 4, 6, 8, 10] {
            brake.start(second);
            let worth = brake.weigh(Path::new(LOG), None, false, at(second));
            assert_eq!(worth, Worth::Counts);
        }
    }

    #[test]
    fn a_change_between_two_starts_begins_anew() {
        let mut brake = Brake::default();
        for second in [0, 4, 8, 12, 16, 20] {
            brake.start(second);
            assert_eq!(brake.change(second, false), Worth::Counts);
            assert_eq!(brake.change(second + 2, false), Worth::Counts);
        }
    }
}
