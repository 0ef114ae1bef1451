//! The words on the screen: one line an event, in these words and no others.

use std::net::TcpListener;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::common::place::Place;
use crate::common::site::Site;
use crate::common::{eventually, processes, server};

/// The line with every number and duration replaced by `N`.
fn shape(line: &str) -> String {
    let mut shape = String::new();
    let mut inside = false;
    for part in line.chars() {
        let digit = part.is_ascii_digit() || (inside && part == '.');
        if !digit {
            shape.push(part);
        } else if !inside {
            shape.push('N');
        }
        inside = digit;
    }
    shape.replace("Nms", "D").replace("Ns", "D")
}

#[test]
fn a_swap_is_told_line_by_line() {
    let mut site = Site::serving("v1");
    site.publish("v2").swap().wait_until_gone(1);
    assert!(site.stop().success());
    let said: Vec<_> = site
        .log
        .lines("hotswap: ")
        .iter()
        .map(|line| shape(line))
        .collect();
    let expected = [
        "hotswap: listening on N:N",
        "hotswap: generation N started, pid N",
        "hotswap: generation N is serving (accepting after D)",
        "hotswap: generation N started, pid N",
        "hotswap: generation N is serving (accepting after D); generation N is draining, N connections",
        "hotswap: generation N is gone after D (exited with status N)",
    ];
    assert_eq!(said[..expected.len()], expected, "{}", site.log.timed());
    let last = said.last().expect("a last line");
    assert_eq!(
        last,
        "hotswap: generation N is gone after D (exited with status N)"
    );
}

#[test]
fn every_address_is_announced() {
    let plan = Site::at(Place::Tcp4);
    let path = plan.dir().join("run/admin.sock").display().to_string();
    let site = plan
        .with(&["--listen", &path, "--listen", "web=[::1]:0"])
        .serving("v1");
    site.log.wait_for("hotswap: listening on 127.0.0.1:");
    site.log.wait_for("hotswap: listening on [::1]:");
    site.log.wait_for(&path);
}

#[test]
fn json_events_can_be_parsed() {
    let plan = Site::at(Place::Nowhere).with(&["--log-format", "json", "--listen", "127.0.0.1:0"]);
    let mut site = plan.serving("v1");
    site.publish("v2").signal(Signal::SIGHUP);
    site.log.wait_for("generation 1 is gone");
    assert!(site.stop().success());
    let lines = site.log.lines("{");
    let events: Vec<Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).expect("an object a line"))
        .collect();
    assert!(
        events
            .iter()
            .all(|event| event["time"].is_string() || event["time"].is_number())
    );
    let names: Vec<_> = events
        .iter()
        .filter_map(|event| event["event"].as_str())
        .collect();
    assert_eq!(
        names[..5],
        ["listening", "started", "serving", "started", "serving"]
    );
    let serving = &events[4];
    assert_eq!(serving["generation"], 2);
    assert_eq!(serving["reason"], "accepting");
    assert!(
        serving["after_ms"].is_u64() && serving["connections"].is_u64(),
        "{serving}"
    );
    assert!(events[3]["pid"].is_u64(), "{}", events[3]);
}

#[test]
fn quiet_says_what_went_wrong_and_nothing_else() {
    let plan = Site::at(Place::Nowhere).with(&["-q", "--listen", "127.0.0.1:0"]);
    let mut site = plan.opening("v1");
    // It says nothing of its start: the abort is the first line there is.
    eventually("the server", || {
        let all = processes::of_site(site.dir());
        all.iter()
            .any(|pid| processes::status(*pid, "Name").is_some_and(|n| n == "hello"))
            .then_some(())
    });
    site.publish_odd("v2", "exit=3");
    let verdict = site.swap_in_vain();
    assert!(
        verdict.contains("generation 2 aborted: exited with status 3"),
        "{verdict}"
    );
    assert!(site.stop().success());
    assert_eq!(site.log.lines("hotswap: ").len(), 1, "{}", site.log.timed());
}

#[test]
fn the_output_of_the_server_is_its_own() {
    let site = Site::at(Place::Tcp4)
        .by_odd("say=from-the-server")
        .serving("v1");
    assert_eq!(site.log.lines("from-the-server"), ["from-the-server"]);
}

#[test]
fn what_a_candidate_was_waited_for_in_vain_is_said() {
    let plan = Site::at(Place::Tcp4).with(&["--ready-timeout", "1s"]);
    let site = plan.serving("v1");
    site.publish_odd("v2", "hang");
    site.swap_in_vain();
    assert!(site.log.says("generation 2 does not accept on 127.0.0.1:"));
}

#[test]
fn who_has_the_port_that_a_server_cannot_bind_is_said() {
    let theirs = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = theirs.local_addr().expect("its address").to_string();
    let plan = Site::at(Place::Nowhere).by_program(server("hello"), &[&address]);
    let site = plan.opening("v1");
    let holder = format!("it is held by pid {} ", std::process::id());
    let line = site.log.wait_for("generation 1 cannot bind ");
    assert!(line.contains(&holder), "{line}");
}
