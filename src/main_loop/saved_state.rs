//! What the core remembers, as JSON and back.
//!
//! The core knows only std, so this is written by hand. Each struct is taken apart by name: the compiler refuses a field
//! that is forgotten.

use std::time::Duration;

use serde_json::{Value, json};

use crate::supervisor::{Draining, Exit, Generation, Phase, Queue, SavedState, Serving, Time};

pub fn to_json(saved: &SavedState) -> Value {
    let SavedState {
        last,
        serving,
        draining,
        orphans,
        has_served,
        restarts,
        last_good,
        fallen_back,
        rejected,
        longest_start,
        clients_wait_until,
        previous,
        restart_at,
    } = saved;
    json!({
        "last": last,
        "serving": serving.as_ref().map(serving_to_json),
        "draining": draining.iter().map(draining_to_json).collect::<Vec<_>>(),
        "orphans": orphans,
        "has_served": has_served,
        "restarts": restarts,
        "last_good": last_good,
        "fallen_back": fallen_back,
        "previous": previous,
        "restart_at": restart_at.map(nanoseconds),
        "rejected": rejected,
        "longest_start": nanoseconds(*longest_start),
        "clients_wait_until": clients_wait_until.map(nanoseconds),
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
        orphans: generations(&state["orphans"])?,
        has_served: state["has_served"].as_bool().unwrap_or(true),
        restarts: u32::try_from(state["restarts"].as_u64()?).ok()?,
        last_good: generation(&state["last_good"]),
        fallen_back: generation(&state["fallen_back"]),
        previous: generations(&state["previous"])?,
        restart_at: time(&state["restart_at"]),
        rejected: state["rejected"].as_bool().unwrap_or_default(),
        longest_start: time(&state["longest_start"]).unwrap_or_default(),
        clients_wait_until: time(&state["clients_wait_until"]),
    })
}

fn serving_to_json(serving: &Serving) -> Value {
    let Serving {
        generation,
        since,
        before,
    } = serving;
    json!({"generation": generation, "since": nanoseconds(*since), "before": before})
}

fn draining_to_json(one: &Draining) -> Value {
    let Draining {
        generation,
        phase,
        kill_at,
        exit,
        failed,
        has_targets,
    } = one;
    let phase = match *phase {
        Phase::Emptying {
            // it is looked at anew
            queue: _,
            cut_at,
            until,
        } => {
            json!({"emptying": [nanoseconds(cut_at), nanoseconds(until)]})
        }
        Phase::Quiescing { until } => json!({"quiescing": nanoseconds(until)}),
        Phase::Stopping => json!({"stopping": true}),
        Phase::Killed { times, at } => json!({"killed": [u64::from(times), nanoseconds(at)]}),
    };
    json!({
        "generation": generation,
        "phase": phase,
        "kill_at": nanoseconds(*kill_at),
        "exit": exit.as_ref().map(exit_to_json),
        "failed": failed,
        "has_targets": has_targets,
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
        has_targets: state["has_targets"].as_bool().unwrap_or_default(),
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

fn generation(state: &Value) -> Option<Generation> {
    u32::try_from(state.as_u64()?).ok().map(Generation)
}

fn generations(state: &Value) -> Option<Vec<Generation>> {
    state.as_array()?.iter().map(generation).collect()
}

fn nanoseconds(time: Time) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn time(state: &Value) -> Option<Time> {
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
            has_targets: number == 2,
        };
        let emptying = Phase::Emptying {
            queue: Queue::Waiting,
            cut_at: seconds(1),
            until: seconds(28),
        };
        let saved = SavedState {
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
            orphans: vec![Generation(3), Generation(4)],
            has_served: false,
            restarts: 3,
            last_good: Some(Generation(6)),
            fallen_back: None,
            previous: vec![Generation(5), Generation(2)],
            restart_at: Some(seconds(70)),
            rejected: true,
            longest_start: seconds(4),
            clients_wait_until: Some(seconds(71)),
        };
        assert_eq!(from_json(&to_json(&saved)), Some(saved));
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
