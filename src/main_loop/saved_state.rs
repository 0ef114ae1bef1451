//! What the core and the loop remember of generations, as JSON and back.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::generation::{Lingering, Spawned};
use crate::listener::ListenerId;
use crate::supervisor::{Draining, Exit, Generation, Phase, Queue, SavedState, Serving, Time};

pub fn to_json(memory: &SavedState) -> Value {
    let serving = memory.serving.as_ref().map(|serving| {
        let before = serving.before.map(|before| before.0);
        json!({"generation": serving.generation.0, "since": nanoseconds(serving.since), "before": before})
    });
    json!({
        "last": memory.last.0,
        "serving": serving,
        "draining": memory.draining.iter().map(draining_to_json).collect::<Vec<_>>(),
        "restarts": memory.restarts,
        "last_good": memory.last_good.map(|good| good.0),
        "fallen_back": memory.fallen_back.map(|good| good.0),
        "previous": memory.previous.map(|previous| previous.0),
        "restart_at": memory.restart_at.map(nanoseconds),
        "rejected": memory.rejected,
        "longest_start": nanoseconds(memory.longest_start),
        "clients_wait_until": memory.clients_wait_until.map(nanoseconds),
    })
}

pub fn from_json(state: &Value) -> Option<SavedState> {
    let serving = match &state["serving"] {
        Value::Null => None,
        serving => Some(Serving {
            generation: generation(&serving["generation"])?,
            since: time(&serving["since"])?,
            before: generation(&serving["before"]),
        }),
    };
    Some(SavedState {
        last: generation(&state["last"])?,
        serving,
        draining: state["draining"]
            .as_array()?
            .iter()
            .map(draining_from_json)
            .collect::<Option<_>>()?,
        restarts: u32::try_from(state["restarts"].as_u64()?).ok()?,
        last_good: generation(&state["last_good"]),
        fallen_back: generation(&state["fallen_back"]),
        previous: generation(&state["previous"]),
        restart_at: time(&state["restart_at"]),
        rejected: state["rejected"].as_bool().unwrap_or_default(),
        longest_start: time(&state["longest_start"]).unwrap_or_default(),
        clients_wait_until: time(&state["clients_wait_until"]),
    })
}

fn draining_to_json(one: &Draining) -> Value {
    let phase = match one.phase {
        // Its queue is looked at anew.
        Phase::Emptying { cut_at, until, .. } => {
            json!({"emptying": [nanoseconds(cut_at), nanoseconds(until)]})
        }
        Phase::Quiescing { until } => json!({"quiescing": nanoseconds(until)}),
        Phase::Stopping => json!({"stopping": true}),
        Phase::Killed { times, at } => json!({"killed": [u64::from(times), nanoseconds(at)]}),
    };
    json!({
        "generation": one.generation.0,
        "phase": phase,
        "kill_at": nanoseconds(one.kill_at),
        "exit": one.exit.as_ref().map(exit_to_json),
        "failed": one.failed,
    })
}

fn draining_from_json(state: &Value) -> Option<Draining> {
    let phase = &state["phase"];
    let pair = |name: &str| Some((phase[name].get(0)?, phase[name].get(1)?));
    let phase = if let Some((cut_at, until)) = pair("emptying") {
        Phase::Emptying {
            queue: Queue::Waiting,
            cut_at: time(cut_at)?,
            until: time(until)?,
        }
    } else if let Some((times, at)) = pair("killed") {
        Phase::Killed {
            times: u32::try_from(times.as_u64()?).ok()?,
            at: time(at)?,
        }
    } else if let Some(until) = time(&phase["quiescing"]) {
        Phase::Quiescing { until }
    } else {
        Phase::Stopping
    };
    Some(Draining {
        generation: generation(&state["generation"])?,
        phase,
        kill_at: time(&state["kill_at"])?,
        exit: exit_from_json(&state["exit"]),
        failed: state["failed"].as_bool()?,
    })
}

fn exit_to_json(exit: &Exit) -> Value {
    match exit {
        Exit::Status(status) => json!({"status": status}),
        Exit::Signal(signal) => json!({"signal": signal}),
        Exit::CannotRun(status, why) => json!({"cannot_run": status, "why": why}),
        Exit::Background => json!({"background": true}),
        Exit::Unknown => json!({"unknown": true}),
    }
}

fn exit_from_json(state: &Value) -> Option<Exit> {
    let number = |name: &str| {
        state[name]
            .as_i64()
            .and_then(|number| i32::try_from(number).ok())
    };
    if let Some(status) = number("status") {
        return Some(Exit::Status(status));
    }
    if let Some(signal) = number("signal") {
        return Some(Exit::Signal(signal));
    }
    if let Some(status) = number("cannot_run") {
        return Some(Exit::CannotRun(status, state["why"].as_str()?.to_owned()));
    }
    if state["unknown"].as_bool().is_some() {
        return Some(Exit::Unknown);
    }
    state["background"].as_bool().map(|_| Exit::Background)
}

pub fn info_to_json(one: &Spawned) -> Value {
    let ready = one
        .ready
        .as_ref()
        .map(|(how, after)| json!([how, nanoseconds(*after)]));
    json!({
        "restarts": one.restarts,
        "ready": ready,
        "serving_since": one.serving_since.map(nanoseconds),
        "drains_since": one.drains_since.map(nanoseconds),
        "said_ready": one.said_ready,
        "lingers": one.lingers.map(|lingering| nanoseconds(lingering.until)),
        "ready_timeout": nanoseconds(one.ready_timeout),
        "bound": bound_to_json(&one.bound),
        "accepted_nowhere": one.accepted_nowhere,
        "accepts": listeners_to_json(&one.accepts),
        "missing": listeners_to_json(&one.missing),
    })
}

pub fn info_from_json(state: &Value, one: &mut Spawned) -> Option<()> {
    let ready = |state: &Value| Some((state.get(0)?.as_str()?.to_owned(), time(state.get(1)?)?));
    one.restarts = u32::try_from(state["restarts"].as_u64()?).ok()?;
    one.ready = ready(&state["ready"]);
    one.serving_since = time(&state["serving_since"]);
    one.drains_since = time(&state["drains_since"]);
    one.said_ready = state["said_ready"].as_bool()?;
    one.lingers = time(&state["lingers"]).map(|until| Lingering {
        next: Time::ZERO,
        until,
    });
    one.ready_timeout = time(&state["ready_timeout"])?;
    one.bound = bound_from_json(&state["bound"]);
    one.accepted_nowhere = state["accepted_nowhere"].as_bool().unwrap_or_default();
    one.accepts = listeners_from_json(&state["accepts"]);
    one.missing = listeners_from_json(&state["missing"]);
    Some(())
}

fn bound_to_json(bound: &BTreeMap<ListenerId, Time>) -> Value {
    let pairs = bound
        .iter()
        .map(|(listener, at)| json!([listener.0, nanoseconds(*at)]));
    pairs.collect()
}

fn bound_from_json(state: &Value) -> BTreeMap<ListenerId, Time> {
    let pair = |pair: &Value| {
        let listener = usize::try_from(pair.get(0)?.as_u64()?).ok()?;
        Some((ListenerId(listener), time(pair.get(1)?)?))
    };
    let pairs = state.as_array().into_iter().flatten();
    pairs.filter_map(pair).collect()
}

pub fn listeners_to_json(listeners: &[ListenerId]) -> Value {
    listeners
        .iter()
        .map(|listener| listener.0)
        .collect::<Vec<_>>()
        .into()
}

pub fn listeners_from_json(state: &Value) -> Vec<ListenerId> {
    let numbers = state
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_u64);
    numbers
        .filter_map(|number| usize::try_from(number).ok())
        .map(ListenerId)
        .collect()
}

pub fn generation(state: &Value) -> Option<Generation> {
    u32::try_from(state.as_u64()?).ok().map(Generation)
}

pub fn nanoseconds(time: Time) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

pub fn time(state: &Value) -> Option<Time> {
    state.as_u64().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_survives() {
        let seconds = Duration::from_secs;
        let one = |number, phase, exit| Draining {
            generation: Generation(number),
            phase,
            kill_at: seconds(30),
            exit,
            failed: number == 2,
        };
        let emptying = Phase::Emptying {
            queue: Queue::Waiting,
            cut_at: seconds(1),
            until: seconds(28),
        };
        let memory = SavedState {
            last: Generation(9),
            serving: Some(Serving {
                generation: Generation(8),
                since: seconds(5),
                before: Some(Generation(7)),
            }),
            draining: vec![
                one(1, emptying, None),
                one(
                    2,
                    Phase::Quiescing { until: seconds(9) },
                    Some(Exit::Status(3)),
                ),
                one(
                    3,
                    Phase::Stopping,
                    Some(Exit::CannotRun(127, "not there".into())),
                ),
                one(
                    4,
                    Phase::Killed {
                        times: 2,
                        at: seconds(8),
                    },
                    Some(Exit::Background),
                ),
                one(5, Phase::Stopping, Some(Exit::Signal(9))),
            ],
            restarts: 3,
            last_good: Some(Generation(6)),
            fallen_back: None,
            previous: Some(Generation(5)),
            restart_at: Some(seconds(70)),
            rejected: true,
            longest_start: seconds(4),
            clients_wait_until: Some(seconds(71)),
        };
        assert_eq!(from_json(&to_json(&memory)), Some(memory));
    }

    #[test]
    fn what_no_hotswap_has_said_is_not_understood() {
        for state in [
            json!(null),
            json!({}),
            json!({"last": -1}),
            json!({"last": 1, "serving": 3}),
        ] {
            assert_eq!(from_json(&state), None, "{state}");
        }
    }
}
