//! Every way for a new version to be bad: the old one answers every request, and hotswap says why.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::capture::at;
use crate::capture::closed::python;
use crate::commands::{ended, run};
use crate::common::crowd::Habit;
use crate::common::place::{Place, free_address};
use crate::common::plan::Plan;
use crate::common::processes::is_alive;
use crate::common::server;
use crate::common::site::Site;

/// Publishes a bad version, swaps in vain, then puts things right; returns what hotswap said of it.
fn in_vain(plan: Plan, publish: impl FnOnce(&Site) -> &Site) -> String {
    let site = plan.serving("v1");
    let mut clients = site.clients(8);
    publish(&site);
    let verdict = site.swap_in_vain();
    assert!(
        verdict.ends_with("; generation 1 keeps serving"),
        "{verdict}"
    );
    clients.until_answered(100);
    clients.so_far().expect_no_failure();
    site.publish("v3").swap();
    clients.until_all_see("v3");
    clients.expect_no_failure().expect_never_seen("v2");
    verdict
}

/// A version that misbehaves like that is aborted, and this is why.
pub fn aborts(plan: Plan, words: &str, why: &str) {
    let verdict = in_vain(plan, |site| site.publish_odd("v2", words));
    let why = format!("generation 2 aborted: {why}");
    assert!(verdict.contains(&why), "{verdict}");
}

fn on_tcp() -> Plan {
    Site::at(Place::Tcp4)
}

/// Any file instead of a version: it is aborted.
fn file_aborts(content: &[u8], mode: u32) {
    let verdict = in_vain(on_tcp(), |site| site.publish_file(content, mode));
    assert!(verdict.contains("generation 2 aborted: "), "{verdict}");
}

#[test]
fn it_exits_at_once() {
    aborts(on_tcp(), "exit=3", "exited with status 3 after ");
}

#[test]
fn it_ends_well_at_once() {
    aborts(on_tcp(), "exit=0", "exited with status 0 after ");
}

#[test]
fn it_is_killed_while_it_starts() {
    let words = "kill=SIGABRT after=200ms hang";
    aborts(on_tcp(), words, "killed by SIGABRT after ");
}

fn is_never_ready(place: Place, words: &str) {
    let plan = Site::at(place).with(&["--ready-timeout", "1500ms"]);
    aborts(plan, words, "not ready within 1.5s");
}

#[test]
fn it_never_accepts() {
    is_never_ready(Place::Tcp4, "hang deaf helpers=1");
}

#[test]
fn it_never_accepts_on_a_unix_path() {
    is_never_ready(Place::Unix, "hang");
}

#[test]
fn it_says_ready_and_never_accepts() {
    is_never_ready(Place::Tcp4, "ready hang");
}

#[test]
fn it_floods_its_stderr_and_the_notify_socket() {
    is_never_ready(Place::Tcp4, "stderr-flood notify-flood hang");
}

/// What it was asked to see whether it is ready is nobody's request, so nothing is relayed when it is gone.
fn never_answers_the_check(mode: &str) {
    let flags = ["--ready-timeout", "1500ms", "--ready", mode];
    let site = on_tcp().with(&flags).serving("v1");
    site.publish_odd("v2", "hang").swap_in_vain();
    site.wait_until_gone(2);
    site.publish("v3").swap().wait_until_gone(1);
    assert!(!site.log.says("relay"));
}

#[test]
fn it_never_answers_the_request_of_hotswap() {
    never_answers_the_check("http:/health");
}

#[test]
fn it_never_answers_the_command_that_asks_it() {
    never_answers_the_check(
        "exec:timeout 1 bash -c 'host=${HOTSWAP_CANDIDATE%:*} port=${HOTSWAP_CANDIDATE##*:}; \
         exec 3<>/dev/tcp/$host/$port; printf \"GET / HTTP/1.0\\r\\n\\r\\n\" >&3; read <&3'",
    );
}

#[test]
fn it_is_not_executable() {
    file_aborts(b"#!/bin/sh\nexit 0\n", 0o644);
}

#[test]
fn it_is_not_there() {
    let verdict = in_vain(on_tcp(), |site| {
        fs::remove_file(site.program()).expect("removed");
        site
    });
    assert!(verdict.contains("generation 2 aborted: "), "{verdict}");
    assert!(
        verdict.contains("No such file or directory (os error 2)"),
        "{verdict}"
    );
}

#[test]
fn it_is_empty() {
    file_aborts(b"", 0o755);
}

#[test]
fn it_is_half_written() {
    let whole = fs::read(server("hello")).expect("the server");
    file_aborts(&whole[..whole.len() / 2], 0o755);
}

#[test]
fn its_interpreter_is_not_there() {
    file_aborts(b"#!/no/such/interpreter\n", 0o755);
}

#[test]
fn it_puts_itself_into_the_background() {
    let verdict = in_vain(on_tcp(), |site| site.publish_odd("v2", "background"));
    let why = "cannot follow a server that puts itself into the background";
    assert!(
        verdict.contains(why) || verdict.contains("exited with status 0"),
        "{verdict}"
    );
}

/// By then it has been taken for ready, and is busy: it is ended like one that crashed, and hotswap is there for the next.
#[test]
fn it_puts_itself_into_the_background_once_it_serves() {
    let site = on_tcp().serving("v1");
    let clients = site.guests().and(1, Habit::default()).come();
    let odd = server("odd");
    let script = format!(
        "#!/bin/sh\nVERSION=v2 '{}' single think=2ms &\nsleep 0.5\n",
        odd.display()
    );
    site.publish_file(script.as_bytes(), 0o755).swap();
    site.log
        .wait_for(" is dead: cannot follow a server that puts itself into the background");
    site.publish("v3").signal(Signal::SIGHUP);
    clients.until_all_see("v3");
}

#[test]
fn its_last_words_are_passed_on() {
    let site = Site::serving("v1");
    site.publish_odd("v2", "say=no-database exit=3")
        .swap_in_vain();
    site.log.wait_for("no-database");
}

/// Rolled back: it was ready, it got the new connections, and it fell while it had to prove itself.
#[test]
fn it_crashes_while_it_proves_itself() {
    let site = on_tcp().with(&["--min-ready", "10s"]).serving("v1");
    let mut clients = site.clients(8);
    site.publish_odd("v2", "exit=3 after=500ms");
    let verdict = site.swap_in_vain();
    site.log.wait_for("generation 2 is proving (");
    assert!(
        verdict.contains("generation 2 rolled back: exited with status 3 after"),
        "{verdict}"
    );
    assert!(
        verdict.ends_with("of proving; generation 1 keeps serving"),
        "{verdict}"
    );
    clients.until_all_see("v1");
    // What it had accepted is lost with it, and only that.
    let lost = clients.leave().failures.len();
    assert!(lost <= 8, "{}", clients.so_far());
    let mut clients = site.clients(8);
    clients.until_answered(100);
    clients.expect_no_failure().expect_never_seen("v2");
}

#[test]
fn one_that_is_stopped_while_it_has_to_prove_itself_is_rolled_back() {
    let site = on_tcp().with(&["--min-ready", "1s"]).serving("v1");
    site.publish("v2").signal(Signal::SIGHUP);
    site.log.wait_for("generation 2 is proving");
    kill(site.pid(2), Signal::SIGSTOP).expect("a signal to the server");
    let verdict = site
        .log
        .wait_after(0, &["generation 2 rolled back", "generation 2 is serving"]);
    assert!(verdict.contains("it is suspended by SIGSTOP"), "{verdict}");
    site.clients(4).until_all_see("v1");
}

#[test]
fn one_that_closes_its_socket_while_it_has_to_prove_itself_is_rolled_back() {
    let address = free_address();
    let words = format!("at={address}");
    let plan = at(address).with(&["--min-ready", "2s"]).by_odd(&words);
    let site = plan.serving("v1");
    let verdict = site
        .publish_odd("v2", &format!("{words} close=300ms"))
        .swap_in_vain();
    let expected = format!("rolled back: it no longer listens on {address}");
    assert!(verdict.contains(&expected), "{verdict}");
    site.clients(4).until_all_see("v1");
}

#[test]
fn one_that_is_left_alone_still_has_to_prove_itself() {
    let site = on_tcp().with(&["--min-ready", "10s"]).serving("v1");
    site.publish_odd("v2", "exit=3 after=1s")
        .signal(Signal::SIGHUP);
    site.log.wait_for("generation 2 is proving");
    kill(site.pid(1), Signal::SIGKILL).expect("a signal to the server");
    let verdict = site
        .log
        .wait_after(0, &["generation 2 rolled back", "generation 2 is serving"]);
    assert!(verdict.contains("exited with status 3"), "{verdict}");
}

#[test]
fn one_that_comes_after_the_old_one_has_to_prove_itself() {
    let flags = ["--order", "stop-first", "--min-ready", "10s"];
    let site = on_tcp().with(&flags).serving("v1");
    let verdict = site.publish_odd("v2", "exit=3 after=300ms").swap_in_vain();
    assert!(verdict.contains("generation 2 rolled back"), "{verdict}");
}

#[test]
fn one_that_proves_itself_takes_over() {
    let site = on_tcp().with(&["--min-ready", "300ms"]).serving("v1");
    let mut clients = site.clients(8);
    site.publish("v2").swap();
    site.log
        .wait_for("generation 2 is proving (accepting after");
    clients.until_all_see("v2");
    site.wait_until_gone(1);
    clients.expect_no_failure();
}

/// Its stop signal, two seconds, and then the whole group: no helper of a candidate stays.
#[test]
fn nothing_of_it_is_left() {
    let site = on_tcp().with(&["--ready-timeout", "500ms"]).serving("v1");
    site.publish_odd("v2", "deaf hang helpers=2 escaped=1")
        .swap_in_vain();
    let pid = site.pid(2);
    site.wait_until_gone(2);
    assert!(!is_alive(pid));
    let only_v1 = crate::common::processes::of_site(site.dir());
    assert_eq!(only_v1.len(), 2, "hotswap and generation 1: {only_v1:?}");
}

#[test]
fn it_is_a_pipe_that_nobody_writes_to() {
    let mut site = on_tcp().watching().serving("v1");
    let pipe = site.dir().join("pipe");
    mkfifo(&pipe, Mode::from_bits_truncate(0o755)).expect("a pipe");
    fs::rename(pipe, site.program()).expect("the program");
    let verdict = site.swap_in_vain();
    assert!(verdict.contains("is not a regular file"), "{verdict}");
    let stop = run(&site, &["stop", "server", "--timeout", "20s"]);
    ended(&stop, 0, &[]);
    site.expect_status(0);
}

/// As gunicorn with `--reuse-port` starts workers that fail to load the application: each listens, and ends.
#[test]
fn one_whose_workers_listen_and_die_is_not_ready() {
    let address = free_address();
    let script = "\
def work():
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    one.bind(('127.0.0.1', port))
    one.listen()
    if os.environ['HOTSWAP_GENERATION'] == '1':
        serve(one)
    time.sleep(0.7)
    os._exit(3)

while True:
    if os.fork() == 0:
        work()
    os.wait()";
    let plan = at(address).with(&["--ready-timeout", "12s"]);
    let Some(plan) = python(plan, address, script) else {
        return;
    };
    let site = plan.serving("");
    let mut clients = site.guests().and(4, Habit::default()).come();
    let verdict = site.swap_in_vain();
    assert!(verdict.contains("generation 2 aborted"), "{verdict}");
    clients.until_answered(8);
    clients.expect_no_failure();
}
