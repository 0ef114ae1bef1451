//! `hotswap smoke`: it tells a server that keeps its requests from one that loses some.

use std::process::{Output, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::common::attempt::attempt;
use crate::common::crowd::Guests;
use crate::common::log::Log;
use crate::common::place::{Target, free_address};
use crate::common::plan::hotswap;
use crate::common::{eventually, hotswap_program, processes, server};

/// One trial in a directory of its own, after which nothing is left.
fn smoke(dir: &TempDir, options: &[&str], command: &[&str]) -> Output {
    let mut smoke = hotswap(hotswap_program(), dir.path());
    smoke.env("TMPDIR", dir.path()).arg("smoke").args(options);
    smoke
        .arg("--")
        .args(command)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = smoke.output().expect("a trial");
    // a keeper that has just been started still looks like hotswap
    eventually("the end of every process", || {
        processes::of_site(dir.path()).is_empty().then_some(())
    });
    let left = dir.path().read_dir().expect("the directory").flatten();
    let left = left.filter(|one| {
        one.file_name()
            .to_string_lossy()
            .starts_with("hotswap-smoke")
    });
    assert_eq!(left.count(), 0, "files are left");
    output
}

fn program(name: &str) -> String {
    server(name).to_str().expect("a path").to_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_server_that_keeps_its_requests_passes() {
    let dir = tempfile::tempdir().expect("a directory");
    let junit = dir.path().join("junit.xml");
    let options = [
        "--swaps",
        "3",
        "--listen",
        "127.0.0.1:0",
        "--slow-path",
        "/slow?ms=100",
    ];
    let files = ["--json", "--junit", junit.to_str().expect("a path")];
    let output = smoke(
        &dir,
        &[&options[..], &files[..]].concat(),
        &[&program("hello")],
    );
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["swaps"], 3, "{report}");
    assert_eq!(report["all"]["failed"], 0, "{report}");
    for client in ["new", "kept", "slow", "hesitating"] {
        assert!(
            report["clients"][client]["requests"].as_u64() > Some(0),
            "{client}: {report}"
        );
    }
    assert_eq!(
        report["generations"].as_array().map(Vec::len),
        Some(4),
        "{report}"
    );
    assert_eq!(report["graceful"], true, "{report}");
    let junit = std::fs::read_to_string(junit).expect("the JUnit file");
    assert!(junit.contains("tests=\"5\" failures=\"0\""), "{junit}");
}

#[test]
fn a_report_that_cannot_be_written_is_named_before_the_trial() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = ["--junit", "/nowhere/junit.xml"];
    let output = smoke(&dir, &options, &[&program("hello")]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let said = "hotswap: cannot write /nowhere/junit.xml: No such file or directory";
    assert!(stderr(&output).starts_with(said), "{}", stderr(&output));
    assert!(output.stdout.is_empty(), "a trial went on");
}

/// As pm2-runtime, which talks to itself on two unix paths, and opens its port a moment later.
#[test]
fn the_port_is_asked_and_not_a_path_of_its_own_that_came_first() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = format!("at=unix:{}/rpc.sock", dir.path().display());
    let and = format!("and={}", free_address());
    let command = [&program("odd"), &at, &and, "and-late=700ms", "rpc"];
    let output = smoke(&dir, &["--swaps", "2", "--json"], &command);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["swaps"], 2, "{report}");
}

#[test]
fn a_path_is_asked_where_there_is_no_port() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = format!("at=unix:{}/site.sock", dir.path().display());
    // idle connections on a path cannot be told from busy ones
    let options = ["--swaps", "1", "--quiesce", "500ms"];
    let output = smoke(&dir, &options, &[&program("odd"), &at]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn a_server_whose_requests_are_cut_fails() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = ["--swaps", "3", "--listen", "127.0.0.1:0", "--quiesce", "0s"];
    let output = smoke(&dir, &options, &[&program("odd"), "think=200ms"]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("requests failed"), "{said}");
    assert!(said.contains("\ntry: --quiesce"), "{said}");
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(table.contains("has no graceful stop"), "{table}");
}

/// A server that cannot be followed looks like one that resets its clients.
#[test]
fn a_hotswap_that_has_ended_is_told_from_requests_that_fail() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = ["--swaps", "1", "--listen", "127.0.0.1:0"];
    let times = ["--restart", "never"];
    let command = [&program("odd"), "exit=7", "after=300ms"];
    let output = smoke(&dir, &[&options[..], &times].concat(), &command);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("the server did not stay up: it exited with status 7"),
        "{said}"
    );
}

#[test]
fn a_server_that_ignores_its_stop_signal_is_told_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = ["--swaps", "1", "--listen", "127.0.0.1:0"];
    let times = ["--quiesce", "0s", "--drain-timeout", "3s"];
    let output = smoke(
        &dir,
        &[&options[..], &times].concat(),
        &[&program("odd"), "deaf"],
    );
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    let kind = "ignores its stop signal (1 of 1 were killed for that)";
    assert!(table.contains(kind), "{table}{}", stderr(&output));
}

#[test]
fn a_report_that_cannot_be_written_is_no_success() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = ["--swaps", "1", "--listen", "127.0.0.1:0"];
    let output = smoke(
        &dir,
        &[&options[..], &["--junit", "/dev/full"]].concat(),
        &[&program("hello")],
    );
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("cannot write /dev/full: "));
    let mut smoke = hotswap(hotswap_program(), dir.path());
    smoke.arg("smoke").args(options).args(["--json", "--"]);
    let full = fs::File::options().write(true).open("/dev/full");
    smoke
        .arg(program("hello"))
        .stdout(full.expect("a full disk"));
    let output = smoke.stderr(Stdio::piped()).output().expect("a trial");
    assert_eq!(output.status.code(), Some(125), "{}", stderr(&output));
    assert!(stderr(&output).contains("cannot write to stdout: No space left"));
}

/// As in an image that was made from nothing.
#[test]
fn a_directory_for_temporary_files_need_not_be_there() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut smoke = hotswap(hotswap_program(), dir.path());
    smoke.env("TMPDIR", dir.path().join("none")).arg("smoke");
    smoke.args(["--swaps", "1", "--listen", "127.0.0.1:0", "--"]);
    let output = smoke.arg(program("hello")).output().expect("a trial");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

/// The clients of these tests come to the same server at the same time, and are asked before the trial ends.
fn sees_what_these_tests_see(options: &[&str], command: &[&str]) -> usize {
    let dir = tempfile::tempdir().expect("a directory");
    let (address, epoch) = (free_address(), Instant::now());
    let listen = format!("--listen={address}");
    let mut smoke = hotswap(hotswap_program(), dir.path());
    smoke.env("TMPDIR", dir.path());
    smoke.args(["smoke", "--swaps", "8", &listen]).args(options);
    smoke.arg("--").args(command).stdout(Stdio::piped());
    let mut smoke = smoke.stderr(Stdio::null()).spawn().expect("a trial");
    let progress = Log::of(smoke.stdout.take().expect("its words"), epoch);
    // a line a second leaves some out
    let swap = |some: &[u32]| {
        let texts: Vec<String> = some.iter().map(|n| format!("swap  {n} of 8")).collect();
        progress.wait_after(0, &texts.iter().map(String::as_str).collect::<Vec<_>>());
    };
    swap(&[0, 1, 2]);
    let ours = Guests::of(vec![Target::Tcp(address)], epoch).mixed(8);
    let ours = ours.come();
    swap(&[4, 5, 6, 7]);
    let failed = ours.so_far().failures.len();
    drop(ours);
    let status = smoke.wait().expect("its end").code();
    assert_eq!(
        status,
        Some(i32::from(failed > 0)),
        "{failed} of ours failed"
    );
    failed
}

#[test]
fn it_agrees_with_the_clients_of_these_tests() {
    let good = sees_what_these_tests_see(&[], &[&program("hello")]);
    assert_eq!(good, 0);
    let cut = ["--quiesce", "0s"];
    let bad = sees_what_these_tests_see(&cut, &[&program("odd"), "think=100ms"]);
    assert!(bad > 0);
}

#[test]
fn a_status_that_was_not_wanted_fails_before_the_first_swap() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = ["--swaps", "3", "--listen", "127.0.0.1:0"];
    let command = [program("odd"), "status=404".into()];
    let command = [command[0].as_str(), command[1].as_str()];
    let output = smoke(&dir, &options, &command);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("status 404") && said.contains("--expect 404"),
        "{said}"
    );
    assert!(String::from_utf8_lossy(&output.stdout).contains("swaps: 0 of 3"));
    let output = smoke(
        &dir,
        &[&options[..], &["--expect", "404"]].concat(),
        &command,
    );
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn a_server_that_never_comes_up_fails_with_its_own_words() {
    let dir = tempfile::tempdir().expect("a directory");
    let junit = dir.path().join("junit.xml");
    let junit_path = junit.to_str().expect("a path");
    let output = smoke(
        &dir,
        &["--swaps", "3", "--json", "--junit", junit_path],
        &[&program("odd"), "say=no-database", "exit=3"],
    );
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let why = "the server did not come up: it exited with status 3";
    assert!(said.contains(why), "{said}");
    assert!(said.contains("no-database"), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let lines = report["last_lines"].as_array().expect("lines");
    assert!(lines.contains(&"no-database".into()), "{report}");
    let junit = fs::read_to_string(junit).expect("the JUnit file");
    let failure = format!("<failure message=\"{why}\">");
    let (_, lines) = junit.split_once(&failure).expect("a failure");
    assert!(lines.contains("\nno-database\n"), "{junit}");
}

/// Each is told as what it is, and no advice is about what smoke does by itself.
#[test]
fn a_status_of_a_server_that_does_not_come_up_is_told_as_whose_it_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let odd = program("odd");
    let never = ["--ready", "notify", "--ready-timeout", "200ms"];
    for (options, command, why) in [
        (
            &never[..],
            &[&*odd][..],
            "it was not ready in time (status 124)",
        ),
        (
            &[],
            &["./nothing"],
            "its program was not found (status 127)",
        ),
        (
            &[],
            &["sh", "-c", "kill -SEGV $$"],
            "it was killed by SIGSEGV (status 139)",
        ),
        (
            &["--user", "root", "--chdir", "/nowhere"],
            &[&*odd],
            "hotswap itself failed",
        ),
    ] {
        let output = smoke(&dir, options, command);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        let line = format!("hotswap: the server did not come up: {why}");
        assert!(said.contains(&line), "{said}");
        assert!(!said.contains("--watch"), "{said}");
    }
}

#[test]
fn a_line_that_cannot_be_understood_is_a_usage_error() {
    let dir = tempfile::tempdir().expect("a directory");
    for (options, hint) in [
        (&["--swaps", "many"][..], "--swaps"),
        (&["--path", "health"], "try: --path /health"),
        (&["--expect", "fine"], "try: --expect 2xx,3xx"),
        (&["--no-such-option"], "--no-such-option"),
    ] {
        let output = smoke(&dir, options, &["true"]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(hint), "{said}");
    }
}

#[test]
fn no_swap_proves_nothing_and_is_refused() {
    attempt(&["smoke", "--swaps", "0", "--", "/bin/true"]).is_refused(2, &["--swaps", "0"]);
}

/// A trial that gets this signal amid its swaps.
struct Interrupted {
    dir: TempDir,
    output: Output,
    junit: String,
}

impl Interrupted {
    fn by(signal: Signal) -> Interrupted {
        let dir = tempfile::tempdir().expect("a directory");
        let junit = dir.path().join("junit.xml");
        let mut smoke = hotswap(hotswap_program(), dir.path());
        smoke
            .env("TMPDIR", dir.path())
            .args(["smoke", "--json", "--swaps", "500", "--junit"])
            .arg(&junit)
            .args(["--listen", "127.0.0.1:0", "--", &program("hello")]);
        let smoke = smoke.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut smoke = smoke.spawn().expect("a trial");
        let progress = Log::of(smoke.stderr.take().expect("its words"), Instant::now());
        progress.wait_for(" of 500");
        let pid = Pid::from_raw(smoke.id().try_into().expect("a pid"));
        kill(pid, signal).expect("a signal");
        let output = smoke.wait_with_output().expect("its end");
        let junit = fs::read_to_string(junit).expect("the JUnit file");
        Interrupted { dir, output, junit }
    }

    fn expect_no_process(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !processes::of_site(self.dir.path()).is_empty() {
            assert!(Instant::now() < deadline, "processes are left");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_trial_that_is_asked_to_end_writes_its_report_and_leaves_nothing() {
    use Signal::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
    for signal in [SIGTERM, SIGHUP, SIGINT, SIGUSR1] {
        let trial = Interrupted::by(signal);
        assert_eq!(trial.output.status.code(), Some(1), "{signal}");
        let report: Value = serde_json::from_slice(&trial.output.stdout).expect("JSON");
        let said = format!("interrupted by {signal}");
        assert_eq!(report["problem"], said, "{report}");
        assert!(
            trial.junit.contains(&said) && trial.junit.ends_with("</testsuite>\n"),
            "{}",
            trial.junit
        );
        trial.expect_no_process();
        let left = fs::read_dir(trial.dir.path()).expect("the directory");
        let mut left = left.map(|one| one.expect("an entry").file_name());
        assert!(
            !left.any(|one| one.to_string_lossy().starts_with("hotswap-smoke")),
            "files are left after {signal}"
        );
    }
}

#[test]
fn a_trial_that_is_killed_leaves_no_process() {
    Interrupted::by(Signal::SIGKILL).expect_no_process();
}

#[test]
fn a_server_of_tls_is_named_with_its_address() {
    let dir = tempfile::tempdir().expect("a directory");
    let address = free_address().to_string();
    let command = [&program("odd"), &format!("at={address}"), "tls"];
    let output = smoke(&dir, &["--swaps", "2"], &command);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let tls = format!("at {address}, which answers with TLS\ntry: the server without TLS");
    assert!(said.contains(&tls), "{said}");
}

/// As a server with a port of its own for something else.
#[test]
fn an_address_that_does_not_speak_http_is_named_and_may_be_left_out() {
    let dir = tempfile::tempdir().expect("a directory");
    let (ours, other) = (free_address().to_string(), free_address().to_string());
    // what `rpc` speaks is no HTTP, and `and` does
    let command = [
        &program("odd"),
        &format!("at={other}"),
        &format!("and={ours}"),
        "rpc",
    ];
    // by then it listens on both
    let options = ["--swaps", "1", "--ready", "after:300ms"];
    let output = smoke(&dir, &options, &command);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains(&format!("at {other}, which answered none")),
        "{said}"
    );
    let hint = format!("\ntry: --ask {ours}");
    assert!(said.contains(&hint), "{said}");
    let output = smoke(&dir, &[&options[..], &["--ask", &ours]].concat(), &command);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}
