//! The promises of the README, each by name, for steered listeners: TCP and unix paths.

use std::fs;

use crate::common::alone;
use crate::common::crowd::{Crowd, Habit};
use crate::common::place::Place;
use crate::common::plan::Plan;
use crate::common::processes::is_alive;
use crate::common::site::Site;

const SWAPS: usize = 50;

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

/// Promise 1, at full load, with every kind of client.
fn no_connection_is_lost(plan: Plan) {
    let _alone = alone();
    let site = plan.serving("v1");
    let mut clients = everybody(&site);
    site.swaps(SWAPS);
    clients.until_all_see(&format!("v{}", SWAPS + 1));
    clients.expect_no_failure();
}

#[test]
fn no_connection_is_lost_on_tcp4() {
    no_connection_is_lost(Site::at(Place::Tcp4));
}

#[test]
fn no_connection_is_lost_on_tcp6() {
    no_connection_is_lost(Site::at(Place::Tcp6));
}

#[test]
fn no_connection_is_lost_on_both_families() {
    no_connection_is_lost(Site::at(Place::Dual));
}

#[test]
fn no_connection_is_lost_on_a_unix_path() {
    no_connection_is_lost(Site::at(Place::Unix));
}

#[test]
fn no_connection_is_lost_on_tcp4_by_a_server_that_dies_of_sigterm() {
    no_connection_is_lost(Site::at(Place::Tcp4).by_odd(""));
}

#[test]
fn no_connection_is_lost_on_tcp6_by_a_server_that_dies_of_sigterm() {
    no_connection_is_lost(Site::at(Place::Tcp6).by_odd(""));
}

#[test]
fn no_connection_is_lost_on_a_unix_path_by_a_server_that_dies_of_sigterm() {
    no_connection_is_lost(Site::at(Place::Unix).by_odd(""));
}

/// Promise 2; bad_candidates.rs has every way to be bad.
#[test]
fn a_candidate_that_crashes_changes_nothing() {
    let site = Site::serving("v1");
    let mut clients = site.clients(8);
    site.publish_odd("v2", "say=out-of-luck exit=3");
    let verdict = site.swap_in_vain();
    assert!(
        verdict.contains("generation 2 aborted: exited with status 3 after"),
        "{verdict}"
    );
    assert!(verdict.contains("; generation 1 serves on"), "{verdict}");
    clients.until_answered(100);
    clients.expect_no_failure().expect_never_seen("v2");
}

/// Promise 3: the candidate accepts from the start, and yet it is given nobody before it is ready.
fn no_client_before_it_is_ready(place: Place) {
    let plan = Site::at(place);
    let go = plan.dir().join("go");
    fs::write(&go, "").expect("a file");
    let ready = format!("exec:test -e {}", go.display());
    let site = plan
        .with(&["--ready", &ready, "--quiesce", "1s"])
        .serving("v1");
    fs::remove_file(&go).expect("no file");
    let mut clients = site.clients(8);
    let mark = site.log.mark();
    site.publish("v2").signal(nix::sys::signal::Signal::SIGHUP);
    site.log.wait_after(mark, &["generation 2 started"]);
    clients.until_answered(300);
    clients.so_far().expect_never_seen("v2");
    fs::write(&go, "").expect("a file");
    site.log.wait_after(mark, &["generation 2 is serving"]);
    clients.until_all_see("v2");
    clients.expect_no_failure();
}

#[test]
fn no_client_before_it_is_ready_on_tcp4() {
    no_client_before_it_is_ready(Place::Tcp4);
}

#[test]
fn no_client_before_it_is_ready_on_tcp6() {
    no_client_before_it_is_ready(Place::Tcp6);
}

#[test]
fn no_client_before_it_is_ready_on_a_unix_path() {
    no_client_before_it_is_ready(Place::Unix);
}

/// Promise 4: though the old one would go on accepting for ever.
fn no_connection_after_the_cut_over(place: Place) {
    let site = Site::at(place)
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

#[test]
fn no_connection_after_the_cut_over_on_tcp4() {
    no_connection_after_the_cut_over(Place::Tcp4);
}

#[test]
fn no_connection_after_the_cut_over_on_tcp6() {
    no_connection_after_the_cut_over(Place::Tcp6);
}

#[test]
fn no_connection_after_the_cut_over_on_a_unix_path() {
    no_connection_after_the_cut_over(Place::Unix);
}

/// Promise 5: the answer takes longer than the swap.
fn a_request_in_flight_is_finished(plan: Plan) {
    let site = plan.serving("v1");
    let long = Habit {
        slow: std::time::Duration::from_secs(2),
        ..Habit::default()
    };
    let mut clients = site.guests().and(8, long).come();
    // Others are answered at once: the long requests are under way by then.
    site.guests()
        .and(1, Habit::default())
        .come()
        .until_answered(5);
    site.publish("v2").swap();
    let tally = clients.expect_no_failure();
    assert_eq!(tally.versions.get("v1"), Some(&8), "{tally}");
}

#[test]
fn a_request_in_flight_is_finished_by_a_graceful_server() {
    // Within the drain timeout, though hotswap itself would not wait for it.
    a_request_in_flight_is_finished(Site::at(Place::Tcp4).with(&["--quiesce", "0s"]));
}

#[test]
fn a_request_in_flight_is_finished_by_a_server_that_dies_of_sigterm() {
    a_request_in_flight_is_finished(Site::at(Place::Tcp4).by_odd(""));
}

#[test]
fn a_request_in_flight_is_finished_on_a_unix_path() {
    a_request_in_flight_is_finished(Site::at(Place::Unix).by_odd(""));
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
