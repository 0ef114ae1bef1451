//! How events look, and what becomes of them when nobody reads.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::time::Duration;

use log::Level;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use super::sink::Sink;
use super::{Before, LineStyle, color, object};
use crate::cli::options::LogFormat;
use crate::record::Record;
use crate::supervisor::Generation;

const TERMINAL: LineStyle = LineStyle {
    format: LogFormat::Text,
    colors: true,
    verdicts_in_color: false,
    before: Before::Nothing,
};

fn json(record: &Record) -> serde_json::Value {
    let time = "2030-01-01T00:00:00.000Z".to_owned();
    let line = log::Record::builder().level(record.level).build();
    let object = object(time, &line, record.fields());
    serde_json::from_str(&object).unwrap()
}

#[test]
fn an_event_keeps_its_fields() {
    let record = Record::serving(
        Generation(2),
        "accepting",
        Duration::from_millis(41),
        Some((Generation(1), Some(3))),
    );
    let json = json(&record);
    assert_eq!(json["time"], "2030-01-01T00:00:00.000Z");
    assert_eq!(json["event"], "serving");
    assert_eq!(json["generation"], 2);
    assert_eq!(json["after_ms"], 41);
    assert_eq!(json["connections"], 3);
    assert_eq!(json["reason"], "accepting");
}

#[test]
fn a_plain_line_is_an_object_too() {
    let args = "cannot watch \"x\":\nno such file";
    let object = object(
        String::new(),
        &log::Record::builder()
            .args(format_args!("{args}"))
            .level(Level::Warn)
            .build(),
        serde_json::Map::new(),
    );
    let read: serde_json::Value = serde_json::from_str(&object).unwrap();
    assert_eq!(read["event"], "warning");
    assert_eq!(read["message"], args);
}

#[test]
fn only_a_terminal_gets_colors_and_verdicts_only_under_dev() {
    let nowhere = LineStyle {
        colors: false,
        ..TERMINAL
    };
    assert_eq!(color(Level::Error, Some("aborted"), nowhere), None);
    assert_eq!(color(Level::Info, Some("serving"), TERMINAL), None);
    let desk = LineStyle {
        verdicts_in_color: true,
        ..TERMINAL
    };
    assert_eq!(color(Level::Info, Some("serving"), desk), Some("1;32"));
    assert_eq!(color(Level::Error, Some("rolled-back"), desk), Some("1;31"));
}

fn narrow_pipe() -> (File, Sink) {
    let (reader, writer) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).unwrap();
    (File::from(reader), Sink::through(File::from(writer)))
}

fn drain(reader: &mut File) -> String {
    let mut bytes = Vec::new();
    // it ends with EAGAIN: the writer is still there
    let _ = reader.read_to_end(&mut bytes);
    String::from_utf8(bytes).unwrap()
}

#[test]
fn lines_wait_for_a_slow_reader() {
    let (mut reader, mut sink) = narrow_pipe();
    let lines: Vec<String> = (0..1500).map(|n| format!("line {n:058}\n")).collect();
    for line in &lines {
        sink.push(line.as_bytes());
    }
    assert!(sink.pending().is_some());
    let mut read = drain(&mut reader);
    sink.flush();
    read += &drain(&mut reader);
    assert!(sink.pending().is_none());
    assert_eq!(read, lines.concat());
}

#[test]
fn what_nobody_reads_is_counted_and_said() {
    let (mut reader, mut sink) = narrow_pipe();
    let line = format!("{}\n", "x".repeat(1023));
    for _ in 0..200 {
        sink.push(line.as_bytes());
    }
    let mut read = drain(&mut reader);
    while sink.pending().is_some() {
        sink.flush();
        read += &drain(&mut reader);
    }
    assert_eq!(read.matches(&line).count(), 128);
    assert!(read.ends_with("hotswap: 72 lines were lost here: nobody read them in time\n"));
}

#[test]
fn our_lines_stand_by_themselves() {
    let (mut reader, mut sink) = narrow_pipe();
    sink.pass_on(1, b"loading");
    sink.pass_on(1, b"...");
    sink.push(b"hotswap: one\n");
    sink.push(b"hotswap: two\n");
    sink.pass_on(1, b"whole\n");
    sink.push(b"hotswap: three\n");
    let read = drain(&mut reader);
    let expected = "loading...\nhotswap: one\nhotswap: two\nwhole\nhotswap: three\n";
    assert_eq!(read, expected);
}

#[test]
fn what_two_servers_say_is_not_mixed_within_a_line() {
    let (mut reader, mut sink) = narrow_pipe();
    sink.pass_on(1, b"one");
    sink.pass_on(2, b"two\n");
    sink.pass_on(1, b"end\n");
    assert_eq!(drain(&mut reader), "one\ntwo\nend\n");
}

#[test]
fn in_the_journal_each_line_of_what_went_wrong_has_its_priority() {
    let said = Before::Priority.line(Level::Warn, "cannot x\ntry: y");
    assert_eq!(said, "<4>hotswap: cannot x\n<4>try: y");
    assert_eq!(Before::Priority.line(Level::Info, "x"), "hotswap: x");
}

#[test]
fn a_reader_that_has_gone_is_no_failure() {
    let (reader, mut sink) = narrow_pipe();
    drop(OwnedFd::from(reader));
    sink.push(b"to nobody\n");
    assert!(sink.pending().is_none());
}
