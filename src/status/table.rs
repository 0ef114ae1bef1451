//! The status as a table, from the JSON of any version of hotswap.

use std::fmt::Write;
use std::time::Duration;

use serde_json::Value;

use crate::escape::{divide_hint, escape};
use crate::record::format_duration;

const NOTHING: &str = "-";
const HEADINGS: [&str; 8] = [
    "GENERATION",
    "ROLE",
    "PID",
    "AGE",
    "CONNECTIONS",
    "MEMORY",
    "RESTARTS",
    "WAITS FOR",
];

/// Every instance, or a line that says that none is running.
pub fn tables(states: &[Value]) -> String {
    if states.is_empty() {
        return "no instance is running\n".into();
    }
    states.iter().map(table).collect::<Vec<_>>().join("\n")
}

pub fn table(state: &Value) -> String {
    let command: Vec<String> = list(state, "command").map(text).collect();
    let uptime = duration(state, "uptime_ms").map_or(NOTHING.into(), format_duration);
    let mut text = format!(
        "{}: {}, {}, up {uptime}, pid {}\n",
        string(state, "name"),
        command.join(" "),
        string(state, "state"),
        number(state, "pid"),
    );
    if let Some(waits) = waits(state) {
        let _ = writeln!(text, "  waits for {waits}");
    }
    for listener in list(state, "listeners") {
        let _ = writeln!(text, "  {}", listener_line(listener));
    }
    text.push_str(&generations(state));
    for line in list(state, "generations").filter_map(program_line) {
        let _ = writeln!(text, "  {line}");
    }
    let watched = list(&state["watch"], "watched");
    for file in watched.filter(|file| file.get("unfit").is_some()) {
        let (path, why) = (string(file, "path"), string(file, "unfit"));
        let _ = writeln!(text, "  {path} has changed, but {why}; waiting");
    }
    let last = &state["last_swap"];
    if last.is_object() {
        let ago = duration(last, "ago_ms").map_or(NOTHING.into(), format_duration);
        let (what, hint) = message(last);
        let _ = writeln!(text, "  last swap {ago} ago: {what}");
        text.push_str(&hint);
    }
    text
}

/// Verdicts, the newest first: when, what, why it was asked for, and what a failed one said last.
pub fn history(verdicts: &Value) -> String {
    let mut all = String::new();
    for verdict in verdicts.as_array().into_iter().flatten() {
        let cause = match number(verdict, "uid").as_str() {
            NOTHING => string(verdict, "cause"),
            uid => format!("{} of uid {uid}", string(verdict, "cause")),
        };
        let program = &verdict["program"];
        let program = if program.is_object() {
            format!(", {} {}", string(program, "path"), string(program, "hash"))
        } else {
            String::new()
        };
        let (what, hint) = message(verdict);
        let time = string(verdict, "time");
        let _ = writeln!(all, "{time} {what} ({cause}{program})");
        all.push_str(&hint);
        for line in list(verdict, "stderr").map(text) {
            let _ = writeln!(all, "    {line}");
        }
    }
    if all.is_empty() {
        all.push_str("no verdict yet\n");
    }
    all
}

/// What is said, and a line with what to try, if that is known.
fn message(of: &Value) -> (String, String) {
    let (what, hint) = divide_hint(of["message"].as_str().unwrap_or(NOTHING));
    let hint = hint.map(|hint| format!("    try: {}\n", escape(hint)));
    (escape(what), hint.unwrap_or_default())
}

/// What the generation runs, and since when.
fn program_line(generation: &Value) -> Option<String> {
    let program = &generation["program"];
    if !program.is_object() {
        return None;
    }
    let differs = match program["differs"] {
        Value::Bool(true) => "; the file on disk differs",
        _ => "",
    };
    Some(format!(
        "generation {} runs {}, {} bytes, modified {}, hash {}, since {}{differs}",
        number(generation, "generation"),
        string(program, "path"),
        number(program, "size"),
        string(program, "modified"),
        string(program, "hash"),
        string(generation, "since"),
    ))
}

fn listener_line(listener: &Value) -> String {
    let is = |key: &str| listener[key] == true;
    let kind = if is("steered") { "steered" } else { "shared" };
    let captured = if is("captured") { ", captured" } else { "" };
    let queue = match number(listener, "queue").as_str() {
        NOTHING => String::new(),
        waiting => format!(", {waiting} in the queue"),
    };
    let address = string(listener, "address");
    format!("listening on {address} ({kind}{captured}{queue})")
}

fn generations(state: &Value) -> String {
    let headings = HEADINGS.map(str::to_owned);
    let rows: Vec<[String; 8]> = std::iter::once(headings)
        .chain(list(state, "generations").map(row))
        .collect();
    if rows.len() == 1 {
        return String::new();
    }
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().enumerate();
        let padded: Vec<String> = cells
            .map(|(column, cell)| format!("{cell:<width$}", width = width(column)))
            .collect();
        let _ = writeln!(text, "  {}", padded.join("  ").trim_end());
    }
    text
}

fn row(generation: &Value) -> [String; 8] {
    let bytes = |key: &str| generation[key].as_u64();
    let memory = bytes("pss_bytes").or_else(|| bytes("rss_bytes"));
    [
        number(generation, "generation"),
        string(generation, "role"),
        number(generation, "pid"),
        duration(generation, "age_ms").map_or(NOTHING.into(), format_duration),
        number(generation, "connections"),
        memory.map_or(NOTHING.into(), mebibytes),
        number(generation, "restarts"),
        waits(generation).unwrap_or(NOTHING.into()),
    ]
}

fn waits(of: &Value) -> Option<String> {
    let what = escape(of["waits_for"].as_str()?);
    let left = duration(of, "left_ms").map(|left| format!(", {} at most", format_duration(left)));
    Some(what + &left.unwrap_or_default())
}

fn mebibytes(bytes: u64) -> String {
    let tenths = (bytes.saturating_mul(10) + (1 << 19)) >> 20;
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

fn list<'a>(of: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    of[key].as_array().into_iter().flatten()
}

fn string(of: &Value, key: &str) -> String {
    text(&of[key])
}

fn number(of: &Value, key: &str) -> String {
    let number = of[key].as_u64();
    number.map_or(NOTHING.into(), |number| number.to_string())
}

fn duration(of: &Value, key: &str) -> Option<Duration> {
    of[key].as_u64().map(Duration::from_millis)
}

fn text(of: &Value) -> String {
    escape(of.as_str().unwrap_or(NOTHING))
}
