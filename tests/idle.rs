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
use crate::common::processes::{all_of_site, is_keeper};
use crate::common::site::Site;
use crate::common::{eventually, skipped};

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

/// Of these mappings of a process, a figure of /proc/PID/smaps in kilobytes.
fn held(pid: Pid, figure: &str, counts: impl Fn(&str) -> bool) -> u32 {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap_or_default();
    let mut is_one = false;
    let mut sum = 0;
    for line in smaps.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        if let [place, ..] = words[..]
            && place.contains('-')
        {
            is_one = counts(line);
        } else if let [name, kilobytes, "kB"] = words[..]
            && is_one
            && name.strip_suffix(':') == Some(figure)
        {
            sum += kilobytes.parse::<u32>().expect("a number");
        }
    }
    sum
}

#[test]
fn hotswap_and_its_keeper_hold_less_than_3_mb() {
    let Some(path) = release("hotswap_and_its_keeper_hold_less_than_3_mb") else {
        return;
    };
    let site = Site::at(Place::Tcp4).of_build(path).serving("v1");
    site.publish("v2").swap().wait_until_gone(1);
    eventually("less than 3 MB", || {
        let processes = all_of_site(site.dir()).into_iter();
        let ours = processes.filter(|pid| *pid == site.hotswap() || is_keeper(*pid));
        let pss: u32 = ours.map(|pid| held(pid, "Pss", |_| true)).sum();
        (pss < 3_000).then_some(())
    });
}

/// The kernel maps a piece of it around everything that runs.
#[test]
fn what_hotswap_does_not_run_while_it_waits_is_not_in_memory() {
    let site = Site::at(Place::captured()).serving("v1");
    site.publish("v2").swap().wait_until_gone(1);
    let program = |pid: Pid| {
        held(pid, "Rss", |mapping| {
            mapping.contains(" r-xp ") && mapping.ends_with("/hotswap")
        })
    };
    let few = 1_500;
    eventually("little of its program", || {
        (program(site.hotswap()) < few).then_some(())
    });
    site.publish("v3").swap();
}

#[test]
fn the_keeper_has_less_than_100_kb_for_itself_and_no_swap_wakes_it() {
    let site = Site::at(Place::captured()).serving("v1");
    let all = all_of_site(site.dir());
    let keeper = all.into_iter().find(|pid| is_keeper(*pid));
    let keeper = keeper.expect("a keeper");
    let own = || ["Private_Clean", "Private_Dirty"].map(|figure| held(keeper, figure, |_| true));
    eventually("less than 100 kB", || {
        let own: u32 = own().into_iter().sum();
        (1..100).contains(&own).then_some(())
    });
    let asleep = wakes(keeper).expect("its thread");
    site.publish("v2").swap().wait_until_gone(1);
    assert_eq!(asleep, wakes(keeper).expect("its thread"));
}
