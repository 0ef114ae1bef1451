//! Counters for `status --json`, which survive an upgrade.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counters {
    /// Swaps that ended with the new generation serving.
    pub swaps: u64,
    pub roll_backs: u64,
    pub restarts: u64,
    /// Client connections that were lost with a queue or a socket.
    pub connections_lost: u64,
    /// By the names of [`crate::record::cause`], which are few.
    aborts: BTreeMap<String, u64>,
    #[serde(rename = "seconds_to_ready")]
    ready: Spans,
    #[serde(rename = "seconds_to_drain")]
    drain: Spans,
}

/// How long something took: count, last, maximum, total.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
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

    /// A generation took this long from its spawn until it was ready.
    pub fn ready_after(&mut self, took: Duration) {
        self.ready.add(took);
    }

    /// A generation took this long from the cut-over until it was gone.
    pub fn gone_after(&mut self, took: Duration) {
        self.drain.add(took);
    }
}

impl Spans {
    fn add(&mut self, took: Duration) {
        self.last = took.as_secs_f64();
        self.max = self.max.max(self.last);
        self.total += self.last;
        self.count += 1;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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
        let json = serde_json::to_value(&counters).unwrap();
        assert_eq!(json["aborts"], json!({"exited": 2, "not_ready": 1}));
        assert_eq!(json["seconds_to_ready"]["max"], 0.041);
        assert_eq!(serde_json::from_value::<Counters>(json).unwrap(), counters);
    }
}
