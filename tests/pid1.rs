//! hotswap as the first process of a pid namespace, as in a container: whoever is orphaned there becomes its child.

use std::process::Command;

use nix::sys::signal::Signal;

use crate::common::place::Place;
use crate::common::plan::Plan;
use crate::common::processes;
use crate::common::site::Site;
use crate::common::{eventually, skipped};
use crate::signals::reopening;

const UNSHARE: [&str; 4] = ["unshare", "--pid", "--fork", "--mount-proc"];

fn in_a_container(name: &str) -> Option<Plan> {
    let can = Command::new(UNSHARE[0])
        .args(&UNSHARE[1..])
        .arg("true")
        .output();
    if can.is_ok_and(|output| output.status.success()) {
        return Some(Site::at(Place::Tcp4).inside(&UNSHARE));
    }
    skipped(name, "unshare(1) cannot make a pid namespace here");
    None
}

#[test]
fn pid_1_swaps_and_stops() {
    let Some(plan) = in_a_container("pid_1_swaps_and_stops") else {
        return;
    };
    let mut site = plan.serving("v1");
    let mut clients = site.clients(8);
    site.swaps(5);
    clients.until_all_see("v6");
    clients.expect_no_failure();
    site.signal(Signal::SIGTERM);
    site.expect_status(0).expect_nothing_left();
}

#[test]
fn pid_1_passes_signals_on() {
    let Some(plan) = in_a_container("pid_1_passes_signals_on") else {
        return;
    };
    let site = plan.by_script(&reopening(), &[]).serving("v1");
    site.signal(Signal::SIGUSR1);
    site.log.wait_for("reopened");
}

#[test]
fn pid_1_reaps_orphans() {
    let Some(plan) = in_a_container("pid_1_reaps_orphans") else {
        return;
    };
    // Each of them leaves a child behind, and the child ends.
    let orphans = "for i in 1 2 3 4 5; do (sleep 0.2 &) ; done";
    let site = plan.with(&["--before-swap", orphans]).serving("v1");
    site.publish("v2").swap();
    let children = || {
        let all = std::fs::read_dir("/proc").expect("/proc").flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let hotswap = site.hotswap().to_string();
        let ours = pids.map(nix::unistd::Pid::from_raw).filter(move |&pid| {
            let is_ours = processes::status(pid, "PPid").is_some_and(|parent| parent == hotswap);
            is_ours && !processes::is_keeper(pid)
        });
        ours.count()
    };
    site.wait_until_gone(1);
    eventually("nobody left but the server", || {
        (children() == 1).then_some(())
    });
}

/// As a shell of `docker exec` is, or what an entry point has started beside hotswap: an orphan of a session of its own.
#[test]
fn what_was_started_beside_it_in_the_container_is_left_alone() {
    let name = "what_was_started_beside_it_in_the_container_is_left_alone";
    let Some(plan) = in_a_container(name) else {
        return;
    };
    let site = plan
        .by_odd("deaf")
        .with(&["--drain-timeout", "1s"])
        .serving("v1");
    let hotswap = site.hotswap().to_string();
    let entered = Command::new("nsenter")
        .args(["--target", &hotswap, "--pid", "--mount"])
        .args(["env", "--ignore-environment", "PATH=/usr/bin:/bin"])
        .arg(format!("{}={}", processes::MARK, site.dir().display()))
        .args(["setsid", "--fork", "sleep", "60"])
        .status();
    assert!(entered.expect("nsenter(1)").success());
    let beside = || {
        let all = processes::of_site(site.dir()).into_iter();
        let mut sleeping = all.filter(|pid| {
            processes::status(*pid, "Name").is_some_and(|name| name == "sleep")
                && processes::status(*pid, "PPid").is_some_and(|parent| parent == hotswap)
        });
        sleeping.next()
    };
    let shell = eventually("an orphan in the container", beside);
    site.publish("v2").swap().wait_until_gone(1);
    site.publish("v3").swap().wait_until_gone(2);
    assert!(
        processes::is_alive(shell),
        "it was killed with a generation"
    );
}
