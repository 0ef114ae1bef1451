//! What came of a soak, as a table.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::checks::Holdings;
use super::ledger::Ledger;
use crate::common::tally::Tally;

pub struct Report {
    seed: u64,
    since: Instant,
    pub lives: usize,
    events: BTreeMap<&'static str, usize>,
    answers: usize,
    stale: usize,
    slowest: Duration,
    explained: BTreeMap<&'static str, usize>,
    pub unexplained: usize,
    /// Of each life the first and the last.
    holdings: Vec<(Holdings, Holdings)>,
    most_sockets: usize,
}

impl Report {
    pub fn of(seed: u64) -> Report {
        Report {
            seed,
            since: Instant::now(),
            lives: 0,
            events: BTreeMap::new(),
            answers: 0,
            stale: 0,
            slowest: Duration::ZERO,
            explained: BTreeMap::new(),
            unexplained: 0,
            holdings: Vec::new(),
            most_sockets: 0,
        }
    }

    pub fn happened(&mut self, kind: &'static str) {
        *self.events.entry(kind).or_default() += 1;
    }

    pub fn add(&mut self, tally: &Tally, ledger: &Ledger, holdings: &[Holdings]) {
        self.answers += tally.answers;
        self.stale += tally.stale;
        self.slowest = self.slowest.max(tally.slowest);
        for (cause, count) in &ledger.explained {
            *self.explained.entry(cause).or_default() += count;
        }
        let sockets = holdings.iter().map(|held| held.listening);
        self.most_sockets = self.most_sockets.max(sockets.max().unwrap_or(0));
        if let [first, .., last] = holdings {
            self.holdings.push((*first, *last));
        }
    }

    pub fn log_path(&self) -> PathBuf {
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("soak-{}.log", self.seed))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (seed, seconds) = (self.seed, self.since.elapsed().as_secs());
        let events: usize = self.events.values().sum();
        writeln!(f, "| what | seed {seed}, {seconds} s |\n|---|---|")?;
        writeln!(f, "| events | {events} |")?;
        for (kind, count) in &self.events {
            writeln!(f, "| - {kind} | {count} |")?;
        }
        let explained: usize = self.explained.values().sum();
        writeln!(
            f,
            "| requests | {} |",
            self.answers + explained + self.unexplained
        )?;
        writeln!(f, "| failed, explained | {explained} |")?;
        for (cause, count) in &self.explained {
            writeln!(f, "| - by {cause} | {count} |")?;
        }
        writeln!(f, "| failed, unexplained | {} |", self.unexplained)?;
        writeln!(
            f,
            "| reused connections closed, tried again | {} |",
            self.stale
        )?;
        writeln!(f, "| slowest answer | {:.1?} |", self.slowest)?;
        let each = |what: fn(&Holdings) -> u64| {
            let pairs = self.holdings.iter();
            let pairs = pairs.map(|(first, last)| format!("{} to {}", what(first), what(last)));
            pairs.collect::<Vec<_>>().join(", ")
        };
        let memory = each(|held| held.memory);
        writeln!(
            f,
            "| memory of each hotswap, KiB, first to last | {memory} |"
        )?;
        let descriptors = each(|held| held.descriptors as u64);
        writeln!(
            f,
            "| descriptors, listening sockets aside | {descriptors} |"
        )
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        println!("{self}");
        if thread::panicking() {
            println!("again: SOAK_SEED={}", self.seed);
        }
    }
}
