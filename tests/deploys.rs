//! What a deployer asks: what is live, what happened, whether the next version would start, and how to go back.

use std::fs;
use std::path::Path;
use std::process::Child;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::commands::{ended, run, said, start, status};
use crate::common::crowd::Habit;
use crate::common::log::Log;
use crate::common::place::Place;
use crate::common::program::install;
use crate::common::site::Site;
use crate::common::{eventually, server};
use crate::watch::binary;

fn json(site: &Site, arguments: &[&str], status: i32) -> Value {
    let output = run(site, arguments);
    ended(&output, status, &[]);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)))
}

fn serving(site: &Site) -> Value {
    let status = status(site);
    let generations = status["generations"].as_array().expect("a list");
    let mut serving = generations.iter();
    let serving = serving.find(|one| one["role"] == "serving");
    serving.expect("one that serves").clone()
}

#[test]
fn the_status_says_which_program_serves() {
    let site = Site::at(Place::Tcp4).by_binary(binary(1)).serving("v1");
    let hash = eventually("its hash", || {
        let one = serving(&site);
        one["program"]["hash"].as_str().map(str::to_owned)
    });
    let program = serving(&site)["program"].clone();
    assert_eq!(program["path"], site.program().to_str().expect("text"));
    assert_eq!(program["size"], binary(1).len());
    assert_eq!(program["differs"], false);
    install(&site.program(), &binary(2), 0o755);
    let differs = || (serving(&site)["program"]["differs"] == true).then_some(());
    eventually("that the file is another", differs);
    site.swap();
    let next = eventually("another hash", || {
        let one = serving(&site);
        let next = one["program"]["hash"].as_str().map(str::to_owned);
        next.filter(|next| *next != hash)
    });
    assert_ne!(next, hash);
    assert!(
        serving(&site)["since"]
            .as_str()
            .expect("a time")
            .ends_with('Z')
    );
}

/// The interpreter is the same program in each version.
#[test]
fn of_what_an_interpreter_runs_the_status_says_which_version_serves() {
    let plan = Site::at(Place::Nowhere).with(&["--name", "server"]);
    let script = plan.dir().join("app.sh");
    let text = |version: u8| {
        let hello = server("hello");
        format!("# {version}\nexec {} 127.0.0.1:0\n", hello.display())
    };
    install(&script, text(1).as_bytes(), 0o644);
    let arguments = [script.to_str().expect("text")];
    let site = plan.by_program("/bin/sh".into(), &arguments).serving("v1");
    let program = serving(&site)["program"].clone();
    assert_eq!(program["path"], arguments[0]);
    assert_eq!(program["size"], text(1).len());
    install(&script, text(2).as_bytes(), 0o644);
    let differs = || (serving(&site)["program"]["differs"] == true).then_some(());
    eventually("that the file is another", differs);
}

#[test]
fn the_history_says_what_happened_and_outlives_an_upgrade() {
    let site = Site::serving("v1");
    let bad = site.publish_odd("v2", "say=no-database exit=3");
    let verdict = json(bad, &["swap", "server", "--json"], 1);
    assert_eq!(verdict["result"], "aborted");
    assert_eq!(verdict["name"], "server");
    assert_eq!(verdict["stderr"][0], "no-database");
    site.publish("v3").swap();
    assert_eq!(run(&site, &["upgrade", "server"]).status.code(), Some(0));
    let history = json(&site, &["history", "server", "--json"], 0);
    let results: Vec<&str> = history
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|verdict| verdict["result"].as_str())
        .collect();
    assert_eq!(results, ["serving", "aborted", "serving"]);
    assert_eq!(history[0]["cause"], "signal");
    assert_eq!(history[1]["cause"], "request");
    assert!(history[1]["uid"].is_number());
    assert_eq!(
        history[1]["reason"]
            .as_str()
            .map(|why| why.contains("status 3")),
        Some(true)
    );
    let shown = said(&run(&site, &["history", "server"]));
    assert!(
        shown.contains("generation 2 aborted: exited with status 3"),
        "{shown}"
    );
    assert!(shown.contains("\n    no-database\n"), "{shown}");
}

#[test]
fn the_history_knows_the_hash_of_each_program_and_the_checks_that_went_well() {
    let site = Site::at(Place::Tcp4).by_binary(binary(1)).serving("v1");
    let hash = |results: &[&str]| {
        let history = json(&site, &["history", "server", "--json"], 0);
        let verdicts = history.as_array().expect("a list");
        let found: Vec<&Value> = verdicts.iter().map(|verdict| &verdict["result"]).collect();
        assert_eq!(found, results);
        Some(history[0]["program"]["hash"].as_str()?.to_owned())
    };
    let first = eventually("the hash of the first", || hash(&["serving"]));
    install(&site.program(), &binary(22_222), 0o755);
    let check = &["swap", "server", "--check", "--json"];
    assert_eq!(json(&site, check, 0)["result"], "checked");
    let second = eventually("that of the second", || hash(&["checked", "serving"]));
    assert_ne!(first, second);
    let status = status(&site);
    assert!(status["last_swap"].is_null(), "nothing was swapped");
}

#[test]
fn a_roll_back_brings_the_program_back_that_served_before() {
    let site = Site::at(Place::Tcp4).by_binary(binary(1)).serving("v1");
    let bytes = |site: &Site| serving(site)["program"]["size"].as_u64();
    let first = bytes(&site);
    let mut clients = site.clients(4);
    let nothing = run(&site, &["rollback", "server"]);
    ended(&nothing, 1, &[]);
    install(&site.program(), &binary(22_222), 0o755);
    site.swap();
    assert_ne!(bytes(&site), first);
    let verdict = json(&site, &["rollback", "server", "--json"], 0);
    assert_eq!(verdict["result"], "serving");
    assert_eq!(verdict["cause"], "rollback");
    expect_asked(&verdict);
    assert_eq!(bytes(&site), first);
    assert_eq!(serving(&site)["program"]["differs"], true);
    let again = run(&site, &["rollback", "server"]);
    ended(&again, 1, &[]);
    let why = "generation 3 already runs the program from before\ntry: hotswap swap server,";
    assert!(said(&again).contains(why), "{}", said(&again));
    // a restart does not run what was left
    let pid = nix::unistd::Pid::from_raw(
        i32::try_from(serving(&site)["pid"].as_i64().expect("a pid")).expect("a pid"),
    );
    clients.until_answered(20);
    clients.expect_no_failure();
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("a signal");
    site.log.wait_for("generation 4 is serving");
    assert_eq!(bytes(&site), first);
}

#[test]
fn a_roll_back_goes_to_the_last_program_that_is_another_one() {
    let site = Site::at(Place::Tcp4).by_binary(binary(1)).serving("v1");
    let bytes = |site: &Site| serving(site)["program"]["size"].as_u64();
    let first = bytes(&site);
    let again = run(&site, &["rollback", "server"]);
    ended(&again, 1, &[]);
    site.swap();
    has_its_hash(&site);
    let same = run(&site, &["rollback", "server"]);
    ended(&same, 1, &[]);
    for _ in 0..3 {
        // a deploy writes it anew each time
        install(&site.program(), &binary(22_222), 0o755);
        site.swap();
        has_its_hash(&site);
    }
    json(&site, &["rollback", "server", "--json"], 0);
    assert_eq!(bytes(&site), first);
}

#[test]
fn a_roll_back_ends_a_crash_loop() {
    let flags = ["--no-fallback", "--ready", "after:100ms"];
    let site = Site::at(Place::Tcp4).by_binary(binary(1)).with(&flags);
    let site = site.serving("v1");
    let first = serving(&site)["program"]["size"].as_u64();
    let marker = site.dir().join("marker").display().to_string();
    let once =
        format!("#!/bin/sh\ntest -e {marker} && exit 3\ntouch {marker}\nsleep 0.4; exit 3\n");
    install(&site.program(), once.as_bytes(), 0o755);
    site.swap();
    site.log.wait_for("generation 2 is dead: ");
    site.log.wait_for("generation 4 aborted: ");
    let check = said(&run(
        &site,
        &["swap", "server", "--check", "--timeout", "20s"],
    ));
    assert!(check.contains("nothing serves"), "{check}");
    let verdict = json(
        &site,
        &["rollback", "server", "--timeout", "20s", "--json"],
        0,
    );
    assert_eq!(verdict["cause"], "rollback");
    assert_eq!(serving(&site)["program"]["size"].as_u64(), first);
    let mut clients = site.clients(2);
    clients.until_answered(20);
    clients.expect_no_failure();
}

fn has_its_hash(site: &Site) {
    eventually("its hash", || {
        let one = serving(site);
        one["program"]["hash"].as_str().map(str::to_owned)
    });
}

/// A client that has asked while the second generation is proving, and what it has heard by the time that it waits.
fn asking_while_proving(site: &Site, arguments: &[&str]) -> (Child, Log) {
    site.publish_file(&binary(2), 0o755).signal(Signal::SIGHUP);
    site.log.wait_for("generation 2 is proving");
    let mut client = start(site, arguments);
    let heard = Log::of(client.stdout.take().expect("its stdout"), Instant::now());
    heard.wait_for("waiting for the verdict on generation 2 first, ");
    (client, heard)
}

fn proving(time: &str) -> Site {
    let plan = Site::at(Place::Tcp4).with(&["--min-ready", time]);
    plan.by_binary(binary(1)).serving("v1")
}

fn ends_with(mut client: Child, status: i32) {
    assert_eq!(client.wait().expect("its end").code(), Some(status));
}

#[test]
fn a_roll_back_waits_until_the_swap_under_way_has_its_verdict() {
    let site = proving("1s");
    let (client, _) = asking_while_proving(&site, &["rollback", "server"]);
    ends_with(client, 0);
    site.log.wait_for("generation 3 is serving");
    assert_eq!(serving(&site)["program"]["size"], binary(1).len());
}

#[test]
fn a_roll_back_that_waits_says_how_to_end_the_swap_under_way() {
    let site = proving("30s");
    let (client, heard) = asking_while_proving(&site, &["rollback", "server"]);
    let pid = site.pid(2);
    heard.wait_for(&format!(
        "try: kill {pid}, which ends generation 2; then generation 1 keeps serving"
    ));
    kill(pid, Signal::SIGTERM).expect("a signal");
    ends_with(client, 1);
    assert_eq!(serving(&site)["generation"], 1);
    assert_eq!(site.log.count("started, pid"), 2);
}

#[test]
fn a_check_waits_until_the_swap_under_way_has_its_verdict() {
    let site = proving("1s");
    let (client, _) = asking_while_proving(&site, &["swap", "server", "--check"]);
    ends_with(client, 0);
    site.log.wait_for("generation 3 is ready");
    assert_eq!(serving(&site)["generation"], 2);
}

#[test]
fn what_to_try_stands_alone_behind_the_verdict() {
    let site = Site::serving("v1");
    site.publish_file(b"#!/bin/sh\r\nexit 0\r\n", 0o755);
    let output = run(&site, &["swap", "server"]);
    ended(&output, 1, &[]);
    let (stem, hint) = ("; generation 1 keeps serving\n", "try: save ");
    assert!(
        said(&output).contains(&format!("{stem}{hint}")),
        "{}",
        said(&output)
    );
    let status = run(&site, &["status", "server"]);
    assert!(
        said(&status).contains(&format!("{stem}    {hint}")),
        "{}",
        said(&status)
    );
    let verdict = &json(&site, &["history", "server", "--json"], 0)[0]["message"];
    let verdict = verdict.as_str().expect("a message");
    assert!(verdict.contains(&format!("{stem}{hint}")), "{verdict}");
}

#[test]
fn a_script_cannot_be_had_back() {
    let site = Site::serving("v1");
    site.publish("v2").swap();
    let output = run(&site, &["rollback", "server"]);
    ended(&output, 1, &["it was a script"]);
    assert_eq!(site.log.count("started, pid"), 2);
}

/// A launcher or an interpreter is the same program in each version: to run it again brings nothing back.
#[test]
fn what_another_program_runs_cannot_be_had_back() {
    let nameless = |dir: &Path| {
        fs::copy("/usr/bin/env", dir.join("wrap")).expect("a launcher that no list knows");
        dir.join("wrap").to_str().expect("text").to_owned()
    };
    let ways: [(&str, &[&str]); 6] = [
        ("nice", &["APP", "127.0.0.1:0"]),
        ("timeout", &["100", "APP", "127.0.0.1:0"]),
        ("sh", &["-c", "exec APP 127.0.0.1:0"]),
        ("sh", &["DIR/start.sh"]),
        ("WRAP", &["APP", "127.0.0.1:0"]),
        ("WRAP", &["PATH=DIR/bin", "app", "127.0.0.1:0"]),
    ];
    for (program, arguments) in ways {
        let plan = Site::at(Place::Nowhere).with(&["--name", "server"]);
        let dir = plan.dir().to_str().expect("text").to_owned();
        let app = plan.dir().join("bin/app");
        fs::create_dir(plan.dir().join("bin")).expect("a directory");
        install(&app, &binary(1), 0o755);
        let run_app = format!("exec {} 127.0.0.1:0\n", app.display());
        install(&plan.dir().join("start.sh"), run_app.as_bytes(), 0o644);
        let program = program.replace("WRAP", &nameless(plan.dir()));
        let arguments = arguments.iter().map(|argument| {
            let argument = argument.replace("APP", app.to_str().expect("text"));
            argument.replace("DIR", &dir)
        });
        let arguments: Vec<String> = arguments.collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let shown = format!("{program} {arguments:?}");
        let site = plan.by_program(program.into(), &arguments).serving("v1");
        install(&app, &binary(2), 0o755);
        site.swap();
        let output = run(&site, &["rollback", "server"]);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{shown}: {said}");
        assert!(
            said.contains(", which cannot be kept open\n"),
            "{shown}: {said}"
        );
        assert!(said.contains("try: hotswap swap server"), "{shown}: {said}");
        assert_eq!(site.log.count("started, pid"), 2, "{shown}");
    }
}

#[test]
fn a_check_tells_whether_the_next_version_would_serve_and_changes_nothing() {
    let site = Site::serving("v1");
    let mut clients = site.clients(4);
    let checked = json(
        site.publish("v2"),
        &["swap", "server", "--check", "--json"],
        0,
    );
    assert_eq!(checked["result"], "checked");
    assert_eq!(checked["reason"], "accepting");
    assert_eq!(checked["cause"], "request");
    expect_asked(&checked);
    site.log.wait_for("generation 2 is gone");
    let good = said(&run(&site, &["swap", "server", "--check"]));
    assert_eq!(good.matches("is discarded").count(), 1, "{good}");
    let bad = run(
        site.publish_odd("v3", "exit=3"),
        &["swap", "server", "--check"],
    );
    ended(&bad, 1, &[]);
    clients.until_answered(20);
    let tally = clients.expect_no_failure();
    tally.expect_never_seen("v2");
    assert_eq!(serving(&site)["generation"], 1);
}

#[test]
fn a_candidate_that_is_only_checked_serves_if_the_serving_one_dies() {
    let site = Site::at(Place::Tcp4).by_odd("").serving("v1");
    site.publish_odd("v2", "late=1500ms");
    let check = start(&site, &["swap", "server", "--check"]);
    site.log.wait_for("generation 2 started");
    kill(site.pid(1), Signal::SIGKILL).expect("a signal to the server");
    site.log.wait_for("generation 1 is dead");
    let mut clients = site.guests().and(4, Habit::default()).come();
    site.log.wait_for("generation 2 is serving");
    ends_with(check, 0);
    clients.until_all_see("v2");
    clients.expect_no_failure();
}

#[test]
fn a_swap_that_is_asked_for_during_a_stop_is_refused() {
    let site = Site::at(Place::Tcp4)
        .by_odd("deaf")
        .with(&["--drain-timeout", "3s"])
        .serving("v1");
    site.signal(nix::sys::signal::Signal::SIGTERM);
    site.log.wait_for("stopping");
    let refused = json(&site, &["swap", "server", "--json"], 1);
    assert_eq!(refused["result"], "refused", "{refused}");
    assert_eq!(refused["message"], "hotswap is stopping", "{refused}");
}

/// A verdict of what this user has asked for, today.
fn expect_asked(verdict: &Value) {
    let time = verdict["time"].as_str().unwrap_or_default();
    assert!(time.starts_with("20") && time.ends_with('Z'), "{verdict}");
    assert_eq!(verdict["uid"], nix::unistd::geteuid().as_raw(), "{verdict}");
}

#[test]
fn a_check_beside_a_shared_socket_is_refused() {
    let site = Site::at(Place::Tcp4).with(&["--share"]).serving("v1");
    let output = run(&site, &["swap", "server", "--check"]);
    ended(&output, 2, &[]);
    assert_eq!(site.log.count("started, pid"), 1);
}

#[test]
fn a_stop_can_be_told_in_json() {
    let site = Site::serving("v1");
    let stopped = json(&site, &["stop", "server", "--json"], 0);
    assert_eq!(stopped["result"], "stopped");
}
