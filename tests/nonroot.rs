//! Without root, and for servers that are to run as somebody else.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::commands::{ended, run_among_ours};
use crate::common::place::Place;
use crate::common::plan::Plan;
use crate::common::processes::status;
use crate::common::site::Site;
use crate::common::{attempt, eventually};
use crate::common::{hotswap_program, skipped};
use crate::upgrade::upgrade;

const NOBODY: u32 = 65_534;

pub const SETPRIV: [&str; 4] = [
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
];

/// Root becomes somebody else; who is somebody else already stays so.
pub fn as_nobody(name: &str, place: Place) -> Option<Plan> {
    as_user(name, place, NOBODY)
}

pub fn as_user(name: &str, place: Place, uid: u32) -> Option<Plan> {
    let plan = Site::at(place);
    if !nix::unistd::geteuid().is_root() {
        return Some(plan);
    }
    let (user, group) = (format!("--reuid={uid}"), format!("--regid={uid}"));
    let setpriv = ["setpriv", &user, &group, "--clear-groups"];
    let mut reach = Command::new(setpriv[0]);
    reach
        .args(&setpriv[1..])
        .args(["test", "-x"])
        .arg(hotswap_program());
    if !reach.status().is_ok_and(|status| status.success()) {
        skipped(
            name,
            "needs setpriv(1), and a target directory that others may enter",
        );
        return None;
    }
    chown(plan.dir(), Some(uid), None).expect("its owner");
    Some(plan.inside(&setpriv))
}

fn swaps_without_root(name: &str, place: Place) {
    let Some(plan) = as_nobody(name, place) else {
        return;
    };
    let mut site = plan.serving("v1");
    let uid = status(site.hotswap(), "Uid").expect("its uid");
    assert!(!uid.starts_with('0'), "{uid}");
    let mut clients = site.clients(8);
    site.swaps(5);
    clients.until_all_see("v6");
    clients.expect_no_failure();
    assert!(site.stop().success());
    site.expect_nothing_left();
}

#[test]
fn anybody_can_swap_on_tcp() {
    swaps_without_root("anybody_can_swap_on_tcp", Place::Tcp4);
}

#[test]
fn anybody_can_swap_on_a_unix_path() {
    swaps_without_root("anybody_can_swap_on_a_unix_path", Place::Unix);
}

#[test]
fn a_server_that_lets_nobody_look_into_it_is_not_said_to_listen_nowhere() {
    let test = "a_server_that_lets_nobody_look_into_it_is_not_said_to_listen_nowhere";
    let Some(plan) = as_nobody(test, Place::captured()) else {
        return;
    };
    let site = plan.by_odd("hidden").starting("v1");
    site.log.wait_for("generation 1 is serving");
    assert!(site.log.says("cannot inspect generation 1"));
    let nowhere = "does not listen on anything yet";
    assert!(!site.log.says(nowhere));
}

#[test]
fn the_server_runs_as_it_is_told() {
    if !nix::unistd::geteuid().is_root() {
        return skipped("the_server_runs_as_it_is_told", "needs root");
    }
    let site = Site::at(Place::Tcp4)
        .with(&["--user", "65534", "--group", "65534"])
        .serving("v1");
    site.publish("v2").swap().wait_until_gone(1);
    let server = site.pid(2);
    assert_eq!(
        status(server, "Uid").as_deref(),
        Some("65534\t65534\t65534\t65534")
    );
    assert_eq!(
        status(server, "Gid").as_deref(),
        Some("65534\t65534\t65534\t65534")
    );
    let groups = status(server, "Groups").expect("its groups");
    assert!(
        groups.split_whitespace().all(|group| group == "65534"),
        "{groups}"
    );
    let hotswap: Pid = site.hotswap();
    assert!(status(hotswap, "Uid").is_some_and(|uid| uid.starts_with('0')));
}

/// As root installs it under a umask of 077, and corrects that.
#[test]
fn a_program_that_its_user_may_not_execute_is_waited_for() {
    let test = "a_program_that_its_user_may_not_execute_is_waited_for";
    if !nix::unistd::geteuid().is_root() {
        return skipped(test, "needs root");
    }
    let plan = Site::at(Place::Tcp4).watching();
    let site = plan
        .with(&["--user", "65534", "--group", "65534"])
        .serving("v1");
    let program = fs::read_to_string(site.program()).expect("the program");
    site.publish_file(program.replace("v1", "v2").as_bytes(), 0o700);
    let said = ["server has changed, but is not executable", "aborted"];
    let first = |text: &&str| site.log.says(text);
    let first = eventually("what came of it", || said.into_iter().find(first));
    assert_eq!(first, said[0]);
    fs::set_permissions(site.program(), fs::Permissions::from_mode(0o755)).expect("its mode");
    site.log.wait_for("generation 2 is serving");
}

/// As between the `rm` and the `ln` of a deployment. The other user cannot reach what hotswap has open.
#[test]
fn a_server_whose_directory_is_gone_is_restarted_as_its_user() {
    let plan = Site::at(Place::Tcp4);
    let directory = plan.dir().join("releases");
    fs::create_dir(&directory).expect("a directory");
    let mut flags = vec!["--chdir", directory.to_str().expect("a path")];
    if nix::unistd::geteuid().is_root() {
        flags.extend(["--user", "65534", "--group", "65534"]);
    }
    let site = plan.with(&flags).serving("v1");
    fs::remove_dir(&directory).expect("to remove it");
    for restarted in 2..=3 {
        let server = site.pid(restarted - 1);
        kill(server, Signal::SIGKILL).expect("a signal to the server");
        let serving = format!("generation {restarted} is serving");
        site.log.wait_for(&serving);
        upgrade(&site);
    }
    assert!(site.log.says("using the last directory that worked"));
    site.clients(2).until_answered(20);
}

#[test]
fn a_unix_socket_has_the_mode_it_is_told() {
    let site = Site::at(Place::Unix)
        .with(&["--socket-mode", "0604"])
        .serving("v1");
    for version in ["v2", "v3"] {
        let socket = fs::metadata(site.dir().join("site.sock")).expect("the socket");
        assert_eq!(socket.permissions().mode() & 0o777, 0o604);
        site.publish(version).swap();
    }
}

#[test]
fn swapping_all_leaves_the_instances_of_other_users_alone() {
    let test = "swapping_all_leaves_the_instances_of_other_users_alone";
    let Some(plan) = as_nobody(test, Place::Tcp4) else {
        return;
    };
    let site = plan.serving("v1");
    if !nix::unistd::geteuid().is_root() {
        return; // they are its own
    }
    let output = run_among_ours(&site, &["swap", "--all"]);
    ended(&output, 3, &[]);
    assert_eq!(site.log.count("started, pid"), 1);
}

#[test]
fn the_status_names_what_other_users_run() {
    const OTHER: u32 = 65_521;
    let test = "the_status_names_what_other_users_run";
    let Some(plan) = as_user(test, Place::Tcp4, OTHER) else {
        return;
    };
    if !nix::unistd::geteuid().is_root() {
        return; // there is one user alone
    }
    // where users without a runtime directory have theirs
    let plan = plan.variable("XDG_RUNTIME_DIR", "");
    let mut site = plan.serving("v1");
    let room = tempfile::tempdir().expect("a directory");
    let status = attempt::as_nobody(room, &["status"]);
    status.ended(0, &[]);
    let others = format!("user uid {OTHER} runs 1 instance: server\ntry: sudo hotswap status");
    assert!(status.said.contains(&others), "{}", status.said);
    site.stop();
    let _ = std::fs::remove_dir(format!("/tmp/hotswap-{OTHER}"));
}
