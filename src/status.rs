//! The status of an instance, as JSON and as a table.
//!
//! The main loop fills in an [`InstanceStatus`]; the client that shows it has only the JSON.

mod counters;
mod memory;
mod table;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use counters::Counters;
pub use memory::MemoryUse;
pub use table::{history, table, tables};

use crate::supervisor::{Draining, Generation, Phase, Queue, Stage, Supervisor, Swap, Time};

/// An instance at one moment.
#[derive(Clone, Debug)]
pub struct InstanceStatus {
    pub name: String,
    pub command: Vec<String>,
    pub socket: Option<PathBuf>,
    pub uptime: Duration,
    pub doing: Doing,
    /// What the instance waits for: a back-off, a command before the swap.
    pub waits: Option<Waits>,
    pub listeners: Vec<ListenerState>,
    pub generations: Vec<GenerationState>,
    pub last_swap: Option<LastSwap>,
    /// What is watched, and what is left out.
    pub watch: Value,
    pub counters: Counters,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

#[derive(Clone, Debug)]
pub struct ListenerState {
    pub name: String,
    /// `127.0.0.1:8080`, or a path.
    pub address: String,
    pub steered: bool,
    pub captured: bool,
    /// Connections that the serving generation has not accepted yet.
    pub queue: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GenerationRole {
    Starting,
    Proving,
    Serving,
    Draining,
}

#[derive(Clone, Debug)]
pub struct GenerationState {
    pub generation: Generation,
    pub role: GenerationRole,
    pub pid: Option<i32>,
    pub age: Option<Duration>,
    pub connections: Option<usize>,
    pub memory: MemoryUse,
    /// Restarts in a row that led to it.
    pub restarts: u32,
    pub waits: Option<Waits>,
    /// Since when it serves, or lives, in RFC 3339.
    pub since: Option<String>,
    /// What it runs: path, size, modified, hash, differs.
    pub program: Option<Value>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waits {
    pub what: String,
    /// The time left at most.
    pub left: Option<Duration>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LastSwap {
    pub generation: Generation,
    pub serving: bool,
    /// The verdict, as in the log.
    pub text: String,
    /// Without what became of the others.
    pub outcome: String,
    pub ago: Duration,
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

    fn name(self) -> &'static str {
        match self {
            Doing::Starting => "starting",
            Doing::Serving => "serving",
            Doing::Swapping => "swapping",
            Doing::Waiting => "waiting",
            Doing::Stopping => "stopping",
        }
    }
}

impl GenerationRole {
    fn name(self) -> &'static str {
        match self {
            GenerationRole::Starting => "starting",
            GenerationRole::Proving => "proving",
            GenerationRole::Serving => "serving",
            GenerationRole::Draining => "draining",
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
        GenerationState::new(swap.generation, role, Some(waits_of_swap(swap, now)))
    });
    let serving = supervisor
        .serving()
        .map(|serving| GenerationState::new(serving.generation, GenerationRole::Serving, None));
    let draining = supervisor.draining().iter().map(|one| {
        let waits = waits_of_draining(one, now);
        GenerationState::new(one.generation, GenerationRole::Draining, Some(waits))
    });
    let orphans = supervisor.orphans().iter().map(|orphan| {
        let what = "the next generation to serve".to_owned();
        let waits = Waits { what, left: None };
        GenerationState::new(*orphan, GenerationRole::Draining, Some(waits))
    });
    let others = draining.chain(orphans);
    let mut all: Vec<GenerationState> = others.chain(serving).chain(candidate).collect();
    all.sort_by_key(|one| std::cmp::Reverse(one.generation));
    all
}

/// What an instance waits for before there is a generation.
pub fn waits(supervisor: &Supervisor, now: Time) -> Option<Waits> {
    if Doing::of(supervisor) == Doing::Waiting {
        let what = "a change or a request to swap".to_owned();
        return Some(Waits { what, left: None });
    }
    let swap = supervisor.swap();
    swap.filter(|swap| swap.spawned.is_none())
        .map(|swap| waits_of_swap(swap, now))
}

fn waits_of_swap(swap: &Swap, now: Time) -> Waits {
    let what = match swap.stage {
        Stage::BeforeSwap { .. } => "the command before the swap".to_owned(),
        Stage::Checking { .. } => "its program to be complete".to_owned(),
        Stage::WaitingFor(old) => format!("{old} to be gone"),
        Stage::BackingOff { .. } => "the restart".to_owned(),
        Stage::Starting { .. } => "it to be ready".to_owned(),
        Stage::CuttingOver { .. } => "the cut-over".to_owned(),
        Stage::Proving { .. } => "it to be proven".to_owned(),
    };
    let left = swap.deadline().map(|until| until.saturating_sub(now));
    Waits { what, left }
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
    Waits {
        what: what.to_owned(),
        left: Some(draining.deadline().saturating_sub(now)),
    }
}

impl GenerationState {
    fn new(generation: Generation, role: GenerationRole, waits: Option<Waits>) -> Self {
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

    fn to_json(&self) -> Value {
        json!({
            "generation": self.generation.0,
            "role": self.role.name(),
            "pid": self.pid,
            "age_ms": self.age.map(milliseconds),
            "connections": self.connections,
            "rss_bytes": self.memory.rss,
            "pss_bytes": self.memory.pss,
            "restarts": self.restarts,
            "since": self.since,
            "program": self.program,
            "waits_for": self.waits.as_ref().map(|waits| waits.what.as_str()),
            "left_ms": self.waits.as_ref().and_then(|waits| waits.left).map(milliseconds),
        })
    }
}

impl ListenerState {
    fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "address": self.address,
            "steered": self.steered,
            "captured": self.captured,
            "queue": self.queue,
        })
    }
}

impl LastSwap {
    fn to_json(&self) -> Value {
        json!({
            "generation": self.generation.0,
            "serving": self.serving,
            "message": self.text,
            "ago_ms": milliseconds(self.ago),
        })
    }
}

impl InstanceStatus {
    /// The object of `hotswap status NAME --json`. Keys are only ever added.
    pub fn to_json(&self) -> Value {
        let listeners = self.listeners.iter().map(ListenerState::to_json);
        let generations = self.generations.iter().map(GenerationState::to_json);
        json!({
            "name": self.name,
            "pid": std::process::id(),
            "version": env!("CARGO_PKG_VERSION"),
            "command": self.command,
            "socket": self.socket.as_ref().map(|path| path.to_string_lossy()),
            "state": self.doing.name(),
            "uptime_ms": milliseconds(self.uptime),
            "waits_for": self.waits.as_ref().map(|waits| waits.what.as_str()),
            "left_ms": self.waits.as_ref().and_then(|waits| waits.left).map(milliseconds),
            "listeners": listeners.collect::<Vec<_>>(),
            "generations": generations.collect::<Vec<_>>(),
            "last_swap": self.last_swap.as_ref().map(LastSwap::to_json),
            "watch": self.watch,
            "counters": self.counters,
        })
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
