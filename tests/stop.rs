//! Ending: requests in flight are finished, nothing is left, and the status is true.

use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc;
use nix::sys::signal::{Signal, kill};

use crate::capture::find;
use crate::common::crowd::{Crowd, Habit};
use crate::common::families::on_every_family;
use crate::common::place::{Place, Target, free_address};
use crate::common::plan::Plan;
use crate::common::server;
use crate::common::site::Site;
use crate::common::strace::{Attached, is_here};
use crate::common::tally::Failure;
use crate::common::{eventually, processes};

fn slow(site: &Site) -> Crowd {
    site.slow_clients(8, Duration::from_secs(1))
}

fn a_stop_finishes_requests_in_flight(plan: Plan, signal: Signal) {
    let mut site = plan.serving("v1");
    let mut clients = slow(&site);
    site.signal(signal);
    clients.expect_no_failure();
    site.expect_status(0).expect_nothing_left();
}

on_every_family! {
    fn sigterm_finishes_requests_in_flight(plan: Plan) {
        a_stop_finishes_requests_in_flight(plan, Signal::SIGTERM);
    }
}

#[test]
fn sigint_finishes_requests_in_flight() {
    a_stop_finishes_requests_in_flight(Site::at(Place::Tcp4), Signal::SIGINT);
}

/// It dies of SIGTERM in the middle of whatever it does, so the stop signal has to wait.
fn thinking(site: &Site) -> crate::common::crowd::Crowd {
    let clients = site.guests().and(4, Habit::default()).come();
    clients.until_asked(4);
    clients
}

on_every_family! {
    fn a_stop_lets_a_server_without_a_graceful_stop_answer_first(plan: Plan) {
        let mut site = plan.by_odd("think=700ms").serving("v1");
        let mut clients = thinking(&site);
        site.signal(Signal::SIGTERM);
        clients.expect_no_failure();
        site.expect_status(0).expect_nothing_left();
    }
}

on_every_family! {
    /// No client waits for what a generation asks itself.
    fn what_a_generation_asks_itself_holds_up_no_drain(plan: Plan) {
        let site = asking_itself(plan);
        site.publish_odd("v2", "").swap().wait_until_gone(1);
    }

    fn what_a_generation_asks_itself_holds_up_no_stop(plan: Plan) {
        let mut site = asking_itself(plan);
        let habit = Habit::taking(Duration::from_millis(700));
        let mut client = site.guests().and(1, habit).come();
        client.until_asked(1);
        site.signal(Signal::SIGTERM);
        client.expect_no_failure();
        site.expect_status(0).expect_nothing_left();
    }
}

fn asking_itself(plan: Plan) -> Site {
    let patient = ["--quiesce", "90s", "--drain-timeout", "100s"];
    let site = plan.with(&patient).by_odd("asks-itself").serving("v1");
    site.log.wait_for("it has asked itself");
    site
}

#[test]
fn ctrl_c_lets_a_server_answer_first_but_not_for_long() {
    let mut site = Site::at(Place::Tcp4).by_odd("think=700ms").serving("v1");
    let mut clients = thinking(&site);
    site.signal(Signal::SIGINT);
    clients.expect_no_failure();
    site.expect_status(0).expect_nothing_left();
}

on_every_family! {
    fn a_stop_finishes_what_an_older_generation_has_in_hand(plan: Plan) {
        let mut site = plan.by_odd("think=3s").serving("v1");
        let mut clients = thinking(&site);
        site.publish("v2").swap();
        site.signal(Signal::SIGTERM);
        clients.expect_no_failure();
        site.expect_status(0).expect_nothing_left();
    }
}

#[test]
fn clients_that_come_during_a_stop_are_refused_and_counted_as_such() {
    let mut site = Site::at(Place::Tcp4).by_odd("think=1500ms").serving("v1");
    let mut clients = thinking(&site);
    site.signal(Signal::SIGTERM);
    site.log.wait_for("stopping");
    let late = site.guests().and(1, Habit::default()).come();
    late.until_failed(Failure::Reset);
    drop(late);
    clients.expect_no_failure();
    site.expect_status(0).expect_nothing_left();
    let said = site.log.lines("refused");
    assert!(
        said.iter()
            .any(|line| line.contains("refused during the stop"))
    );
}

/// That number of connections, whose requests nobody has read.
fn queued(site: &Site, count: usize) -> Vec<OwnedFd> {
    let connect = |_| match &site.targets[..] {
        [Target::Tcp(address)] => TcpStream::connect(address).map(OwnedFd::from),
        [Target::Unix(path)] => UnixStream::connect(path).map(OwnedFd::from),
        targets => panic!("{targets:?}"),
    };
    let all: Result<Vec<_>, _> = (0..count).map(connect).collect();
    all.expect("connections")
}

on_every_family! {
    /// It is asked to stop after 3s in which it has accepted none of them.
    fn clients_that_a_stopped_process_leaves_in_its_queue_are_counted_as_refused(plan: Plan) {
        let mut site = plan.with(&["--drain-timeout", "5s"]).serving("v1");
        processes::stop(site.pid(1));
        let clients = queued(&site, 20);
        site.stop();
        drop(clients);
        site.log.wait_for("20 connections were refused during the stop");
    }
}

/// It accepts all that is queued once it has SIGTERM, and ends.
const ACCEPTS_AT_THE_END: &str = "
import os, select, signal, socket, sys
one = socket.socket(fileno=3)

def end(*_):
    one.setblocking(False)
    accepted = 0
    try:
        while one.accept():
            accepted += 1
    except BlockingIOError:
        print('accepted', accepted, file=sys.stderr, flush=True)
    os._exit(0)

signal.signal(signal.SIGTERM, end)
while True:
    select.select([one], [], [])
    one.accept()
";

/// It would accept them only to leave them without an answer.
#[test]
fn a_server_that_is_told_to_stop_finds_its_queue_empty() {
    let Some(python) = find("python3").filter(|_| is_here("stop")) else {
        return;
    };
    for place in [Place::Tcp4, Place::Unix] {
        let plan = Site::at(place).with(&["--drain-timeout", "5s"]);
        let plan = plan.by_program(python.clone(), &["-c", ACCEPTS_AT_THE_END]);
        let mut site = plan.serving("");
        processes::stop(site.pid(1));
        let clients = queued(&site, 20);
        // it has time between its signal and whatever follows that
        let report = site.dir().join("strace");
        let options = [
            "-qqq".to_owned(),
            format!("--output={}", report.display()),
            "--trace=kill".to_owned(),
            "--inject=kill:delay_exit=500000".to_owned(),
        ];
        let strace = Attached::with(&options, site.hotswap());
        site.stop();
        strace.let_go();
        drop(clients);
        let accepted = site.log.wait_for("accepted ");
        assert!(accepted.ends_with("accepted 0"), "{accepted}");
    }
}

#[test]
fn clients_that_wait_for_the_first_generation_at_a_stop_are_counted_as_refused() {
    for place in [Place::Tcp4, Place::Unix] {
        let mut site = Site::at(place).by_odd("hang").opening("v1");
        site.log.wait_for("generation 1 started");
        let clients = queued(&site, 20);
        site.stop();
        drop(clients);
        site.log
            .wait_for("20 connections were refused during the stop");
    }
}

/// Only hotswap's own question of a candidate was still in its queue.
#[test]
fn a_question_of_hotswaps_own_is_no_client_that_a_stop_refuses() {
    let flags = ["--ready-timeout", "1300ms", "--drain-timeout", "1s"];
    let mut site = Site::at(Place::Tcp4).with(&flags).serving("v1");
    site.publish_odd("v2", "hang deaf").swap_in_vain();
    assert_eq!(site.stop().code(), Some(0));
    assert!(!site.log.says("refused"));
}

#[test]
fn every_signal_that_means_a_stop_stops() {
    for number in [libc::SIGQUIT, libc::SIGPWR, libc::SIGRTMIN() + 3] {
        let mut site = Site::serving("v1");
        let hotswap = site.hotswap().as_raw();
        let sent = Command::new("kill")
            .args([format!("-{number}"), hotswap.to_string()])
            .status();
        assert!(sent.expect("kill(1)").success());
        site.expect_status(0).expect_nothing_left();
    }
}

#[test]
fn a_second_sigterm_does_not_wait_for_requests() {
    let mut site = Site::at(Place::Tcp4).by_odd("think=20s").serving("v1");
    let clients = thinking(&site);
    site.signal(Signal::SIGTERM);
    site.log.wait_for("stopping");
    sleep(Duration::from_millis(100));
    site.signal(Signal::SIGTERM);
    site.expect_status(0).expect_nothing_left();
    drop(clients);
}

/// The terminal sends Ctrl-C to all of its foreground, and a parent there passes it on; others signal a process and its
/// group.
#[test]
fn one_signal_that_comes_twice_finishes_requests_in_flight() {
    let plan = Site::at(Place::Tcp4).with(&["--quiesce", "5s"]);
    let mut site = plan.by_odd("think=700ms").serving("v1");
    let mut clients = thinking(&site);
    // two of one kind would be one
    site.while_stopped(|site| {
        site.signal(Signal::SIGTERM).signal(Signal::SIGQUIT);
    });
    clients.expect_no_failure();
    site.expect_status(0).expect_nothing_left();
}

#[test]
fn a_sigterm_after_the_stop_signal_kills_at_once() {
    let mut site = Site::at(Place::Tcp4)
        .by_odd("deaf helpers=2 escaped=1")
        .serving("v1");
    site.signal(Signal::SIGTERM);
    site.log.wait_for("stopping");
    // Those that come at once are one.
    let hotswap = site.hotswap();
    eventually("the end", || {
        let _ = kill(hotswap, Signal::SIGTERM);
        site.has_ended().then_some(())
    });
    site.expect_status(137).expect_nothing_left();
}

#[test]
fn one_that_does_not_hear_is_killed_at_the_drain_timeout() {
    let plan = Site::at(Place::Tcp4).with(&["--drain-timeout", "1s"]);
    let mut site = plan.by_odd("deaf helpers=2 escaped=1").serving("v1");
    assert_eq!(site.stop().code(), Some(0));
    site.expect_nothing_left();
}

#[test]
fn a_stop_ends_a_swap() {
    let mut site = Site::serving("v1");
    site.publish_odd("v2", "hang");
    site.signal(Signal::SIGHUP);
    site.log.wait_for("generation 2 started");
    assert_eq!(site.stop().code(), Some(0));
    site.expect_nothing_left();
    assert!(!site.log.says("generation 2 is serving"));
}

/// It waits for its time, and has not been started yet.
#[test]
fn a_stop_says_nothing_of_a_generation_that_was_never_started() {
    let plan = Site::at(Place::Tcp4).with(&["--restart", "always"]);
    let mut site = plan.by_odd("exit=3").opening("v1");
    site.log.wait_for("generation 6 aborted");
    assert_eq!(site.stop().code(), Some(0));
    for line in site.log.lines("aborted") {
        let generation = line.split(" aborted").next().unwrap_or_default();
        let started = format!("{generation} started");
        assert!(site.log.says(&started));
    }
}

#[test]
fn a_stop_ends_a_drain_that_would_go_on() {
    let mut site = Site::serving("v1");
    let mut clients = slow(&site);
    site.publish("v2").swap();
    site.signal(Signal::SIGTERM);
    clients.expect_no_failure();
    site.expect_status(0).expect_nothing_left();
}

#[test]
fn nothing_is_swapped_or_restarted_after_a_stop() {
    let mut site = Site::at(Place::Tcp4)
        .with(&["--drain-timeout", "2s"])
        .by_odd("deaf")
        .serving("v1");
    site.signal(Signal::SIGTERM);
    site.log.wait_for("stopping");
    site.signal(Signal::SIGHUP);
    site.expect_status(0).expect_nothing_left();
    assert!(!site.log.says("generation 2"));
}

/// A site whose controlling terminal, made so by setsid(1), closes when the other end is dropped.
fn on_a_terminal(wrapper: &[&str]) -> (Site, OwnedFd) {
    let terminal = nix::pty::openpty(None, None).expect("a terminal");
    let closed_by_exec = FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC);
    fcntl(&terminal.master, closed_by_exec).expect("a descriptor of our own");
    let plan = Site::at(Place::Tcp4).inside(&[&["setsid", "--ctty"], wrapper].concat());
    (
        plan.on_terminal(terminal.slave).serving("v1"),
        terminal.master,
    )
}

#[test]
fn a_terminal_that_closes_is_a_stop() {
    let (mut site, terminal) = on_a_terminal(&[]);
    drop(terminal);
    site.expect_status(0).expect_nothing_left();
    site.log.wait_for("stopping: the terminal was closed");
}

#[test]
fn under_nohup_it_serves_on_when_the_terminal_closes() {
    let (site, terminal) = on_a_terminal(&["nohup"]);
    drop(terminal);
    let mut clients = site.clients(4);
    clients.until_answered(200);
    clients.expect_no_failure();
}

/// A job in the background of a shell whose terminal is gone, as after a logout.
#[test]
fn after_its_terminal_has_closed_sighup_swaps_again() {
    let job = ["sh", "-mc", "\"$@\" & wait", "sh"];
    let (site, terminal) = on_a_terminal(&job);
    drop(terminal);
    let has_terminal = || {
        let stat =
            std::fs::read_to_string(format!("/proc/{}/stat", site.hotswap())).expect("it lives");
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        after_name.split_ascii_whitespace().nth(4) != Some("0")
    };
    eventually("the terminal is gone", || (!has_terminal()).then_some(()));
    // a signal that comes with it is one of the shell
    sleep(Duration::from_secs(2));
    site.signal(Signal::SIGHUP);
    site.log.wait_for("generation 2 is serving");
    let mut clients = site.clients(4);
    clients.until_answered(200);
    clients.expect_no_failure();
    site.signal(Signal::SIGTERM);
    site.expect_nothing_left();
}

/// A daemon in the old style, started with no variables: its main process does not know it.
fn by_a_daemon(words: &str) -> Site {
    let address = free_address();
    let odd = server("odd").display().to_string();
    let script = format!(
        "#!/bin/sh\n(env -i VERSION=v1 setsid {odd} at={address} {words} &)\nexec sleep 1000\n"
    );
    let plan = Site::at(Place::Captured(address)).by_script(&script, &[]);
    plan.serving("v1")
}

#[test]
fn a_daemon_without_variables_finishes_its_requests_at_a_swap() {
    let mut site = by_a_daemon("think=700ms");
    let mut clients = thinking(&site);
    site.swap();
    clients.expect_no_failure();
    site.wait_until_gone(1);
    // nobody else would find the other one
    site.signal(Signal::SIGTERM);
    site.expect_status(0);
}

#[test]
fn a_daemon_without_variables_finishes_its_requests_at_a_stop() {
    let mut site = by_a_daemon("think=700ms");
    let mut clients = thinking(&site);
    site.signal(Signal::SIGTERM);
    clients.expect_no_failure();
    site.expect_status(0).expect_nothing_left();
}

/// Its process is asked to stop, and then whatever started that: it would start the old version anew.
#[test]
fn a_wrapper_that_starts_its_server_again_is_stopped_too() {
    let hello = server("hello").display().to_string();
    let script =
        format!("#!/bin/sh\nwhile :; do VERSION=v1 sh -c 'LISTEN_PID=$$ exec {hello}'; done\n");
    let mut site = Site::at(Place::Tcp4).by_script(&script, &[]).serving("v1");
    let mut clients = site.clients(4);
    site.publish("v2").swap();
    site.wait_until_gone(1);
    clients.expect_no_failure();
    assert!(!site.log.says("is killed"));
    assert!(site.stop().success());
    site.expect_nothing_left();
}

/// It sees its own signal only once its server is dead, which by then is another one.
#[test]
fn a_wrapper_that_catches_the_signal_later_ends_by_itself() {
    let scripts = [
        "trap 'exit 0' TERM; while :; do VERSION=v1 SERVER; done",
        // as a manager that starts anew what has ended, and ends once it was asked
        "trap 'ends=1' TERM; until [ $ends ]; do VERSION=v1 SERVER; done",
    ];
    for script in scripts {
        let address = free_address();
        let quick = format!("{} {address}", server("quick").display());
        let script = format!("#!/bin/bash\n{}\n", script.replace("SERVER", &quick));
        let plan = Site::at(Place::Captured(address)).by_script(&script, &[]);
        let mut site = plan.with(&["--drain-timeout", "20s"]).serving("v1");
        let mut clients = site.clients(4);
        site.swap().wait_until_gone(1);
        clients.expect_no_failure();
        assert!(site.stop().success());
        assert!(!site.log.says("is killed"), "{}", site.log.timed());
        site.expect_nothing_left();
    }
}

/// Its wrapper has a moment for its last words, however many listeners the server opens while it ends.
#[test]
fn a_server_that_listens_elsewhere_before_it_ends_is_not_started_anew() {
    let address = free_address();
    let python = "\
import http.server, signal, socket, sys, threading, time
web = http.server.ThreadingHTTPServer((\"127.0.0.1\", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler)
def end(*_):
    other = socket.create_server((\"127.0.0.1\", int(sys.argv[2])))
    time.sleep(0.3)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
web.serve_forever()";
    let (port, other) = (address.port(), free_address().port());
    let script = format!("#!/bin/sh\npython3 -c '{python}' {port} {other}\necho last words >&2\n");
    let plan = Site::at(Place::Captured(address)).by_script(&script, &[]);
    let mut site = plan.serving("");
    assert!(site.stop().success());
    assert!(site.log.says("last words"), "{}", site.log.timed());
    site.expect_nothing_left();
}

/// Its server ends well, and is started again until the wrapper is killed.
#[test]
fn a_server_that_comes_back_during_a_stop_gets_no_client() {
    for place in [Place::captured(), Place::CapturedUnix] {
        let plan = Site::at(place.clone()).with(&["--drain-timeout", "2s"]);
        let at = place.bound(plan.dir()).expect("an address");
        let odd = server("odd").display().to_string();
        let script = format!(
            "#!/bin/sh\ntrap : TERM\nwhile :; do VERSION=v1 {odd} at={at}; sleep .05; done\n"
        );
        let mut site = plan.by_script(&script, &[]).serving("v1");
        site.signal(Signal::SIGTERM);
        site.log.wait_for("stopping");
        let mut late = site.guests().and(4, Habit::default()).come();
        site.expect_status(0).expect_nothing_left();
        let tally = late.leave();
        assert_eq!(tally.answers, 0, "{tally}: {}", site.log.timed());
    }
}

/// It ends as soon as it is asked, and the wrapper reaps it before hotswap looks again.
#[test]
fn a_captured_server_that_its_wrapper_starts_again_at_once_is_stopped_too() {
    let address = free_address();
    let quick = server("quick").display().to_string();
    let script = format!("#!/bin/sh\nwhile :; do VERSION=v1 {quick} {address}; done\n");
    let plan = Site::at(Place::Captured(address)).by_script(&script, &[]);
    let mut site = plan.serving("v1");
    site.swap().wait_until_gone(1);
    assert!(!site.log.says("is killed"));
    assert!(site.stop().success());
    assert!(!site.log.says("is killed"));
    site.expect_nothing_left();
}

/// A hook that hangs, and a readiness command that never ends.
#[test]
fn no_command_outlives_hotswap() {
    let hangs = Site::at(Place::Tcp4).with(&["--on-event", "sleep 300"]);
    let mut site = hangs.serving("v1");
    assert!(site.stop().success());
    site.expect_nothing_left();
    let asks = Site::at(Place::Tcp4).with(&["--ready", "exec:sleep 300", "--ready-timeout", "1s"]);
    let mut site = asks.opening("v1");
    site.expect_status(124).expect_nothing_left();
}

#[test]
fn a_command_after_the_last_event_has_a_moment_to_finish() {
    let plan = Site::at(Place::Tcp4);
    let done = plan.dir().join("run/done");
    let hook = format!("sleep 1; echo $HOTSWAP_EVENT >>{}", done.display());
    let mut site = plan.with(&["--on-event", &hook]).serving("v1");
    assert!(site.stop().success());
    let events = std::fs::read_to_string(&done).expect("what it wrote");
    assert!(events.contains("gone"), "{events}");
    site.expect_no_process();
}
