//! What the clients met: every request is counted, and every failure is named.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::http::RequestFailure;

/// How a client behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Habit {
    /// A connection for each request.
    New,
    /// One connection for as long as the server keeps it.
    Kept,
    /// Asks for `--slow-path`, or sends its request in two halves.
    Slow,
    /// Connects, and sends its request later.
    Hesitating,
}

impl fmt::Display for Habit {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Habit::New => "new",
            Habit::Kept => "kept",
            Habit::Slow => "slow",
            Habit::Hesitating => "hesitating",
        })
    }
}

/// The requests of one kind of client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub requests: usize,
    pub failures: BTreeMap<RequestFailure, usize>,
    pub slowest: Duration,
}

impl Count {
    /// Not one request was answered as it should be.
    pub fn has_only_failed(&self) -> bool {
        self.requests > 0 && self.failed() == self.requests
    }

    pub fn failed(&self) -> usize {
        self.failures.values().sum()
    }

    fn add(&mut self, took: Duration, failure: Option<&RequestFailure>) {
        self.requests += 1;
        self.slowest = self.slowest.max(took);
        if let Some(failure) = failure {
            *self.failures.entry(failure.clone()).or_default() += 1;
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub all: Count,
    pub by_habit: BTreeMap<Habit, Count>,
    pub by_address: BTreeMap<String, Count>,
    /// Failures of requests that were over before a swap began, or made after the last one had ended.
    pub apart_from_swaps: usize,
    /// Requests by the generation that served when their connection was opened.
    pub by_generation: BTreeMap<u32, usize>,
    /// Requests on keep-alive connections that the server had closed meanwhile, made again on a new one as any HTTP
    /// client does.
    pub repeated: usize,
}

/// One request, and what came of it.
#[derive(Clone, Debug)]
pub struct RequestOutcome {
    pub habit: Habit,
    pub address: String,
    /// The one that served when the connection was opened.
    pub generation: u32,
    pub took: Duration,
    pub failure: Option<RequestFailure>,
    pub in_swap: bool,
}

impl Tally {
    pub fn add(&mut self, outcome: &RequestOutcome) {
        let RequestOutcome { took, failure, .. } = outcome;
        self.apart_from_swaps += usize::from(failure.is_some() && !outcome.in_swap);
        let address = self.by_address.entry(outcome.address.clone());
        let counts = [
            &mut self.all,
            self.by_habit.entry(outcome.habit).or_default(),
            address.or_default(),
        ];
        for count in counts {
            count.add(*took, failure.as_ref());
        }
        *self.by_generation.entry(outcome.generation).or_default() += 1;
    }
}
