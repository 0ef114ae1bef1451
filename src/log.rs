//! Writes each record to stderr, as a line or as a JSON object.
//!
//! The words are in `record`. It never waits for the reader of stderr, and never fails because there is none.

mod sink;

use std::ffi::OsStr;
use std::io::{IsTerminal, stderr};
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

use log::{Level, LevelFilter, Log, Metadata, Record as LogRecord};
use nix::poll::PollFlags;
use nix::sys::stat::fstat;
use serde_json::{Map, Value};

use crate::cli::options::{LogFormat, RunArgs};
use crate::escape::escape_but_for_hints;
use crate::polled::Polled;
use crate::record::Record;
use sink::Sink;

/// Events have this target, as any line of ours has.
const TARGET: &str = env!("CARGO_CRATE_NAME");

static SINK: Mutex<Sink> = Mutex::new(Sink::new());
static LOGGER: OnceLock<Logger> = OnceLock::new();

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
    let mut wanted = env_logger::Builder::new();
    // What crates say to themselves is not for users.
    wanted.filter_level(LevelFilter::Off);
    let filter = filter.filter(|filter| !filter.is_empty());
    let understood = filter
        .and_then(OsStr::to_str)
        .filter(|filter| is_filter(filter));
    match understood {
        _ if run.quiet => wanted.filter_module(TARGET, LevelFilter::Warn),
        _ if run.verbose => wanted.filter_module(TARGET, LevelFilter::Debug),
        Some(filter) => wanted.parse_filters(filter),
        None => wanted.filter_module(TARGET, LevelFilter::Info),
    };
    let wanted = wanted.build();
    log::set_max_level(wanted.filter());
    // a second logger can only be one that a test has set up
    let _ = log::set_logger(LOGGER.get_or_init(|| Logger { wanted, look }));
    if let (Some(filter), None) = (filter, understood) {
        log_record(&Record::warning(format!(
            "cannot use HOTSWAP_LOG={}: it is not a filter\ntry: HOTSWAP_LOG=debug",
            filter.display()
        )));
    }
}

/// `LEVEL`, a target of ours, or `TARGET=LEVEL`, separated by commas, and behind a slash what a line must have in it: what
/// env_logger understands, which would say what it does not in words of its own. It takes any word for a target: a level
/// that is misspelled would leave nothing to read.
fn is_filter(filter: &str) -> bool {
    let mut parts = filter.split('/');
    let mut directives = parts.next().unwrap_or_default().split(',');
    let is_level = |word: &str| word.is_empty() || word.parse::<LevelFilter>().is_ok();
    let is_directive = |directive: &str| match directive.split_once('=') {
        Some((_, level)) => is_level(level.trim()),
        None => is_level(directive.trim()) || directive.trim().starts_with(TARGET),
    };
    directives.all(is_directive) && parts.count() < 2
}

/// Says what happened.
pub fn log_record(record: &Record) {
    if let Some(logger) = LOGGER.get() {
        let mut line = LogRecord::builder();
        line.level(record.level).target(TARGET);
        logger.write(
            &line.args(format_args!("{}", record.text)).build(),
            record.fields(),
        );
    }
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

/// Which lines are wanted, and how they look.
struct Logger {
    wanted: env_logger::Logger,
    look: LineStyle,
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata) -> bool {
        self.wanted.enabled(metadata)
    }

    fn log(&self, line: &LogRecord) {
        self.write(line, Map::new());
    }

    fn flush(&self) {}
}

impl Logger {
    fn write(&self, line: &LogRecord, fields: Map<String, Value>) {
        if self.wanted.matches(line) {
            sink().push(format!("{}\n", self.look.line(line, fields)).as_bytes());
        }
    }
}

/// A terminal that can show them, and nobody who asked for none (no-color.org).
fn colors_fit() -> bool {
    let unset_or_empty = |name| std::env::var_os(name).is_none_or(|value| value.is_empty());
    stderr().is_terminal()
        && unset_or_empty("NO_COLOR")
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

impl LineStyle {
    fn line(self, line: &LogRecord, fields: Map<String, Value>) -> String {
        if self.format == LogFormat::Json {
            let time = humantime::format_rfc3339_millis(SystemTime::now());
            return object(time.to_string(), line, fields);
        }
        let color = color(
            line.level(),
            fields.get("event").and_then(Value::as_str),
            self,
        );
        let text = escape_but_for_hints(&line.args().to_string());
        let line = self.before.line(line.level(), &text);
        match color {
            Some(color) => format!("\x1b[{color}m{line}\x1b[0m"),
            None => line,
        }
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

fn object(time: String, record: &LogRecord, mut fields: Map<String, Value>) -> String {
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

#[cfg(test)]
mod tests;
