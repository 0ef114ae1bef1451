//! What a restart runs after a bad build: the program on disk, unless that very one was rejected.

use std::fs;
use std::process::Child;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use crate::commands::{ended, run, said, start};
use crate::common::eventually;
use crate::common::place::Place;
use crate::common::plan::Plan;
use crate::common::site::Site;
use crate::watch::binary;

/// What is said when the program that served last is run instead of the one on disk.
const FALLS_BACK: &str = "the last good program, that of ";

/// It does not get to serve.
const BAD: &str = "exit=3";

fn plan() -> Plan {
    Site::at(Place::Tcp4).by_binary(binary(1))
}

/// That generation is killed, and the next one serves.
fn crashes(site: &Site, generation: u32) {
    kill(site.pid(generation), Signal::SIGKILL).expect("a signal to the server");
    let next = generation + 1;
    site.log.wait_for(&format!("generation {next} is serving"));
}

/// What is on disk was rejected, and is not run after a crash; what is installed then is run after the next one.
fn runs_what_came_later(site: &Site, serving: u32) {
    let clients = site.clients(2);
    crashes(site, serving);
    let said = site.log.count(FALLS_BACK);
    site.publish("v7");
    crashes(site, serving + 1);
    assert_eq!(site.log.count(FALLS_BACK), said);
    clients.until_all_see("v7");
    assert!(!site.log.says("is dead: exited with status 3"));
}

#[test]
fn a_program_installed_after_a_rejected_one_is_run_after_a_crash() {
    let site = plan().serving("v1");
    site.publish_odd("v2", BAD).swap_in_vain();
    site.publish("v3");
    kill(site.pid(1), Signal::SIGKILL).expect("a signal to the server");
    site.log.wait_for("generation 3 is serving");
    assert!(!site.log.says(FALLS_BACK));
    site.clients(2).until_all_see("v3");
}

/// The directory is what is wrong, and the program is the one that serves.
#[test]
fn a_program_that_serves_is_not_rejected_because_its_directory_is_gone() {
    let plan = plan();
    let directory = plan.dir().join("work");
    fs::create_dir(&directory).expect("a directory");
    let site = plan.with(&["--chdir", directory.to_str().expect("text")]);
    let site = site.serving("v1");
    fs::remove_dir(&directory).expect("a directory");
    site.swap_in_vain();
    kill(site.pid(1), Signal::SIGKILL).expect("a signal to the server");
    site.log.wait_for("generation 3 is serving");
    assert!(!site.log.says(FALLS_BACK));
}

#[test]
fn a_rejected_program_that_is_put_back_is_not_run_after_a_crash() {
    let site = plan().serving("v1");
    site.publish_odd("v2", BAD).swap_in_vain();
    site.publish_odd("v3", BAD).swap_in_vain();
    site.publish_file(&binary(4), 0o755);
    kill(site.pid(1), Signal::SIGKILL).expect("a signal to the server");
    site.log.wait_for("generation 4 is serving");
    assert!(!site.log.says(FALLS_BACK));
    for (number, version) in [(4, "v2"), (5, "v3")] {
        site.publish_odd(version, BAD);
        crashes(&site, number);
    }
    let line = site.log.wait_for(FALLS_BACK);
    assert!(
        line.ends_with("that of generation 4, runs again until the next swap"),
        "{line}"
    );
    assert_eq!(site.log.count(" aborted: "), 2);
}

#[test]
fn a_program_installed_after_one_that_was_rolled_back_is_run_after_a_crash() {
    let site = plan().with(&["--min-ready", "10s"]).serving("v1");
    site.publish_odd("v2", "exit=3 after=300ms");
    let verdict = site.swap_in_vain();
    assert!(verdict.contains("generation 2 rolled back"), "{verdict}");
    kill(site.pid(1), Signal::SIGKILL).expect("a signal to the server");
    site.log.wait_for("generation 3 is serving");
    runs_what_came_later(&site, 3);
}

#[test]
fn a_program_installed_after_a_roll_back_is_run_after_a_crash() {
    let site = plan().serving("v1");
    site.publish_file(&binary(2), 0o755).swap();
    let back = run(&site, &["rollback", "server"]);
    ended(&back, 0, &[]);
    runs_what_came_later(&site, 3);
}

#[test]
fn a_program_installed_after_stop_first_met_a_bad_one_is_run_after_a_crash() {
    let site = plan().with(&["--order", "stop-first"]).serving("v1");
    site.publish_odd("v2", BAD).swap_in_vain();
    site.log.wait_for("generation 3 is serving");
    runs_what_came_later(&site, 3);
}

#[test]
fn a_program_installed_after_an_unfit_one_is_run_after_a_crash() {
    let site = plan().serving("v1");
    let verdict = site.publish_file(b"", 0o755).swap_in_vain();
    assert!(verdict.contains("generation 2 aborted"), "{verdict}");
    kill(site.pid(1), Signal::SIGKILL).expect("a signal to the server");
    site.log.wait_for("generation 3 is serving");
    runs_what_came_later(&site, 3);
    assert_eq!(site.log.count(" aborted: "), 1);
}

/// As a build does that has nothing to compile, once hotswap has read the file.
fn touch(site: &Site) {
    eventually("the hash of the program", || {
        let status = said(&run(site, &["status", "server", "--json"]));
        (!status.contains(r#""hash":null"#)).then_some(())
    });
    let program = fs::File::open(site.program()).expect("the program");
    let modified = program.metadata().and_then(|file| file.modified());
    let later = modified.expect("its time") + Duration::from_secs(2);
    program.set_modified(later).expect("another time");
}

#[test]
fn a_program_that_was_only_touched_is_run_again() {
    let site = plan().with(&["--no-watch"]).serving("v1");
    touch(&site);
    let status = said(&run(&site, &["status", "server", "--json"]));
    assert!(status.contains(r#""differs":false"#), "{status}");
    site.publish_odd("v2", BAD).swap_in_vain();
    kill(site.pid(1), Signal::SIGKILL).expect("a signal to the server");
    site.log.wait_for("generation 3 is serving");
    let line = site.log.wait_for(FALLS_BACK);
    assert!(line.contains(" runs again "), "{line}");
}

#[test]
fn a_rollback_to_a_program_that_was_only_touched_works() {
    let site = plan().with(&["--no-watch"]).serving("v1");
    touch(&site);
    site.publish_file(&binary(2), 0o755).swap();
    let back = run(&site, &["rollback", "server"]);
    ended(&back, 0, &[]);
}

/// Nobody has asked for a swap to what is on disk by now.
fn serves_again_after(break_file: impl Fn(&Site)) {
    for serving in [1, 2] {
        let site = plan().serving("v1");
        if serving == 2 {
            site.publish_file(&binary(2), 0o755).swap();
        }
        break_file(&site);
        crashes(&site, serving);
        let line = site.log.wait_for(FALLS_BACK);
        assert!(
            line.contains(&format!("that of generation {serving}, ")),
            "{line}"
        );
        assert_eq!(site.log.count(" aborted: "), 0);
    }
}

#[test]
fn a_program_file_that_is_gone_does_not_keep_its_server_from_being_restarted() {
    serves_again_after(|site| std::fs::remove_file(site.program()).expect("the program"));
}

#[test]
fn a_program_file_that_is_not_fit_does_not_keep_its_server_from_being_restarted() {
    serves_again_after(|site| {
        site.publish_file(&binary(3), 0o644);
    });
    serves_again_after(|site| {
        site.publish_file(&binary(1)[..9000], 0o755);
    });
}

#[test]
fn the_program_that_served_is_run_when_one_that_nobody_asked_for_does_not_start() {
    for serving in [1, 2] {
        let site = plan().serving("v1");
        if serving == 2 {
            site.publish_file(&binary(2), 0o755).swap();
        }
        site.publish_odd("v3", BAD);
        kill(site.pid(serving), Signal::SIGKILL).expect("a signal to the server");
        let next = serving + 2;
        site.log.wait_for(&format!("generation {next} is serving"));
        let line = site.log.wait_for(FALLS_BACK);
        assert!(
            line.contains(&format!("that of generation {serving}, ")),
            "{line}"
        );
    }
}

/// The serving one dies while the next one, started by a client, is not ready yet.
fn dies_while_one_starts(site: &Site) -> Child {
    let client = start(site, &["swap", "server"]);
    site.log.wait_for("generation 2 started");
    kill(site.pid(1), Signal::SIGKILL).expect("a signal to the server");
    client
}

/// It takes longer than any start so far, and what has served can be run again.
#[test]
fn a_candidate_that_hangs_gives_way_to_a_restart() {
    let site = plan().with(&["--ready-timeout", "45s"]).serving("v1");
    let clients = site.clients(4);
    let client = dies_while_one_starts(site.publish_odd("v2", "hang"));
    let dead = site.log.wait_for("generation 1 is dead");
    let aborted = site.log.wait_for("generation 2 aborted");
    assert!(aborted.contains("not ready within 5s"), "{aborted}");
    assert!(
        dead.contains("; restarting unless generation 2 is ready within "),
        "{dead}"
    );
    site.log.wait_for("generation 3 is serving");
    clients.until_answered(100);
    let output = client.wait_with_output().expect("output");
    ended(&output, 1, &[]);
    assert!(site.log.says(FALLS_BACK));
}

#[test]
fn a_candidate_that_hung_before_the_old_one_died_gives_way_at_once() {
    let site = plan().with(&["--ready-timeout", "45s"]).serving("v1");
    let client = start(site.publish_odd("v2", "hang"), &["swap", "server"]);
    site.log.wait_for("generation 2 is not ready yet");
    kill(site.pid(1), Signal::SIGKILL).expect("a signal to the server");
    let aborted = site.log.wait_for("generation 2 aborted");
    let seconds = aborted.split_once("not ready within ");
    let seconds = seconds.and_then(|(_, rest)| rest.split_once('s')?.0.parse::<f64>().ok());
    assert!(seconds.is_some_and(|seconds| seconds < 45.0), "{aborted}");
    site.log.wait_for("generation 3 is serving");
    let output = client.wait_with_output().expect("output");
    ended(&output, 1, &[]);
}

#[test]
fn a_candidate_that_gets_ready_serves_though_the_old_one_has_died() {
    let site = plan().serving("v1");
    let clients = site.clients(4);
    let client = dies_while_one_starts(site.publish_odd("v2", "hang=1s"));
    site.log.wait_for("generation 2 is serving");
    clients.until_all_see("v2");
    let output = client.wait_with_output().expect("output");
    ended(&output, 0, &[]);
}

/// A script cannot be held: a restart would run the very same file.
#[test]
fn a_candidate_is_waited_for_if_nothing_else_can_be_run() {
    let site = Site::at(Place::Tcp4).serving("v1");
    let client = dies_while_one_starts(site.publish_odd("v2", "hang=7s"));
    let dead = site.log.wait_for("generation 1 is dead");
    assert!(dead.ends_with("; generation 2 is starting"), "{dead}");
    site.log.wait_for("generation 2 is serving");
    let output = client.wait_with_output().expect("output");
    ended(&output, 0, &[]);
}

#[test]
fn an_upgrade_remembers_which_program_was_rejected() {
    let site = plan().serving("v1");
    site.publish_odd("v2", BAD).swap_in_vain();
    let upgrade = run(&site, &["upgrade", "server"]);
    ended(&upgrade, 0, &[]);
    kill(site.pid(1), Signal::SIGKILL).expect("a signal to the server");
    site.log.wait_for("generation 3 is serving");
    assert!(site.log.says(FALLS_BACK));
    runs_what_came_later(&site, 3);
}
