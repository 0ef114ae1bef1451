//! Collects what `hotswap status` shows, and assembles it on request.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::World;
use super::programs::Programs;
use super::turns::WaitingRequest;
use crate::connections::activity::ActivityCounter;
use crate::control::{SwapResult, SwapVerdict};
use crate::listener::Incident;
use crate::ready;
use crate::record::{Record, milliseconds};
use crate::status::{self, Counters, Doing, GenerationState, InstanceStatus, MemoryUse};
use crate::supervisor::{Cause, ClientId, Generation, Supervisor, Time};
use crate::sys;

/// A request within this time gets the same status, so that asking without a pause costs little.
const FRESH: Duration = Duration::from_millis(100);

/// Verdicts that are kept.
const HISTORY: usize = 50;

/// Who asks for a swap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum AskedBy {
    #[default]
    Signal,
    Key,
    /// A client of this user.
    User(u32),
}

/// A verdict, as it is shown until the next one.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct LastSwap {
    generation: Generation,
    serving: bool,
    /// As in the log.
    text: String,
    /// Without what became of the others.
    outcome: String,
}

/// An upgrade keeps the figures, and drops what was only remembered for the next moment.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct StatusData {
    pub counters: Counters,
    /// Clients that asked for the status.
    #[serde(skip)]
    pub status_clients: Vec<ClientId>,
    /// What the last command before a swap that failed has said.
    #[serde(skip)]
    pub command_lines: Vec<String>,
    started: Time,
    /// Restarts in a row.
    restarts: u32,
    /// Requests that wait until no swap is under way.
    #[serde(skip)]
    pub turns: Vec<WaitingRequest>,
    /// Clients that want to know what happened.
    #[serde(skip)]
    pub history_clients: Vec<ClientId>,
    /// Who asked last for a swap.
    #[serde(skip)]
    pub asked_by: AskedBy,
    /// Why the control socket could not be made again, as it was last said.
    #[serde(skip)]
    pub control_lost: Option<String>,
    /// The last logged number of waiting clients.
    #[serde(skip)]
    pub waiting: u32,
    #[serde(skip)]
    pub terminal_closed: bool,
    pub programs: Programs,
    /// The last verdicts, the oldest first.
    history: VecDeque<SwapVerdict>,
    last_swap: Option<(LastSwap, Time)>,
    /// Why nothing serves, until something does.
    #[serde(default)]
    down: Option<(LastSwap, Time)>,
    #[serde(skip)]
    last_state: Option<(Value, Time)>,
}

impl StatusData {
    pub fn new(started: Time) -> Self {
        Self {
            started,
            ..Self::default()
        }
    }

    /// Notes a spawn; how many restarts in a row have led to it.
    pub fn spawned(&mut self, cause: Cause) -> u32 {
        if cause == Cause::Restart {
            self.restarts += 1;
            self.counters.restarts += 1;
        } else {
            self.restarts = 0;
        }
        self.restarts
    }

    /// The verdict on this generation.
    pub fn verdict_on(&self, generation: Generation) -> Option<SwapVerdict> {
        let mut verdicts = self.history.iter().rev();
        verdicts
            .find(|verdict| verdict.generation == generation.0)
            .cloned()
    }

    /// Reads one more piece of a program.
    pub fn hash_on(&mut self) {
        self.programs.hash_on();
        self.fill_in_hashes();
    }

    /// Of programs that were still read when the verdict on them came.
    fn fill_in_hashes(&mut self) {
        for verdict in &mut self.history {
            let program = verdict.program.as_mut();
            if let Some(hash) = program.and_then(|program| program.get_mut("hash"))
                && hash.is_null()
                && let Some(known) = self.programs.get(Generation(verdict.generation))
            {
                *hash = json!(known.hash);
            }
        }
    }

    fn keep_verdict(&mut self, verdict: SwapVerdict) {
        self.history.push_back(verdict);
        if self.history.len() > HISTORY {
            self.history.pop_front();
        }
    }

    /// The last verdicts, the newest first.
    pub fn history(&mut self) -> Value {
        self.fill_in_hashes();
        let verdicts = self.history.iter().rev();
        verdicts.map(|verdict| json!(verdict)).collect()
    }

    /// The last swap that has succeeded was a rollback.
    pub fn was_rolled_back(&self) -> bool {
        let served = |one: &&SwapVerdict| one.result == SwapResult::Serving;
        let mut verdicts = self.history.iter().rev().filter(served);
        let swap = verdicts.find(|one| one.cause != "restart");
        swap.is_some_and(|one| one.cause == "rollback")
    }

    /// What the last swap came to, if it failed; without what goes on.
    pub fn failed_swap(&self) -> Option<&str> {
        let (swap, _) = self.last_swap.as_ref().filter(|(swap, _)| !swap.serving)?;
        Some(&swap.outcome)
    }

    /// Nothing serves any more, and why.
    pub fn goes_down(&mut self, generation: Generation, text: &str) {
        let last = LastSwap {
            generation,
            serving: false,
            text: text.to_owned(),
            outcome: text.to_owned(),
        };
        self.down = Some((last, sys::now()));
    }

    pub fn is_up(&mut self) {
        self.down = None;
    }

    /// The last verdict, or why nothing serves.
    fn last_swap(&self, now: Time) -> Option<Value> {
        let (last, since) = self.down.as_ref().or(self.last_swap.as_ref())?;
        Some(json!({
            "generation": last.generation.0,
            "serving": last.serving,
            "message": last.text,
            "ago_ms": milliseconds(now.saturating_sub(*since)),
        }))
    }

    pub fn incident(&mut self, incident: &Incident) {
        if let Incident::Lost { connections, .. } = incident {
            self.counters.connections_lost += u64::try_from(*connections).unwrap_or(u64::MAX);
        }
    }

    /// What was last told is out of date.
    pub fn changed(&mut self) {
        self.last_state = None;
    }
}

impl World {
    /// Keeps a verdict for those who asked, for the status and for the history.
    pub(super) fn note_verdict(&mut self, verdict: SwapVerdict) {
        let was_swap = verdict.cause != "restart" && verdict.result != SwapResult::Checked;
        if verdict.generation > 1 && was_swap {
            let swap = LastSwap {
                generation: Generation(verdict.generation),
                serving: verdict.serving,
                text: verdict.text.clone(),
                outcome: verdict.outcome.clone(),
            };
            self.status_data.last_swap = Some((swap, sys::now()));
        }
        self.status_data.keep_verdict(verdict);
    }

    /// The verdict that this record tells of.
    pub(super) fn verdict_of(
        &self,
        cause: Cause,
        result: SwapResult,
        record: &Record,
    ) -> SwapVerdict {
        let generation = record.generation.unwrap_or(Generation(0));
        let asked_by = self.status_data.asked_by;
        let uid = match (cause, asked_by) {
            (Cause::Asked | Cause::RollBack, AskedBy::User(uid)) => Some(uid),
            _ => None,
        };
        let cause = match cause {
            Cause::First => "first",
            Cause::Asked => match asked_by {
                AskedBy::Signal => "signal",
                AskedBy::Key => "key",
                AskedBy::User(_) => "request",
            },
            Cause::File => "file",
            Cause::Restart => "restart",
            Cause::RollBack => "rollback",
        };
        SwapVerdict {
            time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            generation: generation.0,
            result,
            serving: result == SwapResult::Serving,
            cause: cause.into(),
            uid,
            program: self.status_data.programs.shown(generation),
            reason: record.reason.clone(),
            outcome: record.text.clone(),
            text: record.text.clone(),
            ..SwapVerdict::default()
        }
    }

    /// A changed program that is not run has no generation.
    pub(super) fn note_unfit(&mut self, line: String) {
        let record = Record::warning(line);
        let verdict = self.verdict_of(Cause::File, SwapResult::Unfit, &record);
        self.status_data.keep_verdict(verdict);
        self.publish(&record);
    }

    pub(super) fn state(&mut self, supervisor: &Supervisor, now: Time) -> Value {
        if let Some((state, since)) = &self.status_data.last_state
            && now.saturating_sub(*since) < FRESH
        {
            return state.clone();
        }
        let mut generations = status::generations(supervisor, now);
        for generation in &mut generations {
            self.fill_in(generation, now);
        }
        let words = self.args.command.iter();
        let socket = self.control.path();
        let state = InstanceStatus {
            name: self.control.name().to_owned(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION"),
            command: words
                .map(|word| word.to_string_lossy().into_owned())
                .collect(),
            socket: socket.map(|path| path.to_string_lossy().into_owned()),
            uptime_ms: milliseconds(now.saturating_sub(self.status_data.started)),
            doing: Doing::of(supervisor),
            waits: status::waits(supervisor, now),
            listeners: self.listeners.summaries(),
            generations,
            last_swap: self.status_data.last_swap(now),
            watch: self.watch.report(),
            counters: self.status_data.counters.clone(),
        };
        let state = json!(state);
        self.status_data.last_state = Some((state.clone(), now));
        state
    }

    fn fill_in(&mut self, state: &mut GenerationState, now: Time) {
        let generation = state.generation;
        let Some(one) = self.generations.get_mut(&generation) else {
            return;
        };
        let stopped = one
            .readiness
            .as_ref()
            .and_then(|readiness| readiness.stopped().first());
        if let (Some(stopped), Some(what)) = (stopped, &mut state.waits.what) {
            *what = format!("{what}; it {}", ready::stopped_by(stopped.signal));
        }
        let processes = one.server.processes();
        let held = self.listeners.connected_sockets(generation, one.is_lost);
        state.age = Some(now.saturating_sub(one.server.started()));
        let since = one.serving_since.unwrap_or(one.server.started());
        let since = SystemTime::now().checked_sub(now.saturating_sub(since));
        state.since = since.map(|since| humantime::format_rfc3339_seconds(since).to_string());
        state.program = self.status_data.programs.shown(generation);
        state.restarts = one.restarts;
        state.pid = Some(one.server.pid().as_raw());
        state.memory = MemoryUse::of(&processes);
        state.connections = match &mut one.drain {
            Some(drain) => drain.count(&held, &processes),
            None => {
                ActivityCounter::default()
                    .count(&held, &processes)
                    .connections
            }
        };
    }
}
