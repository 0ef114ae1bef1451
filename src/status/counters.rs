//! What has happened so far, counted: for `status --json`, and kept over an upgrade.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counters {
    /// Swaps that ended with the new generation serving.
    pub swaps: u64,
    pub roll_backs: u64,
    pub restarts: u64,
    /// Client connections that went down with a queue or a socket.
    pub connections_lost: u64,
    /// By the names of [`crate::news::cause`], which are few.
    aborts: BTreeMap<String, u64>,
    ready: Spans,
    drain: Spans,
}

/// How long something took, each time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Spans {
    count: u64,
    total: f64,
    max: f64,
    last: f64,
}

impl Counters {
    pub fn aborted(&mut self, cause: &str) {
        *self.aborts.entry(cause.to_owned()).or_default() += 1;
    }

    /// A generation took so long from its spawn until it was ready.
    pub fn ready_after(&mut self, took: Duration) {
        self.ready.add(took);
    }

    /// A generation took so long from the cut-over until it was gone.
    pub fn gone_after(&mut self, took: Duration) {
        self.drain.add(took);
    }

    pub fn to_json(&self) -> Value {
        json!({
            "swaps": self.swaps,
            "aborts": self.aborts,
            "roll_backs": self.roll_backs,
            "restarts": self.restarts,
            "connections_lost": self.connections_lost,
            "seconds_to_ready": self.ready.to_json(),
            "seconds_to_drain": self.drain.to_json(),
        })
    }

    /// What [`Counters::to_json`] gave; what is missing there starts at nothing.
    pub fn from_json(json: &Value) -> Self {
        let count = |key| json.get(key).and_then(Value::as_u64).unwrap_or(0);
        let aborts = json.get("aborts").and_then(Value::as_object);
        let aborts = aborts.into_iter().flat_map(Map::iter);
        let spans = |key| json.get(key).map(Spans::from_json).unwrap_or_default();
        Self {
            swaps: count("swaps"),
            roll_backs: count("roll_backs"),
            restarts: count("restarts"),
            connections_lost: count("connections_lost"),
            aborts: aborts
                .filter_map(|(cause, count)| Some((cause.clone(), count.as_u64()?)))
                .collect(),
            ready: spans("seconds_to_ready"),
            drain: spans("seconds_to_drain"),
        }
    }
}

impl Spans {
    fn add(&mut self, took: Duration) {
        self.last = took.as_secs_f64();
        self.max = self.max.max(self.last);
        self.total += self.last;
        self.count += 1;
    }

    fn to_json(self) -> Value {
        json!({"count": self.count, "total": self.total, "max": self.max, "last": self.last})
    }

    fn from_json(json: &Value) -> Self {
        let seconds = |key| json.get(key).and_then(Value::as_f64).unwrap_or(0.0);
        Self {
            count: json.get("count").and_then(Value::as_u64).unwrap_or(0),
            total: seconds("total"),
            max: seconds("max"),
            last: seconds("last"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_forgets_no_figure() {
        let mut counters = Counters {
            swaps: 3,
            roll_backs: 1,
            restarts: 2,
            connections_lost: 7,
            ..Counters::default()
        };
        counters.aborted("exited");
        counters.aborted("exited");
        counters.aborted("not_ready");
        counters.ready_after(Duration::from_millis(41));
        counters.gone_after(Duration::from_millis(1200));
        let json = counters.to_json();
        assert_eq!(json["aborts"], json!({"exited": 2, "not_ready": 1}));
        assert_eq!(Counters::from_json(&json), counters);
    }

    #[test]
    fn an_older_version_counts_less() {
        let counters = Counters::from_json(&json!({"swaps": 3, "aborts": [], "restarts": "many"}));
        assert_eq!(counters.swaps, 3);
        assert_eq!(counters.restarts, 0);
    }
}
