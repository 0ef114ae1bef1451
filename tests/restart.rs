//! What follows when the serving generation is dead.

use std::fs;
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::capture::at;
use crate::capture::closed::python;
use crate::common::crowd::{Crowd, Habit};
use crate::common::eventually;
use crate::common::families::on_every_family;
use crate::common::place::{Place, free_address};
use crate::common::plan::Plan;
use crate::common::program::install;
use crate::common::server;
use crate::common::site::Site;
use crate::common::tally::Failure;
use crate::watch::binary;

/// Nothing is refused, and the next generation answers the clients that were queued: only what was accepted is lost.
fn killed(plan: Plan) {
    let site = plan.by_odd("single").serving("v1");
    let mut clients = site.guests().arriving(200, Habit::default()).come();
    clients.until_answered(100);
    kill(site.pid(1), Signal::SIGKILL).expect("a signal to the server");
    site.log.wait_for("generation 2 is serving");
    clients.until_answered(200);
    let tally = clients.leave();
    assert_eq!(tally.failed(Failure::Refused), 0, "{tally}");
    assert_eq!(tally.failed(Failure::TimedOut), 0, "{tally}");
    // It accepts one at a time.
    assert!(tally.failures.len() <= 1, "{tally}");
    assert!(tally.generations.contains_key(&2), "{tally}");
}

on_every_family! {
    fn a_killed_server_is_restarted(plan: Plan) {
        killed(plan);
    }
}

#[test]
fn a_killed_server_is_restarted_on_a_shared_socket() {
    killed(Plan::at(Place::Abstract));
}

/// Its queue is long when it is killed: it has accepted one at a time.
#[test]
fn queued_clients_are_answered_by_the_next() {
    let site = Site::at(Place::Tcp4)
        .by_odd("single think=100ms")
        .serving("v1");
    let mut clients = site.guests().and(50, Habit::default()).come();
    clients.until_answered(3);
    site.publish("v2");
    kill(site.pid(1), Signal::SIGKILL).expect("a signal to the server");
    clients.until_all_see("v2");
    let tally = clients.leave();
    assert!(
        tally.failures.len() <= 1,
        "only the one that it had accepted: {tally}"
    );
}

#[test]
fn a_clean_end_is_not_restarted_on_failure() {
    let mut site = Site::at(Place::Tcp4)
        .by_odd("exit=0 after=300ms")
        .serving("v1");
    site.expect_status(0).expect_nothing_left();
    assert!(!site.log.says("generation 2"));
}

#[test]
fn a_clean_end_of_a_captured_server_needs_no_drain() {
    let plan = Site::at(Place::Captured(free_address())).with(&["--drain-timeout", "5s"]);
    let mut site = plan.by_odd("exit=0 after=300ms").serving("v1");
    site.expect_status(0).expect_nothing_left();
    assert!(!site.log.says("is killed"));
}

/// As one that forks twice, and is slow to do so.
#[test]
fn a_first_start_that_leaves_a_daemon_behind_has_failed() {
    let hello = crate::common::server("hello");
    let hello = hello.display();
    let script = format!("#!/bin/sh\n(sleep 0.2; exec setsid {hello} 127.0.0.1:0) & exit 0\n");
    let mut site = Site::at(Place::Nowhere)
        .by_script(&script, &[])
        .starting("v1");
    site.expect_status(125).expect_nothing_left();
    site.log
        .wait_for("cannot follow a server that puts itself into the background");
    assert!(!site.log.says(" is killed"), "it was not asked to stop");
}

/// As in an upgrade of its own: a child goes on where the main process ends.
#[test]
fn a_server_that_hands_itself_over_to_a_child_is_restarted() {
    let address = free_address();
    let script = "
import threading
one = listen('127.0.0.1')
if os.environ['HOTSWAP_GENERATION'] == '1' and os.fork():
    threading.Timer(1, lambda: os._exit(0)).start()
serve(one)
";
    let Some(plan) = python(at(address), address, script) else {
        return;
    };
    let site = plan.serving("");
    let mut clients = site.clients(4);
    site.log.wait_for("generation 2 is serving");
    clients.until_answered(20);
    let tally = clients.leave();
    assert!(
        tally.failures.len() <= 4,
        "only what either process had accepted of each client: {tally}"
    );
}

#[test]
fn a_clean_end_is_restarted_where_that_is_wanted() {
    let plan = Site::at(Place::Tcp4).with(&["--restart", "always"]);
    let site = plan.by_odd("exit=0 after=300ms").serving("v1");
    site.publish("v2");
    site.log.wait_for("generation 2 is serving");
}

#[test]
fn without_restarts_hotswap_ends_as_its_server() {
    let plan = Site::at(Place::Tcp4).with(&["--restart", "never"]);
    let mut site = plan.by_odd("exit=7 after=300ms").serving("v1");
    site.expect_status(7).expect_nothing_left();
}

#[test]
fn without_restarts_hotswap_ends_as_its_killed_server() {
    let plan = Site::at(Place::Tcp4).with(&["--restart", "never"]);
    let mut site = plan.serving("v1");
    kill(site.pid(1), Signal::SIGKILL).expect("a signal to the server");
    site.expect_status(137).expect_nothing_left();
}

/// The first time at once, then 100ms, 200ms and so on.
#[test]
fn restarts_back_off() {
    let site = Site::at(Place::Tcp4)
        .by_odd("exit=3 after=200ms")
        .serving("v1");
    let first = site
        .log
        .wait_for("generation 1 is dead: exited with status 3");
    assert!(first.ends_with("; restarting"), "{first}");
    let second = site
        .log
        .wait_for("generation 2 is dead: exited with status 3");
    assert!(second.ends_with("; restarting in 100ms"), "{second}");
    let third = site
        .log
        .wait_for("generation 3 is dead: exited with status 3");
    assert!(third.ends_with("; restarting in 200ms"), "{third}");
    site.publish_odd("v2", "");
    let clients = site.clients(4);
    clients.until_all_see("v2");
}

#[test]
fn a_first_start_that_exits_ends_hotswap_with_its_status() {
    let mut site = Site::at(Place::Tcp4).by_odd("exit=3").opening("v1");
    site.expect_status(3).expect_nothing_left();
    assert!(
        site.log
            .says("generation 1 aborted: exited with status 3 after ")
    );
    assert!(!site.log.says("keeps serving"));
}

#[test]
fn a_first_start_that_is_killed_ends_hotswap_with_its_signal() {
    let mut site = Site::at(Place::Tcp4).by_odd("kill=SIGABRT").opening("v1");
    let status = site.end();
    assert_eq!((status.code(), status.signal()), (Some(134), None));
    site.expect_nothing_left();
}

#[test]
fn a_first_start_that_never_accepts_ends_hotswap_with_124() {
    let plan = Site::at(Place::Tcp4).with(&["--ready-timeout", "1s"]);
    let mut site = plan.by_odd("hang deaf").opening("v1");
    site.expect_status(124).expect_nothing_left();
    site.log
        .wait_for("generation 1 aborted: not ready within 1s");
}

/// `--restart always` tries again, with the deeper pockets of its back-off.
#[test]
fn a_first_start_that_fails_is_repeated_where_that_is_wanted() {
    let plan = Site::at(Place::Tcp4).with(&["--restart", "always"]);
    let site = plan.by_odd("exit=3").opening("v1");
    site.log
        .wait_for("generation 2 aborted: exited with status 3");
    site.publish_odd("v2", "");
    let clients = site.clients(4);
    clients.until_all_see("v2");
}

/// Its file is still there when the serving one crashes; old and good is what is restarted.
#[test]
fn a_rejected_program_is_not_run_after_a_crash() {
    let site = Site::at(Place::Tcp4).by_binary(binary(1)).serving("v1");
    site.publish_odd("v2", "exit=3");
    let verdict = site.swap_in_vain();
    assert!(verdict.contains("generation 2 aborted"), "{verdict}");
    let clients = site.clients(4);
    kill(site.pid(1), Signal::SIGKILL).expect("a signal to the server");
    site.log.wait_for("generation 3 ");
    site.log.wait_for("generation 3 is serving");
    assert!(!site.log.says("generation 3 aborted"));
    clients.until_answered(100);
    site.publish("v4").swap();
    clients.until_all_see("v4");
}

/// `nice` can be run again, but it is the rejected program that it would start.
#[test]
fn behind_a_launcher_the_last_good_program_is_not_promised() {
    let plan = Site::at(Place::Tcp4);
    let app = plan.dir().join("app");
    install(&app, &binary(1), 0o755);
    let arguments = [app.to_str().expect("text")];
    let site = plan.by_program("nice".into(), &arguments).serving("v1");
    install(&app, b"#!/bin/sh\nexit 3\n", 0o755);
    let verdict = site.swap_in_vain();
    assert!(verdict.contains("generation 2 aborted"), "{verdict}");
    kill(site.pid(1), Signal::SIGKILL).expect("a signal to the server");
    let line = site
        .log
        .wait_for("the last good program, that of generation 1,");
    assert!(
        line.contains("cannot be run again: nice runs other files"),
        "{line}"
    );
    assert!(line.contains("what is on disk runs"), "{line}");
    install(&app, &binary(4), 0o755);
    site.log.wait_for(" is serving");
    let clients = site.clients(4);
    clients.until_answered(20);
}

/// Of a server that binds its address itself: the socket where its clients wait is kept for the restart.
fn never_takes_over(mode: &str, timeout: &str, publish: impl FnOnce(&Site)) {
    let address = free_address();
    let words = format!("at={address}");
    let flags = ["--ready", mode, "--ready-timeout", timeout];
    let site = at(address).with(&flags).by_odd(&words).serving("v1");
    publish(&site);
    kill(site.pid(1), Signal::SIGKILL).expect("a signal to the server");
    let verdict = site
        .log
        .wait_after(0, &["generation 2 aborted", "generation 2 is serving"]);
    let why = format!("does not accept on {address}");
    assert!(verdict.contains(&why), "{verdict}");
    let mut clients = site.clients(4);
    site.publish_odd("v3", &words);
    clients.until_all_see("v3");
    clients.expect_no_failure();
}

#[test]
fn a_restart_that_never_listens_is_not_serving() {
    for mode in ["auto", "after:300ms"] {
        never_takes_over(mode, "1s", |site| {
            site.publish_file(b"#!/bin/sh\nexec sleep 60\n", 0o755);
        });
    }
}

#[test]
fn a_restart_that_listens_elsewhere_is_not_serving() {
    never_takes_over("auto", "3s", |site| {
        site.publish_odd("v2", &format!("at={}", free_address()));
    });
}

/// Clients reach it in any case, and nothing else could serve them.
#[test]
fn a_restart_that_does_not_say_again_that_it_is_ready_serves_in_the_end() {
    for place in [Place::Tcp4, Place::captured(), Place::Nowhere] {
        let plan = Site::at(place).with(&["--ready-timeout", "2s"]);
        // so that it is heard before it serves
        let site = plan.by_odd("ready hang=500ms").serving("v1");
        site.publish_odd("v2", "");
        kill(site.pid(1), Signal::SIGKILL).expect("a signal to the server");
        let verdicts = ["generation 2 aborted", "generation 2 is serving"];
        let verdict = site.log.wait_after(0, &verdicts);
        assert!(verdict.contains("is serving"), "{verdict}");
        site.log.wait_for("generation 2 has not sent READY=1");
    }
}

/// As behind a reloader: the process with the listener dies, and a little later its parent.
#[test]
fn a_restart_whose_predecessor_had_closed_its_listener_has_to_listen() {
    let address = free_address();
    let script = "\
again = os.environ['HOTSWAP_GENERATION'] != '1'
child = os.fork()
if child == 0:
    if again:
        time.sleep(2)
    one = listen('127.0.0.1')
    print('child', os.getpid(), file=sys.stderr, flush=True)
    serve(one)
os.waitpid(child, 0)
time.sleep(1.5)
sys.exit(1)";
    let Some(plan) = python(at(address), address, script) else {
        return;
    };
    let site = plan.serving("");
    let line = site.log.wait_for("child ");
    let child = line.rsplit(' ').next().and_then(|pid| pid.parse().ok());
    kill(Pid::from_raw(child.expect("a pid")), Signal::SIGKILL).expect("a signal to the child");
    eventually("a listener that is closed", || {
        TcpStream::connect(address).is_err().then_some(())
    });
    site.log.wait_for("generation 2 is serving");
    TcpStream::connect(address).expect("a connection");
}

#[test]
fn stop_first_starts_the_old_one_again_at_once() {
    let plan = Site::at(Place::Tcp4).with(&["--order", "stop-first"]);
    let site = plan.by_binary(binary(1)).serving("v1");
    let mut clients = site.guests().and(4, Habit::default()).come();
    site.publish_odd("v2", "exit=3");
    let verdict = site.swap_in_vain();
    assert!(verdict.contains("generation 2 aborted"), "{verdict}");
    site.log.wait_for("generation 3 is serving");
    clients.until_answered(100);
    clients.expect_no_failure();
    assert!(!site.log.says("generation 3 aborted"));
}

/// What has failed beside it had sockets of its own.
#[test]
fn a_restart_does_not_wait_for_what_an_aborted_candidate_has_left_behind() {
    let site = Site::at(Place::Tcp4).by_binary(binary(1)).serving("v1");
    let leaves = b"#!/bin/sh\ntrap '' TERM\nsleep 60 &\nexit 1\n";
    site.publish_file(leaves, 0o755).swap_in_vain();
    kill(site.pid(1), Signal::SIGKILL).expect("a signal to the server");
    site.log.wait_for("generation 3 started");
    let said = site.log.timed();
    assert!(!said.contains("generation 2 is killed"), "{said}");
}

#[test]
fn an_env_file_that_is_gone_does_not_keep_a_server_from_being_restarted() {
    let plan = Site::at(Place::Tcp4);
    let file = plan.dir().join("env");
    std::fs::write(&file, "VERSION=v7\n").expect("settings");
    let path = file.to_str().expect("a path").to_owned();
    let site = plan
        .with(&["--env-file", &path])
        .by_binary(binary(1))
        .serving("v7");
    std::fs::remove_file(&file).expect("settings");
    kill(site.pid(1), Signal::SIGKILL).expect("a signal to the server");
    site.log.wait_for("generation 2 is serving");
    site.log.wait_for("the variables that worked last are used");
    let clients = site.clients(4);
    clients.until_all_see("v7");
}

/// They have accepted, and nobody else can answer.
#[test]
fn workers_whose_master_was_killed_finish_their_requests() {
    let (site, clients) = orphaned_workers();
    finish(&site, clients);
}

/// The restart is gone first, and with it the sockets on which they have accepted.
#[test]
fn workers_whose_master_was_killed_finish_their_requests_before_a_stop() {
    let (site, clients) = orphaned_workers();
    site.signal(Signal::SIGTERM);
    finish(&site, clients);
}

/// Eight requests are in the hands of workers whose master is dead; another generation serves.
fn orphaned_workers() -> (Site, Crowd) {
    let address = free_address();
    let odd = server("odd");
    let script = format!("#!/bin/sh\n'{}' at={address} &\nwait\n", odd.display());
    let site = at(address).by_script(&script, &[]).serving("");
    let clients = site.slow_clients(8, Duration::from_secs(2));
    kill(site.pid(1), Signal::SIGKILL).expect("a signal to the master");
    site.log.wait_for("generation 2 is serving");
    (site, clients)
}

/// They share the socket with the restart, and would wait in accept(2) with clients in their hands.
#[test]
fn a_restart_does_not_let_orphaned_workers_wait_for_clients_that_others_took() {
    let address = free_address();
    let script = "\
if os.environ['HOTSWAP_GENERATION'] != '1':
    time.sleep(1000)
one = listen('127.0.0.1')
one.setblocking(False)
if os.fork() == 0:
    time.sleep(1000)
serve(one)";
    let Some(plan) = python(at(address), address, script) else {
        return crate::common::skipped("restart", "needs python3");
    };
    let site = plan.serving("");
    let main = site.pid(1);
    let children = || fs::read_to_string(format!("/proc/{main}/task/{main}/children")).ok();
    let worker = || children()?.trim().parse::<i32>().ok();
    let worker = eventually("a worker", worker);
    kill(main, Signal::SIGKILL).expect("a signal to the master");
    site.log.wait_for("generation 2 started");
    let is_socket = |path: &std::path::PathBuf| {
        fs::read_link(path).is_ok_and(|link| link.to_string_lossy().starts_with("socket:"))
    };
    let all = fs::read_dir(format!("/proc/{worker}/fd")).expect("its descriptors");
    let mut all = all.map(|one| one.expect("one").path());
    let listener = all.find(is_socket).expect("its listener");
    let number = listener.file_name().expect("its number");
    let info = format!("/proc/{worker}/fdinfo/{}", number.to_string_lossy());
    let info = fs::read_to_string(info).expect("its state");
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
    let flags = flags.expect("its flags");
    assert_ne!(flags & nix::libc::O_NONBLOCK, 0, "{info}");
}

fn finish(site: &Site, mut clients: Crowd) {
    // who comes once more during a stop is refused
    let tally = clients.leave();
    assert!(tally.failures.is_empty(), "{tally}");
    assert!(tally.answers >= 8, "{tally}");
    site.log.wait_for("generation 1 is gone");
}
