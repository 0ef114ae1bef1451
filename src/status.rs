//! The status of an instance, as JSON and as a table.
//!
//! The main loop fills in an [`InstanceStatus`]; the client that shows it has only the JSON.

mod counters;
mod memory;
mod table;

use std::time::Duration;

use serde::{Serialize, Serializer};
use serde_json::Value;

pub use counters::Counters;
pub use memory::MemoryUse;
pub use table::{history, table, tables};

use crate::record::milliseconds;
use crate::supervisor::{Draining, Generation, Phase, Queue, Stage, Supervisor, Swap, Time};

/// An instance at one moment: the object of `hotswap status NAME --json`. Keys are only ever added.
#[derive(Clone, Debug, Serialize)]
pub struct InstanceStatus {
    pub name: String,
    pub pid: u32,
    pub version: &'static str,
    pub command: Vec<String>,
    pub socket: Option<String>,
    #[serde(rename = "state")]
    pub doing: Doing,
    pub uptime_ms: u64,
    /// What the instance waits for: a back-off, a command before the swap.
    #[serde(flatten)]
    pub waits: Waits,
    pub listeners: Vec<ListenerState>,
    pub generations: Vec<GenerationState>,
    /// Its generation, whether that serves, the verdict as in the log, and how long ago.
    pub last_swap: Option<Value>,
    /// What is watched, and what is left out.
    pub watch: Value,
    pub counters: Counters,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Doing {
    /// Nothing serves, and a generation is starting.
    Starting,
    Serving,
    /// One serves, and another is starting or proving.
    Swapping,
    /// Nothing serves until a file changes or a swap is requested.
    Waiting,
    Stopping,
}

#[derive(Clone, Debug, Serialize)]
pub struct ListenerState {
    pub name: String,
    /// `127.0.0.1:8080`, or a path.
    pub address: String,
    pub steered: bool,
    pub captured: bool,
    /// Connections that the serving generation has not accepted yet.
    pub queue: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GenerationRole {
    Starting,
    Proving,
    Serving,
    Draining,
}

#[derive(Clone, Debug, Serialize)]
pub struct GenerationState {
    pub generation: Generation,
    pub role: GenerationRole,
    pub pid: Option<i32>,
    #[serde(rename = "age_ms", serialize_with = "in_milliseconds")]
    pub age: Option<Duration>,
    pub connections: Option<usize>,
    #[serde(flatten)]
    pub memory: MemoryUse,
    /// Restarts in a row that led to it.
    pub restarts: u32,
    #[serde(flatten)]
    pub waits: Waits,
    /// Since when it serves, or lives, in RFC 3339.
    pub since: Option<String>,
    /// What it runs: path, size, modified, hash, differs.
    pub program: Option<Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Waits {
    #[serde(rename = "waits_for")]
    pub what: Option<String>,
    /// The time left at most.
    #[serde(rename = "left_ms", serialize_with = "in_milliseconds")]
    pub left: Option<Duration>,
}

impl Doing {
    pub fn of(supervisor: &Supervisor) -> Self {
        match (supervisor.serving(), supervisor.swap()) {
            _ if supervisor.is_stopping() => Doing::Stopping,
            (None, None) => Doing::Waiting,
            (None, Some(_)) => Doing::Starting,
            (Some(_), None) => Doing::Serving,
            (Some(_), Some(_)) => Doing::Swapping,
        }
    }
}

/// Every generation that the core knows, the newest first.
pub fn generations(supervisor: &Supervisor, now: Time) -> Vec<GenerationState> {
    let candidate = supervisor.swap().filter(|swap| swap.spawned.is_some());
    let candidate = candidate.map(|swap| {
        let role = if swap.is_proving() {
            GenerationRole::Proving
        } else {
            GenerationRole::Starting
        };
        GenerationState::new(swap.generation, role, waits_of_swap(swap, now))
    });
    let serving = supervisor.serving().map(|serving| {
        GenerationState::new(
            serving.generation,
            GenerationRole::Serving,
            Waits::default(),
        )
    });
    let draining = supervisor.draining().iter().map(|one| {
        let waits = waits_of_draining(one, now);
        GenerationState::new(one.generation, GenerationRole::Draining, waits)
    });
    let orphans = supervisor.orphans().iter().map(|orphan| {
        let waits = Waits::new("the next generation to serve", None);
        GenerationState::new(*orphan, GenerationRole::Draining, waits)
    });
    let others = draining.chain(orphans);
    let mut all: Vec<GenerationState> = others.chain(serving).chain(candidate).collect();
    all.sort_by_key(|one| std::cmp::Reverse(one.generation));
    all
}

/// What an instance waits for before there is a generation.
pub fn waits(supervisor: &Supervisor, now: Time) -> Waits {
    if Doing::of(supervisor) == Doing::Waiting {
        return Waits::new("a change or a request to swap", None);
    }
    let swap = supervisor.swap().filter(|swap| swap.spawned.is_none());
    swap.map_or_else(Waits::default, |swap| waits_of_swap(swap, now))
}

fn waits_of_swap(swap: &Swap, now: Time) -> Waits {
    let what = match swap.stage {
        Stage::BeforeSwap { .. } => "--before-swap".to_owned(),
        Stage::Checking { .. } => "its program to be complete".to_owned(),
        Stage::WaitingFor(old) => format!("{old} to be gone"),
        Stage::BackingOff { .. } => "the restart".to_owned(),
        Stage::Starting { .. } => "it to be ready".to_owned(),
        Stage::CuttingOver { .. } => "the cut-over".to_owned(),
        Stage::Proving { .. } => "it to be proven".to_owned(),
    };
    let left = swap.deadline().map(|until| until.saturating_sub(now));
    Waits::new(what, left)
}

fn waits_of_draining(draining: &Draining, now: Time) -> Waits {
    let what = match draining.phase {
        Phase::Emptying {
            queue: Queue::Waiting,
            ..
        } => "its queue",
        Phase::Emptying { .. } => "its handshakes",
        Phase::Quiescing { .. } => "its connections",
        Phase::Stopping if draining.exit.is_some() => "what it left behind",
        Phase::Stopping => "it to finish",
        Phase::Killed { .. } => "its end",
    };
    Waits::new(what, Some(draining.deadline().saturating_sub(now)))
}

impl Waits {
    fn new(what: impl Into<String>, left: Option<Duration>) -> Self {
        let what = Some(what.into());
        Self { what, left }
    }
}

impl GenerationState {
    fn new(generation: Generation, role: GenerationRole, waits: Waits) -> Self {
        Self {
            generation,
            role,
            pid: None,
            age: None,
            connections: None,
            memory: MemoryUse::default(),
            restarts: 0,
            waits,
            since: None,
            program: None,
        }
    }
}

#[allow(clippy::ref_option, reason = "serde wants it so")]
fn in_milliseconds<S: Serializer>(time: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    time.map(milliseconds).serialize(to)
}

#[cfg(test)]
mod tests;
