//! A start, a swap with its drain, and a stop, while one call fails.

use std::fs;
use std::net::TcpListener;

use nix::sys::signal::Signal;

use super::{
    Calls, Came, Outcomes, all, descriptors, expect_no_leak, expect_nobody_else, plan, report_in,
};
use crate::common::crowd::Habit;
use crate::common::place::{Place, Target};
use crate::common::plan::Plan;
use crate::common::site::Site;
use crate::common::strace::{Attached, Fault, Struck, is_here, struck};
use crate::common::{alone, eventually};

/// A server that knows nothing of hotswap and binds an address of its own.
fn captured() -> Plan {
    let free = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address = free.local_addr().expect("its address");
    plan(Place::Nowhere)
        .reached_at(Target::Tcp(address))
        .by_odd(&format!("at={address}"))
}

/// The same, of a unix path.
fn captured_path() -> Plan {
    let plan = plan(Place::Nowhere);
    let path = plan.dir().join("own.sock");
    let words = format!("at=unix:{}", path.display());
    plan.reached_at(Target::Unix(path)).by_odd(&words)
}

/// One hotswap bears all of them, one after the other, and serves all the while.
fn a_swap_bears(what: &str, plan: impl Fn() -> Plan) {
    let _alone = alone();
    let calls = Calls::of(plan());
    calls.report_unknown(what);
    let site = plan().serving("v1");
    let mut clients = site.guests().and(2, Habit::default()).come();
    site.swap().wait_until_gone(1);
    site.swap().wait_until_gone(2);
    let before = descriptors(site.hotswap()).len() + 2;
    let report = report_in(site.dir());
    let moment = format!("swapping and draining, {what}");
    Outcomes::of(&moment, &calls, |fault| {
        let mark = site.log.mark();
        let _ = fs::remove_file(&report);
        let strace = Attached::to(site.hotswap(), fault, &report);
        site.signal(Signal::SIGHUP);
        let verdict = site
            .log
            .wait_after(mark, &["is serving (", " aborted: ", "nothing serves"]);
        let swapped = verdict.contains("is serving (");
        assert!(
            swapped || verdict.contains("; generation"),
            "{fault:?}: {verdict}"
        );
        if swapped {
            site.log.wait_after(mark, &["is gone after"]);
        }
        strace.let_go();
        let came = struck(&report);
        expect_nobody_else(&site);
        if !swapped {
            let mark = site.log.mark();
            site.signal(Signal::SIGHUP);
            let line = site.log.wait_after(mark, &["is serving (", " aborted: "]);
            assert!(line.contains("is serving ("), "after {fault:?}: {line}");
            site.log.wait_after(mark, &["is gone after"]);
        }
        clients.until_answered(2);
        expect_nobody_else(&site);
        let tally = clients.so_far();
        assert!(tally.failures.is_empty(), "{fault:?}: {tally}");
        match came {
            Struck::Nothing => Came::Not,
            Struck::Elsewhere => Came::Elsewhere,
            Struck::Hotswap if swapped => Came::To("swapped"),
            Struck::Hotswap => Came::To("aborted"),
        }
    });
    expect_no_leak(&site, before);
    let tally = clients.expect_no_failure();
    println!("{} requests, none failed", tally.answers);
}

#[test]
fn a_swap_bears_every_fault_on_tcp() {
    if is_here("a_swap_bears_every_fault_on_tcp") {
        a_swap_bears("tcp", || plan(Place::Tcp4));
    }
}

/// Half of these is what the first one shows: only `scripts/faults` runs them.
#[test]
fn a_swap_bears_every_fault_on_a_unix_path() {
    if all() && is_here("a_swap_bears_every_fault_on_a_unix_path") {
        a_swap_bears("unix path", || plan(Place::Unix));
    }
}

#[test]
fn a_swap_bears_every_fault_under_capture() {
    if all() && is_here("a_swap_bears_every_fault_under_capture") {
        a_swap_bears("captured", captured);
    }
}

#[test]
fn a_swap_bears_every_fault_on_a_captured_path() {
    if all() && is_here("a_swap_bears_every_fault_on_a_captured_path") {
        a_swap_bears("captured path", captured_path);
    }
}

fn a_stop_bears(what: &str, plan: impl Fn() -> Plan) {
    let _alone = alone();
    let calls = Calls::of(plan());
    Outcomes::of(&format!("stopping, {what}"), &calls, |fault| {
        // A signal that fails is made up for at the drain timeout.
        let mut site = plan().with(&["--drain-timeout", "2s"]).serving("v1");
        let report = report_in(site.dir());
        let strace = Attached::to(site.hotswap(), fault, &report);
        let status = site.stop();
        strace.let_go();
        let came = struck(&report);
        assert_eq!(status.code(), Some(0), "{fault:?}: {}", site.log.timed());
        expect_nothing_left(&site, fault);
        match came {
            Struck::Nothing => Came::Not,
            Struck::Elsewhere => Came::Elsewhere,
            Struck::Hotswap => Came::To("stopped"),
        }
    });
}

#[test]
fn a_stop_bears_every_fault() {
    if is_here("a_stop_bears_every_fault") {
        a_stop_bears("tcp", || plan(Place::Tcp4));
    }
}

#[test]
fn a_stop_bears_every_fault_on_a_unix_path() {
    if all() && is_here("a_stop_bears_every_fault_on_a_unix_path") {
        a_stop_bears("unix path", || plan(Place::Unix));
    }
}

#[test]
fn a_stop_bears_every_fault_under_capture() {
    if all() && is_here("a_stop_bears_every_fault_under_capture") {
        a_stop_bears("captured", captured_path);
    }
}

/// A server that is captured may meet with the errno itself, and end; or be served uncaptured, and leave its own path.
fn a_start_bears(what: &str, is_captured: bool, plan: impl Fn() -> Plan) {
    let _alone = alone();
    let calls = Calls::of(plan());
    // It may never get as far as to say where it listens.
    Outcomes::of(&format!("starting, {what}"), &calls, |fault| {
        let plan = plan();
        let report = report_in(plan.dir());
        let mut command = vec!["strace".to_owned()];
        command.extend(fault.options(&report));
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let mut site = plan.inside(&command).starting("v1");
        let served = eventually("a start or an end", || {
            // a tree that could not be read at first is a change
            if site.log.says(" is serving (") {
                return Some(true);
            }
            site.has_ended().then_some(false)
        });
        let status = if served { site.stop() } else { site.end() };
        let came = struck(&report);
        if matches!(came, Struck::Elsewhere) {
            return Came::Elsewhere;
        }
        let said = site.log.timed();
        let ended_itself = is_captured && status.code() == Some(1) && !served;
        let expected = if served { 0 } else { 125 };
        assert!(
            ended_itself || status.code() == Some(expected),
            "{fault:?}: {said}"
        );
        if !served && !ended_itself {
            site.log.wait_for(": cannot ");
        }
        if is_captured {
            let _ = fs::remove_file(site.dir().join("own.sock"));
        }
        expect_nothing_left(&site, fault);
        match came {
            Struck::Nothing => Came::Not,
            Struck::Elsewhere => Came::Elsewhere,
            Struck::Hotswap if served => Came::To("served"),
            Struck::Hotswap if ended_itself => Came::To("the server's end"),
            Struck::Hotswap => Came::To("status 125"),
        }
    });
}

#[test]
fn a_start_bears_every_fault() {
    if is_here("a_start_bears_every_fault") {
        a_start_bears("tcp", false, || plan(Place::Tcp4));
    }
}

#[test]
fn a_start_bears_every_fault_on_a_unix_path() {
    if all() && is_here("a_start_bears_every_fault_on_a_unix_path") {
        a_start_bears("unix path", false, || plan(Place::Unix));
    }
}

#[test]
fn a_start_bears_every_fault_under_capture() {
    if all() && is_here("a_start_bears_every_fault_under_capture") {
        a_start_bears("captured", true, captured_path);
    }
}

/// A file that seems not to be there, or of which we cannot tell whose it is, is left alone.
fn expect_nothing_left(site: &Site, fault: &Fault) {
    let _ = fs::remove_dir_all(site.dir().join("run").join("tree"));
    let _ = fs::remove_dir_all(site.dir().join("run").join("reports"));
    if ["ENOENT", "EACCES", "ENOLCK"].contains(&fault.errno) {
        return site.expect_no_process();
    }
    site.expect_nothing_left();
}
