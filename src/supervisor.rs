//! What hotswap decides, without the means to do it.
//!
//! [`Supervisor::step`] takes one [`Event`] and returns the [`Action`]s that follow. It makes no system call, spawns no
//! process and reads no clock, so every rule in this file can be tested without a single process.
#![deny(clippy::wildcard_enum_match_arm)]

use std::fmt;
use std::time::Duration;

mod draining;
mod event;
mod hold;
mod phase;
mod policy;
mod restart;
mod retire;
mod saved_state;
mod shutdown;
mod start;
mod swap;
#[cfg(test)]
mod tests;
mod verdict;

pub use event::{Action, Event, Failure, Reason, Refusal, SocketChoice, Then, Transition, Verdict};
use hold::Hold;
pub use phase::{Draining, Phase, Queue};
pub use policy::{Policy, RestartPolicy};
pub use saved_state::SavedState;
pub use swap::{Cause, OnDisk, ProgramChoice, Stage, Swap};
use verdict::refuse;

/// Why nothing is done for a client.
const IS_STOPPING: &str = "hotswap is stopping";

/// A moment on the monotonic clock, since the machine started.
pub type Time = Duration;

/// The exit status of hotswap's own failures.
pub const OWN_FAILURE: u8 = 125;
/// The exit status after a deadline has passed.
pub const TIMED_OUT: u8 = 124;
/// 128 + SIGKILL: the exit status after a second request to stop.
const KILLED: u8 = 137;
/// How long clients wait for the next version where only a change brings one.
const CLIENTS_WAIT: Duration = Duration::from_secs(30);
/// A candidate that takes less long than this does not hang.
const SLOW_START: Duration = Duration::from_secs(5);
/// The same of a first generation: one that is not seen listening may serve, and counts as ready after 10s.
const SLOW_FIRST_START: Duration = Duration::from_secs(12);
/// How many programs can be had back: those that turn out to be the same are forgotten.
const MOST_PREVIOUS: usize = 8;
/// Generous: a cut-over is one setsockopt or rename per listener.
const CUT_OVER_TIMEOUT: Duration = Duration::from_secs(5);

/// One spawn of the server, numbered from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u32);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "generation {}", self.0)
    }
}

/// A client of the control socket that waits for a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

/// How a main process ended, or why it never ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    Status(i32),
    Signal(i32),
    /// exec failed: the status a shell gives (126 or 127), and why.
    CannotRun(i32, String),
    /// It exited with 0, and left a process behind that waits on a listener.
    Background,
    /// It was no child of this hotswap, which cannot know.
    Unknown,
}

/// The generation that new connections go to and that hotswap falls back on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serving {
    pub generation: Generation,
    pub since: Time,
    /// The generation before it.
    pub before: Option<Generation>,
}

/// A swap that was requested while another one runs.
#[derive(Clone, Debug)]
struct PendingSwap {
    cause: Cause,
    clients: Vec<ClientId>,
}

#[derive(Clone, Debug, Default)]
struct Shutdown {
    status: u8,
    /// `None` if the server has ended by itself, and the rest may drain.
    urgency: Option<Urgency>,
    /// When it became so urgent.
    since: Time,
}

/// How urgent the stop is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Urgency {
    /// Requests in flight may take so long.
    Drain {
        quiesce: Duration,
    },
    /// No stop signal waits any longer.
    Stop,
    Kill,
}

/// The state of every generation, and the rules by which it changes.
#[derive(Clone, Debug)]
pub struct Supervisor {
    policy: Policy,
    last: Generation,
    swap: Option<Swap>,
    pending: Option<PendingSwap>,
    serving: Option<Serving>,
    draining: Vec<Draining>,
    /// Generations of a hotswap that is gone, beside the serving one: they drain with it.
    orphans: Vec<Generation>,
    shutdown: Option<Shutdown>,
    upgrade_asked: bool,
    has_served: bool,
    /// Restarts in a row that did not lead to ten seconds of serving.
    restarts: u32,
    /// The generation whose program to run if the next restart fails: the path may lead to a newer one by then.
    last_good: Option<Generation>,
    /// Whose program restarts run, after a fallback.
    fallen_back: Option<Generation>,
    on_disk: OnDisk,
    /// From a spawn to readiness.
    longest_start: Duration,
    /// How long clients wait for the next version, where only a change brings one.
    clients_wait_until: Option<Time>,
    /// Whose programs can be had back, the last one first.
    previous: Vec<Generation>,
    hold: Hold,
}

impl Supervisor {
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            last: Generation(0),
            swap: None,
            pending: None,
            serving: None,
            draining: Vec::new(),
            orphans: Vec::new(),
            shutdown: None,
            upgrade_asked: false,
            has_served: false,
            restarts: 0,
            last_good: None,
            fallen_back: None,
            on_disk: OnDisk::Same,
            longest_start: Duration::ZERO,
            clients_wait_until: None,
            previous: Vec::new(),
            hold: Hold::default(),
        }
    }

    /// Begins beside what a hotswap that is gone has left: one of its generations serves until the first one is ready.
    pub fn adopting(
        policy: Policy,
        now: Time,
        serving: Generation,
        others: Vec<Generation>,
    ) -> Self {
        let last = others.iter().copied().max().max(Some(serving));
        Self {
            last: last.unwrap_or(serving),
            serving: Some(Serving {
                generation: serving,
                since: now,
                before: None,
            }),
            orphans: others,
            ..Self::new(policy)
        }
    }

    /// Returns what follows from an event. Events of unknown generations are outdated, and change nothing.
    pub fn step(&mut self, now: Time, event: Event) -> Vec<Action> {
        let mut actions = match event {
            Event::Launched => self.begin(now, Cause::First, Vec::new()),
            Event::SwapAsked(by) => self.ask(now, Cause::Asked, by),
            Event::FileChanged => self.ask(now, Cause::File, None),
            Event::FileTouched => self.touched(now),
            Event::FilesJudged => {
                self.hold.judged_by = None;
                Vec::new()
            }
            Event::OnDisk(what) => self.find_on_disk(what),
            Event::BeforeSwapEnded(result) => self.prepared(now, result),
            Event::ProgramChecked(result) => self.checked(now, result),
            Event::CannotSpawn(generation, why) => self.not_spawned(now, generation, why),
            Event::Ready(generation) => self.promote(now, generation),
            Event::CutOverDone(generation) => self.prove(now, generation),
            Event::CannotCutOver(generation, why) => self.not_cut_over(now, generation, why),
            Event::Unproven(generation, how) => self.unproven(now, generation, how),
            Event::Died(generation, exit) => self.died(now, generation, exit),
            Event::Gone(generation) => self.forget(generation),
            Event::LeftAlone(generation) => self.leave_alone(generation),
            Event::Queued(generation, queue) => self.queued(now, generation, queue),
            Event::Quiet(generation) => self.quiet(generation),
            Event::StopAsked(by) => self.stop(now, by, self.policy.stop_quiesce),
            Event::Interrupted => self.stop(now, None, self.policy.interrupt_quiesce),
            Event::RollBackAsked(by, to) => self.roll_back(now, by, to),
            Event::SameProgram(generation) => self.forget_program(generation),
            Event::CheckAsked(by) => self.check(now, by),
            Event::UpgradeAsked => {
                self.upgrade_asked = true;
                Vec::new()
            }
            Event::ReopenAsked => self.living().map(Action::Reopen).collect(),
            Event::Elapsed => self.expire(now),
        };
        actions.extend(self.settle(now));
        actions.extend(self.release(now));
        actions
    }

    /// When [`Event::Elapsed`] is due.
    pub fn deadline(&self) -> Option<Time> {
        let swap = self.swap.as_ref().and_then(Swap::deadline);
        self.draining
            .iter()
            .map(Draining::deadline)
            .chain(swap)
            .chain(self.clients_wait_until)
            .chain(self.hold.judged_by)
            .chain(self.gives_way_at())
            .min()
    }

    pub fn serving(&self) -> Option<&Serving> {
        self.serving.as_ref()
    }

    pub fn swap(&self) -> Option<&Swap> {
        self.swap.as_ref()
    }

    pub fn draining(&self) -> &[Draining] {
        &self.draining
    }

    /// Generations of a hotswap that is gone, beside the serving one: they drain once another serves.
    pub fn orphans(&self) -> &[Generation] {
        &self.orphans
    }

    /// Whether clients wait until a change brings the next version.
    pub fn lets_clients_wait(&self) -> bool {
        self.clients_wait_until.is_some()
    }

    /// Whether they have waited for too long, and nothing serves yet.
    pub fn refuses_clients(&self) -> bool {
        let waits_for_change = self.serving.is_none() && self.swap.is_none();
        waits_for_change && !self.lets_clients_wait() && !self.is_stopping()
    }

    pub fn is_stopping(&self) -> bool {
        self.shutdown.is_some()
    }

    /// The serving generation.
    fn serving_generation(&self) -> Option<Generation> {
        self.serving.as_ref().map(|serving| serving.generation)
    }

    /// The number of the next swap.
    fn next(&self) -> Generation {
        Generation(self.last.0 + 1)
    }

    /// The candidate, once there is a process.
    fn candidate(&self) -> Option<Generation> {
        let spawned = self.swap.as_ref().filter(|swap| swap.spawned.is_some());
        spawned.map(|swap| swap.generation)
    }

    /// Every generation whose main process is not known to be dead.
    fn living(&self) -> impl Iterator<Item = Generation> {
        let draining = self.draining.iter().filter(|one| one.exit.is_none());
        let draining = draining.map(|one| one.generation);
        let orphans = self.orphans.iter().copied();
        let others = draining.chain(orphans);
        others
            .chain(self.serving_generation())
            .chain(self.candidate())
    }

    /// The generations whose programs may be needed again.
    pub fn remembered(&self) -> impl Iterator<Item = Generation> {
        let before = self.serving.as_ref().and_then(|serving| serving.before);
        let wanted = [
            self.serving_generation(),
            before,
            self.last_good,
            self.fallen_back,
        ];
        let previous = self.previous.iter().copied();
        wanted.into_iter().flatten().chain(previous)
    }

    /// How long requests in flight may take.
    fn quiesce(&self) -> Duration {
        match self.shutdown.as_ref().and_then(|shutdown| shutdown.urgency) {
            Some(Urgency::Drain { quiesce }) => quiesce,
            Some(Urgency::Stop | Urgency::Kill) => Duration::ZERO,
            None => self.policy.quiesce,
        }
    }

    /// A server that has needed long before may need long again.
    fn ready_timeout(&self) -> Duration {
        let grown = self.longest_start * self.policy.ready_factor;
        self.policy.ready_timeout.max(grown)
    }

    fn expire(&mut self, now: Time) -> Vec<Action> {
        let mut actions = Vec::new();
        if self
            .clients_wait_until
            .take_if(|until| *until <= now)
            .is_some()
        {
            actions.push(Action::Announce(Transition::Refusing));
            actions.push(Action::TurnAway(Refusal::NothingServes));
        }
        self.hold.judged_by.take_if(|until| *until <= now);
        actions.extend(self.expire_swap(now));
        actions.extend(self.expire_draining(now));
        actions
    }

    fn expire_swap(&mut self, now: Time) -> Vec<Action> {
        let Some(swap) = &self.swap else {
            return Vec::new();
        };
        if swap.deadline().is_none_or(|until| now < until) {
            let gives_way = self.gives_way_at().is_some_and(|from| from <= now);
            return if gives_way {
                self.replace(now, Cause::Asked)
            } else {
                Vec::new()
            };
        }
        let reason = match swap.stage {
            Stage::BackingOff { .. } => return self.begin(now, Cause::Restart, Vec::new()),
            Stage::Proving { .. } => return self.serve(now),
            Stage::BeforeSwap { .. } => {
                Reason::BeforeSwapTooLong(self.policy.before_swap.unwrap_or_default())
            }
            Stage::Checking { .. } => Reason::NotFit("the program is still being written".into()),
            Stage::Starting { .. } if swap.is_ready => return self.cut_over(now),
            Stage::Starting { until } => {
                let patience = until.saturating_sub(swap.spawned.unwrap_or(until));
                Reason::NotReady(patience)
            }
            Stage::CuttingOver { .. } => Reason::CannotCutOver("no answer".into()),
            // That generation has a deadline of its own.
            Stage::WaitingFor(_) => return Vec::new(),
        };
        self.fail(now, reason)
    }
}
