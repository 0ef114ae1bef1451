//! The client commands that only look: status and events.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write, stderr, stdout};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::client::{self, Instance, LOST, Next};
use super::place::Surroundings;
use super::protocol::{Message, What};
use crate::plain::{plain, plain_but_for_hints};
use crate::status;

/// How often `status --watch` looks.
const EVERY: Duration = Duration::from_secs(1);
/// How long an instance may take to say how it is.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the user wants of `hotswap status`.
#[derive(Clone, Copy, Debug, Default)]
pub struct StatusOptions {
    pub json: bool,
    pub watch: bool,
}

/// `hotswap status [NAME]`; the exit status.
pub fn status(name: Option<&str>, options: StatusOptions) -> u8 {
    let clear = options.watch && !options.json && stdout().is_terminal();
    loop {
        let text = match look(name, options.json) {
            Ok(text) => text,
            Err(status) => return status,
        };
        let home = if clear { "\x1b[H\x1b[2J" } else { "" };
        if print(&format!("{home}{text}")).is_err() || !options.watch {
            return 0;
        }
        sleep(EVERY);
    }
}

/// How one or all are, to be read or to be parsed.
fn look(name: Option<&str>, json: bool) -> Result<String, u8> {
    let surroundings = Surroundings::ours();
    let Some(name) = name else {
        let instances = client::all(&surroundings);
        let states: Vec<Value> = instances
            .into_iter()
            .filter_map(|mut instance| state_of(&mut instance).ok())
            .collect();
        return Ok(if json {
            format!("{}\n", Value::Array(states))
        } else {
            status::tables(&states)
        });
    };
    let found = client::find(&surroundings, Some(name), None);
    let mut instance = found.map_err(|nobody| {
        complain(&nobody);
        nobody.status
    })?;
    let state = state_of(&mut instance)?;
    Ok(if json {
        format!("{state}\n")
    } else {
        status::table(&state)
    })
}

fn state_of(instance: &mut Instance) -> Result<Value, u8> {
    instance.ask(What::Status);
    let until = Instant::now() + PATIENCE;
    loop {
        let why = match instance.next(Some(until)) {
            Next::Said(Message::Status(state)) => return Ok(state),
            Next::Said(Message::Error(why) | Message::Refused(why)) => why,
            Next::Said(_) => continue,
            Next::TimedOut => format!("no answer within {}s", PATIENCE.as_secs()),
            Next::Lost => "the connection was lost".into(),
        };
        complain(format!("cannot tell how {} is: {why}", instance.name));
        return Err(LOST);
    }
}

/// `hotswap events [NAME]`, until hotswap ends; the exit status.
pub fn events(name: Option<&str>, json: bool) -> u8 {
    let mut instance = match client::find(&Surroundings::ours(), name, None) {
        Ok(instance) => instance,
        Err(nobody) => {
            complain(&nobody);
            return nobody.status;
        }
    };
    instance.ask(What::Events);
    loop {
        match instance.next(None) {
            Next::Said(Message::Event(event)) => {
                let line = if json {
                    event.to_string()
                } else {
                    let text = event.get("message").and_then(Value::as_str);
                    plain(text.unwrap_or_default())
                };
                // Whoever read us has gone: that is how one stops following.
                if print(&format!("{line}\n")).is_err() {
                    return 0;
                }
            }
            Next::Said(Message::Done(_)) => return 0,
            Next::Said(Message::Error(why) | Message::Refused(why)) => {
                complain(why);
                return LOST;
            }
            Next::Said(_) => {}
            Next::TimedOut | Next::Lost => {
                complain(format!("the connection to {} was lost", instance.name));
                return LOST;
            }
        }
    }
}

fn print(text: &str) -> io::Result<()> {
    let mut stdout = stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Says what went wrong; if even that fails, the exit status says it.
pub fn complain(why: impl Display) {
    let why = plain_but_for_hints(&why.to_string());
    let _ = writeln!(stderr(), "hotswap: {why}");
}
