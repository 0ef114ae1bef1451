//! Every system call of hotswap fails once, as it can fail on a bad day: what comes of it is one of a few good ends.
//!
//! Tried again or done without; the swap aborted, while the old generation serves; at the start alone, the status 125.
//! `./scripts/check` tries a part of them, `scripts/faults` all. The calls of an allocator are left out (without memory
//! for itself a Rust program ends), and close(2), which never fails to close.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::common::crowd::Habit;
use crate::common::place::Place;
use crate::common::site::Site;
use crate::common::strace::{Attached, Fault, has_failed, is_here};
use crate::common::{alone, eventually, processes};

/// The calls of a start, a swap, a drain and a stop, and how each can really fail.
const CALLS: [(&str, &[&str]); 44] = [
    ("accept4", &["EMFILE", "ENOMEM", "ECONNABORTED"]),
    ("bind", &["EADDRINUSE", "ENOMEM", "EACCES"]),
    ("clone3", &["EAGAIN", "ENOMEM"]),
    ("connect", &["EAGAIN", "ECONNREFUSED", "EADDRNOTAVAIL"]),
    ("epoll_ctl", &["ENOMEM", "ENOSPC"]),
    ("fchmod", &["EPERM", "EROFS"]),
    ("fcntl", &["EMFILE", "ENOLCK"]),
    ("flock", &["ENOLCK", "EINTR"]),
    ("fstat", &["ENOMEM"]),
    ("getdents64", &["ENOENT", "ENOMEM"]),
    ("getsockname", &["ENOBUFS"]),
    ("getsockopt", &["ENOMEM"]),
    ("inotify_add_watch", &["ENOSPC", "ENOMEM"]),
    ("inotify_init1", &["EMFILE"]),
    ("ioctl", &["ENOTTY", "ENOMEM"]),
    ("kill", &["ESRCH", "EPERM"]),
    ("link", &["ENOSPC", "EACCES"]),
    ("listen", &["EADDRINUSE"]),
    ("memfd_create", &["EMFILE", "ENOMEM"]),
    ("mkdir", &["ENOSPC", "EACCES"]),
    ("newfstatat", &["ENOENT", "ENOMEM"]),
    (
        "openat",
        &["EMFILE", "ENFILE", "ENOMEM", "EACCES", "ENOENT"],
    ),
    ("pidfd_getfd", &["EMFILE", "EPERM"]),
    ("pidfd_open", &["EMFILE", "ESRCH"]),
    ("pipe2", &["EMFILE", "ENFILE"]),
    ("poll", &["EINTR", "ENOMEM"]),
    ("ppoll", &["EINTR", "ENOMEM"]),
    ("prctl", &["EPERM"]),
    ("pread64", &["ESRCH", "EIO"]),
    ("prlimit64", &["EPERM"]),
    ("process_vm_readv", &["EPERM", "ESRCH"]),
    ("read", &["EINTR", "ESRCH", "EAGAIN", "EIO"]),
    ("readlink", &["ENOENT", "EACCES"]),
    ("recvfrom", &["EAGAIN", "EINTR", "ENOMEM", "ECONNRESET"]),
    ("recvmsg", &["EAGAIN", "EINTR", "ENOMEM"]),
    ("rename", &["ENOSPC", "EACCES"]),
    ("sendmsg", &["ENOBUFS", "EAGAIN", "EPIPE"]),
    ("sendto", &["ENOBUFS", "EAGAIN", "ECONNREFUSED"]),
    ("setsockopt", &["ENOMEM", "EPERM"]),
    ("socket", &["EMFILE", "ENFILE", "ENOBUFS"]),
    ("socketpair", &["EMFILE", "ENOMEM"]),
    ("statx", &["ENOENT", "EACCES", "ENOMEM"]),
    ("wait4", &["EINTR"]),
    ("write", &["EAGAIN", "EINTR", "ENOSPC", "EIO"]),
];

/// How often each call is used by the loader of programs, whose faults are not hotswap's; and by hotswap itself.
struct Uses(BTreeMap<String, (usize, usize)>);

impl Uses {
    /// From a start to a stop, with a swap between them.
    fn of(place: Place) -> Uses {
        let plan = Site::at(place);
        let report = plan.dir().join("calls");
        let output = format!("--output={}", report.display());
        let mut site = plan.inside(&["strace", "-qqq", &output]).serving("v1");
        site.swap().wait_until_gone(1);
        site.stop();
        let calls = fs::read_to_string(&report).expect("the calls");
        let (mut uses, mut own) = (BTreeMap::<String, (usize, usize)>::new(), false);
        for call in calls.lines() {
            own |= call.contains("RLIMIT_NOFILE");
            let name = call.split('(').next().unwrap_or_default();
            let of_call = uses.entry(name.to_owned()).or_default();
            *(if own { &mut of_call.1 } else { &mut of_call.0 }) += 1;
        }
        assert!(own, "no call of hotswap's was seen");
        Uses(uses)
    }

    fn of_loader(&self, call: &str) -> usize {
        self.0.get(call).map_or(0, |uses| uses.0)
    }

    fn is_used(&self, call: &str) -> bool {
        self.0.get(call).is_some_and(|uses| uses.1 > 0)
    }
}

/// How much is tried: the errnos of a call, and its first uses.
struct Extent {
    errnos: usize,
    uses: usize,
}

impl Extent {
    fn of_this_run() -> Extent {
        match env::var("FAULTS").as_deref() {
            Ok("all") => Extent {
                errnos: 9,
                uses: 12,
            },
            _ => Extent { errnos: 1, uses: 1 },
        }
    }
}

/// What was injected, and what came of it.
#[derive(Default)]
struct Outcomes(BTreeMap<&'static str, usize>);

impl Outcomes {
    /// Every fault of this run that comes at all; `try_out` says what came of it, or nothing if it did not come.
    fn of(phase: &str, uses: &Uses, mut try_out: impl FnMut(&Fault) -> Option<&'static str>) {
        let extent = Extent::of_this_run();
        let only = env::var("FAULTS_CALL").ok();
        let mut outcomes = Outcomes::default();
        for (call, errnos) in CALLS {
            if !uses.is_used(call) || only.as_deref().is_some_and(|only| only != call) {
                continue;
            }
            for &errno in errnos.iter().take(extent.errnos) {
                for at in 1..=extent.uses {
                    let fault = Fault { call, errno, at };
                    eprintln!("{phase}: {fault:?}");
                    let Some(outcome) = try_out(&fault) else {
                        break;
                    };
                    *outcomes.0.entry(outcome).or_default() += 1;
                }
            }
        }
        let injected: usize = outcomes.0.values().sum();
        assert!(injected > 0, "no call of hotswap's was seen");
        println!(
            "faults while {phase}: {injected} injected, {:?}",
            outcomes.0
        );
    }
}

fn descriptors(pid: Pid) -> usize {
    let list = Path::new("/proc").join(pid.to_string()).join("fd");
    list.read_dir().map_or(0, Iterator::count)
}

/// hotswap and one server, and no more descriptors than before.
fn expect_no_leak(site: &Site, before: usize) {
    eventually("hotswap and one server alone", || {
        (processes::of_site(site.dir()).len() == 2).then_some(())
    });
    eventually("as few descriptors as before", || {
        (descriptors(site.hotswap()) <= before).then_some(())
    });
}

fn report_of(site: &Site) -> PathBuf {
    site.dir().join("run").join("strace")
}

/// One hotswap bears all of them, one after the other, and serves all the while.
fn a_swap_bears(place: Place) {
    let uses = Uses::of(place.clone());
    let plan = Site::at(place).with(&["--ready-timeout", "5s", "--drain-timeout", "5s"]);
    let site = plan.serving("v1");
    let mut clients = site.guests().and(2, Habit::default()).come();
    site.swap().wait_until_gone(1);
    site.swap().wait_until_gone(2);
    let before = descriptors(site.hotswap()) + 2;
    let report = report_of(&site);
    let mut last = 3;
    Outcomes::of("swapping and draining", &uses, |fault| {
        let mark = site.log.mark();
        let _ = fs::remove_file(&report);
        let strace = Attached::to(site.hotswap(), fault, &report);
        site.signal(Signal::SIGHUP);
        let verdict = site
            .log
            .wait_after(mark, &["is serving (", " aborted: ", "nothing serves"]);
        let (good, bad) = (last + 1, last);
        let gone = if verdict.contains("is serving (") {
            bad
        } else {
            assert!(verdict.contains("; generation"), "{fault:?}: {verdict}");
            good
        };
        let is_gone = format!("generation {gone} is gone");
        // A candidate that never came to be is not said to be gone.
        if gone == bad || site.log.says(&format!("generation {good} started")) {
            site.log.wait_after(mark, &[&is_gone]);
        }
        strace.let_go();
        last += 1;
        let came = has_failed(&report);
        if gone != bad {
            // It is the candidate that was given up; the numbers go on, and so does the service.
            let mark = site.log.mark();
            site.signal(Signal::SIGHUP);
            let line = site.log.wait_after(mark, &["is serving (", " aborted: "]);
            assert!(line.contains("is serving ("), "after {fault:?}: {line}");
            site.log.wait_after(mark, &["is gone"]);
            last += 1;
        }
        clients.until_answered(2);
        expect_no_leak(&site, before);
        let tally = clients.so_far();
        assert!(tally.failures.is_empty(), "{fault:?}: {tally}");
        came.then_some(if gone == bad { "swapped" } else { "aborted" })
    });
    let tally = clients.expect_no_failure();
    println!("{} requests, none failed", tally.answers);
}

#[test]
fn a_swap_bears_every_fault_on_tcp() {
    if is_here("a_swap_bears_every_fault_on_tcp") {
        let _alone = alone();
        a_swap_bears(Place::Tcp4);
    }
}

/// Half of it is what the other one shows: only `scripts/faults` runs it.
#[test]
fn a_swap_bears_every_fault_on_a_unix_path() {
    if Extent::of_this_run().uses > 1 && is_here("a_swap_bears_every_fault_on_a_unix_path") {
        let _alone = alone();
        a_swap_bears(Place::Unix);
    }
}

#[test]
fn a_stop_bears_every_fault() {
    if !is_here("a_stop_bears_every_fault") {
        return;
    }
    let _alone = alone();
    let uses = Uses::of(Place::Tcp4);
    Outcomes::of("stopping", &uses, |fault| {
        // A signal that fails is made up for at the drain timeout.
        let plan = Site::at(Place::Tcp4).with(&["--drain-timeout", "2s"]);
        let mut site = plan.serving("v1");
        let report = report_of(&site);
        let strace = Attached::to(site.hotswap(), fault, &report);
        let status = site.stop();
        strace.let_go();
        let came = has_failed(&report);
        assert_eq!(status.code(), Some(0), "{fault:?}: {}", site.log.timed());
        let _ = fs::remove_file(&report);
        site.expect_nothing_left();
        came.then_some("stopped")
    });
}

#[test]
fn a_start_bears_every_fault() {
    if !is_here("a_start_bears_every_fault") {
        return;
    }
    let _alone = alone();
    let uses = Uses::of(Place::Tcp4);
    Outcomes::of("starting", &uses, |fault| {
        // It may never get as far as to say where it listens.
        let options = ["--ready-timeout", "5s", "--listen", "127.0.0.1:0"];
        let plan = Site::at(Place::Nowhere).with(&options);
        let report = plan.dir().join("calls");
        let fault = Fault {
            at: fault.at + uses.of_loader(fault.call),
            ..fault.clone()
        };
        let mut command = vec!["strace".to_owned()];
        command.extend(fault.options(&report));
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let mut site = plan.inside(&command).opening("v1");
        let served = eventually("a start or an end", || {
            if site.log.says("generation 1 is serving") {
                return Some(true);
            }
            site.has_ended().then_some(false)
        });
        let status = if served { site.stop() } else { site.end() };
        let came = has_failed(&report);
        let expected = if served { 0 } else { 125 };
        let said = site.log.timed();
        assert_eq!(status.code(), Some(expected), "{fault:?}: {said}");
        if !served {
            site.log.wait_for(": cannot ");
        }
        let _ = fs::remove_file(&report);
        site.expect_nothing_left();
        came.then_some(if served { "served" } else { "status 125" })
    });
}
