//! Where the control socket is, and what clients are told when something is amiss.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;
use std::time::Instant;

use nix::fcntl::{Flock, FlockArg};
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::commands::{ended, run, run_among_ours, said, start, status};
use crate::common::crowd::Habit;
use crate::common::log::Log;
use crate::common::place::Place;
use crate::common::plan::{Plan, hotswap};
use crate::common::site::Site;
use crate::common::{eventually, hotswap_program};

#[test]
fn a_name_in_use_gets_a_number() {
    let first = Site::serving("v1");
    let run_there = first.dir().join("run");
    let mut second = Site::at(Place::Tcp4)
        .variable("XDG_RUNTIME_DIR", run_there.to_str().expect("text"))
        .serving("w1");
    let output = run(&first, &["status", "server-2", "--json"]);
    let status: Value = serde_json::from_slice(&output.stdout).expect("an object");
    assert_eq!(status["name"], "server-2");
    assert_eq!(run_among_ours(&first, &["swap"]).status.code(), Some(3));
    let all = run_among_ours(&first, &["swap", "--all"]);
    ended(&all, 0, &[]);
    first.log.wait_for("generation 2 is serving");
    second.log.wait_for("generation 2 is serving");
    assert!(second.stop().success());
    assert_eq!(run(&first, &["stop", "server-2"]).status.code(), Some(3));
    assert_eq!(run(&first, &["swap", "server"]).status.code(), Some(0));
}

#[test]
fn a_runtime_directory_that_others_may_write_to_is_passed_over() {
    let plan = Site::at(Place::Tcp4);
    let open = plan.dir().join("open");
    fs::create_dir(&open).expect("a directory");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).expect("its mode");
    let name = format!("passed-over-{}", std::process::id());
    let mut site = plan
        .variable("XDG_RUNTIME_DIR", open.to_str().expect("text"))
        .with(&["--name", &name])
        .serving("v1");
    let output = run(&site, &["swap", &name]);
    ended(&output, 0, &[]);
    let left = fs::read_dir(&open).expect("the directory").count();
    assert_eq!(left, 0, "nothing is in it");
    // it would leave its socket behind otherwise
    assert!(site.stop().success());
}

/// A plan for an instance of the same user as the first, by the name of that one.
fn namesake(first: &Site) -> Plan {
    let run_there = first.dir().join("run");
    Site::at(Place::Tcp4)
        .variable("XDG_RUNTIME_DIR", run_there.to_str().expect("text"))
        .with(&["--name", "api"])
}

#[test]
fn a_name_that_was_asked_for_belongs_to_one() {
    let first = Site::at(Place::Tcp4).with(&["--name", "api"]).serving("v1");
    let mut second = namesake(&first).starting("w1");
    second.expect_status(125);
    second
        .log
        .wait_for("cannot use the name api: it belongs to another hotswap");
    assert_eq!(run(&first, &["swap", "api"]).status.code(), Some(0));
}

#[test]
fn a_name_is_waited_for_while_its_holder_stops() {
    let first = Site::at(Place::Tcp4)
        .with(&["--name", "api"])
        .by_odd("think=1500ms")
        .serving("v1");
    let mut clients = first.guests().and(2, Habit::default()).come();
    clients.until_asked(2);
    first.signal(Signal::SIGTERM);
    first.log.wait_for("stopping");
    let second = namesake(&first).starting("w1");
    second.log.wait_for("waiting for the name api");
    clients.expect_no_failure();
    second.log.wait_for("generation 1 is serving");
    let output = run(&first, &["status", "api", "--json"]);
    let status: Value = serde_json::from_slice(&output.stdout).expect("an object");
    assert_eq!(status["name"], "api");
}

#[test]
fn who_waits_for_a_name_can_be_stopped() {
    let first = Site::at(Place::Tcp4)
        .with(&["--name", "api"])
        .by_odd("think=3s")
        .serving("v1");
    let clients = first.guests().and(1, Habit::default()).come();
    clients.until_asked(1);
    first.signal(Signal::SIGTERM);
    first.log.wait_for("stopping");
    let mut second = namesake(&first).starting("w1");
    second.log.wait_for("waiting for the name api");
    second.signal(Signal::SIGTERM);
    second.expect_status(125);
    assert!(!second.log.says("generation 1 started"));
    drop(clients);
}

#[test]
fn who_waits_is_told_and_comes_to_its_turn_while_a_candidate_hangs() {
    let site = Site::serving("v1");
    let first = start(site.publish_odd("v2", "hang"), &["swap", "server"]);
    eventually("the candidate that hangs", || {
        let arguments = fs::read(format!("/proc/{}/cmdline", site.pid(2))).ok()?;
        String::from_utf8_lossy(&arguments)
            .contains("hang")
            .then_some(())
    });
    let second = start(site.publish("v3"), &["swap", "server"]);
    let [first, second] = [first, second].map(|client| client.wait_with_output().expect("output"));
    let waits = "waiting for the verdict on generation 2 first, ";
    assert!(said(&second).contains(waits), "{}", said(&second));
    assert_eq!([first.status.code(), second.status.code()], [Some(0); 2]);
    site.log
        .wait_for("generation 2 aborted: replaced by a newer generation");
    site.log.wait_for("generation 3 is serving");
}

#[test]
fn swap_of_all_ends_with_the_highest_status() {
    let first = Site::serving("v1");
    let run_there = first.dir().join("run");
    let second = Site::at(Place::Tcp4)
        .variable("XDG_RUNTIME_DIR", run_there.to_str().expect("text"))
        .serving("w1");
    second.publish_odd("w2", "exit=3");
    let all = run_among_ours(&first, &["swap", "--all"]);
    ended(
        &all,
        1,
        &[
            "server: generation 2 is serving",
            "server-2: generation 2 aborted",
        ],
    );
}

#[test]
fn one_that_does_not_answer_is_named_and_not_denied() {
    let first = Site::at(Place::Tcp4).serving("v1");
    let run_there = first.dir().join("run");
    let second = Site::at(Place::Tcp4)
        .variable("XDG_RUNTIME_DIR", run_there.to_str().expect("text"))
        .with(&["--name", "stopped"])
        .serving("w1");
    second.while_stopped(|_| {
        for options in [&["status"][..], &["status", "--json"]] {
            let all = run_among_ours(&first, options);
            ended(&all, 125, &["server"]);
            let pid = second.hotswap();
            let why = format!(
                "stopped does not answer: hotswap (pid {pid}) is suspended\ntry: kill -CONT {pid}"
            );
            assert!(said(&all).contains(&why), "{}", said(&all));
        }
        let another = run_among_ours(&first, &["--name", "stopped", "--", "true"]);
        ended(&another, 125, &["), which is suspended"]);
        let options = ["swap", "stopped", "--timeout", "100ms"];
        let swap = run_among_ours(&first, &options);
        ended(&swap, 124, &[]);
        assert!(!said(&swap).contains("continues"), "{}", said(&swap));
        assert!(said(&swap).contains("stopped does not answer"));
    });
}

#[test]
fn a_socket_is_where_it_was_asked_for() {
    let site = Site::at(Place::Tcp4);
    let path = site.dir().join("control");
    let place = path.to_str().expect("text").to_owned();
    let mut site = site.with(&["--control", &place]).serving("v1");
    assert_eq!(run(&site, &["swap", &place]).status.code(), Some(0));
    assert!(site.stop().success());
    assert!(!path.exists());
}

#[test]
fn a_socket_that_was_removed_is_made_again() {
    let site = Site::at(Place::Tcp4).with(&["--poll", "0"]).serving("v1");
    let socket = site.dir().join("run/hotswap/server.sock");
    std::fs::remove_dir_all(socket.parent().expect("its directory")).expect("removed");
    assert_eq!(run(&site, &["status", "server"]).status.code(), Some(3));
    site.signal(Signal::SIGHUP).log.wait_for("created it again");
    assert_eq!(run(&site, &["status", "server"]).status.code(), Some(0));
}

/// As in production, where nobody watches a file.
#[test]
fn a_socket_that_was_removed_is_back_at_the_next_poll() {
    let site = Site::at(Place::Tcp4).with(&["--poll", "50ms"]);
    let site = site.serving("v1");
    let directory = site.dir().join("run/hotswap");
    let both = ["server.sock", "server.sock.state"].map(|name| directory.join(name));
    for _ in 0..2 {
        fs::remove_dir_all(&directory).expect("removed");
        for path in &both {
            eventually("what was removed", || path.exists().then_some(()));
        }
    }
    let [socket, state] = both;
    fs::remove_file(&state).expect("removed");
    eventually("the state file", || state.exists().then_some(()));
    fs::rename(&socket, directory.join("moved")).expect("moved");
    eventually("the socket", || socket.exists().then_some(()));
    assert_eq!(run(&site, &["status", "server"]).status.code(), Some(0));
}

/// A deployment by two renames: a directory in between would get the new one into it.
#[test]
fn a_directory_that_was_named_is_not_made_again() {
    let plan = Site::at(Place::Tcp4);
    let directory = plan.dir().join("app");
    fs::create_dir(&directory).expect("a directory");
    let socket = directory.join("api.sock");
    let path = socket.to_str().expect("text").to_owned();
    let site = plan
        .with(&["--poll", "50ms", "--control", &path])
        .serving("v1");
    fs::rename(&directory, site.dir().join("app.old")).expect("moved away");
    site.log.wait_for("cannot create the control socket ");
    assert!(!directory.exists(), "made by hotswap");
    fs::create_dir(&directory).expect("the new one");
    site.log.wait_for("created it again");
    assert_eq!(run(&site, &["swap", &path]).status.code(), Some(0));
}

#[test]
fn nothing_waits_while_another_one_has_the_lock() {
    let site = Site::at(Place::Tcp4).with(&["--poll", "50ms"]);
    let site = site.serving("v1");
    let socket = site.dir().join("run/hotswap/server.sock");
    let directory = File::open(socket.parent().expect("its directory")).expect("its directory");
    let lock = Flock::lock(directory, FlockArg::LockExclusive).expect("the lock");
    fs::remove_file(&socket).expect("removed");
    for version in ["v2", "v3"] {
        site.publish(version).swap();
        assert!(!socket.exists(), "made by one that has not got the lock");
    }
    drop(lock);
    eventually("the socket", || socket.exists().then_some(()));
    site.log.wait_for("created it again");
    assert_eq!(run(&site, &["status", "server"]).status.code(), Some(0));
}

#[test]
fn a_socket_that_was_asked_for_must_be_there() {
    let mut site = Site::at(Place::Nowhere)
        .with(&["--control", "/nowhere/control"])
        .opening("v1");
    site.log
        .wait_for("cannot create the control socket /nowhere/control: No such file");
    site.expect_status(125);
}

#[test]
fn without_a_socket_hotswap_serves_all_the_same() {
    let site = Site::at(Place::Tcp4)
        .variable("RUNTIME_DIRECTORY", "/nowhere")
        .serving("v1");
    site.log.wait_for("cannot make a control socket");
    site.publish("v2").swap();
}

#[test]
fn a_connection_that_is_lost_is_no_verdict() {
    let mut site = Site::serving("v1");
    site.publish_odd("v2", "late=60s");
    let client = start(&site, &["swap", "server"]);
    site.log.wait_for("generation 2 started");
    site.signal(Signal::SIGKILL);
    site.end();
    let output = client.wait_with_output().expect("its output");
    ended(&output, 125, &[]);
}

/// The request is heard when hotswap runs on.
#[test]
fn the_timeout_holds_for_a_hotswap_that_does_not_answer() {
    let site = Site::serving("v1");
    site.publish("v2").signal(Signal::SIGSTOP);
    let output = run(&site, &["swap", "server", "--timeout", "300ms"]);
    ended(&output, 124, &[]);
    site.signal(Signal::SIGCONT);
    site.log.wait_for("generation 2 is serving");
}

/// What a SIGKILL leaves behind keeps serving, and is named to the next.
#[test]
fn generations_outlive_a_killed_hotswap_and_are_named_to_the_next() {
    let mut site = Site::serving("v1");
    let clients = site.clients(4);
    let pid = site.pid(1);
    site.signal(Signal::SIGKILL);
    site.end();
    clients.until_answered(100);
    let address = site.log.wait_for("listening on ");
    let address = address.rsplit(' ').next().expect("an address");
    let output = run(&site, &["--no-watch", "--listen", address, "--", "true"]);
    ended(&output, 125, &[]);
    let held = format!("held by pid {pid} (hello, generation 1)");
    assert!(said(&output).contains(&held), "{}", said(&output));
    assert!(
        said(&output).contains(&format!("kill {pid}")),
        "{}",
        said(&output)
    );
}

#[test]
fn where_another_hotswap_has_the_address_the_way_to_stop_it_is_said() {
    let site = Site::serving("v1");
    let address = site.log.wait_for("listening on ");
    let address = address.rsplit(' ').next().expect("an address");
    let output = run(&site, &["--no-watch", "--listen", address, "--", "true"]);
    ended(&output, 125, &[]);
    let advice = "\ntry: another address, or stop it first: hotswap stop server\n";
    assert!(said(&output).contains(advice), "{}", said(&output));
}

fn counters(output: &Output) -> Value {
    let status: Value = serde_json::from_slice(&output.stdout).expect("an object");
    status["counters"].clone()
}

#[test]
fn what_happened_is_counted() {
    let site = Site::at(Place::Tcp4)
        .with(&["--min-ready", "300ms", "--ready-timeout", "2s"])
        .serving("v1");
    site.publish("v2").swap().wait_until_gone(1);
    site.publish_odd("v3", "exit=3").swap_in_vain();
    site.publish_odd("v4", "hang").swap_in_vain();
    site.publish_odd("v5", "exit=3 after=200ms").swap_in_vain();
    kill(site.pid(2), Signal::SIGKILL).expect("a signal");
    site.publish("v6");
    let counted = eventually("a restart", || {
        let counted = counters(&run(&site, &["status", "server", "--json"]));
        (counted["restarts"].as_u64()? > 0).then_some(counted)
    });
    assert_eq!(counted["swaps"], 1, "{counted}");
    assert_eq!(counted["aborts"]["exited"], 1, "{counted}");
    assert_eq!(counted["aborts"]["not_ready"], 1, "{counted}");
    assert_eq!(counted["roll_backs"], 1, "{counted}");
    assert_eq!(counted["connections_lost"], 0, "{counted}");
    assert!(
        counted["seconds_to_ready"]["count"].as_u64() >= Some(2),
        "{counted}"
    );
    assert!(
        counted["seconds_to_drain"]["count"].as_u64() >= Some(1),
        "{counted}"
    );
}

#[test]
fn status_says_what_is_waited_for_and_until_when() {
    let site = Site::serving("v1");
    site.publish_odd("v2", "late=5s");
    let mut client = start(&site, &["swap", "server"]);
    site.log.wait_for("generation 2 started");
    let status = status(&site);
    assert_eq!(status["state"], "swapping", "{status}");
    let candidate = &status["generations"][0];
    assert_eq!(candidate["role"], "starting", "{status}");
    assert_eq!(candidate["waits_for"], "it to be ready", "{status}");
    assert!(candidate["left_ms"].as_u64() > Some(20_000), "{status}");
    let serving = &status["generations"][1];
    assert_eq!(serving["role"], "serving", "{status}");
    assert!(serving["rss_bytes"].as_u64() > Some(0), "{status}");
    assert_eq!(status["listeners"][0]["queue"], 0, "{status}");
    client.kill().expect("an end of the client");
    client.wait().expect("its end");
}

/// One line that changes, and the verdict at its end.
#[test]
fn swap_shows_its_progress_on_a_terminal() {
    let site = Site::serving("v1");
    site.publish_odd("v2", "late=300ms");
    let terminal = openpty(None, None).expect("a terminal");
    let mut command = hotswap(hotswap_program(), site.dir());
    command.args(["swap", "server", "--drained"]);
    let mut client = command.stdout(terminal.slave).spawn().expect("a client");
    // Our own end of the slave would keep the screen open.
    drop(command);
    let mut screen = Vec::new();
    // A terminal that nobody writes to any more ends in EIO.
    let _ = File::from(terminal.master).read_to_end(&mut screen);
    assert!(client.wait().expect("its end").success());
    let screen = String::from_utf8_lossy(&screen);
    let started = screen.find("\r\x1b[2Kgeneration 2 started");
    let served = screen.find("\r\x1b[2Kgeneration 2 is serving");
    assert!(started.is_some() && started < served, "{screen:?}");
    let last = screen.rsplit("\x1b[2K").next().unwrap_or_default();
    assert!(last.contains("generation 1 is gone after"), "{screen:?}");
    assert_eq!(screen.matches('\n').count(), 1, "{screen:?}");
}

#[test]
fn status_can_be_watched() {
    let site = Site::serving("v1");
    let mut client = start(&site, &["status", "server", "--watch"]);
    let seen = Log::of(client.stdout.take().expect("its stdout"), Instant::now());
    seen.wait_for("1           serving");
    site.publish("v2").swap();
    seen.wait_for("2           serving");
    client.kill().expect("an end of the client");
    client.wait().expect("its end");
}

/// A server's own child, such as a deploy hook, means the instance that it runs under.
#[test]
fn inside_a_server_its_own_instance_is_meant() {
    let script = format!(
        "#!/bin/sh\n'{}' status --json >&2\nexec sleep 60\n",
        hotswap_program().display()
    );
    let plan = Site::at(Place::Nowhere).by_script(&script, &[]);
    let path = plan.dir().join("control");
    let path = path.to_str().expect("text").to_owned();
    let site = plan
        .with(&["--control", &path, "--stop-signal", "KILL"])
        .opening("");
    let status = site.log.wait_for("\"name\":\"server\"");
    let status: Value = serde_json::from_str(&status).expect("an object");
    assert_eq!(status["socket"], path.as_str());
}

/// As bash asks for them after `hotswap swap s` and the tab key.
#[test]
fn the_shell_completes_the_names_of_instances() {
    let site = Site::serving("v1");
    let directory = hotswap_program();
    let directory = directory.parent().expect("a directory").display();
    let script = format!(
        "PATH={directory}:$PATH; eval \"$(hotswap completions bash)\"; COMP_WORDS=(hotswap swap s); COMP_CWORD=2; \
         _hotswap_with_names hotswap s swap; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    );
    let mut bash = hotswap("bash", site.dir());
    let output = bash
        .args(["-c", &script])
        .stdout(std::process::Stdio::piped())
        .output()
        .expect("bash");
    let offered = String::from_utf8_lossy(&output.stdout);
    assert!(offered.lines().any(|name| name == "server"), "{offered:?}");
}
