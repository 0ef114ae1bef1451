//! The clients: each one thread that asks again and again in its own way, until it is told to leave.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::http::{HttpConnection, Peer, RequestFailure};
use super::interruption::Ending;
use super::tally::{Habit, RequestOutcome, Tally};
use crate::cli::smoke::Trial;

/// Between two requests of one client; one that keeps its connection leaves the server time to see it idle.
const PAUSE: Duration = Duration::from_millis(5);
const KEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a hesitating client is silent once it is connected, and a slow one within its request.
const SILENCE: Duration = Duration::from_millis(50);

impl Trial {
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
        if !self.expect.iter().any(|one| one.contains(&status)) {
            return Err(RequestFailure::Status(status));
        }
        match self.longest() {
            Some(longest) if took > longest => Err(RequestFailure::TooSlow),
            _ => Ok(()),
        }
    }
}

/// What the clients and the one who swaps have in common.
#[derive(Debug)]
pub struct Site {
    pub trial: Arc<Trial>,
    /// One at least.
    pub targets: Vec<Peer>,
    /// The generation that serves, as far as the last verdict told.
    pub serving: AtomicU32,
    /// How often a swap has begun or ended: odd while one is under way.
    pub swap_steps: AtomicU32,
    next: AtomicUsize,
    tally: Mutex<Tally>,
    pub ending: Arc<Ending>,
}

impl Site {
    pub fn new(trial: Arc<Trial>, targets: Vec<Peer>, ending: Arc<Ending>) -> Self {
        Self {
            trial,
            targets,
            serving: AtomicU32::new(1),
            swap_steps: AtomicU32::new(0),
            next: AtomicUsize::new(0),
            tally: Mutex::default(),
            ending,
        }
    }

    pub fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks in this way until the trial ends.
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
        while self.ending.wait(pause) {
            visit.request();
        }
    }
}

/// Where a connection leads: the address, and the generation that served when it was opened.
#[derive(Clone, Copy)]
struct Route<'a> {
    target: &'a Peer,
    generation: u32,
}

struct Visit<'a> {
    site: &'a Site,
    habit: Habit,
    /// A connection that waits for its next request.
    kept: Option<(HttpConnection, Route<'a>)>,
}

impl<'a> Visit<'a> {
    fn request(&mut self) {
        let since = Instant::now();
        let steps = || self.site.swap_steps.load(Ordering::Relaxed);
        let before = steps();
        let (kept, mut route) = match self.kept.take() {
            Some((connection, route)) => (Some(connection), route),
            None => (None, self.route()),
        };
        let was_kept = kept.is_some();
        let mut result = self.ask(kept, route.target, since);
        // as any HTTP client does, whose connection the server has closed meanwhile
        let closed = matches!(
            result,
            Err(RequestFailure::NoAnswer | RequestFailure::Reset)
        );
        if was_kept && closed {
            self.site.tally().repeated += 1;
            route = self.route();
            result = self.ask(None, route.target, since);
        }
        let in_swap = before % 2 == 1 || steps() != before;
        let (connection, failure) = match result {
            Ok(connection) => (connection, None),
            Err(failure) => (None, Some(failure)),
        };
        self.kept = connection.map(|connection| (connection, route));
        self.site.tally().add(&RequestOutcome {
            habit: self.habit,
            address: route.target.to_string(),
            generation: route.generation,
            took: since.elapsed(),
            failure,
            in_swap,
        });
    }

    /// To the next address, and the generation that serves now.
    fn route(&self) -> Route<'a> {
        let next = self.site.next.fetch_add(1, Ordering::Relaxed);
        let targets = &self.site.targets;
        Route {
            target: &targets[next % targets.len()],
            generation: self.site.serving.load(Ordering::Relaxed),
        }
    }

    /// Over this connection or a new one; what comes back may be used again.
    fn ask(
        &self,
        connection: Option<HttpConnection>,
        target: &Peer,
        since: Instant,
    ) -> Result<Option<HttpConnection>, RequestFailure> {
        let mut connection = match connection {
            Some(connection) => connection,
            None => HttpConnection::open(target)?,
        };
        let bytes = self.site.trial.bytes(self.habit, target);
        let halved = self.habit == Habit::Slow && self.site.trial.slow_path.is_none();
        if self.habit == Habit::Hesitating {
            self.site.ending.wait(SILENCE);
        }
        let (first, second) = bytes.split_at(if halved { bytes.len() / 2 } else { 0 });
        if halved {
            connection.send(first)?;
            self.site.ending.wait(SILENCE);
        }
        connection.send(second)?;
        let answer = connection.receive()?;
        self.site.trial.judge(answer.status, since.elapsed())?;
        let is_kept = self.habit == Habit::Kept && answer.keeps;
        Ok(is_kept.then_some(connection))
    }
}
