//! Swaps that wait for one another, and those that do not.

use std::process::Command;

use nix::sys::signal::{Signal, kill};

use crate::common::crowd::Habit;
use crate::common::place::Place;
use crate::common::plan::client_among_ours;
use crate::common::site::Site;

/// Nobody has asked for requests to be cut.
#[test]
fn a_changed_file_waits_for_max_draining() {
    let plan = Site::at(Place::Tcp4).watching();
    let plan = plan.with(&["--max-draining", "1"]).by_odd("think=2s");
    let site = plan.serving("v1");
    let mut clients = site.guests().and(4, Habit::default()).come();
    clients.until_asked(4);
    site.publish("v2");
    site.log.wait_for("generation 2 is serving");
    site.publish("v3");
    site.log.wait_for("the change waits");
    site.log.wait_for("generation 3 is serving");
    clients.expect_no_failure();
    assert!(!site.log.says("is killed"));
}

#[test]
fn a_candidate_that_hangs_gives_way_to_a_request() {
    let site = Site::serving("v1");
    site.publish_odd("v2", "say=hanging hang")
        .signal(Signal::SIGHUP);
    site.log.wait_for("hanging");
    site.publish("v3");
    let clients = site.clients(4);
    while !site.log.says("generation 3 started") && !site.log.says("not ready within") {
        site.signal(Signal::SIGHUP);
        clients.until_answered(100);
    }
    clients.until_all_see("v3");
    assert!(site.log.says("generation 2 aborted: replaced"));
}

fn swap(site: &Site, options: &[&str]) -> Option<i32> {
    let mut command: Command = client_among_ours(site.dir());
    let status = command.arg("swap").args(options).status();
    status.expect("a client").code()
}

#[test]
fn readiness_that_was_said_once_can_be_forgotten() {
    let plan = Site::at(Place::Tcp4).with(&["--ready-timeout", "2s"]);
    let site = plan.by_odd("ready").serving("v1");
    site.publish_odd("v2", "");
    assert_eq!(swap(&site, &[]), Some(1), "it does not say READY=1");
    assert_eq!(swap(&site, &["--forget-ready"]), Some(0));
    // what runs again says no more than before
    kill(site.pid(3), Signal::SIGKILL).expect("a signal to the server");
    site.log.wait_for("generation 4 is serving");
    assert_eq!(swap(&site, &[]), Some(1), "a swap is excused once");
}
