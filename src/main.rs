//! The error and the status: everything else is in the rooms.
#![allow(dead_code, unused_imports)] // until the rooms are joined

mod address;
mod capture;
mod cli;
mod connections;
mod control;
mod drain;
mod listener;
mod log;
mod news;
mod ready;
mod signals;
mod status;
mod supervisor;
mod sys;
mod systemd;
mod watch;

fn main() {}
