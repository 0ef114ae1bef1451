//! The first generation serves when it accepts, and not before.

use std::net::{SocketAddr, TcpStream};

use super::{after_shell, is_running};
use crate::capture::{at, find};
use crate::commands::{run, said};
use crate::common::attempt::attempt;
use crate::common::place::{Place, free_address};
use crate::common::site::Site;
use crate::common::{eventually, server};

/// Nothing is said of serving until a client is let in.
fn is_serving_when_it_accepts(site: &Site, address: SocketAddr) {
    eventually("the address", || {
        let early = site.log.says("is serving");
        let accepts = TcpStream::connect(address).is_ok();
        assert!(accepts || !early);
        accepts.then_some(())
    });
    let line = site.log.wait_for("generation 1 is serving");
    assert!(line.contains("(accepting after "), "{line}");
}

#[test]
fn a_slow_start_is_not_serving() {
    let address = free_address();
    let site = after_shell(address, "sleep 3").starting("");
    is_serving_when_it_accepts(&site, address);
}

#[test]
fn a_slow_start_is_not_serving_without_capture_either() {
    let address = free_address();
    let plan = after_shell(address, "sleep 3");
    let site = plan.with(&["--capture", "never"]).starting("");
    is_serving_when_it_accepts(&site, address);
}

#[test]
fn a_busy_start_is_not_serving() {
    let address = free_address();
    let plan = at(address).by_odd(&format!("at={address} busy=3s"));
    is_serving_when_it_accepts(&plan.starting("v1"), address);
}

/// Accepts there, works for a while, and serves at its address then.
fn accepts_first(listener: &str) {
    let Some(python) = find("python3") else {
        return;
    };
    let address = free_address();
    let script = format!(
        "import http.server, os, socket, threading, time\n\
         {listener}\n\
         listener.listen()\n\
         threading.Thread(target=listener.accept, daemon=True).start()\n\
         until = time.process_time() + 0.3\n\
         while time.process_time() < until: pass\n\
         handler = http.server.SimpleHTTPRequestHandler\n\
         http.server.HTTPServer(('127.0.0.1', {}), handler).serve_forever()\n",
        address.port()
    );
    let plan = at(address).by_program(python, &["-c", &script]);
    is_serving_when_it_accepts(&plan.starting(""), address);
}

/// As pm2 does.
#[test]
fn a_start_that_accepts_from_its_own_processes_is_not_serving() {
    accepts_first(
        "import tempfile\n\
         listener = socket.socket(socket.AF_UNIX)\n\
         listener.bind(tempfile.mkdtemp() + '/rpc.sock')",
    );
}

/// As an Erlang node does.
#[test]
fn a_start_that_accepts_on_a_port_of_the_kernels_choice_is_not_serving() {
    accepts_first("listener = socket.create_server(('127.0.0.1', 0))");
}

#[test]
fn a_daemon_is_a_failed_first_start_even_before_it_listens() {
    let address = free_address();
    let plan = at(address).by_odd(&format!("at={address} daemon late=1s"));
    let mut site = plan.starting("v1");
    site.expect_status(125).expect_no_process();
    site.log
        .wait_for("cannot follow a server that puts itself into the background");
}

#[test]
fn a_death_before_it_is_ready_is_a_failed_first_start() {
    let plan = Site::at(Place::Nowhere);
    let plan = plan.by_script("#!/bin/sh\nsleep 2; exit 7\n", &[]);
    let mut site = plan.starting("");
    site.expect_status(7);
    assert!(!site.log.says("is serving"));
}

#[test]
fn one_that_opens_another_address_than_it_is_given_is_told_so() {
    let (odd, at) = (server("odd"), format!("at={}", free_address()));
    let given = ["--listen", "127.0.0.1:0", "--ready-timeout", "2s"];
    let odd = odd.to_str().expect("a path");
    let command = ["--no-watch", "--", "env", "-u", "LISTEN_FDS", odd, &at];
    let attempt = attempt(&[&given[..], &command].concat());
    attempt.ended(124, &[]);
    let why = "not ready within 2s: does not accept on 127.0.0.1:";
    assert!(attempt.said.contains(why), "{}", attempt.said);
    assert!(!attempt.said.contains("refused"), "{}", attempt.said);
}

#[test]
fn one_that_says_how_far_it_is_is_ready_when_it_says_so_or_in_the_end() {
    let plan = Site::at(Place::Tcp4).with(&["--ready-timeout", "3s"]);
    let site = plan.by_odd("notify=STATUS=starting").serving("v1");
    let line = site.log.wait_for("generation 1 is serving");
    assert!(!line.contains("ms)"), "{line}");
    let flags = ["--ready-timeout", "100s"];
    let plan = Site::at(Place::Tcp4).with(&flags);
    plan.by_odd("notify=STATUS=starting ready").serving("v1");
}

/// It says so just after listen(2) and accepts at once: both happen during one look of hotswap.
#[test]
fn one_that_says_how_far_it_is_before_it_accepts_is_heard_first() {
    for _ in 0..5 {
        let address = free_address();
        let plan = at(address).with(&["--ready-timeout", "2s"]);
        let words = format!("at={address} notify=STATUS=starting");
        let site = plan.by_odd(&words).serving("v1");
        let line = site.log.wait_for("generation 1 is serving");
        assert!(!line.contains("ms)"), "{line}");
    }
}

#[test]
fn a_worker_without_a_port_is_ready_when_it_has_been_idle() {
    let plan = Site::at(Place::Nowhere);
    let site = plan.by_script("#!/bin/sh\nexec sleep 600\n", &[]);
    let site = site.starting("");
    site.log
        .wait_for("generation 1 does not listen on anything yet");
    site.log.wait_for("try: --ready after:1s");
    let line = site.log.wait_for("generation 1 is serving");
    assert!(line.contains("(assumed ready after 1"), "{line}");
    // Beside one without a listener a second is enough.
    site.swap();
}

#[test]
fn a_worker_that_is_busy_all_the_time_ends_the_first_start_with_124() {
    let plan = Site::at(Place::Nowhere).with(&["--ready-timeout", "3s"]);
    let plan = plan.by_script("#!/bin/sh\nwhile :; do :; done\n", &[]);
    let mut site = plan.starting("");
    site.expect_status(124);
    let why = "generation 1 aborted: not ready within 3s: does not listen on anything";
    site.log.wait_for(why);
    site.log
        .wait_for("try: a longer --ready-timeout; or --ready after:1s");
}

#[test]
fn one_that_takes_none_of_its_sockets_ends_with_124() {
    let plan = Site::at(Place::Tcp4).with(&["--ready-timeout", "2s"]);
    let plan = plan.by_script("#!/bin/sh\nexec sleep 600\n", &[]);
    let mut site = plan.starting("");
    site.expect_status(124);
    assert!(site.log.says("does not accept on 127.0.0.1:"));
}

#[test]
fn one_that_leaves_a_socket_is_named_once() {
    let plan = Site::at(Place::Tcp4).with(&["--listen", "other=127.0.0.1:0"]);
    let odd = crate::common::server("odd").display().to_string();
    let script = format!("#!/bin/sh\nLISTEN_FDS=1 exec '{odd}'\n");
    let site = plan.by_script(&script, &[]).serving("");
    site.log.wait_for("generation 1 does not accept on ");
    site.swap();
    assert_eq!(site.log.count("does not accept on "), 1);
}

#[test]
fn one_that_is_stopped_is_said_to_be_at_once() {
    let address = free_address();
    let words = format!("at={address} kill=SIGTTOU");
    let site = at(address).by_odd(&words).starting("v1");
    let line = site.log.wait_for("generation 1 is suspended by SIGTTOU");
    assert!(line.contains("it wants the terminal"), "{line}");
    let status = run(&site, &["status", "server"]);
    assert!(
        said(&status).contains("suspended by SIGTTOU"),
        "{}",
        said(&status)
    );
    let pid = site.pid(1);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).expect("a signal");
    site.log
        .wait_for("generation 1 is serving (accepting after ");
    assert!(is_running(pid));
}
