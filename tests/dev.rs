//! The edit, build and swap loop: `--dev`, `--before-swap`, `--watch`, and what is run when nothing good is left.

use std::fs;
use std::thread::sleep;

use nix::sys::signal::{Signal, kill};

use crate::common::crowd::Habit;
use crate::common::eventually;
use crate::common::families::on_every_family;
use crate::common::place::Place;
use crate::common::plan::Plan;
use crate::common::program::install;
use crate::common::site::Site;
use crate::common::tally::Failure;
use crate::watch::{QUIET, binary, expect_swaps, run, shell_script, swaps, watching};

#[test]
fn a_command_that_makes_the_program_is_one_swap() {
    let plan = watching();
    let (dir, source) = (plan.dir().to_owned(), plan.dir().join("src"));
    fs::create_dir(&source).expect("a directory");
    fs::write(source.join("version"), "v1").expect("the source");
    // It takes longer than any debounce time, and writes the program in place and a file into the tree.
    let build = format!(
        "cd {}; v=$(cat src/version); test $v != broken; date +%N > src/built; sleep 0.3; \
         sed \"s/VERSION=[a-z0-9]*/VERSION=$v/\" server > made; cat made > server; sleep 0.3",
        dir.display()
    );
    let source_of = |version: &str| {
        fs::write(dir.join("src/version"), version).expect("the source");
    };
    let flags = [
        "--watch",
        source.to_str().expect("a path"),
        "--before-swap",
        &format!("set -e; {build}"),
    ];
    let site = plan.with(&flags).serving("v1");
    let mut clients = site.clients(8);
    source_of("v2");
    clients.until_all_see("v2");
    // It takes two builds to see who writes it.
    site.log.wait_for("src/built is written by --before-swap");
    site.log.wait_for("generation 3 is serving");
    expect_swaps(&site, 1, || source_of("v3"));
    clients.until_all_see("v3");
    assert!(site.log.says("generation 2 waits for: set -e; cd"));
    expect_swaps(&site, 0, || source_of("broken"));
    site.log.wait_for("aborted: ");
    expect_swaps(&site, 1, || source_of("v4"));
    clients.until_all_see("v4");
    clients.expect_no_failure();
}

#[test]
fn settings_and_further_files_are_watched() {
    let plan = watching();
    let (env, page) = (plan.dir().join("env"), plan.dir().join("page"));
    fs::write(&env, "VERSION=v1\n").expect("settings");
    fs::write(&page, "one").expect("a page");
    let path = |path: &std::path::Path| path.to_str().expect("a path").to_owned();
    let flags = ["--env-file", &path(&env), "--watch", &path(&page)];
    let site = plan.with(&flags).by_binary(binary(1)).serving("v1");
    let mut clients = site.clients(8);
    expect_swaps(&site, 1, || {
        fs::write(&env, "VERSION=v2\n").expect("settings");
    });
    clients.until_all_see("v2");
    expect_swaps(&site, 1, || fs::write(&page, "two").expect("a page"));
    site.log.wait_for(&format!("{} changed", page.display()));
    expect_swaps(&site, 0, || fs::remove_file(&page).expect("the page"));
    expect_swaps(&site, 1, || {
        fs::write(&env, "VERSION=v3\n").expect("settings");
        fs::write(&page, "three").expect("a page");
    });
    clients.expect_no_failure();
}

#[test]
fn a_crash_under_dev_waits_for_the_next_change() {
    let site = watching().with(&["--dev"]).serving("v1");
    kill(site.pid(1), Signal::SIGKILL).expect("a signal");
    sleep(QUIET);
    assert_eq!(swaps(&site), 0, "it is not started again");
    expect_swaps(&site, 1, || site.publish("v2"));
    let mut clients = site.clients(4);
    clients.until_all_see("v2");
    site.publish_odd("v3", "exit=3");
    let line = site.log.wait_for("aborted: exited with status 3");
    assert!(
        line.contains("generation 2 keeps serving, started "),
        "{line}"
    );
    expect_swaps(&site, 1, || site.publish("v4"));
    clients.until_all_see("v4");
    clients.expect_no_failure();
}

on_every_family! {
    fn clients_that_wait_after_a_crash_are_counted_and_kept(plan: Plan) {
        let site = plan.watching().with(&["--dev"]).serving("v1");
        kill(site.pid(1), Signal::SIGKILL).expect("a signal");
        site.log.wait_for("waiting for a change");
        let mut clients = site.guests().and(3, Habit::default()).come();
        site.log.wait_for("3 clients wait for the next version");
        site.publish("v2");
        clients.until_all_see("v2");
        clients.expect_no_failure();
    }
}

/// It was asked whether it accepts, and nobody else has come.
#[test]
fn a_question_of_hotswaps_own_does_not_wait_for_the_next_version() {
    for place in [Place::Tcp4, Place::Unix] {
        let flags = ["--dev", "--ready-timeout", "1300ms"];
        let plan = Site::at(place).watching().with(&flags);
        let mut site = plan.by_odd("hang").starting("v1");
        site.wait_until_gone(1);
        site.publish_odd("v2", "");
        site.log.wait_for("generation 2 is serving");
        assert!(!site.log.says("1 client"));
        assert!(site.stop().success());
    }
}

#[test]
fn a_program_that_is_not_there_yet_is_waited_for_under_dev() {
    let plan = watching().with(&["--dev"]);
    let program = plan.dir().join("target/debug/shop");
    let site = plan.by_program(program.clone(), &[]).opening("v1");
    site.log.wait_for("generation 1 ");
    sleep(QUIET);
    fs::create_dir_all(program.parent().expect("a directory")).expect("made");
    install(&program, &binary(1), 0o755);
    site.log.wait_for("generation 2 is serving");
}

#[test]
fn the_program_that_served_is_run_again_when_its_file_is_gone() {
    let site = watching().by_binary(binary(1)).serving("v1");
    install(&site.program(), &binary(2), 0o755);
    site.log.wait_for("generation 2 is serving");
    fs::remove_file(site.program()).expect("the program");
    kill(site.pid(2), Signal::SIGKILL).expect("a signal");
    site.log.wait_for("generation 3 is serving");
    let mut clients = site.guests().and(4, Habit::default()).come();
    clients.until_answered(20);
    expect_swaps(&site, 1, || install(&site.program(), &binary(3), 0o755));
    clients.expect_no_failure();
}

#[test]
fn a_script_that_cannot_be_started_again_is_no_fallback_and_that_is_said() {
    let site = watching().serving("v1");
    site.publish("v2");
    site.log.wait_for("generation 2 is serving");
    fs::remove_file(site.program()).expect("the program");
    kill(site.pid(2), Signal::SIGKILL).expect("a signal");
    site.log.wait_for("cannot be run again: it was a script");
    site.publish("v3");
    let mut clients = site.clients(4);
    clients.until_all_see("v3");
    clients.expect_no_failure();
}

#[test]
fn an_interpreter_is_not_watched_and_its_script_can_be() {
    let plan = watching();
    let shell = plan.dir().join("sh");
    fs::copy("/bin/sh", &shell).expect("a shell");
    let (path, app) = shell_script(plan.dir());
    let site = plan.by_program(shell.clone(), &[&path]).serving("v1");
    site.log.wait_for("sh is an interpreter");
    site.log.wait_for(&format!("try: --watch {path}"));
    run(
        &site,
        0,
        "touch sh; cat sh > new; echo >> new; chmod +x new; mv new sh",
    );
    expect_swaps(&site, 0, || app("v2"));
    drop(site);

    let plan = watching();
    let shell = plan.dir().join("sh");
    fs::copy("/bin/sh", &shell).expect("a shell");
    let (path, app) = shell_script(plan.dir());
    let plan = plan.with(&["--watch", &path]);
    let site = plan.by_program(shell, &[&path]).serving("v1");
    expect_swaps(&site, 1, || app("v2"));
    assert!(!site.log.says("is an interpreter"));
}

/// A build may take minutes.
#[test]
fn clients_that_wait_after_a_crash_in_a_build_are_counted() {
    let plan = Plan::at(Place::Tcp4);
    let go = plan.dir().join("go");
    fs::write(&go, "").expect("a file");
    let build = format!("until test -e {}; do sleep 0.02; done", go.display());
    let site = plan.with(&["--dev", "--before-swap", &build]).serving("v1");
    fs::remove_file(&go).expect("a file");
    site.publish("v2").signal(Signal::SIGHUP);
    site.log.wait_for("generation 2 waits for: until");
    kill(site.pid(1), Signal::SIGKILL).expect("a signal to the server");
    let mut clients = site.guests().and(3, Habit::default()).come();
    site.log.wait_for("3 clients wait for the next version");
    fs::write(&go, "").expect("a file");
    clients.until_all_see("v2");
    clients.expect_no_failure();
}

/// They were after 30s in which nothing served, and would wait without an end.
#[test]
fn clients_are_still_refused_after_an_upgrade() {
    let site = Plan::at(Place::Tcp4).with(&["--dev"]).serving("v1");
    kill(site.pid(1), Signal::SIGKILL).expect("a signal to the server");
    let waiting = site.guests().and(1, Habit::default()).come();
    site.log
        .wait_for("1 client waited too long; all clients are refused");
    drop(waiting);
    site.signal(Signal::SIGUSR2).log.wait_for("upgraded to");
    let late = site.guests().and(1, Habit::default()).come();
    eventually("a refusal", || {
        (!late.so_far().failures.is_empty()).then_some(())
    });
    assert_eq!(late.so_far().failed(Failure::TimedOut), 0);
    site.publish("v2").signal(Signal::SIGHUP);
    late.until_all_see("v2");
}

/// It has never listened, so that nobody can have waited.
#[test]
fn nobody_is_said_to_have_waited_where_nobody_has() {
    let plan = Site::at(Place::Nowhere).with(&["--dev"]);
    let site = plan.by_script("#!/bin/sh\nexit 7\n", &[]).starting("");
    let line = site.log.wait_for(" refused");
    assert!(
        line.ends_with("nothing serves: clients are refused until a generation serves"),
        "{line}"
    );
}
