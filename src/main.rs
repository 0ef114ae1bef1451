//! The error and the status: everything else is in the rooms.
#![allow(dead_code, unused_imports)] // until the rooms are joined

mod address;
mod capture;
mod cli;
mod command;
mod connections;
mod control;
mod drain;
mod listener;
mod log;
mod news;
mod program;
mod ready;
mod server;
mod signals;
mod status;
mod stub;
mod supervisor;
mod sys;
mod systemd;
mod watch;

use std::process::ExitCode;

fn main() -> ExitCode {
    let result = if stub::was_asked_for() {
        stub::run()
    } else {
        Ok(ExitCode::SUCCESS)
    };
    result.unwrap_or_else(|error| {
        eprintln!("hotswap: {error:#}");
        ExitCode::from(125)
    })
}
