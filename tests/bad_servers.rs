//! Servers that do to themselves what no server should: somebody serves all the while, hotswap says what happened, and
//! nothing of them stays.
//!
//! `bad_candidates` has those that only fail to start.

use std::fs;
use std::net::TcpStream;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

use crate::bad_candidates::aborts;
use crate::capture::at;
use crate::capture::closed::python;
use crate::commands;
use crate::common::crowd::Habit;
use crate::common::place::{Place, free_address};
use crate::common::plan::Plan;
use crate::common::processes::{self, kilobytes, status};
use crate::common::site::Site;
use crate::common::{alone, eventually, skipped};

/// Whoever does not end has not long.
fn brief() -> Plan {
    Site::at(Place::Tcp4).with(&["--drain-timeout", "2s"])
}

/// Nor has whoever does not start.
fn impatient() -> Plan {
    brief().with(&["--ready-timeout", "3s"])
}

/// A swap puts right what a server has done while it served, and its clients have not noticed.
fn is_replaced(plan: Plan, meanwhile: impl FnOnce(&Site)) {
    let mut site = plan.serving("v1");
    let mut clients = site.clients(8);
    clients.until_answered(50);
    meanwhile(&site);
    site.publish_odd("v2", "ready").swap();
    clients.until_all_see("v2");
    site.wait_until_gone(1);
    clients.expect_no_failure();
    assert!(site.stop().success());
    site.expect_nothing_left();
}

fn its_moment_has_come(site: &Site) {
    site.log.wait_for("its moment has come");
}

#[test]
fn one_that_leaves_its_group_does_not_get_away() {
    is_replaced(brief().by_odd("joins deaf"), |_| {});
}

/// A SIGKILL to its group would not reach them.
#[test]
fn the_daemons_it_has_started_go_with_it() {
    is_replaced(brief().by_odd("escaped=3 helpers=1"), |site| {
        assert_eq!(processes::of_site(site.dir()).len(), 6);
    });
}

/// What it had accepted it answers when it is woken to stop, and what waits in its queue is carried to the next.
#[test]
fn one_that_is_stopped_is_woken_to_finish() {
    is_replaced(brief(), |site| {
        kill(site.pid(1), Signal::SIGSTOP).expect("a signal to the server");
    });
}

#[test]
fn one_that_closes_its_socket_is_replaced() {
    is_replaced(brief().by_odd("close=300ms"), its_moment_has_come);
}

/// Those in its queue at that moment are lost with it; whoever comes afterwards is not.
#[test]
fn one_that_shuts_its_socket_down_is_replaced() {
    let site = brief().by_odd("shut-down=300ms").serving("v1");
    site.log
        .wait_for("was shut down by its server and listens again");
    let mut clients = site.guests().and(8, Habit::default()).come();
    site.publish_odd("v2", "ready").swap();
    clients.until_all_see("v2");
    site.wait_until_gone(1);
    clients.expect_no_failure();
}

/// Nobody accepts any more: clients wait, and the next generation has them all.
#[test]
fn one_that_becomes_another_program_is_replaced() {
    let site = brief().by_odd("exec=100ms").serving("v1");
    let name = || fs::read_to_string(format!("/proc/{}/comm", site.pid(1)));
    eventually("another program", || {
        (name().ok()?.trim() == "sleep").then_some(())
    });
    let mut clients = site.guests().and(8, Habit::default()).come();
    site.publish_odd("v2", "").swap();
    clients.until_all_see("v2");
    clients.expect_no_failure();
    site.log.wait_for("relaying ");
}

/// The sockets of those that are gone are given to those that come.
#[test]
fn the_next_has_a_socket_as_good_as_new() {
    let plan = brief().with(&["--drain-timeout", "1s"]);
    let site = plan.by_odd("tell backlog=1 nonblock").serving("v1");
    let mut clients = site.clients(8);
    let deeds = ["shut-down=term", "close=term", "nonblock", "backlog=1", ""];
    for (generation, deed) in (2..).zip(deeds) {
        let version = format!("v{generation}");
        site.publish_odd(&version, &format!("tell {deed}")).swap();
        clients.until_all_see(&version);
        site.wait_until_gone(generation - 1);
    }
    assert_eq!(site.log.count("backlog 4096, blocking"), 6);
    clients.expect_no_failure();
}

#[test]
fn one_that_becomes_another_user_is_swapped_and_stopped() {
    const NAME: &str = "one_that_becomes_another_user_is_swapped_and_stopped";
    if !geteuid().is_root() {
        return skipped(NAME, "needs root");
    }
    is_replaced(brief().by_odd("uid=65534 deaf"), |site| {
        let uid = || status(site.pid(1), "Uid");
        eventually("another user", || uid()?.starts_with("65534").then_some(()));
    });
}

/// As root of a container is by default: its server is not to be looked into once it is somebody else.
#[test]
fn one_that_becomes_unreadable_is_asked_by_a_probe() {
    const NAME: &str = "one_that_becomes_unreadable_is_asked_by_a_probe";
    if !geteuid().is_root() {
        return skipped(NAME, "needs root");
    }
    let without = ["--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"];
    let plan = brief().inside(&["setpriv", without[0], without[1]]);
    let site = plan.by_odd("uid=65534").serving("v1");
    let mut clients = site.clients(8);
    site.publish_odd("v2", "uid=65534").swap();
    site.log
        .wait_for("generation 2 is serving (accepted a probe after");
    clients.until_all_see("v2");
    site.wait_until_gone(1);
    clients.expect_no_failure();
}

/// A hundred megabytes a second would be no less.
#[test]
fn one_that_floods_hotswap_costs_it_no_memory() {
    let _alone = alone();
    let plan = brief().by_odd("stderr-flood=80 notify-flood");
    is_replaced(plan, |site| {
        let before = kilobytes(site.hotswap());
        // Whatever has piled up meanwhile is in the kernel, and its sender waits.
        site.signal(Signal::SIGSTOP);
        let clients = site.clients(4);
        clients.until_answered(200);
        site.signal(Signal::SIGCONT);
        for _ in 0..20 {
            commands::status(site);
        }
        clients.until_answered(200);
        let grown = kilobytes(site.hotswap()).saturating_sub(before);
        assert!(grown < 4096, "hotswap has grown by {grown} kB");
        assert_eq!(site.log.count("hotswap: "), 3, "nothing is said of it");
    });
}

#[test]
fn a_candidate_that_becomes_another_program_is_given_up() {
    aborts(impatient(), "hang exec=100ms", "not ready within 3s");
}

#[test]
fn a_candidate_that_stops_itself_is_given_up() {
    aborts(impatient(), "kill=SIGSTOP", "not ready within 3s");
}

/// Nobody would be answered by it, though it shows as waiting in accept(2).
#[test]
fn a_candidate_that_is_stopped_while_it_accepts_is_not_ready() {
    let site = Site::at(Place::Tcp4).serving("v1");
    let mut clients = site.clients(8);
    site.publish_odd("v2", "late=300ms").signal(Signal::SIGHUP);
    let candidate = site.pid(2);
    site.signal(Signal::SIGSTOP);
    eventually("a candidate that accepts", || {
        in_accept(candidate).then_some(())
    });
    kill(candidate, Signal::SIGSTOP).expect("a signal to the candidate");
    eventually("a stopped candidate", || {
        status(candidate, "State")?.starts_with('T').then_some(())
    });
    site.signal(Signal::SIGCONT);
    clients.until_answered(200);
    assert!(!site.log.says("generation 2 is serving"));
    kill(candidate, Signal::SIGCONT).expect("a signal to the candidate");
    site.log.wait_for("generation 2 is serving");
    clients.until_all_see("v2");
    clients.expect_no_failure();
}

fn in_accept(pid: Pid) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let call = |task: fs::DirEntry| fs::read_to_string(task.path().join("syscall")).ok();
    let numbers =
        [nix::libc::SYS_accept, nix::libc::SYS_accept4].map(|number| format!("{number} "));
    tasks
        .filter_map(call)
        .any(|call| numbers.iter().any(|number| call.starts_with(number)))
}

#[test]
fn a_candidate_that_becomes_a_daemon_is_ended() {
    let site = impatient().serving("v1");
    let mut clients = site.clients(8);
    let verdict = site.publish_odd("v2", "daemon").swap_in_vain();
    assert!(verdict.contains("generation 2 aborted: "), "{verdict}");
    site.wait_until_gone(2);
    let left = processes::of_site(site.dir());
    assert_eq!(left.len(), 2, "hotswap and generation 1: {left:?}");
    clients.expect_no_failure().expect_never_seen("v2");
}

/// Whoever kills its processes one by one is slower than they are.
fn a_fork_bomb_is_ended(name: &str, words: &str, uid: u32) {
    if !geteuid().is_root() {
        return skipped(name, "needs root, for a user of its own");
    }
    let uid = uid.to_string();
    let plan = brief().with(&["--user", &uid, "--group", &uid]);
    let site = plan.serving("v1");
    let mut clients = site.clients(8);
    site.publish_odd("v2", words).signal(Signal::SIGHUP);
    eventually("many processes", || {
        (processes::of_site(site.dir()).len() > 40).then_some(())
    });
    site.log
        .wait_for("generation 2 aborted: exited with status 3");
    site.wait_until_gone(2);
    let left = processes::of_site(site.dir());
    assert_eq!(left.len(), 2, "hotswap and generation 1: {left:?}");
    clients.expect_no_failure().expect_never_seen("v2");
}

#[test]
fn a_fork_bomb_is_ended_in_its_group() {
    let words = "bomb=60 hang exit=3 after=1s";
    a_fork_bomb_is_ended("a_fork_bomb_is_ended_in_its_group", words, 61_200);
}

#[test]
fn a_fork_bomb_is_ended_in_sessions_of_its_own() {
    let words = "bomb=60 sessions hang exit=3 after=1s";
    a_fork_bomb_is_ended("a_fork_bomb_is_ended_in_sessions_of_its_own", words, 61_201);
}

#[test]
fn a_candidate_that_dies_of_its_first_word_never_serves() {
    let words = "ready exit=3 after=ready";
    aborts(brief(), words, "exited with status 3");
}

/// Where its word is all that is asked for, it has to be kept for a while.
#[test]
fn a_candidate_that_dies_of_its_first_word_is_rolled_back() {
    let plan = brief().with(&["--ready", "notify", "--min-ready", "10s"]);
    let site = plan.by_odd("ready").serving("v1");
    let mut clients = site.clients(8);
    let words = "ready exit=3 after=ready";
    let verdict = site.publish_odd("v2", words).swap_in_vain();
    assert!(verdict.contains("exited with status 3 after"), "{verdict}");
    assert!(
        verdict.ends_with("; generation 1 keeps serving"),
        "{verdict}"
    );
    clients.until_answered(100);
    clients.expect_no_failure().expect_never_seen("v2");
}

/// As redis-server with `--daemonize`, whose title takes the room of its variables.
#[test]
fn a_daemon_that_writes_over_its_variables_does_not_get_away() {
    let address = free_address();
    let script = "\
if os.fork() != 0:
    os._exit(0)
os.setsid()
for number in (0, 1, 2):
    os.dup2(os.open(os.devnull, os.O_RDWR), number)
time.sleep(0.1)
begin, end = map(int, open('/proc/self/stat').read().rsplit(')', 1)[1].split()[47:49])
with open('/proc/self/mem', 'r+b', 0) as memory:
    memory.seek(begin)
    memory.write(bytes(end - begin))
serve(listen('127.0.0.1'))";
    let Some(plan) = python(at(address), address, script) else {
        return;
    };
    let mut site = plan.starting("");
    site.log.wait_for("puts itself into the background");
    site.expect_status(125);
    let answer = TcpStream::connect(address).map(drop);
    assert!(answer.is_err());
}
