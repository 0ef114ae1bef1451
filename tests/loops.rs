//! The edit, build and swap loop: nothing that is saved is lost, and nothing swaps without end.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

use crate::common::eventually;
use crate::common::plan::Plan;
use crate::common::program::Server;
use crate::common::site::Site;
use crate::watch::{QUIET, expect_swaps, run, swaps, watching};

/// Watches `src`, which has one file.
pub fn watching_source() -> Plan {
    let plan = watching();
    let source = plan.dir().join("src");
    fs::create_dir(&source).expect("a directory");
    fs::write(source.join("version"), "v1").expect("the source");
    plan.with(&["--watch", source.to_str().expect("a path")])
}

/// The server, after this line of shell.
fn after(line: &str) -> Vec<u8> {
    let script = Server::hello().script("v1");
    let (first, rest) = script.split_once('\n').expect("two lines");
    format!("{first}\n{line}\n{rest}").into_bytes()
}

pub fn save(site: &Site, version: &str) {
    fs::write(site.dir().join("src/version"), version).expect("the source");
}

/// Makes the server of what src/version says, and takes its time.
fn build(dir: &Path, seconds: &str) -> String {
    format!(
        "set -e; cd {}; v=$(cat src/version); echo begun >> begun; sleep {seconds}; test $v != broken; \
         sed \"s/VERSION=[a-z0-9]*/VERSION=$v/\" server > made; chmod +x made; mv made server",
        dir.display()
    )
}

fn builds(site: &Site) -> usize {
    fs::read_to_string(site.dir().join("begun")).map_or(0, |begun| begun.lines().count())
}

#[test]
fn a_file_that_the_server_writes_at_its_start_is_left_out_and_named() {
    let plan = watching_source();
    let line = format!("date +%N > {}/src/started.json", plan.dir().display());
    let site = plan.by_binary(after(&line)).serving("v1");
    site.log.wait_for("watching ");
    save(&site, "v2");
    // It is written by a child of the server's, which may be gone before hotswap hears of it.
    let line = site.log.wait_for(" and no longer counts");
    assert!(line.contains("src/started.json "), "{line}");
    site.log.wait_for("try: --ignore ");
    let before = swaps(&site);
    assert!(before <= 6, "{before} swaps");
    sleep(QUIET * 2);
    assert_eq!(swaps(&site), before);
    let mark = site.log.mark();
    save(&site, "v3");
    site.log.wait_after(mark, &["src/version changed"]);
}

#[test]
fn a_log_that_grows_on_each_request_is_left_out_and_named() {
    let plan = watching_source();
    let log = plan.dir().join("src/access.log");
    fs::write(&log, "GET /\n").expect("a log");
    let site = plan.serving("v1");
    let append = || {
        let log = fs::OpenOptions::new().append(true).open(&log);
        writeln!(log.expect("a log"), "GET /").expect("a line");
    };
    let late = Duration::from_millis(1100).saturating_sub(QUIET);
    for _ in 0..4 {
        expect_swaps(&site, 1, append);
        // A request comes long after a start.
        sleep(late);
    }
    append();
    let line = site.log.wait_for("access.log only grows");
    assert!(line.contains("no longer counts"), "{line}");
    site.log.wait_for("try: --ignore ");
    let before = swaps(&site);
    append();
    sleep(QUIET);
    assert_eq!(swaps(&site), before);
    expect_swaps(&site, 1, || save(&site, "v2"));
}

fn until_quiet(site: &Site) {
    eventually("the end of the swaps", || {
        let before = swaps(site);
        sleep(QUIET * 2);
        (swaps(site) == before).then_some(())
    });
}

#[test]
fn what_a_person_saves_often_always_counts() {
    let site = watching_source().serving("v1");
    for version in 2..20 {
        save(&site, &format!("v{version}"));
        sleep(Duration::from_millis(300));
    }
    let changed = site.log.count("src/version changed");
    assert!(changed >= 5, "{changed}");
    // one that starts meanwhile starts from what is saved last
    until_quiet(&site);
    let mark = site.log.mark();
    save(&site, "the last one");
    site.log.wait_after(mark, &["src/version changed"]);
}

/// A generator, or a tool that copies files over and over. Each start takes longer than the pause between two changes.
#[test]
fn files_that_change_faster_than_the_server_starts_do_not_keep_it_from_being_swapped() {
    let plan = watching_source();
    let late = Server::odd("late=400ms").script("v2").into_bytes();
    let site = plan.by_binary(late).serving("v1");
    let file = site.dir().join("src/version");
    let stop = AtomicBool::new(false);
    thread::scope(|others| {
        others.spawn(|| {
            for version in 0.. {
                fs::write(&file, version.to_string()).expect("the source");
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                sleep(Duration::from_millis(100));
            }
        });
        site.log.wait_for("changes wait for its verdict");
        let replaced = site.log.count("replaced by a newer generation");
        eventually("two swaps", || (swaps(&site) >= 2).then_some(()));
        let more = site.log.count("replaced by a newer generation") - replaced;
        stop.store(true, Ordering::Relaxed);
        assert!(more <= 5, "{more} were replaced");
    });
    // and what is there at the end counts
    let mark = site.log.mark();
    site.log.wait_after(mark, &["is serving"]);
}

#[test]
fn what_a_command_after_an_event_writes_is_no_change() {
    let plan = watching_source();
    let hook = format!("date +%N >> {}/src/events", plan.dir().display());
    let site = plan.with(&["--on-event", &hook]).serving("v1");
    site.log.wait_for("src/events is written by --before-swap");
    sleep(QUIET * 2);
    assert_eq!(swaps(&site), 0);
    expect_swaps(&site, 1, || save(&site, "v2"));
}

#[test]
fn what_a_build_writes_into_the_tree_is_no_change() {
    let plan = watching_source();
    let build = format!("date +%N > {}/src/built; sleep 0.3", plan.dir().display());
    let site = plan.with(&["--before-swap", &build]).serving("v1");
    save(&site, "v2");
    site.log.wait_for("src/built is written by --before-swap");
    until_quiet(&site);
    assert!(swaps(&site) <= 2, "{}", swaps(&site));
    expect_swaps(&site, 1, || save(&site, "v3"));
}

#[test]
fn what_is_saved_during_a_build_is_built() {
    for seconds in ["0.7", "1.2"] {
        let plan = watching_source();
        let build = build(plan.dir(), seconds);
        let site = plan.with(&["--before-swap", &build]).serving("v1");
        let mut clients = site.clients(4);
        save(&site, "v2");
        eventually("the build", || (builds(&site) == 1).then_some(()));
        save(&site, "v3");
        site.log
            .wait_for("while --before-swap was running; one more swap follows");
        clients.until_all_see("v3");
        assert_eq!(builds(&site), 2);
        clients.expect_no_failure();
    }
}

#[test]
fn what_is_saved_during_a_build_that_fails_is_built() {
    let plan = watching_source();
    let build = build(plan.dir(), "0.7");
    let site = plan.with(&["--before-swap", &build]).serving("v1");
    let mut clients = site.clients(4);
    save(&site, "broken");
    eventually("the build", || (builds(&site) == 1).then_some(()));
    save(&site, "v3");
    site.log.wait_for("aborted: ");
    clients.until_all_see("v3");
    clients.expect_no_failure();
}

#[test]
fn a_named_file_that_is_saved_during_a_build_is_built() {
    let plan = watching();
    let source = plan.dir().join("src");
    fs::create_dir(&source).expect("a directory");
    let file = source.join("version");
    fs::write(&file, "v1").expect("the source");
    let build = build(plan.dir(), "0.7");
    let plan = plan.with(&["--watch", file.to_str().expect("a path")]);
    let site = plan.with(&["--before-swap", &build]).serving("v1");
    save(&site, "v2");
    eventually("the build", || (builds(&site) == 1).then_some(()));
    save(&site, "v3");
    let mut clients = site.clients(4);
    clients.until_all_see("v3");
    clients.expect_no_failure();
}

#[test]
fn under_dev_a_build_of_what_is_no_longer_there_is_ended_and_begun_again() {
    let plan = watching_source().with(&["--dev"]);
    // The longer one would take far longer than anybody waits.
    let line = format!(
        "set -e; cd {0}; v=$(cat src/version); echo begun >> begun; test $v != slow || sleep 1000; \
         sed \"s/VERSION=[a-z0-9]*/VERSION=$v/\" server > made; chmod +x made; mv made server",
        plan.dir().display()
    );
    let site = plan.with(&["--before-swap", &line]).serving("v1");
    let before = builds(&site);
    save(&site, "slow");
    eventually("the build", || (builds(&site) == before + 1).then_some(()));
    save(&site, "v3");
    site.log
        .wait_for("changed during the build; building again");
    let mut clients = site.clients(4);
    clients.until_all_see("v3");
    clients.expect_no_failure();
}

/// A development site that runs this line of shell in its directory before each swap.
fn building(line: &str) -> Plan {
    let plan = watching_source().with(&["--dev"]);
    let line = format!("cd {}; {line}", plan.dir().display());
    plan.with(&["--before-swap", &line])
}

/// Saves this version: one more generation serves, and none is given up.
fn expect_one_swap(site: &Site, version: &str) {
    expect_swaps(site, 1, || save(site, version));
    assert_eq!(site.log.count("aborted: "), 0);
}

#[test]
fn what_a_build_makes_and_removes_is_no_change() {
    let site = building(
        "echo begun >> begun; d=$(mktemp -d src/rustcXXXXXX); echo > $d/main.o; sleep 0.4; rm -r $d",
    )
    .serving("v1");
    assert_eq!(builds(&site), 1);
    expect_one_swap(&site, "v2");
    assert_eq!(builds(&site), 2);
    assert_eq!(site.log.count("building again"), 0);
}

#[test]
fn no_build_is_ended_for_what_it_makes_itself() {
    let site = building(
        "echo begun >> begun; for o in a b c; do cat src/version > src/$o.o; sleep 0.2; done; echo >> linked",
    )
    .serving("v1");
    for version in ["v2", "v3"] {
        expect_one_swap(&site, version);
    }
    let linked = fs::read_to_string(site.dir().join("linked")).expect("builds");
    assert_eq!(
        linked.lines().count(),
        builds(&site),
        "all of them were ended well"
    );
    assert!(builds(&site) <= 5, "{}", builds(&site));
}

#[test]
fn a_page_that_is_saved_is_one_swap_though_its_build_writes_the_program_slowly_in_place() {
    let site = building(
        "sed \"s/VERSION=[a-z0-9]*/VERSION=$(cat src/version)/\" server > made; \
         head -c 9 made > server; sleep 0.4; cat made > server; rm made",
    );
    let site = site.serving("v1");
    let mut clients = site.clients(2);
    for version in ["v2", "v3"] {
        expect_one_swap(&site, version);
        clients.until_all_see(version);
    }
    clients.expect_no_failure();
}

#[test]
fn what_a_build_copies_into_the_tree_is_no_change() {
    let site = building("echo begun >> begun; mkdir -p src/dist; cp src/version src/dist/version")
        .serving("v1");
    for version in ["v2", "v3"] {
        expect_one_swap(&site, version);
    }
    assert!(builds(&site) <= 5, "{}", builds(&site));
}

#[test]
fn new_names_at_each_build_are_named_and_no_longer_count() {
    let site = building(
        "echo begun >> begun; rm -f src/app.*.js; echo > src/app.$(date +%s%N).js; sleep 0.2",
    )
    .serving("v1");
    for version in ["v2", "v3"] {
        expect_one_swap(&site, version);
    }
    site.log
        .wait_for("in earlier runs: new files no longer count");
    let before = builds(&site);
    expect_one_swap(&site, "v4");
    assert_eq!(builds(&site), before + 1);
}

#[test]
fn what_is_saved_first_during_a_build_is_built_after_it() {
    let site =
        building("echo begun >> begun; cat src/new >> built 2>/dev/null; sleep 0.5").serving("v1");
    for content in ["one", "two"] {
        let before = builds(&site);
        save(&site, content);
        eventually("the build", || (builds(&site) > before).then_some(()));
        fs::write(site.dir().join("src/new"), content).expect("a file");
        eventually("its build", || {
            let built = fs::read_to_string(site.dir().join("built")).ok()?;
            built.ends_with(content).then_some(())
        });
        sleep(QUIET);
    }
    assert_eq!(site.log.count("aborted: "), 0);
}

#[test]
fn a_build_is_told_what_has_changed() {
    let plan = watching_source();
    let told = plan.dir().join("told");
    let build = format!("printf %s \"$HOTSWAP_CHANGED\" > {}", told.display());
    let source = plan.dir().join("src");
    let site = plan.with(&["--before-swap", &build]).serving("v1");
    run(&site, 1, "echo 2 > src/version; echo 1 > src/new");
    let changed = fs::read_to_string(&told).expect("what it was told");
    let source = source.display();
    assert_eq!(changed, format!("{source}/new\n{source}/version"));
}
