//! The clients: each one thread that asks again and again in its own way, until it is told to leave.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::http::{HttpConnection, Peer, RequestFailure};
use super::tally::{Habit, Tally};
use crate::cli::smoke::Expected;

/// Between two requests of one client; one that keeps its connection leaves the server time to see it idle.
const PAUSE: Duration = Duration::from_millis(5);
const KEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a hesitating client is silent once it is connected, and a slow one within its request.
const SILENCE: Duration = Duration::from_millis(50);

/// What every client wants.
#[derive(Clone, Debug)]
pub struct Request {
    pub path: String,
    pub slow_path: Option<String>,
    pub expected: Vec<Expected>,
    pub longest: Option<Duration>,
}

impl Request {
    /// The bytes for this kind of client.
    fn bytes(&self, habit: Habit, target: &Peer) -> Vec<u8> {
        let path = match (habit, &self.slow_path) {
            (Habit::Slow, Some(slow)) => slow,
            _ => &self.path,
        };
        let host = match target {
            Peer::Tcp(address) => address.to_string(),
            Peer::Unix(_) => "localhost".to_owned(),
        };
        let connection = if habit == Habit::Kept {
            "keep-alive"
        } else {
            "close"
        };
        format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: hotswap-smoke\r\nAccept: */*\r\nConnection: {connection}\r\n\r\n"
        )
        .into_bytes()
    }

    fn judge(&self, status: u16, took: Duration) -> Result<(), RequestFailure> {
        if !self
            .expected
            .iter()
            .any(|one| (one.from..=one.to).contains(&status))
        {
            return Err(RequestFailure::Status(status));
        }
        match self.longest {
            Some(longest) if took > longest => Err(RequestFailure::TooSlow),
            _ => Ok(()),
        }
    }
}

/// What the clients and the one who swaps have in common.
#[derive(Debug)]
pub struct Site {
    pub request: Request,
    pub targets: Vec<Peer>,
    /// The generation that serves, as far as the last verdict told.
    pub serving: AtomicU32,
    /// How often a swap has begun or ended: odd while one is under way.
    pub swap_steps: AtomicU32,
    next: AtomicUsize,
    tally: Mutex<Tally>,
    leaving: Mutex<bool>,
    left: Condvar,
}

impl Site {
    pub fn new(request: Request, targets: Vec<Peer>) -> Self {
        Self {
            request,
            targets,
            serving: AtomicU32::new(1),
            swap_steps: AtomicU32::new(0),
            next: AtomicUsize::new(0),
            tally: Mutex::default(),
            leaving: Mutex::default(),
            left: Condvar::new(),
        }
    }

    pub fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every client ends with the request it is at.
    pub fn close(&self) {
        *self.leaving.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.left.notify_all();
    }

    /// Lets time pass; false as soon as the site is closed.
    pub fn wait(&self, time: Duration) -> bool {
        let leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        let result = self
            .left
            .wait_timeout_while(leaving, time, |leaving| !*leaving);
        let (leaving, _) = result.unwrap_or_else(PoisonError::into_inner);
        !*leaving
    }

    fn target(&self) -> Option<&Peer> {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        self.targets.get(next.checked_rem(self.targets.len())?)
    }

    /// Asks in this way until the site is closed.
    pub fn visit(&self, habit: Habit) {
        let mut visit = Visit {
            site: self,
            habit,
            kept: None,
        };
        let pause = if habit == Habit::Kept {
            KEPT_PAUSE
        } else {
            PAUSE
        };
        while self.wait(pause) {
            visit.request();
        }
    }
}

/// A connection that waits for its next request.
struct KeptConnection<'a> {
    connection: HttpConnection,
    target: &'a Peer,
    generation: u32,
}

struct Visit<'a> {
    site: &'a Site,
    habit: Habit,
    kept: Option<KeptConnection<'a>>,
}

impl Visit<'_> {
    fn request(&mut self) {
        let since = Instant::now();
        let steps = || self.site.swap_steps.load(Ordering::Relaxed);
        let before = steps();
        let mut result = self.attempt(since);
        if let Err((RequestFailure::NoAnswer | RequestFailure::Reset, Freshness::Kept, _)) = result
        {
            self.site.tally().repeated += 1;
            result = self.attempt(since);
        }
        let (failure, generation) = match result {
            Ok(generation) => (None, generation),
            Err((failure, _, generation)) => (Some(failure), generation),
        };
        let in_swap = before % 2 == 1 || steps() != before;
        let took = since.elapsed();
        let mut tally = self.site.tally();
        tally.add(self.habit, generation, took, failure.as_ref(), in_swap);
    }

    /// One request; the generation that served when its connection was opened.
    fn attempt(&mut self, since: Instant) -> Result<u32, (RequestFailure, Freshness, u32)> {
        let (mut kept, freshness) = match self.kept.take() {
            Some(kept) => (kept, Freshness::Kept),
            None => (self.open()?, Freshness::New),
        };
        let generation = kept.generation;
        let fail = |failure| (failure, freshness, generation);
        let bytes = self.site.request.bytes(self.habit, kept.target);
        let halved = self.habit == Habit::Slow && self.site.request.slow_path.is_none();
        if self.habit == Habit::Hesitating {
            self.site.wait(SILENCE);
        }
        let (first, second) = bytes.split_at(if halved { bytes.len() / 2 } else { 0 });
        if halved {
            kept.connection.send(first).map_err(fail)?;
            self.site.wait(SILENCE);
        }
        kept.connection.send(second).map_err(fail)?;
        let answer = kept.connection.receive().map_err(fail)?;
        self.site
            .request
            .judge(answer.status, since.elapsed())
            .map_err(fail)?;
        if self.habit == Habit::Kept && answer.keeps {
            self.kept = Some(kept);
        }
        Ok(generation)
    }
}

/// Whether an earlier request went over the same connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Freshness {
    New,
    Kept,
}

impl<'a> Visit<'a> {
    fn open(&self) -> Result<KeptConnection<'a>, (RequestFailure, Freshness, u32)> {
        let generation = self.site.serving.load(Ordering::Relaxed);
        let fail = |failure| (failure, Freshness::New, generation);
        let target = self
            .site
            .target()
            .ok_or_else(|| fail(RequestFailure::Refused))?;
        Ok(KeptConnection {
            connection: HttpConnection::open(target).map_err(fail)?,
            target,
            generation,
        })
    }
}
