//! The commands of a deployment: they wait, they say what happened, and their status is true.

use std::fs;
use std::process::{Child, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::common::log::Log;
use crate::common::place::Place;
use crate::common::plan::{client_among_ours, hotswap};
use crate::common::site::Site;
use crate::common::{eventually, hotswap_program, processes};

pub fn start(site: &Site, arguments: &[&str]) -> Child {
    let mut command = hotswap(hotswap_program(), site.dir());
    command
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().expect("a client")
}

pub fn run(site: &Site, arguments: &[&str]) -> Output {
    start(site, arguments)
        .wait_with_output()
        .expect("a client's output")
}

/// Where no instance can be found but those of the test.
pub fn run_among_ours(site: &Site, arguments: &[&str]) -> Output {
    let mut client = client_among_ours(site.dir());
    client
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    client.output().expect("a client's output")
}

/// What `hotswap status` says of the server.
pub fn status(site: &Site) -> Value {
    let output = run(site, &["status", "server", "--json"]);
    ended(&output, 0, &[]);
    serde_json::from_slice(&output.stdout).expect("an object")
}

/// It has ended with this status, and said these among others.
pub fn ended(output: &Output, status: i32, texts: &[&str]) {
    let said = said(output);
    assert_eq!(output.status.code(), Some(status), "{said}");
    for text in texts {
        assert!(said.contains(text), "no {text:?} in {said:?}");
    }
}

pub fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]]
        .map(String::from_utf8_lossy)
        .concat()
}

/// What comes next in a script may need its address.
#[test]
fn stop_returns_once_hotswap_has_ended() {
    for _ in 0..20 {
        let site = Site::serving("v1");
        let hotswap = site.hotswap();
        let output = run(&site, &["stop", "server"]);
        assert!(!processes::is_alive(hotswap), "{}", said(&output));
    }
}

#[test]
fn swap_waits_for_the_new_one() {
    let site = Site::serving("v1");
    let clients = site.clients(4);
    let output = run(site.publish("v2"), &["swap", "server"]);
    ended(&output, 0, &["generation 2"]);
    site.log.wait_for("generation 2 is serving");
    clients.until_all_see("v2");
}

#[test]
fn swap_needs_no_name_where_there_is_one() {
    let site = Site::serving("v1");
    assert_eq!(
        run_among_ours(site.publish("v2"), &["swap"]).status.code(),
        Some(0)
    );
}

#[test]
fn swap_says_why_it_failed() {
    let site = Site::serving("v1");
    let output = run(
        site.publish_odd("v2", "say=no-database exit=3"),
        &["swap", "server"],
    );
    ended(&output, 1, &[]);
    let said = said(&output);
    assert!(said.contains("exited with status 3"), "{said}");
    assert!(said.contains("generation 1 keeps serving"), "{said}");
    assert!(said.contains("no-database"), "{said}");
}

#[test]
fn swap_says_what_the_command_before_it_said() {
    let site = Site::at(Place::Tcp4)
        .with(&["--before-swap", "echo no-compiler >&2; exit 3"])
        .serving("v1");
    let output = run(&site, &["swap", "server"]);
    ended(&output, 1, &[]);
    let said = said(&output);
    assert!(said.contains("exited with status 3"), "{said}");
    assert!(said.contains("\nno-compiler\n"), "{said}");
}

#[test]
fn swap_says_what_the_command_before_it_is_though_another_swap_has_begun_it() {
    let plan = Site::at(Place::Tcp4);
    let busy = plan.dir().join("busy");
    let build = format!("while test -e {}; do sleep 0.05; done", busy.display());
    let site = plan.with(&["--before-swap", &build]).serving("v1");
    fs::write(&busy, "").expect("a file");
    let first = start(&site, &["swap", "server"]);
    site.log.wait_for("generation 2 waits for: while");
    let told = format!("generation 2 waits for: {build}, ");
    let timeout = ["swap", "server", "--timeout", "2s"];
    for options in [&[][..], &["--json"]] {
        let second = run(&site, &[&timeout, options].concat());
        ended(&second, 124, &[&told]);
    }
    fs::remove_file(busy).expect("the file");
    let first = first.wait_with_output().expect("its output");
    ended(&first, 0, &[]);
}

#[test]
fn status_says_why_nothing_serves_and_what_is_waited_for() {
    let plan = Site::at(Place::Tcp4);
    let broken = plan.dir().join("broken");
    fs::write(&broken, "").expect("a file");
    let build = format!("test ! -e {}", broken.display());
    let site = plan
        .watching()
        .with(&["--dev", "--before-swap", &build])
        .starting("v1");
    site.log.wait_for("waiting for a change");
    let status = || said(&run(&site, &["status", "server"]));
    let expect = |why: &str| {
        let status = status();
        assert!(status.contains("waits for a change"), "{status}");
        assert!(status.contains(why), "{status}");
    };
    expect("ago: generation 1 aborted: --before-swap exited with status 1");
    fs::remove_file(broken).expect("the file");
    site.swap();
    assert!(!status().contains("aborted"), "{}", status());
    kill(site.pid(2), Signal::SIGKILL).expect("a signal");
    site.log.wait_for("generation 2 is dead");
    expect("ago: generation 2 is dead: killed by SIGKILL");
}

#[test]
fn swap_is_told_of_a_roll_back() {
    let site = Site::at(Place::Tcp4)
        .with(&["--min-ready", "10s"])
        .serving("v1");
    let output = run(
        site.publish_odd("v2", "exit=3 after=300ms"),
        &["swap", "server"],
    );
    ended(&output, 1, &["rolled back"]);
}

#[test]
fn swap_can_wait_until_the_old_one_is_gone() {
    let site = Site::serving("v1");
    let output = run(site.publish("v2"), &["swap", "server", "--drained"]);
    ended(&output, 0, &[]);
    let output = run(&site, &["status", "server"]);
    assert!(!said(&output).contains("draining "), "{}", said(&output));
    site.log.wait_for("generation 1 is gone");
}

#[test]
fn swap_says_that_it_waited_for_the_old_one_alone() {
    let plan = Site::at(Place::Tcp4).with(&["--drain-timeout", "60s"]);
    let site = plan.by_odd("deaf").serving("v1");
    let line = ["swap", "server", "--drained", "--timeout", "5s"];
    let output = run(&site, &line);
    ended(&output, 124, &[]);
    let why = "the old generation is not gone within 5s; it is still draining";
    assert!(said(&output).contains(why), "{}", said(&output));
    let output = run(&site, &[&line[..], &["--json"]].concat());
    ended(&output, 124, &[]);
    let verdict: Value = serde_json::from_slice(&output.stdout).expect("an object");
    assert_eq!(verdict["serving"], true, "{verdict}");
}

#[test]
fn a_check_that_is_not_waited_for_is_not_called_a_swap() {
    let site = Site::serving("v1");
    let line = ["swap", "server", "--check", "--timeout", "300ms"];
    let output = run(site.publish_odd("v2", "late=60s"), &line);
    ended(&output, 124, &[]);
    let why = "no verdict within 300ms; the check continues";
    assert!(said(&output).contains(why), "{}", said(&output));
}

#[test]
fn swap_stops_waiting_when_it_is_told_to() {
    let site = Site::serving("v1");
    let output = run(
        site.publish_odd("v2", "late=2s"),
        &["swap", "server", "--timeout", "300ms"],
    );
    ended(&output, 124, &[]);
    site.log.wait_for("generation 2 is serving");
}

#[test]
fn several_clients_wait_for_the_same_swap() {
    let site = Site::serving("v1");
    site.publish_odd("v2", "late=500ms");
    let clients: Vec<_> = (0..4).map(|_| start(&site, &["swap", "server"])).collect();
    for client in clients {
        let output = client.wait_with_output().expect("its output");
        ended(&output, 0, &[]);
    }
    assert!(site.log.count("started, pid") <= 3);
}

/// One waits for the swap under way, the other comes too late.
#[test]
fn a_swap_that_never_began_is_refused_at_a_stop() {
    let plan = Site::at(Place::Tcp4).with(&["--drain-timeout", "3s"]);
    let site = plan.by_odd("deaf").serving("v1");
    site.publish_odd("v2", "hang").signal(Signal::SIGHUP);
    site.log.wait_for("generation 2 started");
    let mut waiting = start(&site, &["swap", "server"]);
    let told = Log::of(
        waiting.stdout.take().expect("its stdout"),
        std::time::Instant::now(),
    );
    told.wait_for("waiting for the verdict on generation 2 first");
    site.signal(Signal::SIGTERM).log.wait_for("stopping");
    let late = run(&site, &["swap", "server"]);
    let waiting = waiting.wait_with_output().expect("its output");
    for output in [waiting, late] {
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.ends_with("hotswap: hotswap is stopping\n"), "{said}");
    }
    site.log
        .wait_for("generation 2 aborted: hotswap is stopping");
}

#[test]
fn stop_waits_for_the_end() {
    let mut site = Site::serving("v1");
    let output = run(&site, &["stop", "server"]);
    ended(&output, 0, &["generation 1 is gone"]);
    site.expect_status(0).expect_nothing_left();
}

#[test]
fn status_shows_the_serving_one() {
    let site = Site::serving("v1");
    site.publish("v2").swap();
    let status = status(&site);
    assert!(status.is_object(), "{status}");
    let table = run_among_ours(&site, &["status"]);
    let pid = site.pid(2).to_string();
    assert!(said(&table).contains(&pid), "{}", said(&table));
    assert!(status.to_string().contains(&pid), "{status}");
}

#[test]
fn status_of_nobody_is_an_empty_list() {
    let mut site = Site::serving("v1");
    assert!(site.stop().success());
    let output = run_among_ours(&site, &["status", "--json"]);
    ended(&output, 0, &[]);
    assert_eq!(
        serde_json::from_slice::<Value>(&output.stdout).expect("a list"),
        Value::Array(vec![])
    );
    assert_eq!(run(&site, &["status", "server"]).status.code(), Some(3));
}

/// A script reads the object, and finds the reason there.
#[test]
fn what_asks_for_json_gets_an_object_where_there_is_no_instance() {
    let mut site = Site::serving("v1");
    assert!(site.stop().success());
    let [swap, rollback, stop] = ["swap", "rollback", "stop"].map(|what| [what, "server"]);
    for request in [&swap[..], &rollback, &stop, &["swap", "--all"]] {
        let output = run_among_ours(&site, &[request, &["--json"]].concat());
        ended(&output, 3, &[]);
        let object: Value = serde_json::from_slice(&output.stdout).expect("an object");
        assert_eq!(object["result"], "not-found", "{object}");
        let name = request.get(1).filter(|name| **name == "server");
        assert_eq!(object["name"].as_str(), name.copied(), "{object}");
        let why = object["message"].as_str().unwrap_or_default();
        assert!(why.starts_with("no instance"), "{object}");
        assert!(output.stderr.is_empty(), "{}", said(&output));
    }
}

#[test]
fn what_asks_for_json_gets_an_object_for_a_wrong_line() {
    let site = Site::serving("v1");
    for command in ["swap", "rollback", "stop"] {
        let output = run(&site, &[command, "server", "--json", "--timeout", "soon"]);
        ended(&output, 2, &[]);
        let object: Value = serde_json::from_slice(&output.stdout).expect("an object");
        assert_eq!(object["result"], "usage", "{object}");
        let why = object["message"].as_str().unwrap_or_default();
        assert!(why.starts_with("cannot use --timeout"), "{object}");
    }
}

#[test]
fn events_follow_a_swap() {
    let site = Site::serving("v1");
    let mut client = start(&site, &["events", "server", "--json"]);
    let log = Log::of(
        client.stdout.take().expect("its stdout"),
        std::time::Instant::now(),
    );
    // It has been heard once it is told of something.
    eventually("an event", || {
        site.publish("v2").swap();
        log.says("serving").then_some(())
    });
    client.kill().expect("an end of the client");
    client.wait().expect("its end");
    let events = log.lines("{");
    let event: Value = serde_json::from_str(&events[0]).expect("an object a line");
    assert!(event["event"].is_string(), "{event}");
}

#[test]
fn a_client_that_leaves_changes_nothing() {
    let site = Site::serving("v1");
    site.publish_odd("v2", "late=500ms");
    let mut client = start(&site, &["swap", "server"]);
    site.log.wait_for("generation 2 started");
    client.kill().expect("an end of the client");
    client.wait().expect("its end");
    site.log.wait_for("generation 2 is serving");
}

#[test]
fn what_cannot_be_written_is_an_error() {
    let site = Site::serving("v1");
    for arguments in [&["status", "server"][..], &["completions", "bash"]] {
        let full = std::fs::File::options().write(true).open("/dev/full");
        let mut client = hotswap(hotswap_program(), site.dir());
        client.args(arguments).stdout(full.expect("a full disk"));
        let output = client.stderr(Stdio::piped()).output().expect("a client");
        assert_eq!(output.status.code(), Some(125), "{arguments:?}");
        let why = "hotswap: cannot write to stdout: No space left on device";
        assert!(said(&output).starts_with(why), "{}", said(&output));
    }
}
