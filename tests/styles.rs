//! Programs that know how to replace themselves, and a worker without a port: all of them unmodified.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::thread;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::openpty;
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
fn an_endless_style_server_that_continues_is_swapped() {
    tells_its_parent_to_stop("endless", Some(("ENDLESS_CONTINUE", "1")));
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

#[test]
fn one_that_asks_for_its_listener_takes_what_it_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("master.sock");
    let Some(plan) = plan(Place::Tcp4, &["asking", &path.display().to_string()]) else {
        return;
    };
    let master = UnixListener::bind(&path).expect("a master");
    let answers = thread::spawn(move || {
        for _ in 0..4 {
            let (mut program, _) = master.accept().expect("a program");
            let mut question = String::new();
            let read = BufReader::new(&program).read_line(&mut question);
            read.expect("a question");
            assert_eq!(question, "{\"action\":\"get_listener\"}\n");
            // The first one that hotswap hands over.
            writeln!(program, "{{\"descriptor\":3}}").expect("an answer");
        }
    });
    swaps_without_a_loss(plan.with(&["--capture", "never"]), false);
    answers.join().expect("four questions");
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

/// Swapped in the middle of jobs, and stopped in the middle of one, it cuts none short.
fn finishes_its_jobs(amid: impl FnOnce(Plan) -> Plan, stop: impl FnOnce(&Site)) {
    let dir = tempfile::tempdir().expect("a directory");
    let journal = dir.path().join("journal");
    let Some(plan) = plan(Place::Nowhere, &["worker", &journal.display().to_string()]) else {
        return;
    };
    let in_a_job_of = |generation: u32| {
        eventually("a job", || {
            let text = fs::read_to_string(&journal).unwrap_or_default();
            let last = text.lines().last().unwrap_or_default();
            let begun = format!("begin {generation}.");
            last.starts_with(&begun).then_some(())
        });
    };
    let mut site = amid(plan).serving("");
    for generation in 1..=3 {
        in_a_job_of(generation);
        site.swap().wait_until_gone(generation);
    }
    in_a_job_of(4);
    stop(&site);
    assert!(site.end().success());
    assert!(jobs(&journal) >= 4);
    site.expect_nothing_left();
}

#[test]
fn a_worker_finishes_its_jobs_in_a_swap_and_in_a_stop() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        finishes_its_jobs(
            |plan| plan,
            |site| {
                site.signal(signal);
            },
        );
    }
}

#[test]
fn a_worker_finishes_its_jobs_when_ctrl_c_is_typed() {
    let terminal = openpty(None, None).expect("a terminal");
    let closed_by_exec = FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC);
    fcntl(&terminal.master, closed_by_exec).expect("a descriptor of our own");
    let mut keyboard = File::from(terminal.master);
    finishes_its_jobs(
        |plan| {
            plan.inside(&["setsid", "--ctty"])
                .on_terminal(terminal.slave)
        },
        |_| keyboard.write_all(b"\x03").expect("a key"),
    );
}
