//! Where there are no file events, or far too many.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use nix::unistd::{Pid, SysconfVar, sysconf};

use crate::common::crowd::Habit;
use crate::common::place::Place;
use crate::common::program::install;
use crate::common::{alone, skipped};
use crate::idle::release;
use crate::nonroot::as_nobody;
use crate::watch::{binary, expect_swaps, swaps, watching};

fn can_run(wrapper: &[&str]) -> bool {
    let mut probe = Command::new(wrapper[0]);
    probe.args(&wrapper[1..]).arg("true").stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

/// hotswap starts where these limits of inotify are zero.
fn without<const N: usize>(test: &str, limits: [&str; N]) {
    let zero = limits.map(|limit| format!("echo 0 > /proc/sys/user/max_inotify_{limit} && "));
    let script = format!("{}exec \"$@\"", zero.concat());
    let wrapper = ["unshare", "-Ur", "sh", "-c", &script, "sh"];
    if !can_run(&wrapper) {
        return skipped(test, "no user namespaces here");
    }
    let site = watching()
        .inside(&wrapper)
        .by_binary(binary(1))
        .serving("v1");
    site.log.wait_for("cannot use file events: ");
    assert_eq!(site.log.count("cannot use file events"), 1);
    let mut clients = site.guests().and(4, Habit::default()).come();
    expect_swaps(&site, 1, || install(&site.program(), &binary(2), 0o755));
    expect_swaps(&site, 1, || {
        fs::remove_file(site.program()).expect("the program");
        install(&site.program(), &binary(3), 0o755);
    });
    clients.expect_no_failure();
}

#[test]
fn without_inotify_instances_it_looks_now_and_then() {
    without(
        "without_inotify_instances_it_looks_now_and_then",
        ["instances"],
    );
}

#[test]
fn without_inotify_watches_it_looks_now_and_then() {
    without("without_inotify_watches_it_looks_now_and_then", ["watches"]);
}

#[test]
fn a_program_that_is_mounted_by_itself_is_pointed_out() {
    let test = "a_program_that_is_mounted_by_itself_is_pointed_out";
    let plan = watching();
    let server = plan.dir().join("server");
    let script = format!("mount --bind '{0}' '{0}' && exec \"$@\"", server.display());
    let wrapper = ["unshare", "-Urm", "sh", "-c", &script, "sh"];
    fs::write(&server, "").expect("a file");
    if !can_run(&wrapper) {
        return skipped(test, "no mounts in namespaces here");
    }
    let site = plan.inside(&wrapper).serving("v1");
    site.log
        .wait_for_all(&["is mounted by itself", "try: mount its directory"]);
}

/// Nobody but its owner can ask whether a file is being written.
#[test]
fn a_program_of_another_owner_is_swapped_all_the_same() {
    let test = "a_program_of_another_owner_is_swapped_all_the_same";
    let Some(plan) = as_nobody(test, Place::Tcp4) else {
        return;
    };
    let site = plan.watching().by_binary(binary(1)).serving("v1");
    let mut clients = site.guests().and(4, Habit::default()).come();
    expect_swaps(&site, 1, || install(&site.program(), &binary(2), 0o755));
    expect_swaps(&site, 0, || {
        install(&site.program(), &binary(3)[..100_000], 0o755);
    });
    expect_swaps(&site, 1, || install(&site.program(), &binary(4), 0o755));
    clients.expect_no_failure();
}

/// The processor time that a process has had, in ticks.
fn ticks_of(pid: Pid) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("its figures");
    let (_, figures) = stat.rsplit_once(')').expect("a name");
    figures
        .split(' ')
        .skip(12)
        .take(2)
        .map(|ticks| ticks.parse::<u64>().expect("ticks"))
        .sum()
}

#[test]
fn ten_thousand_events_a_second_cost_little_and_hide_nothing() {
    let Some(hotswap) = release("ten_thousand_events_a_second_cost_little_and_hide_nothing") else {
        return;
    };
    let _alone = alone();
    let site = watching()
        .of_build(hotswap)
        .by_binary(binary(1))
        .serving("v1");
    let stop = Arc::new(AtomicBool::new(false));
    let (told, dir) = (Arc::clone(&stop), site.dir().to_owned());
    let flood = thread::spawn(move || {
        let begun = Instant::now();
        let mut files = 0;
        while !told.load(Ordering::Relaxed) {
            for _ in 0..10 {
                fs::write(dir.join(format!("noise-{}", files % 100)), "x").expect("noise");
                files += 1;
            }
            let due = Duration::from_micros(100 * files);
            sleep(due.saturating_sub(begun.elapsed()));
        }
        files / begun.elapsed().as_secs().max(1)
    });
    sleep(Duration::from_secs(1));
    let pid = site.hotswap();
    let (before, since) = (ticks_of(pid), Instant::now());
    sleep(Duration::from_secs(5));
    let ticks = ticks_of(pid) - before;
    let second = sysconf(SysconfVar::CLK_TCK)
        .expect("a clock")
        .expect("a clock");
    let whole = second.unsigned_abs() * since.elapsed().as_secs();
    expect_swaps(&site, 1, || install(&site.program(), &binary(2), 0o755));
    stop.store(true, Ordering::Relaxed);
    let rate = flood.join().expect("the flood");
    println!("{rate} files a second: {ticks} of {whole} ticks");
    assert!(
        ticks * 20 < whole,
        "{ticks} of {whole} ticks, {rate} files a second"
    );
    assert_eq!(swaps(&site), 1);
}
