//! hotswap itself is stopped for a while (Ctrl-Z, a debugger, a frozen container), in every state it can be in.
//!
//! Nobody's time runs out whom hotswap could not see meanwhile, and whoever serves goes on serving.

use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};

use crate::capture::at;
use crate::commands::status;
use crate::common::crowd::Habit;
use crate::common::place::{Place, free_address};
use crate::common::plan::Plan;
use crate::common::site::Site;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn while_it_serves_clients_are_answered_and_requests_wait() {
    let site = Site::serving("v1");
    let mut clients = site.clients(8);
    site.while_stopped(|site| {
        clients.until_answered(300);
        site.publish("v2").signal(Signal::SIGHUP);
        clients.until_answered(300);
        assert!(!site.log.says("generation 2"));
    });
    clients.until_all_see("v2");
    clients.expect_no_failure();
}

/// Whoever comes between the crash and the restart waits in the queue.
#[test]
fn a_crash_meanwhile_is_seen_to_afterwards() {
    let site = Site::serving("v1");
    let old = site.pid(1);
    let mut clients = site.while_stopped(|site| {
        kill(old, Signal::SIGKILL).expect("a signal to the server");
        let clients = site.guests().and(50, Habit::default()).come();
        clients.until_asked(50);
        clients
    });
    site.log.wait_for("generation 1 is dead: killed by SIGKILL");
    clients.until_answered(50);
    clients.expect_no_failure();
}

/// The candidate needs hotswap to get ready, and gets all of its time although hotswap was stopped for longer than that.
fn the_candidate_is_not_given_up(plan: Plan, candidate: &str) {
    let site = plan.with(&["--ready-timeout", "1s"]).serving("v1");
    let mut clients = site.clients(8);
    site.publish_odd("v2", candidate).signal(Signal::SIGHUP);
    site.log.wait_for("generation 2 started");
    site.while_stopped(|_| sleep(5 * SECOND / 2));
    site.log.wait_for("generation 2 is serving");
    clients.until_all_see("v2");
    clients.expect_no_failure();
}

#[test]
fn a_candidate_that_waits_for_the_answer_to_its_bind_gets_its_time() {
    let address = free_address();
    let own = format!("at={address}");
    the_candidate_is_not_given_up(at(address).by_odd(&own), &format!("{own} late=300ms"));
}

#[test]
fn a_candidate_that_waits_to_be_probed_gets_its_time() {
    let plan = Site::at(Place::Tcp4).with(&["--ready", "http:/health"]);
    the_candidate_is_not_given_up(plan.by_odd("health=204"), "health=204 hang=300ms");
}

#[test]
fn one_that_proves_itself_still_does_afterwards() {
    let plan = Site::at(Place::Tcp4).with(&["--min-ready", "1s"]);
    let site = plan.serving("v1");
    let mut clients = site.clients(8);
    site.publish("v2").signal(Signal::SIGHUP);
    site.log.wait_for("generation 2 is proving");
    site.while_stopped(|_| {
        clients.until_answered(100);
        sleep(2 * SECOND);
    });
    site.log.wait_for("generation 2 is serving");
    clients.until_all_see("v2");
    clients.expect_no_failure();
}

/// Its death comes before its time to prove itself is over, though both are found at once.
#[test]
fn one_that_died_while_it_had_to_prove_itself_is_rolled_back() {
    let plan = Site::at(Place::Tcp4).with(&["--min-ready", "1s"]);
    let site = plan.serving("v1");
    site.publish("v2").signal(Signal::SIGHUP);
    site.log.wait_for("generation 2 is proving");
    let candidate = site.pid(2);
    site.while_stopped(|_| {
        kill(candidate, Signal::SIGKILL).expect("a signal to the server");
        sleep(2 * SECOND);
    });
    let verdict = site
        .log
        .wait_for("generation 2 rolled back: killed by SIGKILL");
    assert!(verdict.ends_with("generation 1 keeps serving"), "{verdict}");
    let mut clients = site.clients(8);
    clients.until_answered(100);
    clients.expect_no_failure().expect_never_seen("v2");
}

/// Stopped for ten seconds more than the drain timeout: the old one is asked to end, and not killed unasked.
#[test]
fn one_that_drains_is_still_asked_to_end() {
    let plan = Site::at(Place::Tcp4).with(&["--drain-timeout", "4s"]);
    let site = plan.serving("v1");
    let mut kept = site.guests().and(4, Habit::kept()).come();
    let mut slow = site.guests().and(4, Habit::taking(SECOND)).come();
    kept.until_answered(20);
    slow.until_asked(4);
    site.publish("v2").swap();
    site.while_stopped(|_| sleep(14 * SECOND));
    let gone = site.log.wait_for("generation 1 is gone");
    assert!(gone.ends_with("(exited with status 0)"), "{gone}");
    assert!(!site.log.says("is killed"));
    kept.until_all_see("v2").until_answered(20);
    kept.expect_no_failure();
    slow.expect_no_failure();
}

/// Its clock stands still, and the next hotswap goes on by it.
#[test]
fn the_time_is_not_counted_even_after_an_upgrade() {
    let site = Site::at(Place::Tcp4).by_odd("deaf").serving("v1");
    site.publish("v2").swap();
    let (begun, up) = (Instant::now(), uptime(&site));
    site.while_stopped(|_| sleep(3 * SECOND));
    site.signal(Signal::SIGUSR2).log.wait_for("upgraded to");
    let counted = uptime(&site).saturating_sub(up);
    let passed = begun.elapsed();
    assert!(counted + 2 * SECOND < passed, "{counted:?} of {passed:?}");
}

/// By hotswap's own clock.
fn uptime(site: &Site) -> Duration {
    let status = status(site);
    Duration::from_millis(status["uptime_ms"].as_u64().expect("a number"))
}

/// The signal comes while it is stopped, and it is stopped again while its server finishes.
#[test]
fn a_stop_is_finished_afterwards() {
    let plan = Site::at(Place::Tcp4).with(&["--drain-timeout", "5s"]);
    let mut site = plan.serving("v1");
    let mut clients = site.guests().and(8, Habit::taking(2 * SECOND)).come();
    clients.until_asked(8);
    site.while_stopped(|site| {
        site.signal(Signal::SIGTERM);
        assert!(!site.log.says("stopping"));
    });
    site.log.wait_for("stopping");
    site.while_stopped(|_| {
        clients.expect_no_failure();
        sleep(SECOND);
    });
    site.expect_status(0).expect_nothing_left();
}
