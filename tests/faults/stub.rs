//! What becomes the server, while one call of it fails: the candidate is given up, or does without.

use std::fs;

use super::{
    Calls, Came, Outcomes, all, descriptors, expect_no_leak, expect_nobody_else, name_of, plan,
    report_in,
};
use crate::common::alone;
use crate::common::crowd::Habit;
use crate::common::place::Place;
use crate::common::site::Site;
use crate::common::strace::{Attached, is_here};

/// The first thing that it does that can fail.
const FIRST: &str = "setpgid(0";
/// A candidate that no client ever comes to, so that what hits it later hurts nobody.
const ENDS: &[u8] = b"#!/bin/sh\nexit 3\n";

/// What the stub calls, one name for each use.
fn life_of_a_stub(site: &Site) -> Vec<String> {
    let report = report_in(site.dir());
    let options = ["-f", "-qqq", &format!("--output={}", report.display())].map(str::to_owned);
    let strace = Attached::with(&options, site.hotswap());
    site.swap_in_vain();
    strace.let_go();
    let calls = fs::read_to_string(&report).expect("the calls");
    let first = calls.lines().find(|line| line.contains(FIRST));
    let pid = first.and_then(|line| line.split(' ').next());
    let pid = pid.expect("a stub");
    let own = calls.lines().filter_map(|line| line.strip_prefix(pid));
    let own: Vec<&str> = own.map(str::trim_start).collect();
    let first = own.iter().position(|call| call.starts_with(FIRST));
    let life = &own[first.expect("its first call")..];
    let last = life.iter().position(|call| call.starts_with("execve("));
    let life = life[..=last.expect("its last call")].iter();
    life.map(|call| name_of(call).to_owned()).collect()
}

#[test]
fn a_stub_bears_every_fault() {
    if !all() || !is_here("a_stub_bears_every_fault") {
        return;
    }
    let _alone = alone();
    let site = plan(Place::Tcp4).serving("v1");
    let mut clients = site.guests().and(2, Habit::default()).come();
    site.publish_file(ENDS, 0o755).swap_in_vain();
    site.swap_in_vain();
    let before = descriptors(site.hotswap()).len() + 2;
    let life = life_of_a_stub(&site);
    let calls = Calls(life.iter().cloned().collect());
    calls.report_unknown("stub");
    Outcomes::of("becoming the server", &calls, |fault| {
        if fault.at > life.iter().filter(|call| *call == fault.call).count() {
            return Came::Not;
        }
        let report = report_in(site.dir());
        let mut options = fault.options(&report);
        options.push("-f".to_owned());
        let strace = Attached::with(&options, site.hotswap());
        let verdict = site.swap_in_vain();
        strace.let_go();
        assert!(verdict.contains("keeps serving"), "{fault:?}: {verdict}");
        clients.until_answered(2);
        expect_nobody_else(&site);
        if verdict.contains("exited with status 3") {
            Came::To("did without")
        } else {
            Came::To("aborted")
        }
    });
    expect_no_leak(&site, before);
    let tally = clients.expect_no_failure();
    println!("{} requests, none failed", tally.answers);
}
