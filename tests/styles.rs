//! Programs that know how to replace themselves, and a worker without a port: all of them unmodified.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::common::place::Place;
use crate::common::plan::Plan;
use crate::common::site::Site;
use crate::common::{eventually, skipped};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers/go/styles.go");

/// The program in this style; nothing where there is no Go.
fn plan(place: Place, arguments: &[&str]) -> Option<Plan> {
    if Command::new("go").arg("version").output().is_err() {
        skipped(&format!("the style {}", arguments[0]), "no go here");
        return None;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let program = dir.path().join("styles");
    let mut compiler = Command::new("go");
    let compiler = compiler.args(["build", "-o"]).arg(&program).arg(SOURCE);
    let output = compiler.output().expect("a compiler");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let program = fs::read(program).expect("a program");
    let plan = Site::at(place).by_script("", arguments);
    Some(plan.by_binary(program))
}

/// `tells`: each generation is to tell its parent something, and is swapped when it has.
fn swaps_without_a_loss(plan: Plan, tells: bool) {
    let mut site = plan.serving("");
    let mut clients = site.guests().mixed(6).come();
    for swaps in 0..=3 {
        if swaps > 0 {
            site.swap();
        }
        eventually("its word to its parent", || {
            let told = site.log.count("told its parent to stop");
            (!tells || told > swaps).then_some(())
        });
        clients.until_answered(20);
    }
    let tally = clients.expect_no_failure();
    assert!(tally.generations.contains_key(&4), "{tally}");
    assert!(site.stop().success());
    site.expect_nothing_left();
}

/// It takes descriptor 3, and tells hotswap to stop, as it would tell its old self: that it is ready is what it means.
fn tells_its_parent_to_stop(style: &str, variable: Option<(&str, &str)>) {
    let Some(mut plan) = plan(Place::Tcp4, &[style]) else {
        return;
    };
    if let Some((name, value)) = variable {
        plan = plan.variable(name, value);
    }
    swaps_without_a_loss(plan, true);
}

#[test]
fn a_child_that_stops_its_parent_is_swapped() {
    tells_its_parent_to_stop("child", Some(("CHILD", "1")));
}

#[test]
fn a_graceful_restart_that_stops_its_parent_is_swapped() {
    tells_its_parent_to_stop("graceful", Some(("_GRACEFUL_RESTART", "true")));
}

#[test]
fn a_grace_style_server_that_inherited_is_swapped() {
    tells_its_parent_to_stop("grace", None);
}

#[test]
fn those_that_were_not_forked_by_themselves_listen_as_ever() {
    for style in ["child", "graceful", "endless", "asking"] {
        if let Some(plan) = plan(Place::Tcp4, &[style]) {
            swaps_without_a_loss(plan, false);
        }
    }
}

/// Every job that was begun has ended.
fn jobs(journal: &Path) -> usize {
    let text = fs::read_to_string(journal).unwrap_or_default();
    let begun = text.lines().filter_map(|line| line.strip_prefix("begin "));
    begun
        .map(|job| {
            let end = format!("end {job}");
            assert!(text.lines().any(|line| line == end), "{job} was cut short");
        })
        .count()
}

#[test]
fn a_worker_finishes_its_jobs_in_a_swap_and_in_a_stop() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let dir = tempfile::tempdir().expect("a directory");
        let journal = dir.path().join("journal");
        let Some(plan) = plan(Place::Nowhere, &["worker", &journal.display().to_string()]) else {
            return;
        };
        let mut site = plan.serving("");
        for swap in 0..3 {
            eventually("a job", || {
                let text = fs::read_to_string(&journal).unwrap_or_default();
                text.contains(&format!("begin {}.", swap + 1)).then_some(())
            });
            site.swap().wait_until_gone(swap + 1);
        }
        site.signal(signal);
        assert!(site.end().success());
        assert!(jobs(&journal) >= 4);
        site.expect_nothing_left();
    }
}
