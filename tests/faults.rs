//! Every system call of hotswap fails once, as it can fail on a bad day: what comes of it is one of a few good ends.
//!
//! Tried again or done without; the swap aborted, while the old generation serves; at the start alone, the status 125.
//! `./scripts/check` tries the first use of each call, `scripts/faults` every use with every errno. The calls of an
//! allocator are left out (without memory for itself a Rust program ends), close(2), which never fails to close, and
//! those that cannot fail when they are given what hotswap gives them.

mod life;
mod stub;
mod upgrade;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{env, fs};

use nix::unistd::Pid;

use crate::common::place::Place;
use crate::common::plan::Plan;
use crate::common::site::Site;
use crate::common::strace::{Fault, OUR_FIRST_CALL};
use crate::common::{eventually, processes};

/// The calls of a whole life, and how each can really fail.
const CALLS: [(&str, &[&str]); 59] = [
    ("accept4", &["EMFILE", "ENOMEM", "ECONNABORTED"]),
    ("bind", &["EADDRINUSE", "ENOMEM", "EACCES"]),
    ("chmod", &["EPERM", "EROFS"]),
    ("clone", &["EAGAIN", "ENOMEM"]),
    ("clone3", &["EAGAIN", "ENOMEM"]),
    ("connect", &["EAGAIN", "ECONNREFUSED", "EADDRNOTAVAIL"]),
    ("dup2", &["EBUSY", "EINTR"]),
    ("epoll_create1", &["EMFILE", "ENOMEM"]),
    ("epoll_ctl", &["ENOMEM", "ENOSPC"]),
    ("eventfd2", &["EMFILE", "ENOMEM"]),
    ("execve", &["ENOMEM", "ETXTBSY", "EACCES", "EIO"]),
    ("fchmod", &["EPERM", "EROFS"]),
    ("fchmodat", &["EPERM", "EROFS"]),
    ("fcntl", &["EMFILE", "ENOLCK"]),
    ("flock", &["ENOLCK"]),
    ("fstat", &["ENOMEM"]),
    ("getcwd", &["ENOENT", "ENOMEM"]),
    ("getdents64", &["ENOENT", "ENOMEM"]),
    ("getsid", &["EPERM"]),
    ("getsockname", &["ENOBUFS"]),
    ("getsockopt", &["ENOMEM"]),
    ("inotify_add_watch", &["ENOSPC", "ENOMEM"]),
    ("inotify_init1", &["EMFILE"]),
    ("ioctl", &["ENOTTY", "ENOMEM"]),
    ("kill", &["ESRCH", "EPERM"]),
    ("linkat", &["ENOSPC", "EACCES"]),
    ("listen", &["EADDRINUSE"]),
    ("lseek", &["ESPIPE"]),
    ("memfd_create", &["EMFILE", "ENOMEM"]),
    ("mkdir", &["ENOSPC", "EACCES"]),
    ("newfstatat", &["ENOMEM", "EACCES"]),
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
    ("renameat", &["ENOSPC", "EACCES"]),
    ("seccomp", &["ENOMEM", "EBUSY"]),
    ("sendmsg", &["ENOBUFS", "EAGAIN", "EPIPE"]),
    ("sendto", &["ENOBUFS", "EAGAIN", "ECONNREFUSED"]),
    ("setpgid", &["EPERM"]),
    ("setsockopt", &["ENOMEM", "EPERM"]),
    ("signalfd4", &["EMFILE", "ENOMEM"]),
    ("socket", &["EMFILE", "ENFILE", "ENOBUFS"]),
    ("socketpair", &["EMFILE", "ENOMEM"]),
    ("statx", &["ENOENT", "EACCES", "ENOMEM"]),
    ("unlink", &["ENOMEM"]),
    ("unlinkat", &["ENOMEM"]),
    ("wait4", &["EINTR"]),
    ("write", &["EAGAIN", "EINTR"]),
];

/// The calls that hotswap makes from a start to a stop, with a swap between them.
struct Calls(BTreeSet<String>);

impl Calls {
    fn of(plan: Plan) -> Calls {
        let report = report_in(plan.dir());
        let output = format!("--output={}", report.display());
        let mut site = plan.inside(&["strace", "-qqq", &output]).serving("v1");
        site.swap().wait_until_gone(1);
        site.stop();
        let calls = fs::read_to_string(&report).expect("the calls");
        let (_, own) = calls
            .split_once(OUR_FIRST_CALL)
            .expect("a call of hotswap's own");
        let own = own.lines().skip(1);
        Calls(own.map(name_of).map(str::to_owned).collect())
    }

    /// What is in no table: nobody has thought of how it may fail.
    fn report_unknown(&self, what: &str) {
        let known = |call: &String| CALLS.iter().any(|(known, _)| known == call);
        let left: Vec<&String> = self.0.iter().filter(|call| !known(call)).collect();
        println!("{what}: not made to fail: {left:?}");
    }
}

/// The call in a line of strace's.
fn name_of(line: &str) -> &str {
    line.split('(').next().unwrap_or_default()
}

/// Whether every use of every call is tried, with every errno.
fn all() -> bool {
    env::var("FAULTS").as_deref() == Ok("all")
}

/// What came of one fault.
enum Came {
    To(&'static str),
    /// It hit what is not hotswap's, or what cannot fail.
    Elsewhere,
    /// The call was not used that often.
    Not,
}

/// What was injected, and what came of it.
#[derive(Default)]
struct Outcomes(BTreeMap<&'static str, usize>);

impl Outcomes {
    /// Every fault of this run that comes at all.
    fn of(moment: &str, calls: &Calls, mut try_out: impl FnMut(&Fault) -> Came) {
        let only = env::var("FAULTS_CALL").ok();
        let mut outcomes = Outcomes::default();
        for (call, errnos) in CALLS {
            if !calls.0.contains(call) || only.as_deref().is_some_and(|only| only != call) {
                continue;
            }
            let errnos = if all() { errnos } else { &errnos[..1] };
            for &errno in errnos {
                outcomes.at_every_use(moment, Fault { call, errno, at: 1 }, &mut try_out);
            }
        }
        let injected: usize = outcomes.0.values().sum();
        assert!(
            injected > 0 || only.is_some(),
            "no call of hotswap's was seen"
        );
        println!(
            "faults while {moment}: {injected} injected, {:?}",
            outcomes.0
        );
    }

    fn at_every_use(
        &mut self,
        moment: &str,
        mut fault: Fault,
        try_out: &mut impl FnMut(&Fault) -> Came,
    ) {
        loop {
            eprintln!("{moment}: {fault:?}");
            match try_out(&fault) {
                Came::To(outcome) => {
                    *self.0.entry(outcome).or_default() += 1;
                    if !all() {
                        return;
                    }
                }
                Came::Elsewhere => {}
                Came::Not => return,
            }
            fault.at += 1;
        }
    }
}

/// With all that hotswap can be asked to do beside serving.
fn plan(place: Place) -> Plan {
    let plan = Site::at(place);
    let tree = plan.dir().join("run").join("tree");
    fs::create_dir_all(&tree).expect("a tree");
    fs::write(tree.join("file"), "").expect("a file in it");
    let tree = tree.display().to_string();
    let waits = ["--ready-timeout", "5s", "--drain-timeout", "5s"];
    // where its own directory cannot be used, its socket is among those of others
    let name = format!("faults-{}", std::process::id());
    plan.with(&waits)
        .with(&["--watch", &tree])
        .with(&["--name", &name])
}

fn descriptors(pid: Pid) -> Vec<PathBuf> {
    let list = Path::new("/proc").join(pid.to_string()).join("fd");
    let list = list.read_dir().into_iter().flatten().flatten();
    list.filter_map(|descriptor| fs::read_link(descriptor.path()).ok())
        .collect()
}

/// hotswap and one server.
fn expect_nobody_else(site: &Site) {
    eventually("hotswap and one server alone", || {
        (processes::of_site(site.dir()).len() == 2).then_some(())
    });
}

/// No more descriptors than before. Sockets of generations that are gone are closed 3s later, the last of them at the
/// swap that follows.
fn expect_no_leak(site: &Site, before: usize) {
    expect_nobody_else(site);
    let mut swapped = Instant::now();
    eventually("as few descriptors as before", || {
        let now = descriptors(site.hotswap());
        if now.len() > before && swapped.elapsed() > Duration::from_secs(4) {
            eprintln!("{} descriptors, at most {before}: {now:?}", now.len());
            site.swap();
            swapped = Instant::now();
        }
        (now.len() <= before).then_some(())
    });
}

/// Where strace writes: in no directory that hotswap watches, or each line would be news that makes another line.
fn report_in(dir: &Path) -> PathBuf {
    let reports = dir.join("run").join("reports");
    fs::create_dir_all(&reports).expect("a directory");
    reports.join("strace")
}
