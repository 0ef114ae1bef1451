//! Files in a watched tree that the server writes on each request: they swap it a few times at most, and are named.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::thread::{self, sleep};

use crate::common::plan::Plan;
use crate::common::site::Site;
use crate::loops::{save, watching_source};
use crate::watch::{QUIET, expect_swaps, run, swaps};

/// As root hotswap is told who writes a file. Otherwise it has to see it, which may take more requests.
const ADMINISTRATOR: u64 = 1 << 21;
const MOST_WHEN_TOLD: usize = 3;
const LEFT_OUT: &str = " is written by the server, and no longer counts";
const NEW_LEFT_OUT: &str = " have caused 3 swaps in a row, and no longer count";

fn is_told() -> bool {
    let status = fs::read_to_string("/proc/self/status").expect("our status");
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = u64::from_str_radix(capabilities.expect("a set").trim(), 16);
    capabilities.expect("a number") & ADMINISTRATOR != 0
}

/// hotswap is not told then, as in a container.
fn without_capability(plan: Plan) -> Plan {
    if is_told() {
        let without = ["--bounding-set=-sys_admin", "--inh-caps=-sys_admin"];
        plan.inside(&["setpriv", without[0], without[1]])
    } else {
        plan
    }
}

fn writing(how: &str, path: &str) -> Site {
    writing_by(watching_source(), how, path)
}

fn writing_by(plan: Plan, how: &str, path: &str) -> Site {
    let path = plan.dir().join("src").join(path);
    if ["new", "deep"].contains(&how) {
        fs::create_dir(&path).expect("a directory");
    }
    plan.by_odd(&format!("writes={how}:{}", path.display()))
        .serving("v1")
}

/// A request, and time for a swap to follow.
fn ask(site: &Site) {
    let mut client = site.clients(1);
    client.until_answered(1);
    client.leave();
    sleep(QUIET / 3);
}

#[test]
fn a_file_that_the_server_writes_on_each_request_is_left_out_and_named() {
    thread::scope(|sites| {
        for (how, name) in [
            ("in-place", "data.json"),
            ("rename", "data.json"),
            ("database", "app.db"),
            ("new", "cache"),
        ] {
            sites.spawn(move || expect_left_out(how, name));
        }
    });
}

fn expect_left_out(how: &str, name: &str) {
    let site = writing(how, name);
    let mut asked = 0;
    while asked < 30 && !site.log.says(LEFT_OUT) {
        asked += 1;
        ask(&site);
    }
    let most = if is_told() { MOST_WHEN_TOLD } else { 30 };
    assert!(swaps(&site) <= most, "{} swaps, {how}", swaps(&site));
    let line = site.log.wait_for(LEFT_OUT);
    assert!(line.contains(&format!("/src/{name}")), "{line}");
    site.log.wait_for("try: --ignore ");
    if is_told() {
        sleep(QUIET);
        let before = swaps(&site);
        ask(&site);
        ask(&site);
        assert_eq!(swaps(&site), before, "{how}");
    }
    // what a person saves counts as before
    for version in ["v2", "v3"] {
        expect_swaps(&site, 1, || save(&site, version));
    }
}

/// hotswap may not look into it either, as with `--user` in a container.
#[test]
fn a_file_that_the_server_writes_unseen_does_not_swap_it_on_and_on() {
    if !is_told() {
        return;
    }
    thread::scope(|sites| {
        for how in ["in-place", "rename"] {
            sites.spawn(move || {
                let plan = watching_source().with(&["--capture", "never", "--user", "nobody"]);
                let source = plan.dir().join("src");
                fs::set_permissions(source, Permissions::from_mode(0o777)).expect("its mode");
                let without = ["sys_admin", "sys_ptrace"]
                    .map(|name| format!("-{name}"))
                    .join(",");
                let sets = ["bounding-set", "inh-caps"].map(|set| format!("--{set}={without}"));
                let plan = plan.inside(&["setpriv", &sets[0], &sets[1]]);
                let site = writing_by(plan, how, "data.json");
                // Each comes later than what a server does at its start.
                for _ in 0..7 {
                    ask(&site);
                    sleep(QUIET * 2);
                }
                assert!(swaps(&site) <= 5, "{} swaps, {how}", swaps(&site));
                site.log
                    .wait_for("data.json changes whenever the server writes");
                for version in ["v2", "v3"] {
                    expect_swaps(&site, 1, || save(&site, version));
                }
            });
        }
    });
}

#[test]
fn new_files_in_ever_new_directories_are_left_out_and_named() {
    thread::scope(|sites| {
        for plan in [watching_source(), without_capability(watching_source())] {
            sites.spawn(|| expect_new_left_out(plan));
        }
    });
}

fn expect_new_left_out(plan: Plan) {
    let site = writing_by(plan, "deep", "cache");
    for _ in 0..8 {
        ask(&site);
    }
    sleep(QUIET);
    // a write that nobody sees is one of somebody else's
    assert!(swaps(&site) <= 5, "{} swaps", swaps(&site));
    let line = site.log.wait_for(NEW_LEFT_OUT);
    assert!(line.contains("/src/cache"), "{line}");
    site.log.wait_for("try: --ignore ");
    for version in ["v2", "v3"] {
        expect_swaps(&site, 1, || save(&site, version));
    }
}

/// The server answers meanwhile, but writes no file.
#[test]
fn new_files_of_a_person_count_however_many_there_are() {
    let site = without_capability(watching_source()).serving("v1");
    let mut clients = site.clients(1);
    for name in ["a", "b", "c", "d", "e"] {
        expect_swaps(&site, 1, || {
            fs::write(site.dir().join("src").join(name), name)
        });
    }
    clients.expect_no_failure();
}

#[test]
fn what_somebody_else_writes_into_the_servers_own_file_counts() {
    if !is_told() {
        return;
    }
    let site = writing("in-place", "data.json");
    while !site.log.says("data.json is written by the server") {
        ask(&site);
    }
    sleep(QUIET);
    run(&site, 1, "echo edited > src/data.json");
    run(&site, 1, "echo again > new; mv new src/data.json");
    let before = swaps(&site);
    ask(&site);
    sleep(QUIET);
    assert_eq!(swaps(&site), before, "the server writes it again");
}

#[test]
fn a_file_that_a_person_saves_often_is_not_taken_for_one_of_the_server() {
    let site = watching_source().serving("v1");
    for version in 2..10 {
        expect_swaps(&site, 1, || save(&site, &format!("v{version}")));
    }
    assert!(!site.log.says("--ignore"));
}
