//! What happened, in words and fields: one record for the log, `hotswap events`, hooks and waiting clients.
//!
//! A line has a generation as its subject, and says what became of it, why, and which one serves now.

mod units;

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use log::Level;
use serde_json::{Map, Value, json};

use crate::escape::{continue_before_hint, divide_hint};
use crate::supervisor::{Exit, Failure, Generation, Reason, Then};
pub use units::{format_duration, milliseconds, plural, signal_name};

/// The event's name, in JSON and in HOTSWAP_EVENT: `rolled-back`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RecordKind {
    Listening,
    Adopting,
    Started,
    Proving,
    Serving,
    Changed,
    Aborted,
    RolledBack,
    Dead,
    Gone,
    Killed,
    Stopping,
    Upgraded,
    Notice,
    Warning,
}

impl RecordKind {
    pub fn name(self) -> String {
        let name = self.to_possible_value();
        name.map_or_else(String::new, |name| name.get_name().to_owned())
    }

    /// Whether `--on-event` runs for it.
    pub fn is_hooked(self) -> bool {
        use RecordKind::{Aborted, Dead, Gone, RolledBack, Serving};
        matches!(self, Serving | Aborted | RolledBack | Gone | Dead)
    }
}

#[derive(Clone, Debug)]
pub struct Record {
    pub kind: RecordKind,
    pub level: Level,
    pub text: String,
    pub generation: Option<Generation>,
    pub pid: Option<i32>,
    pub reason: Option<String>,
    pub after: Option<Duration>,
    pub connections: Option<usize>,
}

impl Record {
    pub fn new(kind: RecordKind, text: impl Into<String>) -> Self {
        let (generation, pid, reason, after, connections) = (None, None, None, None, None);
        Self {
            kind,
            level: Level::Info,
            text: text.into(),
            generation,
            pid,
            reason,
            after,
            connections,
        }
    }

    pub fn notice(text: impl Into<String>) -> Self {
        Self::new(RecordKind::Notice, text)
    }

    pub fn warning(text: impl Into<String>) -> Self {
        Self::new(RecordKind::Warning, text).at(Level::Warn)
    }

    pub fn at(self, level: Level) -> Self {
        Self { level, ..self }
    }

    fn because(self, reason: impl Into<String>) -> Self {
        let reason = Some(reason.into());
        Self { reason, ..self }
    }

    /// It took so long.
    fn after(self, after: Duration) -> Self {
        let after = Some(after);
        Self { after, ..self }
    }

    pub fn started(generation: Generation, pid: i32) -> Self {
        let text = format!("started, pid {pid}");
        let pid = Some(pid);
        Self {
            pid,
            ..Self::of(RecordKind::Started, generation, text)
        }
    }

    /// `how` is what showed that it is ready, `after` how long that took.
    pub fn proving(generation: Generation, how: &str, after: Duration) -> Self {
        let text = format!("is proving ({how} after {})", format_duration(after));
        let record = Self::of(RecordKind::Proving, generation, text);
        record.after(after).because(how)
    }

    pub fn serving(
        generation: Generation,
        how: &str,
        after: Duration,
        draining: Option<(Generation, Option<usize>)>,
    ) -> Self {
        let connections = draining.and_then(|(_, count)| count);
        let old = draining
            .map(|(old, connections)| format!("; {}", draining_text(old, connections)))
            .unwrap_or_default();
        let text = format!("is serving ({how} after {}){old}", format_duration(after));
        let record = Self::of(RecordKind::Serving, generation, text);
        Self {
            connections,
            ..record.after(after).because(how)
        }
    }

    /// `seen` is what was seen of it last. `age` is that of the one that keeps serving; it is shown under `--dev`, where a
    /// user waits for a change to appear.
    pub fn failed(failure: &Failure, seen: Option<&str>, age: Option<Duration>) -> Self {
        let (kind, verb) = if failure.rolled_back {
            (RecordKind::RolledBack, "rolled back")
        } else {
            (RecordKind::Aborted, "aborted")
        };
        let seen = seen.map(|seen| format!(": {seen}")).unwrap_or_default();
        let reason = reason(&failure.reason, failure.rolled_back);
        let reason = continue_before_hint(&reason, &seen);
        let age = age
            .map(|age| format!(", started {} ago", format_duration(age)))
            .unwrap_or_default();
        let old = failure
            .keeps_serving
            .map(|old| format!("; {old} keeps serving{age}"))
            .unwrap_or_default();
        let text = continue_before_hint(&format!("{verb}: {reason}"), &old);
        let level = if matches!(failure.reason, Reason::Replaced | Reason::Stopping) {
            Level::Info
        } else {
            Level::Error
        };
        let record = Self::of(kind, failure.generation, text).at(level);
        let record = record.because(reason);
        match failure.reason {
            Reason::Exited(_, after) => record.after(after),
            _ => record,
        }
    }

    /// A candidate that was started only to see whether it gets ready.
    pub fn checked(generation: Generation, how: &str, after: Duration) -> Self {
        let text = format!(
            "is ready ({how} after {}), and is discarded",
            format_duration(after)
        );
        let record = Self::of(RecordKind::Notice, generation, text);
        record.after(after).because(how)
    }

    pub fn dead(generation: Generation, exit: &Exit, after: Duration, then: Then) -> Self {
        let next = match then {
            Then::RestartAfter(delay) if delay.is_zero() => "; restarting".into(),
            Then::RestartAfter(delay) => format!("; restarting in {}", format_duration(delay)),
            Then::CandidateServes(next) => format!("; {next} is starting"),
            Then::CandidateServesWithin(next, time) if time.is_zero() => {
                format!("; restarting instead of waiting for {next}")
            }
            Then::CandidateServesWithin(next, time) => {
                let time = format_duration(time);
                format!("; restarting unless {next} is ready within {time}")
            }
            Then::WaitForChange => "; waiting for a change".into(),
            Then::End => String::new(),
        };
        // the sentence about it could go on like that itself
        let comma = match exit {
            Exit::CannotRun(..) | Exit::Background => ",",
            Exit::Status(_) | Exit::Signal(_) | Exit::Unknown => "",
        };
        let next = format!("{comma} after {} of serving{next}", format_duration(after));
        let text = continue_before_hint(&format!("is dead: {exit}"), &next);
        let level = if *exit == Exit::Status(0) {
            Level::Info
        } else {
            Level::Error
        };
        let record = Self::of(RecordKind::Dead, generation, text).at(level);
        record.after(after).because(exit.to_string())
    }

    pub fn gone(generation: Generation, after: Duration, exit: Option<&Exit>) -> Self {
        // what to try was said when it ended
        let how = exit.map(ToString::to_string).unwrap_or_default();
        let how = match divide_hint(&how).0 {
            "" => String::new(),
            how => format!(" ({how})"),
        };
        let text = format!("is gone after {}{how}", format_duration(after));
        let record = Self::of(RecordKind::Gone, generation, text).after(after);
        Self {
            reason: exit.map(ToString::to_string),
            ..record
        }
    }

    pub fn killed(generation: Generation, why: &str) -> Self {
        let text = format!("is killed: {why}");
        let record = Self::of(RecordKind::Killed, generation, text);
        record.at(Level::Warn).because(why)
    }

    /// A sentence about a generation; `text` follows its name.
    pub fn of(kind: RecordKind, generation: Generation, text: impl fmt::Display) -> Self {
        Self {
            generation: Some(generation),
            ..Self::new(kind, format!("{generation} {text}"))
        }
    }

    /// The fields of a JSON event, without its time.
    pub fn fields(&self) -> Map<String, Value> {
        let fields = [
            ("event", Some(json!(self.kind.name()))),
            ("generation", self.generation.map(|one| json!(one.0))),
            ("pid", self.pid.map(|pid| json!(pid))),
            ("reason", self.reason.as_ref().map(|reason| json!(reason))),
            (
                "after_ms",
                self.after.map(|after| json!(milliseconds(after))),
            ),
            ("connections", self.connections.map(|count| json!(count))),
            ("message", Some(json!(self.text))),
        ];
        let fields = fields.into_iter();
        let known = fields.filter_map(|(name, value)| Some((name.to_owned(), value?)));
        known.collect()
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Exit::Status(status) => write!(f, "exited with status {status}"),
            Exit::Signal(number) => write!(f, "killed by {}", signal_name(*number)),
            Exit::CannotRun(_, why) => f.write_str(why),
            Exit::Unknown => f.write_str("ended"),
            Exit::Background => {
                f.write_str("cannot follow a server that puts itself into the background")
            }
        }
    }
}

fn reason(reason: &Reason, proving: bool) -> String {
    match reason {
        Reason::Exited(exit @ (Exit::CannotRun(..) | Exit::Background), _) => exit.to_string(),
        Reason::Exited(exit, after) if proving => {
            format!("{exit} after {} of proving", format_duration(*after))
        }
        Reason::Exited(exit, after) => format!("{exit} after {}", format_duration(*after)),
        Reason::NotReady(patience) => format!("not ready within {}", format_duration(*patience)),
        Reason::CannotSpawn(why)
        | Reason::CannotCutOver(why)
        | Reason::NotProven(why)
        | Reason::NotFit(why)
        | Reason::BeforeSwap(why) => why.clone(),
        Reason::BeforeSwapTooLong(patience) => {
            format!(
                "--before-swap did not end within {}",
                format_duration(*patience)
            )
        }
        Reason::Replaced => "replaced by a newer generation".into(),
        Reason::Stopping => "hotswap is stopping".into(),
    }
}

/// The name under which aborts are counted.
pub fn cause(reason: &Reason) -> &'static str {
    match reason {
        Reason::Exited(Exit::CannotRun(..), _) => "cannot_run",
        Reason::Exited(Exit::Background, _) => "background",
        Reason::Exited(..) => "exited",
        Reason::NotReady(_) => "not_ready",
        Reason::CannotSpawn(_) => "cannot_spawn",
        Reason::CannotCutOver(_) => "cannot_cut_over",
        Reason::NotProven(_) => "not_proven",
        Reason::NotFit(_) => "not_fit",
        Reason::BeforeSwap(_) | Reason::BeforeSwapTooLong(_) => "before_swap",
        Reason::Replaced => "replaced",
        Reason::Stopping => "stopping",
    }
}

/// How far a draining generation is.
pub fn draining_text(generation: Generation, connections: Option<usize>) -> String {
    let count = connections
        .map(|count| format!(", {}", plural(count, "connection")))
        .unwrap_or_default();
    format!("{generation} is draining{count}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn what_follows_a_death_is_said() {
        let exit = Exit::Signal(9);
        let said = |then| Record::dead(Generation(1), &exit, ms(4800), then).text;
        let died = "generation 1 is dead: killed by SIGKILL after 4.8s of serving";
        let within = |time| Then::CandidateServesWithin(Generation(2), ms(time));
        for (then, next) in [
            (Then::End, ""),
            (Then::RestartAfter(ms(0)), "; restarting"),
            (Then::RestartAfter(ms(100)), "; restarting in 100ms"),
            (
                Then::CandidateServes(Generation(2)),
                "; generation 2 is starting",
            ),
            (
                within(4200),
                "; restarting unless generation 2 is ready within 4.2s",
            ),
            (
                within(0),
                "; restarting instead of waiting for generation 2",
            ),
        ] {
            assert_eq!(said(then), format!("{died}{next}"));
        }
    }

    #[test]
    fn a_swap_reads_as_the_contract_has_it() {
        let (one, two) = (Generation(1), Generation(2));
        assert_eq!(
            Record::started(one, 4120).text,
            "generation 1 started, pid 4120"
        );
        assert_eq!(
            Record::serving(one, "accepting", ms(38), None).text,
            "generation 1 is serving (accepting after 38ms)"
        );
        assert_eq!(
            Record::serving(two, "accepting", ms(41), Some((one, Some(3)))).text,
            "generation 2 is serving (accepting after 41ms); generation 1 is draining, 3 connections"
        );
        assert_eq!(
            Record::gone(one, ms(1200), Some(&Exit::Status(0))).text,
            "generation 1 is gone after 1.2s (exited with status 0)"
        );
    }

    #[test]
    fn what_to_try_stands_behind_the_whole_sentence() {
        let exit = Exit::CannotRun(126, "cannot run ./server\ntry: chmod +x ./server".into());
        let failure = Failure {
            generation: Generation(3),
            cause: crate::supervisor::Cause::Asked,
            reason: Reason::Exited(exit.clone(), ms(2)),
            rolled_back: false,
            keeps_serving: Some(Generation(2)),
        };
        let hint = "\ntry: chmod +x ./server";
        assert_eq!(
            Record::failed(&failure, None, Some(ms(1000))).text,
            format!(
                "generation 3 aborted: cannot run ./server; generation 2 keeps serving, started 1s ago{hint}"
            )
        );
        assert_eq!(
            Record::dead(Generation(3), &exit, ms(2), Then::End).text,
            format!("generation 3 is dead: cannot run ./server, after 2ms of serving{hint}")
        );
        assert_eq!(
            Record::gone(Generation(3), ms(2), Some(&exit)).text,
            "generation 3 is gone after 2ms (cannot run ./server)"
        );
    }

    #[test]
    fn failures_read_as_the_contract_has_them() {
        let failed = |number, reason, rolled_back| {
            let failure = Failure {
                generation: Generation(number),
                cause: crate::supervisor::Cause::Asked,
                reason,
                rolled_back,
                keeps_serving: Some(Generation(2)),
            };
            Record::failed(&failure, None, None).text
        };
        assert_eq!(
            failed(3, Reason::Exited(Exit::Status(1), ms(12)), false),
            "generation 3 aborted: exited with status 1 after 12ms; generation 2 keeps serving"
        );
        assert_eq!(
            failed(5, Reason::NotReady(ms(30_000)), false),
            "generation 5 aborted: not ready within 30s; generation 2 keeps serving"
        );
        assert_eq!(
            failed(4, Reason::Exited(Exit::Status(1), ms(3200)), true),
            "generation 4 rolled back: exited with status 1 after 3.2s of proving; generation 2 keeps serving"
        );
    }
}
