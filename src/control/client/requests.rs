//! The client commands that change something: swap, rollback, stop, upgrade.
//!
//! The exit status says what happened. Interrupting the client does not interrupt the request.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::queries::{CommandStatus, complain, find, lost, print_all};
use crate::control::client::{self, Instance, LOST, NOBODY, Received};
use crate::control::protocol::{Reply, RequestKind, SwapVerdict};
use crate::control::socket_dirs::SocketDirs;
use crate::escape::{divide_hint, escape, escape_but_for_hints};
use crate::record::format_duration;

const FAILED: u8 = 1;
const USAGE: u8 = 2;
const TIMED_OUT: u8 = 124;

/// The options of `hotswap swap` and `hotswap rollback`.
#[derive(Clone, Debug)]
pub struct SwapOptions {
    pub what: RequestKind,
    pub timeout: Option<Duration>,
    /// Print one object instead of lines.
    pub json: bool,
}

/// `hotswap swap [NAME]` and `hotswap rollback [NAME]`.
///
/// # Errors
/// If no instance was found.
pub fn swap(name: Option<&str>, options: &SwapOptions) -> CommandStatus {
    let until = deadline(options.timeout);
    let found = client::find(&SocketDirs::ours(), name, until);
    let mut instance = found.map_err(|nobody| {
        tell_no_verdict(name, nobody.result(), &nobody.why, options.json);
        nobody.status
    })?;
    instance.ask(&options.what);
    Ok(follow(&mut instance, until, options, ""))
}

/// `hotswap swap --all`: all at once; the highest of their statuses.
///
/// # Errors
/// If there is none.
pub fn swap_all(options: &SwapOptions) -> CommandStatus {
    let until = deadline(options.timeout);
    let dirs = SocketDirs::ours();
    let (mut instances, mute) = client::all(&dirs, true);
    for instance in &mut instances {
        instance.ask(&options.what);
    }
    for one in &mute {
        let why = format!("{} does not answer{}", one.name, one.why_silent());
        tell_no_verdict(Some(&one.name), "lost", &why, options.json);
    }
    if instances.is_empty() && mute.is_empty() {
        let others = client::of_others(&dirs);
        let why = others.unwrap_or_else(|| "no instance is running".into());
        tell_no_verdict(None, "not-found", &why, options.json);
        return Err(NOBODY);
    }
    let statuses = instances.iter_mut().map(|instance| {
        let whose = format!("{}: ", instance.name);
        follow(instance, until, options, &whose)
    });
    let silent = (!mute.is_empty()).then_some(LOST);
    Ok(statuses.chain(silent).max().unwrap_or(0))
}

/// `hotswap stop [NAME]`; the exit status.
pub fn stop(name: Option<&str>, timeout: Option<Duration>, json: bool) -> u8 {
    let until = deadline(timeout);
    let mut found = client::find(&SocketDirs::ours(), name, until);
    let (status, result, message) = match &mut found {
        Ok(instance) => stop_instance(instance, timeout, until, json),
        Err(nobody) => (nobody.status, nobody.result(), Some(nobody.why.clone())),
    };
    if json {
        let name = found.as_ref().map_or(name, |instance| Some(&instance.name));
        write_object(name, json!({"result": result, "message": message}));
    } else if let Some(why) = message {
        complain(why);
    }
    status
}

/// The exit status, what came of it, and why not.
fn stop_instance(
    instance: &mut Instance,
    timeout: Option<Duration>,
    until: Option<Instant>,
    json: bool,
) -> (u8, &'static str, Option<String>) {
    instance.ask(&RequestKind::Stop);
    match end(instance, until, !json) {
        Received::Said(Reply::Done(_)) => {
            instance.await_end();
            (0, "stopped", None)
        }
        Received::Said(Reply::Error(why) | Reply::Refused(why)) => (LOST, "refused", Some(why)),
        Received::TimedOut => {
            let patience = format_duration(timeout.unwrap_or_default());
            let name = &instance.name;
            let why = if instance.has_answered {
                format!("{name} is still stopping after {patience}")
            } else {
                let why = instance.why_silent();
                format!("{name} does not answer within {patience}, but may still act on it{why}")
            };
            (TIMED_OUT, "timeout", Some(why))
        }
        Received::Said(_) | Received::Lost => {
            let why = format!("the connection to {} was lost", instance.name);
            (LOST, "lost", Some(why))
        }
    }
}

/// One line of `--json`.
fn write_object(name: Option<&str>, mut object: Value) {
    object["name"] = name.into();
    print_all(&format!("{object}\n"));
}

/// Why there is no verdict.
fn tell_no_verdict(name: Option<&str>, result: &str, why: &str, json: bool) {
    if json {
        let object = json!({"result": result, "serving": false, "message": why});
        write_object(name, object);
    } else {
        complain(why);
    }
}

/// What is wrong with the command line, as the object that `--json` asks for.
pub fn tell_usage(command: &str, why: &str) {
    if command == "stop" {
        write_object(None, json!({"result": "usage", "message": why}));
    } else {
        tell_no_verdict(None, "usage", why, true);
    }
}

/// `hotswap upgrade [NAME]`.
///
/// # Errors
/// As [`find`].
pub fn upgrade(name: Option<&str>) -> CommandStatus {
    let mut instance = find(name, None)?;
    instance.ask(&RequestKind::Upgrade);
    Ok(match end(&mut instance, None, true) {
        Received::Said(Reply::Done(_)) => 0,
        Received::Said(Reply::Refused(why)) => {
            complain(format!("cannot upgrade {}: {why}", instance.name));
            FAILED
        }
        Received::Said(Reply::Error(why)) => {
            complain(why);
            LOST
        }
        Received::Said(_) | Received::TimedOut | Received::Lost => lost(&instance),
    })
}

fn deadline(timeout: Option<Duration>) -> Option<Instant> {
    timeout.and_then(|timeout| Instant::now().checked_add(timeout))
}

/// The final message. Events before it are printed, except warnings: a refusal is also the answer.
fn end(instance: &mut Instance, until: Option<Instant>, shown: bool) -> Received {
    loop {
        match instance.next(until) {
            Received::Said(Reply::Event(_)) if !shown => {}
            Received::Said(Reply::Event(event)) => {
                let text = |key| event.get(key).and_then(Value::as_str);
                if let Some(message) = text("message").filter(|_| text("event") != Some("warning"))
                {
                    print_all(&format!("{message}\n"));
                }
            }
            Received::Said(Reply::Greeting { .. } | Reply::Progress(_)) => {}
            next => return next,
        }
    }
}

fn follow(
    instance: &mut Instance,
    until: Option<Instant>,
    options: &SwapOptions,
    whose: &str,
) -> u8 {
    let mut progress = ProgressLine::new(whose);
    let mut last = None;
    let is_drained = matches!(&options.what, RequestKind::Swap(swap) if swap.drained);
    let mut serves = false;
    let (status, result, message) = loop {
        match instance.next(until) {
            Received::Said(Reply::Event(event)) => {
                let text = |key| event.get(key).and_then(Value::as_str);
                last = text("message").map(str::to_owned);
                let is_end = match text("event") {
                    Some("serving" | "aborted" | "rolled-back") => true,
                    // that a candidate which was only checked is ready
                    Some("notice") => event.get("after_ms").is_some(),
                    _ => false,
                };
                serves |= is_drained && text("event") == Some("serving");
                // The verdict says it too.
                if !options.json && text("event") != Some("gone") {
                    progress.step(text("message").unwrap_or_default(), is_end);
                }
            }
            Received::Said(Reply::Progress(text)) => {
                if !options.json {
                    progress.step(&text, false);
                }
                last = Some(text);
            }
            Received::Said(Reply::Verdict(verdict)) if options.json => {
                write_object(Some(&instance.name), json!(verdict));
                return if verdict.is_good() { 0 } else { FAILED };
            }
            Received::Said(Reply::Verdict(verdict)) => return progress.verdict(&verdict),
            Received::Said(Reply::Refused(why)) => break (FAILED, "refused", why),
            Received::Said(Reply::Usage(why)) => break (USAGE, "usage", why),
            Received::Said(Reply::Error(why)) => break (LOST, "error", why),
            Received::Said(Reply::Greeting { .. } | Reply::Status(_) | Reply::Done(_)) => {}
            Received::TimedOut => {
                let patience = format_duration(options.timeout.unwrap_or_default());
                let (lacks, goes_on) = match &options.what {
                    RequestKind::Swap(swap) if swap.check => ("no verdict", "the check continues"),
                    _ if serves => ("the old generation is not gone", "it is still draining"),
                    _ => ("no verdict", "the swap continues"),
                };
                let then = if instance.has_answered {
                    goes_on.to_owned()
                } else {
                    let (name, why) = (&instance.name, instance.why_silent());
                    format!("{name} does not answer, but may still act on it{why}")
                };
                let last = last.map_or(String::new(), |last| {
                    format!("; the last message was: {}", divide_hint(&last).0)
                });
                let why = format!("{lacks} within {patience}; {then}{last}");
                break (TIMED_OUT, "timeout", why);
            }
            Received::Lost => {
                let name = &instance.name;
                let why = format!("the connection to {name} was lost before the verdict");
                break (LOST, "lost", why);
            }
        }
    };
    if options.json {
        let object = json!({"result": result, "serving": serves, "message": message});
        write_object(Some(&instance.name), object);
    } else {
        progress.clear();
        complain(format!("{whose}{message}"));
    }
    status
}

/// The progress of a swap: one changing line on a terminal, a line per step elsewhere.
struct ProgressLine<'a> {
    whose: &'a str,
    terminal: bool,
    /// It may be the verdict, which is printed only once.
    held: Option<String>,
}

impl<'a> ProgressLine<'a> {
    fn new(whose: &'a str) -> Self {
        Self {
            whose,
            terminal: stdout().is_terminal(),
            held: None,
        }
    }

    fn step(&mut self, text: &str, is_end: bool) {
        let line = escape_but_for_hints(&format!("{}{text}", self.whose));
        if self.terminal {
            let line: String = line.chars().take_while(|c| *c != '\n').take(79).collect();
            print_all(&format!("\r\x1b[2K{line}"));
            return;
        }
        self.clear();
        if is_end {
            self.held = Some(line);
        } else {
            print_all(&format!("{line}\n"));
        }
    }

    /// Makes room for a line of another kind.
    fn clear(&mut self) {
        if self.terminal {
            print_all("\r\x1b[2K");
        }
        if let Some(line) = self.held.take() {
            print_all(&format!("{line}\n"));
        }
    }

    fn verdict(&mut self, verdict: &SwapVerdict) -> u8 {
        let line = escape_but_for_hints(&format!("{}{}", self.whose, verdict.text));
        self.held = self.held.take().filter(|held| *held != line);
        self.clear();
        if verdict.is_good() {
            print_all(&format!("{line}\n"));
            return 0;
        }
        complain(line);
        for line in &verdict.last_lines {
            let _ = writeln!(stderr(), "{}", escape(line));
        }
        FAILED
    }
}
