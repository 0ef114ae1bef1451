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
fn ask(command: ClientCommand) -> u8 {
    let done = match command {
        ClientCommand::Swap {
            target,
            timeout,
            drained,
            without,
            forget_ready,
            all,
            json,
            check,
        } => {
            let request = SwapRequest {
                drained,
                check,
                without: without.iter().map(ToString::to_string).collect(),
                forget_ready,
            };
            let options = SwapOptions {
                what: RequestKind::Swap(request),
                timeout,
                json,
            };
            if all {
                requests::swap_all(&options)
            } else {
                requests::swap(target.name.as_deref(), &options)
            }
        }
        ClientCommand::Rollback {
            target,
            timeout,
            json,
        } => {
            let what = RequestKind::Rollback;
            let options = SwapOptions {
                what,
                timeout,
                json,
            };
            requests::swap(target.name.as_deref(), &options)
        }
        ClientCommand::History { target, json } => queries::history(target.name.as_deref(), json),
        ClientCommand::Status {
            target,
            json,
            watch,
        } => queries::status(target.name.as_deref(), json, watch),
        ClientCommand::Stop {
            target,
            timeout,
            json,
        } => Ok(requests::stop(target.name.as_deref(), timeout, json)),
        ClientCommand::Events { target, json } => queries::events(target.name.as_deref(), json),
        ClientCommand::Upgrade { target } => requests::upgrade(target.name.as_deref()),
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
