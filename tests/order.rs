//! How generations follow one another: `--order`, `--max-draining`, `--ready`, and what runs before and after.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use nix::sys::signal::{Signal, kill};

use crate::commands::{run, said};
use crate::common::crowd::{Crowd, Habit};
use crate::common::eventually;
use crate::common::families::on_every_family;
use crate::common::place::{Place, Target};
use crate::common::plan::Plan;
use crate::common::processes::is_alive;
use crate::common::site::Site;
use crate::hold::an_upgrade_waits_with;
use crate::upgrade::upgrade;
use crate::watch::binary;

on_every_family! {
    /// Clients wait in the queue of the next one, and none is lost.
    fn stop_first_keeps_clients_waiting(plan: Plan) {
        let site = plan.with(&["--order", "stop-first"]).serving("v1");
        let mut clients = site.guests().arriving(200, Habit::default()).come();
        clients.until_answered(50);
        site.publish_odd("v2", "late=300ms");
        let old = site.pid(1);
        site.signal(Signal::SIGHUP);
        site.log.wait_for("generation 2 started");
        assert!(
            !is_alive(old),
            "the old one is gone before the new one is started"
        );
        site.log.wait_for("generation 2 is serving");
        clients.until_all_see("v2");
        clients.expect_no_failure();
    }
}

/// A server that accepts at once, under stop-first, and is ready once there is a file `go`. The first one is.
fn warming_up(plan: Plan) -> Plan {
    let dir = plan.dir().display();
    let check = format!("exec:echo >> {dir}/tries; test -e {dir}/go");
    fs::write(plan.dir().join("go"), "").expect("a file");
    plan.with(&["--order", "stop-first", "--ready", &check])
}

/// Swaps to one that is not ready yet, and lets clients come to it: they have asked, and it was looked at often since.
fn visited_too_early(site: &Site, words: &str) -> Crowd {
    fs::remove_file(site.dir().join("go")).expect("a file");
    site.publish_odd("v2", words).signal(Signal::SIGHUP);
    site.log.wait_for("generation 2 started");
    let clients = site.guests().and(4, Habit::default()).come();
    clients.until_asked(4);
    let tries = || fs::read(site.dir().join("tries")).expect("a file").len();
    let before = tries();
    eventually("it is looked at", || (tries() > before + 3).then_some(()));
    clients
}

#[test]
fn stop_first_lets_clients_wait_until_the_next_one_is_ready() {
    for place in [Place::Tcp4, Place::Dual, Place::captured()] {
        let site = warming_up(Plan::at(place)).serving("v1");
        let mut clients = visited_too_early(&site, "");
        assert_eq!(clients.so_far().answers, 0, "it is not ready");
        fs::write(site.dir().join("go"), "").expect("a file");
        clients.until_all_see("v2");
        clients.expect_no_failure();
    }
}

#[test]
fn under_stop_first_the_old_one_answers_those_that_waited_for_one_that_fails() {
    let plan = warming_up(Plan::at(Place::Tcp4)).by_binary(binary(1));
    let site = plan.variable("VERSION", "v1").serving("v1");
    let mut clients = visited_too_early(&site, "exit=3 after=1500ms");
    site.log.wait_for("generation 2 aborted");
    site.log.wait_for("generation 3 started");
    assert_eq!(clients.so_far().answers, 0, "neither is ready");
    fs::write(site.dir().join("go"), "").expect("a file");
    clients.until_all_see("v1");
    clients.expect_no_failure().expect_never_seen("v2");
}

#[test]
fn under_stop_first_clients_wait_on_for_the_one_that_replaces_a_candidate() {
    for place in [Place::Tcp4, Place::captured()] {
        let site = warming_up(Plan::at(place)).watching().serving("v1");
        let mut clients = visited_too_early(&site, "");
        site.publish("v3");
        site.log.wait_for("generation 3 started");
        fs::write(site.dir().join("go"), "").expect("a file");
        clients.until_all_see("v3");
        clients.expect_no_failure().expect_never_seen("v2");
    }
}

/// It waits for the verdict, as they do.
#[test]
fn an_upgrade_while_clients_wait_under_stop_first_loses_none() {
    for place in [Place::Tcp4, Place::captured()] {
        let site = warming_up(Plan::at(place)).serving("v1");
        let mut clients = visited_too_early(&site, "");
        an_upgrade_waits_with(&site, &mut clients);
    }
}

/// A restart waits for its time meanwhile, so the upgrade comes at once.
#[test]
fn clients_that_wait_for_a_restart_under_stop_first_wait_on_after_an_upgrade() {
    for place in [Place::Tcp4, Place::Unix] {
        let plain = Plan::at(place.clone()).with(&["--order", "stop-first"]);
        for plan in [plain, warming_up(Plan::at(place))] {
            let go = plan.dir().join("go");
            let site = plan.serving("v1");
            let _ = fs::remove_file(&go);
            site.publish_odd("v2", "exit=3").signal(Signal::SIGHUP);
            site.log.wait_for("generation 2 aborted");
            let mut clients = site.guests().and(4, Habit::default()).come();
            clients.until_asked(4);
            site.log.wait_for("generation 6 aborted");
            upgrade(&site);
            assert_eq!(clients.so_far().answers, 0, "nothing serves");
            site.publish("v3");
            fs::write(&go, "").expect("a file");
            clients.until_all_see("v3");
            clients.expect_no_failure();
        }
    }
}

#[test]
fn clients_that_wait_for_a_change_under_stop_first_wait_on_after_an_upgrade() {
    for place in [Place::Tcp4, Place::captured()] {
        let options = ["--dev", "--order", "stop-first"];
        let site = Plan::at(place).watching().with(&options).serving("v1");
        site.publish_odd("v2", "exit=3");
        site.log.wait_for("nothing serves: waiting for a change");
        let mut clients = site.guests().and(4, Habit::default()).come();
        clients.until_asked(4);
        upgrade(&site);
        site.publish("v3");
        clients.until_all_see("v3");
        clients.expect_no_failure();
    }
}

#[test]
fn a_stop_turns_away_those_that_wait_until_the_next_one_is_ready() {
    let mut site = warming_up(Plan::at(Place::Tcp4)).serving("v1");
    let mut clients = visited_too_early(&site, "");
    site.signal(Signal::SIGTERM);
    site.log.wait_for("refused during the stop");
    site.end();
    assert_eq!(clients.leave().answers, 0);
}

/// It accepts, but those before it have said READY=1.
#[test]
fn under_stop_first_clients_wait_for_a_server_that_says_when_it_is_ready() {
    let plan = Site::at(Place::Tcp4).with(&["--order", "stop-first"]);
    let site = plan.by_odd("ready").serving("v1");
    site.publish_odd("v2", "exit=3 after=600ms")
        .signal(Signal::SIGHUP);
    site.log.wait_for("generation 2 started");
    let mut clients = site.guests().and(4, Habit::default()).come();
    site.log.wait_for("generation 2 aborted");
    site.publish_odd("v3", "ready");
    clients.until_all_see("v3");
    clients.expect_no_failure().expect_never_seen("v2");
}

/// Nobody will answer those that wait for the next one.
#[test]
fn a_stop_turns_away_those_that_wait_under_stop_first() {
    let plan = Site::at(Place::Tcp4).with(&["--order", "stop-first"]);
    let site = plan.by_odd("think=4s").serving("v1");
    let slow = site.guests().and(1, Habit::default()).come();
    slow.until_asked(1);
    let old = site.pid(1);
    site.publish("v2").signal(Signal::SIGHUP);
    let makes_room = || {
        said(&run(&site, &["status"]))
            .contains("to be gone")
            .then_some(())
    };
    eventually("the old one making room", makes_room);
    let [Target::Tcp(address)] = site.targets[..] else {
        panic!("a port");
    };
    let mut waiting = TcpStream::connect(address).expect("a connection");
    waiting
        .write_all(b"GET / HTTP/1.0\r\n\r\n")
        .expect("a request");
    site.signal(Signal::SIGTERM);
    let mut answer = Vec::new();
    let ended = waiting.read_to_end(&mut answer);
    assert!(answer.is_empty(), "{ended:?}");
    assert!(is_alive(old), "the old one still has a request");
}

#[test]
fn stop_first_restarts_when_the_new_one_fails() {
    let site = Site::at(Place::Tcp4)
        .with(&["--order", "stop-first"])
        .serving("v1");
    let mut clients = site.guests().and(4, Habit::default()).come();
    site.publish_odd("v2", "exit=3");
    let verdict = site.swap_in_vain();
    assert!(
        verdict.contains("generation 2 aborted: exited with status 3"),
        "{verdict}"
    );
    site.publish("v3");
    clients.until_all_see("v3");
    clients.expect_no_failure();
}

#[test]
fn the_oldest_is_killed_when_too_many_drain() {
    let plan = Site::at(Place::Tcp4)
        .with(&["--max-draining", "2"])
        .by_odd("deaf");
    let site = plan.serving("v1");
    for version in ["v2", "v3", "v4"] {
        site.publish_odd(version, "deaf").swap();
    }
    let killed = site.log.wait_for("generation 1 is killed");
    assert!(killed.contains("drain"), "{killed}");
    site.wait_until_gone(1);
    assert!(is_alive(site.pid(2)) && is_alive(site.pid(3)) && is_alive(site.pid(4)));
}

#[test]
fn a_command_before_the_swap_can_abort_it() {
    let plan = Site::at(Place::Tcp4);
    let go = plan.dir().join("run/go");
    let before = format!("echo checking; test -e {}", go.display());
    let site = plan.with(&["--before-swap", &before]).serving("v1");
    assert!(!site.log.says("checking"), "not before the first start");
    let verdict = site.publish("v2").swap_in_vain();
    assert!(verdict.contains("aborted: "), "{verdict}");
    site.log.wait_for("checking");
    fs::write(go, "").expect("a file");
    site.swap();
}

/// The restart comes first.
#[test]
fn a_command_before_the_swap_that_a_crash_ends_is_said_to_run_again() {
    let plan = Site::at(Place::Tcp4);
    let done = plan.dir().join("run/done");
    let before = format!(
        "test $HOTSWAP_GENERATION != 2 || sleep 100; echo >> {}",
        done.display()
    );
    let site = plan.with(&["--before-swap", &before]).serving("v1");
    site.publish("v2").signal(Signal::SIGHUP);
    site.log.wait_for("generation 2 waits for: test");
    kill(site.pid(1), Signal::SIGKILL).expect("a signal to the server");
    let said = [
        "--before-swap was ended",
        "generation 3 is serving",
        "generation 4 is serving",
    ];
    site.log.wait_for_all(&said);
    assert!(done.exists());
}

#[test]
fn a_command_before_the_swap_has_its_time() {
    let flags = [
        "--before-swap",
        "sleep 100",
        "--before-swap-timeout",
        "300ms",
    ];
    let site = Site::at(Place::Tcp4).with(&flags).serving("v1");
    let verdict = site.publish("v2").swap_in_vain();
    assert!(verdict.contains("300ms"), "{verdict}");
    eventually("the end of the command", || {
        (crate::common::processes::of_site(site.dir()).len() == 2).then_some(())
    });
}

#[test]
fn events_are_told_to_a_command() {
    let plan = Site::at(Place::Tcp4);
    let told = plan.dir().join("run/told");
    let hook = format!(
        "echo $HOTSWAP_EVENT $HOTSWAP_GENERATION $HOTSWAP_PID >> {}",
        told.display()
    );
    let site = plan.with(&["--on-event", &hook]).serving("v1");
    site.publish("v2").swap().wait_until_gone(1);
    site.publish_odd("v3", "exit=3").swap_in_vain();
    for (event, generation) in [("serving", 1), ("serving", 2), ("gone", 1), ("aborted", 3)] {
        let line = format!("{event} {generation} {}", site.pid(generation));
        eventually(&line, || {
            let told = fs::read_to_string(&told).unwrap_or_default();
            told.lines().any(|told| told == line).then_some(())
        });
    }
}

fn ready_by(mode: &str, words: &str, how: &str) {
    let plan = Site::at(Place::Tcp4).with(&["--ready", mode]).by_odd(words);
    let site = plan.serving("v1");
    site.publish("v2").swap();
    let line = site.log.wait_for("generation 2 is serving");
    assert!(
        line.contains(&format!("generation 2 is serving ({how} after ")),
        "{line}"
    );
    let clients = site.clients(4);
    clients.until_all_see("v2");
}

#[test]
fn ready_when_it_is_seen_accepting() {
    ready_by("auto", "", "accepting");
}

#[test]
fn ready_when_it_says_so() {
    ready_by("notify", "ready", "READY=1");
}

#[test]
fn ready_when_it_writes_a_newline() {
    ready_by("fd:9", "newline=9", "newline on descriptor 9");
}

#[test]
fn ready_when_it_accepts_a_probe() {
    ready_by("tcp", "", "accepted a probe");
}

#[test]
fn ready_when_it_answers_well() {
    ready_by("http:/health", "health=204", "status 204");
}

#[test]
fn ready_when_a_command_says_so() {
    ready_by("exec:kill -0 $HOTSWAP_PID", "", "command succeeded");
}

#[test]
fn ready_after_a_while() {
    ready_by("after:200ms", "", "assumed ready");
}

/// A server that once said READY=1 is waited for until it says it again.
#[test]
fn who_has_said_ready_once_must_say_it_again() {
    let plan = Site::at(Place::Tcp4)
        .with(&["--ready-timeout", "2s"])
        .by_odd("ready");
    let site = plan.serving("v1");
    let verdict = site.publish_odd("v2", "").swap_in_vain();
    assert!(verdict.contains("not ready within 2s"), "{verdict}");
    site.publish_odd("v3", "ready").swap();
}

#[test]
fn an_unhealthy_one_is_not_ready() {
    let flags = ["--ready", "http:/health", "--ready-timeout", "1500ms"];
    let site = Site::at(Place::Tcp4).with(&flags).serving("v1");
    let mut clients = site.clients(8);
    let verdict = site.publish_odd("v2", "health=503").swap_in_vain();
    assert!(verdict.contains("not ready within 1.5s"), "{verdict}");
    clients.until_answered(20);
    clients.expect_no_failure().expect_never_seen("v2");
}
