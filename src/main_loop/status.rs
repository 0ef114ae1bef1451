//! Collects what `hotswap status` shows, and assembles it on request.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::World;
use crate::connections::activity::ActivityCounter;
use crate::listener::Incident;
use crate::record;
use crate::status::{
    self, Counters, Doing, GenerationState, InstanceStatus, LastSwap, ListenerState, MemoryUse,
};
use crate::supervisor::{Cause, ClientId, Failure, Generation, Supervisor, Time};

/// A request within this time gets the same status, so that asking without a pause costs little.
const FRESH: Duration = Duration::from_millis(100);

/// An upgrade keeps the figures, and drops what was only remembered for the next moment.
#[derive(Serialize, Deserialize)]
pub(super) struct StatusData {
    pub counters: Counters,
    /// Clients that want to know how it is.
    #[serde(skip)]
    pub status_clients: Vec<ClientId>,
    /// What the last command before a swap that failed has said.
    #[serde(skip)]
    pub command_lines: Vec<String>,
    started: Time,
    /// Restarts in a row.
    restarts: u32,
    #[serde(skip)]
    last_verdict: Option<(Generation, String)>,
    last_swap: Option<(LastSwap, Time)>,
    #[serde(skip)]
    last_state: Option<(Value, Time)>,
}

impl StatusData {
    pub fn new(started: Time) -> Self {
        Self {
            counters: Counters::default(),
            status_clients: Vec::new(),
            command_lines: Vec::new(),
            started,
            restarts: 0,
            last_verdict: None,
            last_swap: None,
            last_state: None,
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

    pub fn served(
        &mut self,
        generation: Generation,
        cause: Cause,
        after: Duration,
        text: &str,
        now: Time,
    ) {
        self.counters.ready_after(after);
        if matches!(cause, Cause::Asked | Cause::File) {
            self.counters.swaps += 1;
        }
        self.verdict(generation, cause, true, text, now);
    }

    pub fn failed(&mut self, failure: &Failure, text: &str, now: Time) {
        if failure.rolled_back {
            self.counters.roll_backs += 1;
        } else {
            self.counters.aborted(record::cause(&failure.reason));
        }
        self.verdict(failure.generation, failure.cause, false, text, now);
    }

    fn verdict(
        &mut self,
        generation: Generation,
        cause: Cause,
        serving: bool,
        text: &str,
        now: Time,
    ) {
        self.last_verdict = Some((generation, text.to_owned()));
        if generation > Generation(1) && cause != Cause::Restart {
            let swap = LastSwap {
                generation,
                serving,
                text: text.to_owned(),
                ago: Duration::ZERO,
            };
            self.last_swap = Some((swap, now));
        }
    }

    /// The words in which the last verdict was said, if it was on this generation.
    pub fn verdict_on(&self, generation: Generation) -> Option<String> {
        let last = self.last_verdict.as_ref();
        last.filter(|(whose, _)| *whose == generation)
            .map(|(_, text)| text.clone())
    }

    /// What the last swap came to, if it failed; without what goes on.
    pub fn failed_swap(&self) -> Option<&str> {
        let (swap, _) = self.last_swap.as_ref().filter(|(swap, _)| !swap.serving)?;
        swap.text.split("; generation").next()
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
        let last_swap = self
            .status_data
            .last_swap
            .as_ref()
            .map(|(swap, since)| LastSwap {
                ago: now.saturating_sub(*since),
                ..swap.clone()
            });
        let words = self.args.command.iter();
        let state = InstanceStatus {
            name: self.control.name().to_owned(),
            command: words
                .map(|word| word.to_string_lossy().into_owned())
                .collect(),
            socket: self.control.path().map(Into::into),
            uptime: now.saturating_sub(self.status_data.started),
            doing: Doing::of(supervisor),
            waits: status::waits(supervisor, now),
            listeners: self.listener_states(),
            generations,
            last_swap,
            watch: self.watch.report(),
            counters: self.status_data.counters.clone(),
        };
        let state = state.to_json();
        self.status_data.last_state = Some((state.clone(), now));
        state
    }

    fn listener_states(&self) -> Vec<ListenerState> {
        let shown = self.listeners.summaries().into_iter();
        let states = shown.map(|shown| ListenerState {
            name: shown.name,
            address: shown.address,
            steered: shown.steered,
            captured: shown.captured,
            queue: shown.queue,
        });
        states.collect()
    }

    fn fill_in(&mut self, state: &mut GenerationState, now: Time) {
        let generation = state.generation;
        let Some(one) = self.generations.get_mut(&generation) else {
            return;
        };
        let processes = one.server.processes();
        let held = self.listeners.sockets_of(generation);
        state.age = Some(now.saturating_sub(one.server.started()));
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
