//! Watched paths that are not there: yet, for a moment, or any more.

use std::fs;
use std::time::Instant;

use crate::commands::start;
use crate::common::eventually;
use crate::common::log::Log;
use crate::watch::{run, watching};
use crate::watched::{each_is_a_swap, files, none_is_a_swap, watching_only};

#[test]
fn a_path_that_comes_later_may_be_a_file_or_a_tree() {
    let site = watching_only(watching(), &["later"]).serving("v1");
    site.log.wait_for("later does not exist yet");
    each_is_a_swap(
        &site,
        &[
            "mkdir new; echo 1 > new/a; mv new later",
            "echo 2 > later/a",
            "mkdir later/deep; echo 1 > later/deep/b",
            "rm -r later; echo 1 > later",
            "echo 2 > later",
            "rm later; mkdir later; echo 3 > later/a",
            "mv later old; mkdir -p new/deep; cp old/a new; echo 4 > new/deep/c; mv new later",
        ],
    );
    none_is_a_swap(&site, &["mv later old2; sleep 0.1; mv old2 later"]);
}

#[test]
fn a_watched_path_that_is_gone_is_named_once_and_waited_for() {
    let plan = watching();
    files(plan.dir(), &["src/a", "named", "settings"]);
    fs::write(plan.dir().join("settings"), "A=1\n").expect("settings");
    let settings = plan.dir().join("settings");
    let site = watching_only(plan, &["src", "named"])
        .with(&["--env-file", settings.to_str().expect("a path")])
        .serving("v1");
    none_is_a_swap(&site, &["touch src", "mv src a; mv named b; mv settings c"]);
    let names = ["src", "named", "settings"];
    let gone = |name: &str| format!("/{name} is gone; waiting for it to come back");
    for name in names {
        site.log.wait_for(&gone(name));
    }
    none_is_a_swap(&site, &["mv a src; mv b named; mv c settings"]);
    for name in names {
        site.log.wait_for(&format!("/{name} is back"));
        assert_eq!(site.log.count(&gone(name)), 1);
    }
    // what is replaced was never gone
    run(&site, 1, "mv src old; sleep 0.1; mkdir src; echo 2 > src/a");
    assert_eq!(site.log.count(" is gone; "), names.len());
}

#[test]
fn events_tell_of_a_path_that_is_gone_and_of_its_return() {
    let plan = watching();
    files(plan.dir(), &["named"]);
    let site = watching_only(plan, &["named"]).serving("v1");
    let mut client = start(&site, &["events", "server"]);
    let events = Log::of(client.stdout.take().expect("its stdout"), Instant::now());
    eventually("an event", || {
        site.swap();
        events.says(" is serving ").then_some(())
    });
    none_is_a_swap(&site, &["mv named away"]);
    events.wait_for("/named is gone; waiting for it to come back");
    none_is_a_swap(&site, &["mv away named"]);
    events.wait_for("/named is back");
    client.kill().expect("an end of the client");
    client.wait().expect("its end");
}
