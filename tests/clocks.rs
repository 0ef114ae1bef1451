//! The wall clock jumps, or the machine has only just been started: hotswap decides by the monotonic clock, and by
//! differences on it.

use std::process::Command;

use nix::sys::signal::{Signal, kill};

use crate::capture::compile;
use crate::common::place::Place;
use crate::common::plan::Plan;
use crate::common::site::Site;
use crate::common::skipped;

/// A day in the life of a server: watched, swapped, killed, proved, drained to the end of its time, and stopped.
fn all_is_well(plan: Plan) {
    let flags = ["--min-ready", "200ms", "--drain-timeout", "1s"];
    let mut site = plan.with(&flags).watching().by_odd("deaf").serving("v1");
    let mut clients = site.clients(8);
    site.publish("v2");
    site.log.wait_for("generation 2 is serving");
    clients.until_all_see("v2");
    site.log
        .wait_for("generation 1 is killed: it did not end in time");
    site.publish_odd("v3", "");
    site.log.wait_for("generation 3 is serving");
    clients.until_all_see("v3");
    clients.expect_no_failure();
    kill(site.pid(3), Signal::SIGKILL).expect("a signal to the server");
    site.log.wait_for("generation 4 is serving");
    assert!(site.stop().success());
    assert_eq!(site.log.count("started, pid"), 4);
}

#[test]
fn a_wall_clock_that_jumps_changes_nothing() {
    let plan = Site::at(Place::Tcp4);
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers/clock.c");
    let library = plan.dir().join("run/clock.so").display().to_string();
    std::fs::create_dir(plan.dir().join("run")).expect("a directory");
    let arguments = ["-shared", "-fPIC", "-o", &library, source];
    if compile("cc", &arguments, plan.dir()).is_none() {
        return;
    }
    assert!(date(&library).abs_diff(date("")) > 3600, "it jumps");
    all_is_well(plan.variable("LD_PRELOAD", &library));
}

/// In seconds, as date(1) has it with that library.
fn date(library: &str) -> i64 {
    let date = Command::new("date")
        .env("LD_PRELOAD", library)
        .arg("+%s")
        .output();
    let seconds = String::from_utf8(date.expect("date(1)").stdout).expect("text");
    seconds.trim().parse().expect("seconds")
}

/// As in a container that has clocks of its own: nothing is reckoned back to a time before the first second.
#[test]
fn clocks_that_have_only_just_begun_are_as_good_as_any() {
    const NAME: &str = "clocks_that_have_only_just_begun_are_as_good_as_any";
    let uptime = std::fs::read_to_string("/proc/uptime").expect("the uptime");
    let since: u64 = uptime
        .split('.')
        .next()
        .and_then(|seconds| seconds.parse().ok())
        .expect("seconds");
    let back = format!("-{}", since.saturating_sub(1));
    let wrapper = [
        "unshare",
        "--time",
        "--fork",
        "--kill-child",
        "--monotonic",
        &back,
        "--boottime",
        &back,
    ];
    let tried = Command::new(wrapper[0])
        .args(&wrapper[1..])
        .arg("true")
        .output();
    if !tried.is_ok_and(|tried| tried.status.success()) {
        return skipped(NAME, "no time namespace");
    }
    all_is_well(Site::at(Place::Tcp4).inside(&wrapper));
}
