//! The promises of the README, each by name, for steered listeners: TCP and unix paths.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::common::alone;
use crate::common::crowd::{Crowd, Habit};
use crate::common::families::on_every_family;
use crate::common::place::Place;
use crate::common::plan::Plan;
use crate::common::processes::is_alive;
use crate::common::site::Site;

const SWAPS: usize = 30;

/// Everybody at once: a thousand new connections a second, kept ones, hesitating and slow ones.
fn everybody(site: &Site) -> Crowd {
    let guests = site
        .guests()
        .arriving(1000, Habit::default())
        .arriving(20, Habit::hesitating());
    guests
        .arriving(10, Habit::slow())
        .and(8, Habit::kept())
        .come()
}

fn no_connection_is_lost(plan: Plan, swaps: usize) {
    let _alone = alone();
    let site = plan.serving("v1");
    let mut clients = everybody(&site);
    site.swaps(swaps);
    clients.until_all_see(&format!("v{}", swaps + 1));
    clients.expect_no_failure();
}

on_every_family! {
    /// Promise 1, at full load, with every kind of client.
    fn no_connection_is_lost_by_a_graceful_server(plan: Plan) {
        no_connection_is_lost(plan, SWAPS);
    }

    fn no_connection_is_lost_by_a_server_that_dies_of_sigterm(plan: Plan) {
        no_connection_is_lost(plan.by_odd(""), SWAPS / 2);
    }
}

#[test]
fn no_connection_is_lost_on_both_families_at_once() {
    no_connection_is_lost(Plan::at(Place::Dual), SWAPS);
}

on_every_family! {
    /// Promise 2; bad_candidates.rs has every way to be bad.
    fn a_candidate_that_crashes_changes_nothing(plan: Plan) {
        let site = plan.serving("v1");
        let mut clients = site.clients(8);
        site.publish_odd("v2", "say=out-of-luck exit=3");
        let verdict = site.swap_in_vain();
        assert!(
            verdict.contains("generation 2 aborted: exited with status 3 after"),
            "{verdict}"
        );
        assert!(verdict.contains("; generation 1 keeps serving"), "{verdict}");
        clients.until_answered(100);
        clients.expect_no_failure().expect_never_seen("v2");
    }

    /// Promise 3: the candidate accepts from the start, and yet it is given no client before it is ready.
    fn no_client_before_it_is_ready(plan: Plan) {
        let go = plan.dir().join("go");
        fs::write(&go, "").expect("a file");
        let ready = format!("exec:test -e {}", go.display());
        let site = plan
            .with(&["--ready", &ready, "--quiesce", "1s"])
            .serving("v1");
        fs::remove_file(&go).expect("no file");
        let mut clients = site.clients(8);
        // its shell has read the script before that is replaced
        clients.until_all_see("v1");
        let mark = site.log.mark();
        site.publish("v2").signal(Signal::SIGHUP);
        site.log.wait_after(mark, &["generation 2 started"]);
        clients.until_answered(300);
        clients.so_far().expect_never_seen("v2");
        fs::write(&go, "").expect("a file");
        site.log.wait_after(mark, &["generation 2 is serving"]);
        clients.until_all_see("v2");
        clients.expect_no_failure();
    }

    /// Promise 4: though the old one would never stop accepting.
    fn no_connection_after_the_cut_over(plan: Plan) {
        let site = plan
            .with(&["--drain-timeout", "2s"])
            .by_odd("deaf helpers=1 escaped=1")
            .serving("v1");
        let old = site.pid(1);
        site.publish("v2").swap();
        assert!(is_alive(old));
        let mut clients = site.guests().arriving(200, Habit::default()).come();
        site.wait_until_gone(1);
        let tally = clients.expect_no_failure();
        tally.expect_seen("v2").expect_never_seen("v1");
    }

    /// Promise 5: within the drain timeout, though hotswap itself would not wait for it.
    fn a_graceful_server_finishes_a_request_in_flight(plan: Plan) {
        a_request_in_flight_is_finished(plan.with(&["--quiesce", "0s"]));
    }

    fn a_server_that_dies_of_sigterm_finishes_a_request_in_flight(plan: Plan) {
        a_request_in_flight_is_finished(plan.by_odd(""));
    }
}

on_every_family! {
    /// As of a page whose head is sent while its body is made, or of a stream.
    fn an_answer_that_comes_in_parts_is_finished(plan: Plan) {
        let site = plan.by_odd("parts=1500ms").serving("v1");
        let mut clients = site.guests().and(8, Habit::default()).come();
        clients.until_asked(8);
        site.publish("v2").swap();
        let tally = clients.expect_no_failure();
        assert!(tally.versions.get("v1") >= Some(&8), "{tally}");
    }
}

/// The answer takes longer than the swap.
fn a_request_in_flight_is_finished(plan: Plan) {
    let site = plan.serving("v1");
    let mut clients = site.slow_clients(8, Duration::from_secs(2));
    site.publish("v2").swap();
    let tally = clients.expect_no_failure();
    assert_eq!(tally.versions.get("v1"), Some(&8), "{tally}");
}

/// Promise 8.
#[test]
fn the_pid_of_hotswap_never_changes() {
    let mut site = Site::serving("v1");
    let pid = site.hotswap();
    site.swaps(3);
    assert!(is_alive(pid));
    assert!(site.stop().success());
    site.expect_nothing_left();
}
