//! What a killed hotswap has left and the next one must not take for its own: of another command, directory, name, user
//! or container, or of a hotswap that only stands still.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

use crate::common::log::Log;
use crate::common::place::Place;
use crate::common::plan::{Plan, Start};
use crate::common::site::Site;
use crate::common::{processes, skipped};
use crate::nonroot::{SETPRIV, as_nobody};

/// Nothing is adopted: `differs` makes of the next hotswap another one.
fn is_left_alone(differs: impl FnOnce(&mut Site)) -> Site {
    is_left_alone_by(Site::at(Place::Tcp4), differs)
}

fn is_left_alone_by(plan: Plan, differs: impl FnOnce(&mut Site)) -> Site {
    let mut site = plan.serving("v1");
    let old = site.pid(1);
    site.kill_hotswap();
    differs(&mut site);
    site.start_again().log.wait_for("is serving");
    assert!(!site.log.says("adopting"));
    assert!(kill(old, None).is_ok(), "it lives");
    let mut clients = site.clients(4);
    clients.until_all_see("v1");
    clients.expect_no_failure();
    kill(old, Signal::SIGKILL).expect("a signal to it");
    site
}

#[test]
fn what_another_command_has_left_is_named_and_left_alone() {
    let site = is_left_alone(|site| site.start.line.push("another".into()));
    site.log.wait_for("another command or in another directory");
}

#[test]
fn what_was_left_in_another_directory_is_named_and_left_alone() {
    let site = is_left_alone(|site| site.start.inside(&["env", "--chdir=/", "PWD=/"]));
    site.log.wait_for("another command or in another directory");
}

/// Kills hotswap, starts another one of the name, ends that, and starts the right one: it adopts.
fn is_still_adopted_after(differs: impl FnOnce(&mut Site), ends: impl FnOnce(&mut Site)) {
    let mut site = Site::serving("v1");
    let right = site.start.clone();
    site.kill_hotswap();
    differs(&mut site);
    site.start_again();
    ends(&mut site);
    site.start = right;
    site.start_again().log.wait_for("adopting generation 1");
    site.log.wait_for("generation 2 is serving");
    let mut clients = site.clients(4);
    clients.until_all_see("v1");
    clients.expect_no_failure();
}

/// As somebody starts it with one argument less, notices, and stops it.
#[test]
fn what_another_command_has_found_is_adopted_by_the_right_one_later() {
    is_still_adopted_after(
        |site| site.start.line.push("another".into()),
        |site| {
            site.log.wait_for("is serving");
            assert!(site.stop().success());
        },
    );
}

#[test]
fn what_another_command_has_found_outlives_the_death_of_that_one_too() {
    is_still_adopted_after(
        |site| site.start.line.push("another".into()),
        |site| {
            site.log.wait_for("is serving");
            site.kill_hotswap();
        },
    );
}

/// As with a server that binds the port itself: the wrong start ends at once.
#[test]
fn a_wrong_start_that_fails_leaves_what_the_right_one_adopts() {
    is_still_adopted_after(
        |site| {
            site.start.inside(&["env", "--chdir=/", "PWD=/"]);
            site.start.with(&["--listen", "192.0.2.1:1"]);
        },
        |site| assert!(!site.end().success()),
    );
}

/// Both are killed, and a supervisor starts them in another order.
#[test]
fn of_two_of_one_program_each_adopts_what_it_has_left_itself() {
    let mut site = Site::serving("v1");
    let (first, mut second) = (site.start.clone(), site.start.clone());
    second.line.push("another".into());
    let started = |start: &Start| {
        let mut hotswap = start.command(site.dir()).spawn().expect("hotswap");
        let stderr = hotswap.stderr.take().expect("its stderr");
        (hotswap, Log::of(stderr, Instant::now()))
    };
    let (mut other, log) = started(&second);
    log.wait_for("is serving");
    other.kill().and_then(|()| other.wait()).expect("its end");
    kill(site.hotswap(), Signal::SIGKILL).expect("a signal to the first");
    for start in [second, first] {
        let (mut again, log) = started(&start);
        log.wait_for("adopting generation 1");
        log.wait_for("generation 2 is serving");
        kill(Pid::from_raw(again.id().cast_signed()), Signal::SIGTERM).expect("a signal");
        assert!(again.wait().expect("its end").success());
    }
    site.end();
}

#[test]
fn what_another_name_has_left_is_left_alone() {
    is_left_alone(|site| site.start.with(&["--name", "another"]));
}

#[test]
fn what_another_user_has_left_is_left_alone() {
    let name = "what_another_user_has_left_is_left_alone";
    let control = tempfile::tempdir().expect("a directory");
    fs::set_permissions(control.path(), Permissions::from_mode(0o777)).expect("its mode");
    let control = control.path().join("server.sock").display().to_string();
    let plan = as_nobody(name, Place::Tcp4).filter(|_| geteuid().is_root());
    let Some(plan) = plan else { return };
    is_left_alone_by(plan.with(&["--control", &control]), |site| {
        site.start.line.drain(..SETPRIV.len());
    });
}

/// As in a container that has the directories of its host.
fn is_left_alone_from(name: &str, unshare: &[&str]) {
    let test = Command::new(unshare[0])
        .args(&unshare[1..])
        .arg("true")
        .status();
    if !test.is_ok_and(|status| status.success()) {
        return skipped(name, "unshare(1) cannot make that namespace here");
    }
    is_left_alone(|site| site.start.inside(unshare));
}

#[test]
fn what_is_in_another_pid_namespace_is_left_alone() {
    let unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];
    is_left_alone_from("what_is_in_another_pid_namespace_is_left_alone", &unshare);
}

#[test]
fn what_is_in_another_network_is_left_alone() {
    let up = "ip link set lo up && exec \"$@\"";
    let unshare = ["unshare", "--net", "sh", "-c", up, "sh"];
    is_left_alone_from("what_is_in_another_network_is_left_alone", &unshare);
}

#[test]
fn a_hotswap_that_is_stopped_is_not_dead() {
    let mut site = Site::serving("v1");
    let first = site.hotswap();
    processes::stop(first);
    let mut second = site.start.command(site.dir()).spawn().expect("hotswap");
    let log = Log::of(second.stderr.take().expect("its stderr"), Instant::now());
    log.wait_for("is serving");
    assert!(!log.says("adopting"), "{}", log.timed());
    kill(first, Signal::SIGCONT).expect("a signal to the first");
    kill(Pid::from_raw(second.id().cast_signed()), Signal::SIGTERM).expect("a signal");
    second.wait().expect("its end");
    assert!(site.stop().success());
}

#[test]
fn of_two_that_start_together_one_adopts() {
    let mut site = Site::serving("v1");
    site.kill_hotswap();
    let mut other = site.start.command(site.dir()).spawn().expect("hotswap");
    site.start_again();
    let log = Log::of(other.stderr.take().expect("its stderr"), Instant::now());
    log.wait_for("is serving");
    site.log.wait_for("is serving");
    let adopted = [log.count("adopting"), site.log.count("adopting")];
    assert_eq!(adopted.iter().sum::<usize>(), 1, "{adopted:?}");
    kill(Pid::from_raw(other.id().cast_signed()), Signal::SIGTERM).expect("a signal");
    other.wait().expect("its end");
}
