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
        if !self
            .expect
            .iter()
            .any(|one| (one.from..=one.to).contains(&status))
        {
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

    fn target(&self) -> Option<&Peer> {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        self.targets.get(next.checked_rem(self.targets.len())?)
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

/// One request, and what came of it.
struct Attempt<'a> {
    target: &'a Peer,
    /// The one that served when the connection was opened.
    generation: u32,
    /// An earlier request went over the same connection.
    was_kept: bool,
    failure: Option<RequestFailure>,
}

impl Attempt<'_> {
    /// As any HTTP client does, whose connection the server has closed meanwhile.
    fn is_repeated(&self) -> bool {
        let closed = matches!(
            self.failure,
            Some(RequestFailure::NoAnswer | RequestFailure::Reset)
        );
        self.was_kept && closed
    }
}

impl<'a> Visit<'a> {
    fn request(&mut self) {
        let since = Instant::now();
        let steps = || self.site.swap_steps.load(Ordering::Relaxed);
        let before = steps();
        let Some(mut attempt) = self.attempt(since) else {
            return;
        };
        if attempt.is_repeated() {
            self.site.tally().repeated += 1;
            attempt = self.attempt(since).unwrap_or(attempt);
        }
        let in_swap = before % 2 == 1 || steps() != before;
        self.site.tally().add(&RequestOutcome {
            habit: self.habit,
            address: attempt.target.to_string(),
            generation: attempt.generation,
            took: since.elapsed(),
            failure: attempt.failure,
            in_swap,
        });
    }

    /// Nothing if there is nobody to ask.
    fn attempt(&mut self, since: Instant) -> Option<Attempt<'a>> {
        let kept = self.kept.take();
        let was_kept = kept.is_some();
        let (connection, target, generation) = if let Some(kept) = kept {
            (Some(kept.connection), kept.target, kept.generation)
        } else {
            let generation = self.site.serving.load(Ordering::Relaxed);
            (None, self.site.target()?, generation)
        };
        let failure = match self.ask(connection, target, since) {
            Ok(connection) => {
                self.kept = connection.map(|connection| KeptConnection {
                    connection,
                    target,
                    generation,
                });
                None
            }
            Err(failure) => Some(failure),
        };
        Some(Attempt {
            target,
            generation,
            was_kept,
            failure,
        })
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
