//! What the clients met: answers by version and generation, and every failure by kind.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// How a request on a fresh connection can fail. None of them may happen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Failure {
    Refused,
    Reset,
    /// The connection ended before the first byte of the answer.
    Eof,
    /// It ended inside the answer.
    Truncated,
    ServerError,
    TimedOut,
    /// Any other errno: the client's own trouble, most likely.
    Other(i32),
}

/// One failure, in time since the site was opened, to be held against the log.
#[derive(Clone, Debug)]
pub struct Incident {
    pub failure: Failure,
    pub at: Duration,
    pub age: Duration,
    pub who: String,
}

#[derive(Clone, Default)]
pub struct Tally {
    pub answers: usize,
    pub versions: BTreeMap<String, usize>,
    pub generations: BTreeMap<u32, usize>,
    pub failures: Vec<Incident>,
    /// Reused connections that the server closed just then: no wrapper can help it, and HTTP clients try again.
    pub stale: usize,
    pub slowest: Duration,
}

impl Tally {
    pub fn answered(&mut self, body: &str, took: Duration) {
        self.answers += 1;
        self.slowest = self.slowest.max(took);
        if let Some((version, generation)) = who_answered(body) {
            *self.versions.entry(version.to_owned()).or_default() += 1;
            *self.generations.entry(generation).or_default() += 1;
        }
    }

    pub fn failed(&self, failure: Failure) -> usize {
        self.failures
            .iter()
            .filter(|f| f.failure == failure)
            .count()
    }

    /// Panics, with the figures, unless every fresh connection was answered.
    pub fn expect_no_failure(&self) -> &Tally {
        assert!(self.answers > 0, "nobody came: {self}");
        assert!(self.failures.is_empty(), "{self}");
        println!("{self}");
        self
    }

    pub fn expect_seen(&self, version: &str) -> &Tally {
        assert!(
            self.versions.contains_key(version),
            "never answered by {version}: {self}"
        );
        self
    }

    pub fn expect_never_seen(&self, version: &str) -> &Tally {
        assert!(
            !self.versions.contains_key(version),
            "answered by {version}: {self}"
        );
        self
    }
}

/// The version and generation in `hello from v2, generation 3`.
pub fn who_answered(body: &str) -> Option<(&str, u32)> {
    let (version, generation) = body
        .trim()
        .strip_prefix("hello from ")?
        .split_once(", generation ")?;
    Some((version, generation.parse().ok()?))
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Tally {
            answers,
            failures,
            stale,
            slowest,
            versions,
            ..
        } = self;
        writeln!(
            f,
            "{answers} answers, {} failures, {stale} stale, slowest {slowest:?}",
            failures.len()
        )?;
        writeln!(f, "answers by version: {versions:?}")?;
        for Incident {
            failure,
            at,
            age,
            who,
        } in failures.iter().take(20)
        {
            writeln!(f, "at {at:9.3?} after {age:.3?}: {failure:?}, {who}")?;
        }
        Ok(())
    }
}
