//! What hotswap costs while nothing happens: nothing.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;
use std::{env, io};

use nix::unistd::Pid;

use crate::capture::at;
use crate::common::crowd::Habit;
use crate::common::log::Log;
use crate::common::place::{Place, free_address};
use crate::common::processes::status;
use crate::common::site::Site;
use crate::common::skipped;

const WHILE: Duration = Duration::from_secs(10);

/// How often the threads of a process have gone to sleep or been put aside: no thread runs without one of them changing.
fn wakes(pid: Pid) -> io::Result<Vec<String>> {
    let mut wakes = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        wakes.extend(
            status
                .lines()
                .filter(|line| line.contains("ctxt_switches"))
                .map(str::to_owned),
        );
    }
    Ok(wakes)
}

#[test]
fn idle_hotswap_makes_no_system_call() {
    let site = Site::serving("v1");
    site.publish("v2").swap().wait_until_gone(1);
    let pid = site.hotswap();
    // What a swap leaves to be done later is done by then.
    sleep(Duration::from_secs(5));
    let before = wakes(pid).expect("its threads");
    sleep(WHILE);
    assert_eq!(before, wakes(pid).expect("its threads"));
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-qq", "-p", &pid.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    let Ok(mut strace) = strace.spawn() else {
        return skipped(
            "idle_hotswap_makes_no_system_call, by strace",
            "strace is not installed",
        );
    };
    let log = Log::of(
        strace.stderr.take().expect("its stderr"),
        std::time::Instant::now(),
    );
    sleep(WHILE);
    let tracer = Pid::from_raw(strace.id().try_into().expect("a pid"));
    nix::sys::signal::kill(tracer, nix::sys::signal::Signal::SIGTERM).expect("a signal to strace");
    strace.wait().expect("its end");
    if log.says("Operation not permitted") {
        return skipped(
            "idle_hotswap_makes_no_system_call, by strace",
            "may not trace",
        );
    }
    // Of each thread the call that it is in: once when strace comes, and once when it leaves.
    let calls = log
        .lines("(")
        .into_iter()
        .filter(|line| !line.contains("detached"));
    let blocked: Vec<_> = calls
        .filter(|line| !line.contains("resuming interrupted"))
        .collect();
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .expect("its threads")
        .count();
    assert!(blocked.len() <= threads, "{}", log.timed());
    assert!(
        blocked.iter().all(|line| !line.contains(" = ")),
        "{}",
        log.timed()
    );
}

/// It looks whether the server has closed its listener, once clients have come.
#[test]
fn hotswap_sleeps_again_once_no_client_comes_to_a_captured_server() {
    let address = free_address();
    let site = at(address).by_odd(&format!("at={address}")).serving("v1");
    let mut clients = site.guests().and(4, Habit::default()).come();
    clients.until_answered(20);
    clients.expect_no_failure();
    drop(clients);
    let pid = site.hotswap();
    sleep(Duration::from_secs(3));
    let before = wakes(pid).expect("its threads");
    sleep(Duration::from_secs(3));
    assert_eq!(before, wakes(pid).expect("its threads"));
}

/// The figures are promised of a release build: `scripts/check` makes one.
pub fn release(name: &str) -> Option<PathBuf> {
    let tests = env::current_exe().expect("the path of this test");
    let target = tests.ancestors().nth(3).expect("a target directory");
    let path = target.join("release/hotswap");
    if !path.exists() {
        skipped(name, "no release build; try: cargo build --release");
        return None;
    }
    Some(path)
}

#[test]
fn the_binary_is_under_4_mb() {
    if let Some(path) = release("the_binary_is_under_4_mb") {
        let size = fs::metadata(path).expect("the binary").len();
        assert!(size < 4_000_000, "{size} bytes");
    }
}

#[test]
fn it_holds_less_than_4_mb() {
    let Some(path) = release("it_holds_less_than_4_mb") else {
        return;
    };
    let site = Site::at(Place::Tcp4).of_build(path).serving("v1");
    site.publish("v2").swap().wait_until_gone(1);
    let pid = site.hotswap();
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("its memory");
    let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kilobytes: u32 = pss
        .and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok())
        .expect("a size");
    assert!(kilobytes < 4000, "{kilobytes} kB");
    let threads = status(pid, "Threads");
    println!("PSS {kilobytes} kB, {threads:?} threads");
}
