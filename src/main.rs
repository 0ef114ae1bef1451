//! Prints the one error and picks the exit status; everything else is in the rooms.

mod address;
mod adoption;
mod capture;
mod cli;
mod command;
mod connections;
mod control;
mod drain;
mod escape;
mod file;
#[cfg(test)]
mod floors;
mod handoff;
mod keeper;
mod listener;
mod log;
mod main_loop;
mod polled;
mod proc;
mod program;
mod ready;
mod record;
mod retry;
mod server;
mod signals;
mod smoke;
mod socket;
mod status;
mod stub;
mod supervisor;
mod sys;
mod systemd;
mod upgrade;
mod watch;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::process::{Command, ExitCode, Stdio};

use anyhow::Result;

use cli::{ClientCommand, Invocation};
use control::client::queries;
use control::client::requests::{self, SwapOptions};
use control::{RequestKind, SwapRequest};

/// The exit status of hotswap's own failures.
const OWN_FAILURE: u8 = 125;

fn main() -> ExitCode {
    sys::keep_ended_children();
    let result = if capture::trial::was_asked_for() {
        Ok(capture::trial::run())
    } else if keeper::was_asked_for() {
        keeper::run()
    } else {
        run()
    };
    result.unwrap_or_else(|error| {
        log::last_words(&format!("{error:#}"));
        ExitCode::from(OWN_FAILURE)
    })
}

fn run() -> Result<ExitCode> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let status = match cli::parse(&arguments, |name| std::env::var_os(name)) {
        Ok(Invocation::Run(args)) => {
            log::set_up(&args, std::env::var_os("HOTSWAP_LOG").as_deref());
            main_loop::run(*args)?
        }
        Ok(Invocation::Print(text)) => queries::print_all(&text),
        Ok(Invocation::Manual(text)) => {
            if io::stdout().is_terminal() && is_shown_by_man(&text) {
                0
            } else {
                queries::print_all(&text)
            }
        }
        Ok(Invocation::Client(command)) => ask(command),
        Ok(Invocation::Smoke(trial)) => smoke::run(*trial)?,
        Err(usage) => {
            upgrade::go_back_from_usage(&usage.lines);
            match &usage.object_of {
                Some(command) => requests::tell_usage(command, &usage.lines),
                None => log::last_words(&usage.lines),
            }
            usage.status
        }
    };
    log::finish();
    Ok(ExitCode::from(status))
}

/// Asks a running hotswap; the exit status.
fn ask(mut command: ClientCommand) -> u8 {
    let name = command.target().name.take();
    let name = name.as_deref();
    let done = match command {
        ClientCommand::Swap {
            timeout,
            drained,
            without,
            forget_ready,
            all,
            json,
            check,
            ..
        } => {
            let what = RequestKind::Swap(SwapRequest {
                drained,
                check,
                without: without.iter().map(ToString::to_string).collect(),
                forget_ready,
            });
            let options = SwapOptions {
                what,
                timeout,
                json,
            };
            if all {
                requests::swap_all(&options)
            } else {
                requests::swap(name, &options)
            }
        }
        ClientCommand::Rollback { timeout, json, .. } => {
            let what = RequestKind::Rollback;
            requests::swap(
                name,
                &SwapOptions {
                    what,
                    timeout,
                    json,
                },
            )
        }
        ClientCommand::History { json, .. } => queries::history(name, json),
        ClientCommand::Status { json, watch, .. } => queries::status(name, json, watch),
        ClientCommand::Stop { timeout, json, .. } => Ok(requests::stop(name, timeout, json)),
        ClientCommand::Events { json, .. } => queries::events(name, json),
        ClientCommand::Upgrade { .. } => requests::upgrade(name),
    };
    done.unwrap_or_else(|status| status)
}

/// man(1) formats it for a terminal, a page at a time.
fn is_shown_by_man(text: &str) -> bool {
    let mut man = Command::new("man");
    let Ok(mut man) = man.args(["-l", "-"]).stdin(Stdio::piped()).spawn() else {
        return false;
    };
    if let Some(mut stdin) = man.stdin.take() {
        let _ = stdin.write_all(text.as_bytes());
    }
    man.wait().is_ok_and(|status| status.success())
}
