//! The signals of hotswap: which are requests, and which are passed on.

use std::fs;

use nix::libc;
use nix::sys::signal::{Signal, kill};

use crate::common::place::{Place, Target, free_address};
use crate::common::site::Site;
use crate::common::strace::{Attached, is_here};
use crate::common::{eventually, server};

#[test]
fn a_hundred_requests_in_a_burst_are_at_most_two_swaps() {
    let mut site = Site::serving("v1");
    let mut clients = site.clients(8);
    site.publish("v2");
    let hotswap = site.hotswap();
    for _ in 0..100 {
        kill(hotswap, Signal::SIGHUP).expect("a signal to hotswap");
    }
    site.log.wait_for("generation 2 is serving");
    clients.until_all_see("v2");
    // Whatever was asked for is done by the time that all but one are gone.
    site.wait_until_gone(1);
    clients.until_answered(100);
    clients.expect_no_failure();
    assert!(site.stop().success());
    let swaps = site.log.count("started, pid") - 1;
    assert!((1..=2).contains(&swaps), "{swaps} swaps");
}

/// A server that reopens its log when it gets SIGUSR1, and says so.
pub fn reopening() -> String {
    let hello = server("hello").display().to_string();
    format!(
        "#!/bin/sh\ntrap 'echo reopened >&2' USR1\nVERSION=v1 sh -c 'LISTEN_PID=$$ exec {hello}' &\nwait; wait\n"
    )
}

#[test]
fn usr1_reaches_a_server_that_catches_it() {
    let site = Site::at(Place::Tcp4)
        .by_script(&reopening(), &[])
        .serving("v1");
    site.signal(Signal::SIGUSR1);
    site.log.wait_for("reopened");
}

#[test]
fn usr1_kills_no_server_that_does_not_catch_it() {
    let site = Site::at(Place::Tcp4).by_odd("").serving("v1");
    let mut clients = site.clients(2);
    site.signal(Signal::SIGUSR1);
    site.log.wait_for("generation 1 does not get SIGUSR1");
    clients.until_answered(20);
    clients.expect_no_failure();
    assert_eq!(site.log.count("is dead"), 0);
}

#[test]
fn usr1_is_not_passed_on_where_it_would_stop_the_server() {
    let plan = Site::at(Place::Tcp4).with(&["--stop-signal", "USR1"]);
    let site = plan.by_script(&reopening(), &[]).serving("v1");
    site.signal(Signal::SIGUSR1);
    let line = site.log.wait_for("generation 1 does not get SIGUSR1");
    assert!(line.ends_with(": that is its stop signal"), "{line}");
}

#[test]
fn signals_that_mean_nothing_here_never_end_hotswap() {
    let mut site = Site::serving("v1");
    for signal in [
        Signal::SIGALRM,
        Signal::SIGXFSZ,
        Signal::SIGXCPU,
        Signal::SIGPROF,
        Signal::SIGVTALRM,
        Signal::SIGABRT,
        // as somebody sends them, not as a fault
        Signal::SIGILL,
        Signal::SIGTRAP,
        Signal::SIGBUS,
        Signal::SIGFPE,
        Signal::SIGSEGV,
        Signal::SIGSYS,
    ] {
        site.signal(signal);
    }
    // pending ones are read by their numbers
    for name in ["SIGALRM", "SIGSEGV"] {
        site.log.wait_for(&format!("{name} is ignored"));
    }
    let mut clients = site.clients(4);
    clients.until_answered(100);
    clients.expect_no_failure();
    assert!(site.stop().success());
    site.expect_nothing_left();
}

/// As daemons hand it on to what they start.
#[test]
fn where_sigchld_is_ignored_deaths_are_noticed() {
    let plan = Site::at(Place::Tcp4).inside(&["env", "--ignore-signal=CHLD"]);
    let site = plan.serving("v1");
    kill(site.pid(1), Signal::SIGKILL).expect("a signal");
    site.log.wait_for("killed by SIGKILL");
    site.log.wait_for("generation 2 is serving");
    site.swap().wait_until_gone(2);
    assert_eq!(site.log.count("it did not end in time"), 0);
    site.publish_odd("bad", "exit=3");
    assert!(site.swap_in_vain().contains("exited with status 3"));
}

#[test]
fn winch_is_not_passed_on_and_the_wrong_signals_do_nothing() {
    let site = Site::at(Place::Tcp4).by_odd("").serving("v1");
    for signal in [
        Signal::SIGWINCH,
        Signal::SIGCHLD,
        Signal::SIGPIPE,
        Signal::SIGCONT,
    ] {
        site.signal(signal);
    }
    let mut clients = site.clients(4);
    clients.until_answered(100);
    clients.expect_no_failure();
    assert_eq!(site.log.count("started, pid"), 1);
}

/// Servers in the style of endless tell their old parent to stop when they have the socket.
#[test]
fn sigterm_from_a_starting_server_is_its_readiness() {
    let site = Site::serving("v1");
    let clients = site.clients(4);
    site.publish_odd("v2", "parent").swap();
    clients.until_all_see("v2");
    assert!(!site.log.says("stopping"));
}

/// It is dead and reaped before its signal is read: between the two hotswap is held up as it reaps somebody else.
#[test]
fn sigterm_from_a_starting_server_that_died_at_once_is_no_stop() {
    if !is_here("sigterm_from_a_starting_server_that_died_at_once_is_no_stop") {
        return;
    }
    let site = Site::serving("v1");
    let mut clients = site.clients(4);
    let [go, report] = ["run/go", "run/report"].map(|name| site.dir().join(name));
    let script = format!(
        "#!/bin/sh\nwhile ! test -e {}; do sleep 0.02; done\nkill -TERM $PPID\nexit 3\n",
        go.display()
    );
    site.publish_file(script.as_bytes(), 0o755)
        .signal(Signal::SIGHUP);
    site.log.wait_for("generation 2 started");
    let options = [
        "-qqq".to_owned(),
        format!("--output={}", report.display()),
        "--trace=wait4".to_owned(),
        "--inject=wait4:delay_enter=2000000:when=1".to_owned(),
    ];
    let strace = Attached::with(&options, site.hotswap());
    site.signal(Signal::SIGCHLD);
    eventually("hotswap held up", || {
        let call = fs::read_to_string(format!("/proc/{}/syscall", site.hotswap())).ok()?;
        let number = call.split(' ').next()?.parse();
        (number == Ok(libc::SYS_wait4)).then_some(())
    });
    fs::write(&go, "").expect("a file");
    site.log
        .wait_for("generation 2 aborted: exited with status 3");
    strace.let_go();
    site.publish("v3").swap();
    clients.until_all_see("v3");
    clients.expect_no_failure();
}

#[test]
fn a_stopped_server_is_continued_to_end_it() {
    let mut site = Site::serving("v1");
    kill(site.pid(1), Signal::SIGSTOP).expect("a signal to the server");
    assert!(site.stop().success());
    site.expect_nothing_left();
}

#[test]
fn the_stop_signal_can_be_chosen() {
    for (signal, killed_by) in [("INT", "SIGINT"), ("SIGRTMIN+3", "signal 37")] {
        let plan = Site::at(Place::Tcp4).with(&["--stop-signal", signal]);
        let mut site = plan.by_odd("deaf").serving("v1");
        site.publish_odd("v2", "deaf").swap().wait_until_gone(1);
        let gone = site.log.lines("generation 1 is gone");
        let killed = format!("(killed by {killed_by})");
        assert!(gone[0].contains(&killed), "{gone:?}");
        assert!(site.stop().success());
    }
}

/// `busybox httpd` is called like Apache, and ignores the signal by which Apache stops.
#[test]
fn a_server_that_ignores_the_stop_signal_of_its_name_gets_sigterm() {
    let address = free_address();
    let plan = Site::at(Place::Given(Target::Tcp(address)));
    let program = plan.dir().join("httpd");
    fs::copy(server("odd"), &program).expect("a server");
    let words = [format!("at={address}")];
    let plan = plan.by_program(program, &[&words[0]]);
    let site = plan.with(&["--drain-timeout", "5s"]).serving("");
    site.swap().wait_until_gone(1);
    let gone = site.log.lines("generation 1 is gone");
    assert!(gone[0].contains("(killed by SIGTERM)"), "{gone:?}");
}
