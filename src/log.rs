//! Writes each record to stderr, as a line or as a JSON object.
//!
//! The words are in `record`. It never waits for the reader of stderr, and never fails because there is none.

mod sink;

use std::ffi::OsStr;
use std::io::{self, IsTerminal, Write, stderr};
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use env_logger::fmt::Formatter;
use log::kv::{Key, Source, Value, VisitSource};
use log::{Level, LevelFilter, Record as LogRecord};
use nix::poll::PollFlags;
use nix::sys::stat::fstat;
use serde_json::Map;

use crate::cli::options::{LogFormat, RunArgs};
use crate::escape::escape_but_for_hints;
use crate::polled::Polled;
use crate::record::Record;
use sink::Sink;

/// Events have this target, as any line of ours has.
const TARGET: &str = env!("CARGO_CRATE_NAME");

static SINK: Mutex<Sink> = Mutex::new(Sink::new());

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LineStyle {
    format: LogFormat,
    colors: bool,
    /// Verdicts are what a user waits for.
    verdicts_in_color: bool,
    before: Before,
}

/// What stands before each line of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    /// On a terminal: its reader is there.
    Nothing,
    Time,
    /// In the journal, which has a time itself: `<3>` and `<4>` of sd-daemon(3) for what went wrong.
    Priority,
}

impl Before {
    fn on_stderr() -> Self {
        if stderr().is_terminal() {
            return Before::Nothing;
        }
        let named = std::env::var("JOURNAL_STREAM").ok();
        let stream = fstat(stderr()).map(|stat| format!("{}:{}", stat.st_dev, stat.st_ino));
        match (named, stream) {
            (Some(named), Ok(stream)) if named == stream => Before::Priority,
            _ => Before::Time,
        }
    }

    fn line(self, level: Level, text: &str) -> String {
        let priority = match (self, level) {
            (Before::Nothing, _) => return format!("hotswap: {text}"),
            (Before::Time, _) => {
                let time = humantime::format_rfc3339_millis(SystemTime::now());
                return format!("{time} hotswap: {text}");
            }
            (Before::Priority, Level::Error) => "<3>",
            (Before::Priority, Level::Warn) => "<4>",
            (Before::Priority, _) => "",
        };
        // a hint is a line of its own there
        let text = text.replace('\n', &format!("\n{priority}"));
        format!("{priority}hotswap: {text}")
    }
}

/// From here on `log` writes to stderr. `filter` is what HOTSWAP_LOG holds.
pub fn set_up(run: &RunArgs, filter: Option<&OsStr>) {
    let look = LineStyle {
        format: run.log_format,
        colors: colors_fit(),
        verdicts_in_color: run.dev,
        before: Before::on_stderr(),
    };
    sink().choose_way();
    let mut logger = env_logger::Builder::new();
    // What crates say to themselves is not for users.
    logger.filter_level(LevelFilter::Off);
    let filter = filter.filter(|filter| !filter.is_empty());
    let understood = filter
        .and_then(OsStr::to_str)
        .filter(|filter| is_filter(filter));
    match understood {
        _ if run.quiet => logger.filter_module(TARGET, LevelFilter::Warn),
        _ if run.verbose => logger.filter_module(TARGET, LevelFilter::Debug),
        Some(filter) => logger.parse_filters(filter),
        None => logger.filter_module(TARGET, LevelFilter::Info),
    };
    logger.format(move |out, record| write_record(out, record, look));
    logger.target(env_logger::Target::Pipe(Box::new(ToSink)));
    // colors have been decided on: what gets here is not to be stripped of them
    logger.write_style(env_logger::WriteStyle::Always);
    // a second logger can only be one that a test has set up
    let _ = logger.try_init();
    if let (Some(filter), None) = (filter, understood) {
        log_record(&Record::warning(format!(
            "cannot use HOTSWAP_LOG={}: it is not a filter\ntry: HOTSWAP_LOG=debug",
            filter.display()
        )));
    }
}

/// `LEVEL`, `TARGET`, `TARGET=LEVEL`, separated by commas, and behind a slash what a line must have in it: what
/// env_logger understands, which would say what it does not in words of its own.
fn is_filter(filter: &str) -> bool {
    let mut parts = filter.split('/');
    let mut directives = parts.next().unwrap_or_default().split(',');
    let is_directive = |directive: &str| match directive.split_once('=') {
        Some((_, level)) => level.is_empty() || level.trim().parse::<LevelFilter>().is_ok(),
        None => true,
    };
    directives.all(is_directive) && parts.count() < 2
}

/// Says what happened.
pub fn log_record(record: &Record) {
    if record.level <= log::max_level() {
        as_record(record, |record| log::logger().log(record));
    }
}

fn as_record<R>(record: &Record, f: impl FnOnce(&LogRecord) -> R) -> R {
    f(&LogRecord::builder()
        .args(format_args!("{}", record.text))
        .level(record.level)
        .target(TARGET)
        .key_values(&Fields(record.fields()))
        .build())
}

/// The line that `main` ends with; it needs no logger. It is an answer rather than an event, and has no time.
pub fn last_words(text: &str) {
    let mut sink = sink();
    sink.choose_way();
    let before = match Before::on_stderr() {
        Before::Nothing | Before::Time => Before::Nothing,
        Before::Priority => Before::Priority,
    };
    let line = before.line(Level::Error, &escape_but_for_hints(text));
    sink.push(format!("{line}\n").as_bytes());
    sink.finish();
}

/// An empty screen, where stderr is one.
pub fn clear_terminal() {
    if stderr().is_terminal() {
        sink().push(b"\x1b[2J\x1b[3J\x1b[H");
    }
}

/// What a server has written to its own stderr. `stream` tells it from others, whose lines it is not mixed with.
pub fn pass_on(stream: u64, bytes: &[u8]) {
    sink().pass_on(stream, bytes);
}

/// Where to wait for POLLOUT, while lines wait for their reader.
pub fn pending() -> Option<BorrowedFd<'static>> {
    sink().pending()
}

/// The lines that stderr has not taken yet, in the poll.
pub struct PendingLines;

impl Polled for PendingLines {
    fn polled(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        Vec::from_iter(pending().map(|fd| (fd, PollFlags::POLLOUT)))
    }
}

/// POLLOUT was seen on what [`pending`] gave.
pub fn flush() {
    sink().flush();
}

/// Before an exec or an end: a slow reader gets one last, short chance.
pub fn finish() {
    sink().finish();
}

fn sink() -> MutexGuard<'static, Sink> {
    SINK.lock().unwrap_or_else(PoisonError::into_inner)
}

struct ToSink;

impl Write for ToSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        sink().push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A terminal that can show them, and nobody who asked for none (no-color.org).
fn colors_fit() -> bool {
    let unset_or_empty = |name| std::env::var_os(name).is_none_or(|value| value.is_empty());
    stderr().is_terminal()
        && unset_or_empty("NO_COLOR")
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

fn write_record(out: &mut Formatter, record: &LogRecord, look: LineStyle) -> io::Result<()> {
    let fields = collect(record);
    if look.format == LogFormat::Json {
        let time = out.timestamp_millis().to_string();
        return writeln!(out, "{}", object(time, record, fields));
    }
    let event = fields.get("event").and_then(serde_json::Value::as_str);
    let text = escape_but_for_hints(&record.args().to_string());
    let line = look.before.line(record.level(), &text);
    match color(record.level(), event, look) {
        Some(color) => writeln!(out, "\x1b[{color}m{line}\x1b[0m"),
        None => writeln!(out, "{line}"),
    }
}

/// The whole line has one color, so that it still reads, and is found, as one.
fn color(level: Level, event: Option<&str>, look: LineStyle) -> Option<&'static str> {
    const RED: &str = "31";
    const GREEN: &str = "1;32";
    const YELLOW: &str = "33";
    const DIM: &str = "2";
    if !look.colors {
        return None;
    }
    match (level, event) {
        (_, Some("serving")) if look.verdicts_in_color => Some(GREEN),
        (_, Some("aborted" | "rolled-back" | "dead")) if look.verdicts_in_color => Some("1;31"),
        (Level::Error, _) => Some(RED),
        (Level::Warn, _) => Some(YELLOW),
        (Level::Info, _) => None,
        (Level::Debug | Level::Trace, _) => Some(DIM),
    }
}

/// In the order that is best to read.
const KEYS: [&str; 8] = [
    "time",
    "event",
    "generation",
    "pid",
    "reason",
    "after_ms",
    "connections",
    "message",
];

fn object(time: String, record: &LogRecord, mut fields: Map<String, serde_json::Value>) -> String {
    fields.insert("time".into(), time.into());
    fields.entry("event").or_insert_with(|| {
        let plain = match record.level() {
            Level::Error => "error",
            Level::Warn => "warning",
            Level::Info => "notice",
            Level::Debug | Level::Trace => "debug",
        };
        plain.into()
    });
    fields
        .entry("message")
        .or_insert_with(|| record.args().to_string().into());
    let known = KEYS
        .iter()
        .filter_map(|key| Some((*key, fields.get(*key)?)));
    let pairs: Vec<String> = known
        .map(|(key, value)| format!("\"{key}\":{value}"))
        .collect();
    format!("{{{}}}", pairs.join(","))
}

/// Fields of an event on their way through `log`.
struct Fields(Map<String, serde_json::Value>);

impl Source for Fields {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn VisitSource<'kvs>) -> Result<(), log::kv::Error> {
        for (key, value) in &self.0 {
            let value = match value {
                serde_json::Value::String(text) => Value::from(text.as_str()),
                serde_json::Value::Number(number) => number
                    .as_u64()
                    .map(Value::from)
                    .or_else(|| number.as_i64().map(Value::from))
                    .unwrap_or(Value::from(f64::NAN)),
                other => Value::from_display(other),
            };
            visitor.visit_pair(Key::from_str(key), value)?;
        }
        Ok(())
    }
}

/// The same fields, at the other end.
fn collect(record: &LogRecord) -> Map<String, serde_json::Value> {
    struct Collected(Map<String, serde_json::Value>);
    impl<'kvs> VisitSource<'kvs> for Collected {
        fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
            let value = match (value.to_u64(), value.to_i64()) {
                (Some(number), _) => number.into(),
                (None, Some(number)) => number.into(),
                (None, None) => value.to_string().into(),
            };
            self.0.insert(key.as_str().to_owned(), value);
            Ok(())
        }
    }
    let mut collected = Collected(Map::new());
    // the collector refuses nothing
    let _ = record.key_values().visit(&mut collected);
    collected.0
}

#[cfg(test)]
mod tests;
