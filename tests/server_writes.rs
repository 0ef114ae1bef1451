//! Files in a watched tree that the server writes on each request: they swap it a few times at most, and are named.

use std::fs;
use std::thread::{self, sleep};

use crate::common::site::Site;
use crate::loops::{save, watching_source};
use crate::watch::{QUIET, expect_swaps, run, swaps};

/// As root hotswap is told who writes a file. Otherwise it has to see it, which may take more requests.
const ADMINISTRATOR: u64 = 1 << 21;
const MOST_WHEN_TOLD: usize = 3;
const LEFT_OUT: &str = " is written by the server, and no longer counts";

fn is_told() -> bool {
    let status = fs::read_to_string("/proc/self/status").expect("our status");
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = u64::from_str_radix(capabilities.expect("a set").trim(), 16);
    capabilities.expect("a number") & ADMINISTRATOR != 0
}

fn writing(how: &str, path: &str) -> Site {
    let plan = watching_source();
    let path = plan.dir().join("src").join(path);
    if how == "new" {
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
fn a_file_that_is_saved_often_is_named_as_a_file_that_the_server_may_write() {
    let site = watching_source().serving("v1");
    for version in 2..12 {
        expect_swaps(&site, 1, || save(&site, &format!("v{version}")));
    }
    let line = site.log.wait_for("src/version alone has caused 6 swaps");
    site.log.wait_for("src/version, if the server writes it");
    assert!(!line.contains("no longer counts"), "{line}");
}
