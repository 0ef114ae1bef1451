//! After an upgrade of hotswap everything goes on as if nothing had happened.

use std::net::TcpStream;
use std::process::{Child, Output};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::commands::{ended, run, start, status};
use crate::common::eventually;
use crate::common::log::Log;
use crate::common::place::{Place, free_address};
use crate::common::plan::Plan;
use crate::common::site::Site;
use crate::upgrade::upgrade;

fn output_of(mut client: Child) -> Output {
    eventually("the end of a client", || {
        client.try_wait().expect("a child")
    });
    client.wait_with_output().expect("its output")
}

fn a_swap_an_upgrade_and_a_swap(place: Place) {
    let site = Site::at(place).serving("v1");
    let mut clients = site.clients(8);
    clients.until_answered(100);
    let pid = site.hotswap();
    site.publish("v2").swap();
    upgrade(&site);
    assert_eq!(site.hotswap(), pid);
    site.publish("v3").swap().wait_until_gone(2);
    clients.until_all_see("v3");
    clients.expect_no_failure();
    site.log.wait_for("generation 3 is serving");
    site.log.wait_for("generation 1 is gone");
}

#[test]
fn a_swap_an_upgrade_and_a_swap_on_tcp6() {
    a_swap_an_upgrade_and_a_swap(Place::Tcp6);
}

#[test]
fn a_swap_an_upgrade_and_a_swap_on_a_shared_socket() {
    a_swap_an_upgrade_and_a_swap(Place::Abstract);
}

#[test]
fn again_and_again() {
    let mut site = Site::at(Place::Tcp4).serving("v1");
    let mut clients = site.clients(4);
    for version in ["v2", "v3", "v4", "v5"] {
        upgrade(&site);
        upgrade(&site);
        site.publish(version).swap();
    }
    clients.until_all_see("v5");
    clients.expect_no_failure();
    assert!(site.stop().success());
    site.expect_nothing_left();
}

#[test]
fn figures_and_words_go_on() {
    let site = Site::at(Place::Tcp4).serving("v1");
    site.publish("v2").swap().wait_until_gone(1);
    let before = status(&site);
    upgrade(&site);
    let after = status(&site);
    for key in ["name", "pid", "socket", "command", "counters", "state"] {
        assert_eq!(before[key], after[key], "{key}");
    }
    assert_eq!(
        before["last_swap"]["message"],
        after["last_swap"]["message"]
    );
    assert!(after["uptime_ms"].as_u64() >= before["uptime_ms"].as_u64());
    let generation = |status: &Value, key| status["generations"][0][key].clone();
    for key in ["generation", "role", "pid"] {
        assert_eq!(generation(&before, key), generation(&after, key), "{key}");
    }
    assert!(generation(&after, "age_ms").as_u64() >= generation(&before, "age_ms").as_u64());
}

#[test]
fn asked_for_while_one_proves_itself_it_waits() {
    let site = Site::at(Place::Tcp4)
        .with(&["--min-ready", "2s"])
        .serving("v1");
    site.publish("v2").signal(Signal::SIGHUP);
    site.log.wait_for("generation 2 is proving");
    upgrade(&site);
    let order = ["generation 2 is serving", "upgraded to"];
    site.log.wait_for_all(&order);
}

#[test]
fn what_drains_drains_on() {
    let site = Site::at(Place::Tcp4).serving("v1");
    let mut clients = site.slow_clients(4, Duration::from_secs(3));
    site.publish("v2").swap();
    upgrade(&site);
    assert!(!site.log.says("generation 1 is gone"));
    assert_eq!(status(&site)["generations"][1]["role"], "draining");
    site.wait_until_gone(1);
    clients.expect_no_failure();
}

#[test]
fn a_drain_timeout_goes_on_where_it_was() {
    let site = Site::at(Place::Tcp4)
        .by_odd("deaf")
        .with(&["--drain-timeout", "4s"])
        .serving("v1");
    let begun = Instant::now();
    site.publish_odd("v2", "deaf").swap();
    upgrade(&site);
    site.wait_until_gone(1);
    site.log.wait_for("generation 1 is killed");
    assert!(begun.elapsed() >= Duration::from_millis(3900));
    // By its own clock: 4s, however long the upgrade took.
    let gone = site.log.wait_for("generation 1 is gone after 4");
    assert!(
        gone.contains("after 4s") || gone.contains("after 4."),
        "{gone}"
    );
}

#[test]
fn asked_for_while_hotswap_stops_it_is_refused() {
    let site = Site::at(Place::Tcp4)
        .by_odd("deaf")
        .with(&["--drain-timeout", "3s"])
        .serving("v1");
    site.signal(Signal::SIGTERM);
    site.log.wait_for("stopping");
    let output = run(&site, &["upgrade", "server"]);
    ended(&output, 1, &["hotswap is stopping"]);
}

#[test]
fn clients_that_wait_get_their_answers_from_the_next() {
    let site = Site::at(Place::Tcp4)
        .by_odd("deaf")
        .with(&["--drain-timeout", "4s"])
        .serving("v1");
    let mut follower = start(&site, &["events", "server", "--json"]);
    let events = Log::of(follower.stdout.take().expect("its stdout"), Instant::now());
    let patient = start(site.publish("v2"), &["swap", "server", "--drained"]);
    site.log.wait_for("generation 2 is serving");
    upgrade(&site);
    ended(&output_of(patient), 0, &[]);
    site.log.wait_for("generation 1 is gone");
    events.wait_for("\"gone\"");
    let stopping = start(&site, &["stop", "server"]);
    ended(&output_of(stopping), 0, &[]);
    ended(&output_of(follower), 0, &[]);
}

#[test]
fn a_crash_after_it_is_followed_by_a_restart() {
    let site = Site::at(Place::Tcp4).serving("v1");
    upgrade(&site);
    kill(site.pid(1), Signal::SIGKILL).expect("a signal to the server");
    site.log.wait_for("generation 2 is serving");
    site.clients(2).until_answered(10);
}

/// At any moment of it, in steps of 2 ms.
#[test]
fn a_crash_during_it_is_followed_by_a_restart() {
    for moment in 0..30 {
        let site = Site::at(Place::Tcp4).serving("v1");
        site.signal(Signal::SIGUSR2);
        sleep(Duration::from_millis(moment * 2));
        kill(site.pid(1), Signal::SIGKILL).expect("a signal to the server");
        site.log.wait_for("generation 1 is dead");
        site.log.wait_for("generation 2 is serving");
    }
}

#[test]
fn a_changed_program_is_seen_after_it() {
    let site = Site::at(Place::Tcp4).watching().serving("v1");
    upgrade(&site);
    site.publish("v2");
    site.log.wait_for("generation 2 is serving");
    // What has not changed is no news.
    upgrade(&site);
    site.publish("v3");
    site.log.wait_for("generation 3 is serving");
    assert_eq!(site.log.count("started, pid"), 3);
}

#[test]
fn what_a_server_says_is_passed_on_after_it() {
    let site = Site::at(Place::Tcp4).serving("v1");
    site.publish_odd("v2", "say=before").swap();
    upgrade(&site);
    site.publish_odd("v3", "say=afterwards").swap();
    site.log.wait_for("afterwards");
    let output = run(
        site.publish_odd("v4", "say=no-database exit=3"),
        &["swap", "server"],
    );
    ended(&output, 1, &["no-database"]);
}

fn roles(site: &Site) -> Vec<(u64, String)> {
    let status = status(site);
    let generations = status["generations"].as_array().expect("generations");
    let role = |one: &Value| {
        let number = one["generation"].as_u64().expect("a number");
        (number, one["role"].as_str().expect("a role").to_owned())
    };
    generations.iter().map(role).collect()
}

/// Beside what a killed hotswap has left; its own first generation has failed, and a change is waited for.
fn waiting_beside_orphans(plan: Plan, leave: impl FnOnce(&Site)) -> Site {
    let mut site = plan.with(&["--dev"]).serving("v1");
    leave(&site);
    site.kill_hotswap();
    site.publish_odd("broken", "exit=7");
    site.start_again().log.wait_for(" aborted: exited");
    site
}

#[test]
fn what_was_adopted_drains_with_the_others_after_it() {
    let site = waiting_beside_orphans(Site::at(Place::Tcp4).by_odd(""), |site| {
        site.publish_odd("v2", "late=60s").signal(Signal::SIGHUP);
        site.executed(2);
    });
    let before = roles(&site);
    let orphans = [(2, "draining".to_owned()), (1, "serving".to_owned())];
    assert_eq!(before, orphans);
    upgrade(&site);
    assert_eq!(roles(&site), before);
    site.publish("v4").swap();
    site.wait_until_gone(1).wait_until_gone(2);
}

#[test]
fn what_serves_elsewhere_too_is_left_alone_after_it() {
    let elsewhere = free_address();
    let plan = Site::at(Place::Tcp4).with(&["--capture", "never"]);
    let plan = plan.by_odd(&format!("and={elsewhere}"));
    let site = waiting_beside_orphans(plan, |site| {
        eventually("its other address", || TcpStream::connect(elsewhere).ok());
        site.log.wait_for("generation 1 is serving");
    });
    upgrade(&site);
    site.publish_odd("v3", "").swap();
    let left = format!("still serves {elsewhere}, and is left alone");
    site.log.wait_for(&left);
}
