//! `--hold`: from a change on new connections wait, so that the first answer after a save is of the new version.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::common::crowd::{Crowd, Habit};
use crate::common::families::on_every_family;
use crate::common::place::Place;
use crate::common::plan::Plan;
use crate::common::site::Site;
use crate::watch::watching;

/// Said with `-v` once they wait.
const HELD: &str = "new connections wait for the next version";

fn holding(plan: Plan) -> Plan {
    plan.watching().with(&["--dev", "--hold", "-v"])
}

/// Does something, and lets clients come as soon as they have to wait.
fn held_by(site: &Site, what: impl FnOnce()) -> Crowd {
    let mark = site.log.mark();
    what();
    site.log.wait_after(mark, &[HELD]);
    site.guests().and(4, Habit::default()).come()
}

/// A build that takes until there is a file `go`, and fails if there is a file `broken`.
fn build(dir: &Path) -> String {
    format!(
        "cd {}; until test -e go; do sleep 0.02; done; rm go; test ! -e broken",
        dir.display()
    )
}

on_every_family! {
    fn the_first_answer_after_a_save_is_of_the_new_version(plan: Plan) {
        let site = holding(plan).serving("v1");
        for version in ["v2", "v3", "v4"] {
            let mut clients = held_by(&site, || {
            site.publish(version);
        });
            clients.until_all_see(version).until_answered(20);
            let tally = clients.expect_no_failure();
            assert_eq!(tally.versions.len(), 1, "{tally}");
        }
    }

    fn a_failed_build_gives_those_who_wait_to_the_old_version(plan: Plan) {
        let build = build(plan.dir());
        fs::write(plan.dir().join("go"), "").expect("a file");
        let site = holding(plan).with(&["--before-swap", &build]).serving("v1");
        fs::write(site.dir().join("broken"), "").expect("a file");
        let mut clients = held_by(&site, || {
            site.signal(Signal::SIGHUP);
        });
        clients.until_asked(4);
        assert_eq!(clients.so_far().answers, 0, "they wait");
        fs::write(site.dir().join("go"), "").expect("a file");
        site.log.wait_for("generation 2 aborted: the command before the swap failed");
        clients.until_all_see("v1").until_answered(20);
        clients.expect_no_failure();
    }

    fn a_failed_candidate_gives_those_who_wait_to_the_old_version(plan: Plan) {
        let site = holding(plan).serving("v1");
        let mut clients = held_by(&site, || {
            site.publish_odd("v2", "hang exit=3 after=500ms");
        });
        site.log.wait_for("generation 2 aborted: exited with status 3");
        clients.until_all_see("v1").until_answered(20);
        clients.expect_no_failure().expect_never_seen("v2");
    }

    fn many_saves_under_load_fail_nobody(plan: Plan) {
        let site = holding(plan).with(&["--max-draining", "20"]).serving("v1");
        let mut clients = site.clients(8);
        for version in ["v2", "v3", "v4", "v5", "v6"] {
            site.publish(version);
            clients.until_all_see(version);
        }
        clients.expect_no_failure();
    }
}

#[test]
fn a_save_that_changes_nothing_lets_them_go_on() {
    let site = holding(Plan::at(Place::Tcp4)).serving("v1");
    let same = fs::read(site.program()).expect("the program");
    let mut clients = held_by(&site, || {
        site.publish_file(&same, 0o755);
    });
    clients.until_all_see("v1").until_answered(20);
    clients.expect_no_failure();
    assert!(!site.log.says("generation 2"), "{}", site.log.timed());
}

#[test]
fn a_save_during_the_build_is_waited_for_too() {
    let plan = holding(Plan::at(Place::Tcp4));
    let (build, page) = (build(plan.dir()), plan.dir().join("page"));
    fs::write(plan.dir().join("go"), "").expect("a file");
    fs::write(&page, "1").expect("a page");
    let page_path = page.to_str().expect("a path").to_owned();
    let plan = plan.with(&["--before-swap", &build, "--watch", &page_path]);
    let site = plan.serving("v1");
    let mut clients = held_by(&site, || {
        site.publish("v2");
    });
    site.log.wait_for("generation 2 waits for: ");
    fs::write(&page, "2").expect("a page");
    site.log.wait_for("changed during the build");
    site.publish("v3");
    fs::write(site.dir().join("go"), "").expect("a file");
    clients.until_all_see("v3");
    clients
        .expect_no_failure()
        .expect_never_seen("v1")
        .expect_never_seen("v2");
}

#[test]
fn a_file_in_a_tree_is_waited_for_and_one_that_is_left_out_is_not() {
    let plan = watching().with(&["--dev", "--hold", "-v"]);
    let source = plan.dir().join("src");
    fs::create_dir(&source).expect("a directory");
    for (name, content) in [("page", "1"), ("a.log", "1"), (".gitignore", "*.log\n")] {
        fs::write(source.join(name), content).expect("a file");
    }
    let site = plan
        .with(&["--watch", source.to_str().expect("a path")])
        .serving("v1");
    site.log.wait_for("watching 1 file in ");
    fs::write(source.join("a.log"), "2").expect("a log");
    let clients = held_by(&site, || {
        fs::write(source.join("page"), "2").expect("a page");
    });
    site.log.wait_for("generation 2 is serving");
    clients.until_answered(20);
    assert_eq!(site.log.count(HELD), 1, "{}", site.log.timed());
}

#[test]
fn clients_of_a_shared_socket_do_not_wait_and_that_is_said_once() {
    let plan = Plan::at(Place::Tcp4).with(&["--share"]);
    let site = holding(plan).serving("v1");
    let mut clients = site.guests().and(4, Habit::default()).come();
    for version in ["v2", "v3"] {
        site.publish(version);
        clients.until_all_see(version);
    }
    clients.leave();
    assert_eq!(site.log.count("do not wait for the next version"), 1);
}

#[test]
fn a_stop_answers_those_who_wait() {
    let plan = Plan::at(Place::Tcp4);
    let build = build(plan.dir());
    fs::write(plan.dir().join("go"), "").expect("a file");
    let mut site = holding(plan).with(&["--before-swap", &build]).serving("v1");
    let mut clients = held_by(&site, || {
        site.signal(Signal::SIGHUP);
    });
    clients.until_asked(4);
    assert_eq!(clients.so_far().answers, 0, "they wait");
    site.signal(Signal::SIGTERM);
    clients.until_answered(4);
    clients.leave();
    site.expect_status(0);
}
