//! What is shown of an instance, and what is made of whatever JSON another version sends.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    Counters, Doing, GenerationRole, GenerationState, InstanceStatus, ListenerState, MemoryUse,
    Waits, history, table, tables,
};
use crate::supervisor::Generation;

fn state() -> InstanceStatus {
    let generation = |number, role| GenerationState {
        pid: Some(4120),
        age: Some(Duration::from_secs(41)),
        connections: Some(3),
        memory: MemoryUse {
            rss: Some(20 << 20),
            pss: Some(12 << 20),
        },
        ..GenerationState::new(Generation(number), role, Waits::default())
    };
    let waits = Waits {
        what: Some("its connections".into()),
        left: Some(Duration::from_secs(9)),
    };
    InstanceStatus {
        name: "api".into(),
        command: vec!["./server".into(), "--port=8080".into()],
        pid: 4119,
        version: "0.1.0",
        socket: Some("/run/hotswap/api.sock".into()),
        uptime_ms: 3_600_000,
        doing: Doing::Serving,
        waits: Waits::default(),
        listeners: vec![ListenerState {
            name: "listen1".into(),
            address: "127.0.0.1:8080".into(),
            steered: true,
            captured: false,
            queue: Some(2),
        }],
        generations: vec![
            generation(2, GenerationRole::Serving),
            GenerationState {
                waits,
                ..generation(1, GenerationRole::Draining)
            },
        ],
        last_swap: Some(json!({
            "message": "generation 2 is serving (accepting after 41ms)",
            "ago_ms": 41_000,
        })),
        watch: serde_json::Value::Null,
        counters: Counters::default(),
    }
}

#[test]
fn the_table_is_read_from_left_to_right() {
    let expected = "\
api: ./server --port=8080, serving, up 1h, pid 4119
  listening on 127.0.0.1:8080 (steered, 2 in the queue)
  GENERATION  ROLE      PID   AGE  CONNECTIONS  MEMORY    RESTARTS  WAITS FOR
  2           serving   4120  41s  3            12.0 MiB  0         -
  1           draining  4120  41s  3            12.0 MiB  0         its connections, 9s at most
  last swap 41s ago: generation 2 is serving (accepting after 41ms)
";
    assert_eq!(table(&json!(state())), expected);
}

#[test]
fn the_json_has_every_key_even_where_nothing_is_known() {
    let bare = InstanceStatus {
        socket: None,
        listeners: vec![],
        generations: vec![GenerationState::new(
            Generation(1),
            GenerationRole::Starting,
            Waits::default(),
        )],
        last_swap: None,
        watch: serde_json::Value::Null,
        ..state()
    };
    let json = json!(bare);
    assert_eq!(json["last_swap"], Value::Null);
    assert_eq!(json["listeners"], json!([]));
    let generation = &json["generations"][0];
    for key in ["pid", "age_ms", "connections", "rss_bytes", "waits_for"] {
        assert_eq!(generation.get(key), Some(&Value::Null), "{key}");
    }
}

#[test]
fn no_instance_is_no_error() {
    assert_eq!(tables(&[]), "no instance is running\n");
}

#[test]
fn a_hint_has_its_own_line_in_the_history() {
    let message = "generation 2 aborted: it failed; generation 1 keeps serving\ntry: swap";
    let verdict = json!({"time": "12:00", "message": message, "cause": "signal", "stderr": ["no"]});
    assert_eq!(
        history(&json!([verdict])),
        "12:00 generation 2 aborted: it failed; generation 1 keeps serving (signal)\n    try: swap\n    no\n"
    );
}

#[test]
fn a_terminal_does_not_obey_an_argument() {
    let odd = json!({"name": "api", "command": ["\x1b[2J", "a\nb"]});
    let text = table(&odd);
    assert!(
        !text.contains('\x1b') && text.lines().count() == 1,
        "{text:?}"
    );
}

proptest! {
    #[test]
    fn whatever_is_sent_can_be_shown(key in "[a-z_]{0,12}", text in ".*", number: i64, deep in 0_usize..3) {
        let mut value = json!({key: text, "uptime_ms": number, "name": number, "last_swap": {"ago_ms": number}});
        for _ in 0..deep {
            value = json!({"generations": [value.clone()], "listeners": [value, number]});
        }
        let _ = table(&value);
        let _ = history(&json!([{"message": text, "uid": number, "program": value, "stderr": [text]}, value]));
    }
}
