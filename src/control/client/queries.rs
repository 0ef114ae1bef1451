//! The client commands that only read: status, history, and events.

use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, Write, stderr, stdout};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::control::client::{self, Instance, LOST, Received};
use crate::control::protocol::{Reply, RequestKind};
use crate::control::socket_dirs::SocketDirs;
use crate::escape::escape_but_for_hints;
use crate::retry::pause;
use crate::status;

/// How often `status --watch` looks.
const EVERY: Duration = Duration::from_secs(1);

/// The exit status of a client command; as an error, one whose reason the user has been told already.
pub type CommandStatus = Result<u8, u8>;

/// `hotswap status [NAME]`.
///
/// # Errors
/// As [`find`].
pub fn status(name: Option<&str>, json: bool, watch: bool) -> CommandStatus {
    let clear = watch && !json && stdout().is_terminal();
    loop {
        let (text, status) = look(name, json)?;
        let home = if clear { "\x1b[H\x1b[2J" } else { "" };
        let text = format!("{home}{text}");
        if !watch {
            return Ok(print_all(&text).max(status));
        }
        if let Err(error) = print(&text) {
            return Ok(written(Err(error)));
        }
        pause(EVERY);
    }
}

/// The status of one or all instances, as a table or as JSON; and the exit status, by those that do not answer.
fn look(name: Option<&str>, json: bool) -> Result<(String, u8), u8> {
    let dirs = SocketDirs::ours();
    let Some(name) = name else {
        let (instances, mute) = client::all(&dirs, false);
        for one in &mute {
            complain(format!("{} does not answer{}", one.name, one.why_silent()));
        }
        let asked = instances.len() + mute.len();
        let states: Vec<Value> = instances
            .into_iter()
            .filter_map(|mut instance| state_of(&mut instance).ok())
            .collect();
        let exit = if states.len() < asked { LOST } else { 0 };
        let others = (asked == 0).then(|| client::of_others(&dirs)).flatten();
        if let Some(others) = &others {
            complain(others);
        }
        let text = if json {
            format!("{}\n", Value::Array(states))
        } else if states.is_empty() && (exit != 0 || others.is_some()) {
            String::new()
        } else {
            status::tables(&states)
        };
        return Ok((text, exit));
    };
    let mut instance = find(Some(name), None)?;
    let state = state_of(&mut instance)?;
    let text = if json {
        format!("{state}\n")
    } else {
        status::table(&state)
    };
    Ok((text, 0))
}

/// The instance of that name, or the only one.
///
/// # Errors
/// The exit status, once the user has been told why no instance was found.
pub fn find(name: Option<&str>, until: Option<Instant>) -> Result<Instance, u8> {
    client::find(&SocketDirs::ours(), name, until).map_err(|nobody| {
        complain(&nobody.why);
        nobody.status
    })
}

/// What `hotswap status --json` shows.
///
/// # Errors
/// The exit status, if it does not answer.
pub fn state_of(instance: &mut Instance) -> Result<Value, u8> {
    answer(instance, &RequestKind::Status)
}

/// `hotswap history [NAME]`.
///
/// # Errors
/// As [`find`], and if it does not answer.
pub fn history(name: Option<&str>, json: bool) -> CommandStatus {
    let verdicts = answer(&mut find(name, None)?, &RequestKind::History)?;
    Ok(print_all(&if json {
        format!("{verdicts}\n")
    } else {
        status::history(&verdicts)
    }))
}

fn answer(instance: &mut Instance, what: &RequestKind) -> Result<Value, u8> {
    instance.answer(what).map_err(|why| {
        complain(format!(
            "cannot get an answer from {}: {why}",
            instance.name
        ));
        LOST
    })
}

/// `hotswap events [NAME]`, until hotswap ends.
///
/// # Errors
/// As [`find`], and if the connection is lost.
pub fn events(name: Option<&str>, json: bool) -> CommandStatus {
    let mut instance = find(name, None)?;
    instance.ask(&RequestKind::Events);
    loop {
        match instance.next(None) {
            Received::Said(Reply::Event(event)) => {
                let line = if json {
                    event.to_string()
                } else {
                    let text = event.get("message").and_then(Value::as_str);
                    escape_but_for_hints(text.unwrap_or_default())
                };
                // The reader has gone: that is how one stops following.
                if let Err(error) = print(&format!("{line}\n")) {
                    return Ok(written(Err(error)));
                }
            }
            Received::Said(Reply::Done(_)) => return Ok(0),
            Received::Said(Reply::Error(why) | Reply::Refused(why)) => {
                complain(why);
                return Err(LOST);
            }
            Received::Said(_) => {}
            Received::TimedOut | Received::Lost => return Err(lost(&instance)),
        }
    }
}

/// Says that the connection was lost; the exit status.
pub fn lost(instance: &Instance) -> u8 {
    complain(format!("the connection to {} was lost", instance.name));
    LOST
}

/// # Errors
/// Those of write(2).
pub fn print(text: &str) -> io::Result<()> {
    let mut stdout = stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Prints what was asked for; the exit status.
pub fn print_all(text: &str) -> u8 {
    written(print(text))
}

/// Says what could not be written; the exit status. A reader that has left has got enough.
pub fn written(result: io::Result<()>) -> u8 {
    match result {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            complain(format_args!("cannot write to stdout: {error}"));
            LOST
        }
        Ok(()) | Err(_) => 0,
    }
}

/// Prints an error; if even that fails, the exit status remains.
pub fn complain(why: impl Display) {
    let why = escape_but_for_hints(&why.to_string());
    let _ = writeln!(stderr(), "hotswap: {why}");
}
