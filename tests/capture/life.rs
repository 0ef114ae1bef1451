//! What else happens in the life of a server that binds by itself.

use std::fs;
use std::net::SocketAddr;

use nix::sys::signal::{Signal, kill};

use super::{at, closed, python, swap};
use crate::common::crowd::Habit;
use crate::common::place::{Place, Target, free_address};
use crate::common::plan::Plan;
use crate::common::processes::{is_alive, kilobytes};
use crate::common::site::Site;
use crate::common::{alone, eventually, server};

/// A shell that waits for its server, which binds that address.
fn wrapped(address: SocketAddr) -> Plan {
    let odd = server("odd").display().to_string();
    let script = format!(
        "#!/bin/sh\n'{odd}' at={address}\nstatus=$?\necho server ended >&2\nexit $status\n"
    );
    at(address).by_script(&script, &[])
}

/// A wrapper would leave its server behind, were it the one to be told to stop.
#[test]
fn the_server_is_stopped_and_not_its_wrapper() {
    let site = wrapped(free_address()).serving("");
    let mut clients = site.clients(4);
    swap(&site, 3);
    assert_eq!(site.log.count("server ended"), 3);
    clients.expect_no_failure();
}

/// What was known of it before is known after.
#[test]
fn an_upgrade_of_hotswap_is_not_noticed() {
    let site = wrapped(free_address()).serving("");
    let mut clients = site.clients(4);
    site.signal(Signal::SIGUSR2).log.wait_for("upgraded to");
    swap(&site, 2);
    assert_eq!(site.log.count("server ended"), 2);
    clients.expect_no_failure();
}

/// The kernel cuts the name after 15 bytes, here in the middle of a letter.
#[test]
fn a_program_may_have_a_name_of_any_bytes() {
    let directory = tempfile::tempdir().expect("a directory");
    let program = directory.path().join("aсервер-приложение");
    fs::copy(server("odd"), &program).expect("a copy");
    let address = free_address();
    let site = at(address)
        .by_program(program, &[&format!("at={address}")])
        .serving("");
    let mut clients = site.clients(4);
    swap(&site, 2);
    clients.until_answered(10);
    clients.expect_no_failure();
}

#[test]
fn a_crash_is_met_with_a_restart_into_the_same_socket() {
    let address = free_address();
    let odd = server("odd");
    let site = at(address)
        .by_program(odd, &[&format!("at={address}")])
        .serving("");
    let first = site.pid(1);
    kill(first, Signal::SIGKILL).expect("a signal");
    eventually("the end of the first", || (!is_alive(first)).then_some(()));
    let mut clients = site.clients(4);
    clients.until_answered(8);
    clients.expect_no_failure();
    site.log.wait_for("generation 2 is serving");
}

/// Somebody of it is still there, but nobody who could accept.
fn its_queue_is_kept_for_the_next(plan: Plan, at: &str) {
    let words = [at, "single", "think=50ms", "helpers=1", "escaped=1"];
    let plan = plan.with(&["--drain-timeout", "3s"]);
    let site = plan.by_program(server("odd"), &words).serving("");
    let mut clients = site.guests().and(20, Habit::default()).come();
    clients.until_answered(3);
    kill(site.pid(1), Signal::SIGKILL).expect("a signal");
    site.log.wait_for("generation 2 is serving");
    clients.until_answered(40);
    let tally = clients.leave();
    let lost = tally.failures.len();
    assert!(lost <= 1, "only the one that it had accepted: {tally}");
    site.wait_until_gone(1);
}

#[test]
fn a_crash_that_leaves_helpers_keeps_the_queue() {
    let address = free_address();
    its_queue_is_kept_for_the_next(at(address), &format!("at={address}"));
}

#[test]
fn a_crash_that_leaves_helpers_keeps_the_queue_of_a_unix_path() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("own.sock");
    let plan = Site::at(Place::Given(Target::Unix(path.clone())));
    its_queue_is_kept_for_the_next(plan, &format!("at=unix:{}", path.display()));
}

/// What a server does to hotswap's eyes and ears harms nobody but itself.
#[test]
fn a_hostile_server_is_served_on_and_swapped() {
    let _alone = alone();
    let address = free_address();
    let site = at(address)
        .by_program(server("hostile"), &[&address.to_string()])
        .serving("");
    let mut clients = site.guests().and(4, Habit::default()).come();
    clients.until_answered(200);
    let hotswap = site.hotswap();
    let before = kilobytes(hotswap);
    swap(&site, 2);
    clients.until_answered(1000);
    clients.expect_no_failure();
    let grown = kilobytes(hotswap).saturating_sub(before);
    assert!(grown < 64 * 1024, "hotswap has grown by {grown} kB");
    let open = fs::read_dir(format!("/proc/{hotswap}/fd"))
        .expect("its descriptors")
        .count();
    assert!(open < 1000, "hotswap has {open} descriptors open");
}

fn odd_at(address: SocketAddr) -> Plan {
    at(address).by_odd(&format!("at={address}"))
}

#[test]
fn a_candidate_that_crashes_changes_nothing() {
    let address = free_address();
    let site = odd_at(address).serving("v1");
    let mut clients = site.clients(4);
    site.publish_odd("v2", &format!("at={address} exit=3"));
    let verdict = site.swap_in_vain();
    assert!(verdict.contains("exited with status 3"), "{verdict}");
    site.publish("v3").swap();
    clients.until_all_see("v3");
    clients.expect_no_failure().expect_never_seen("v2");
}

#[test]
fn a_candidate_that_asks_for_another_address_is_told_so() {
    let address = free_address();
    let site = odd_at(address)
        .with(&["--ready-timeout", "2s"])
        .serving("v1");
    let mut clients = site.clients(4);
    clients.until_answered(4);
    site.publish_odd("v2", &format!("at=0.0.0.0:{}", address.port()));
    site.swap_in_vain();
    site.log
        .wait_for("address changed: generation 2 binds 0.0.0.0:");
    site.log.wait_for(&format!(
        "try: hotswap swap --without {address}, if it has moved"
    ));
    assert_eq!(site.log.count("try:"), 1);
    clients.expect_no_failure().expect_never_seen("v2");
}

#[test]
fn under_stop_first_clients_wait_for_the_next() {
    let address = free_address();
    let site = odd_at(address)
        .with(&["--order", "stop-first"])
        .serving("v1");
    let mut clients = site.guests().and(4, Habit::default()).come();
    site.publish("v2").swap();
    clients.until_all_see("v2");
    clients.expect_no_failure();
}

/// Nobody else could end it, and it would not have been ended without hotswap.
#[test]
fn a_first_generation_that_is_never_seen_accepting_is_left_alone() {
    let address = free_address();
    let plan = at(address).with(&["--ready-timeout", "2s"]);
    let site = plan.by_odd(&format!("at={address} hang=3s")).serving("v1");
    site.log
        .wait_for("generation 1 is serving (assumed ready after ");
    site.log.wait_for("was not seen accepting");
    let mut clients = site.clients(2);
    clients.until_answered(4);
    clients.expect_no_failure();
}

#[test]
fn without_capture_the_next_generation_finds_the_port_taken() {
    let address = free_address();
    let plan = Site::at(Place::Nowhere).with(&["--capture", "never"]);
    let site = plan.by_odd(&format!("at={address}")).serving("v1");
    let verdict = site.swap_in_vain();
    assert!(
        verdict.contains("generation 2 aborted: exited with"),
        "{verdict}"
    );
}

/// The candidate has not even bound: it is given the dead one's socket, and with it those who wait there.
#[test]
fn when_the_serving_one_dies_clients_wait_for_the_candidate() {
    let address = free_address();
    let site = odd_at(address).serving("v1");
    site.publish_odd("v2", &format!("at={address} late=1s"))
        .signal(Signal::SIGHUP);
    let candidate = site.pid(2);
    kill(site.pid(1), Signal::SIGKILL).expect("a signal");
    site.log.wait_for("generation 1 is dead");
    let mut clients = site.guests().and(4, Habit::default()).come();
    clients.until_all_see("v2");
    clients.expect_no_failure();
    assert!(is_alive(candidate));
}

#[test]
fn what_is_not_kept_over_a_swap_is_said_once() {
    let address = free_address();
    let script = format!(
        "#!/bin/sh\n'{odd}' at=127.0.0.1:0 &\nexec '{odd}' at={address}\n",
        odd = server("odd").display()
    );
    let site = at(address).by_script(&script, &[]).serving("");
    site.log.wait_for("listens on port 0");
    site.swap();
    site.swap();
    let said = site.log.count("listens on port 0");
    assert_eq!(said, 1);
}

#[test]
fn multipath_tcp_becomes_plain_tcp_and_that_is_said_once() {
    let address = free_address();
    let script = format!(
        "
import http.server, socket
class Server(http.server.HTTPServer):
    def __init__(self, *arguments):
        super().__init__(*arguments, bind_and_activate=False)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
        self.server_bind()
        self.server_activate()
Server(('127.0.0.1', {port}), http.server.SimpleHTTPRequestHandler).serve_forever()
",
        port = address.port()
    );
    let Some(plan) = python(at(address), &script) else {
        return;
    };
    let site = plan.serving("");
    let mut clients = site.guests().and(2, Habit::default()).come();
    swap(&site, 2);
    clients.expect_no_failure();
    let said = site.log.count("asks for multipath TCP");
    assert_eq!(said, 1);
}

/// Both bind before either listens, as two threads may; the kernel refuses the second listen(2).
#[test]
fn only_one_of_two_sockets_that_are_bound_at_once_listens() {
    let address = free_address();
    let script = "\
def bound():
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind(('127.0.0.1', port))
    return one
one, two = bound(), bound()
one.listen()
try:
    two.listen()
except OSError as error:
    print('the second one:', error, file=sys.stderr)
two.close()
serve(one)";
    let Some(plan) = closed::python(at(address), address, script) else {
        return;
    };
    let site = plan.serving("");
    site.log.wait_for("the second one: [Errno 98]");
    let mut clients = site.guests().and(4, Habit::default()).come();
    swap(&site, 1);
    clients.until_answered(8);
    clients.expect_no_failure();
}

/// A restart is given the socket of the dead one, whose queue has clients in it.
#[test]
fn what_a_server_sets_on_its_socket_holds_after_a_crash_too() {
    let address = free_address();
    let script = "\
import os, struct
one = socket.socket()
one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
if os.environ['HOTSWAP_GENERATION'] == '2':
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 7))
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack('ll', 5, 0))
one.bind(('127.0.0.1', port))
one.listen()
lingers = struct.unpack('ii', one.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))[0]
timeout = struct.unpack('ll', one.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16))[0]
print('lingers:', lingers, 'timeout:', timeout, file=sys.stderr)
serve(one)";
    let Some(plan) = closed::python(at(address), address, script) else {
        return;
    };
    let site = plan.serving("");
    site.log.wait_for("lingers: 0 timeout: 0");
    for (generation, set) in [(1, "lingers: 1 timeout: 5"), (2, "lingers: 0 timeout: 0")] {
        let before = site.log.mark();
        kill(site.pid(generation), Signal::SIGKILL).expect("a signal to the server");
        site.log.wait_after(before, &[set]);
    }
}
