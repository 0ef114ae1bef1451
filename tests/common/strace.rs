//! strace(1), which lets a system call of a process fail: of its main thread alone, never of its children.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{eventually, processes, skipped};

/// One system call that fails once.
#[derive(Clone, Debug)]
pub struct Fault {
    pub call: &'static str,
    pub errno: &'static str,
    /// At its how many'th use, from 1.
    pub at: usize,
}

impl Fault {
    /// What strace is told, before the process or the command.
    pub fn options(&self, report: &Path) -> Vec<String> {
        let Fault { call, errno, at } = self;
        vec![
            "-qqq".to_owned(),
            format!("--output={}", report.display()),
            format!("--trace={call},execve,prlimit64"),
            format!("--inject={call}:error={errno}:when={at}"),
        ]
    }
}

/// What hotswap's own code does first, after the loader of its program.
pub const OUR_FIRST_CALL: &str = "RLIMIT_NOFILE";

/// What a fault has hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Struck {
    Hotswap,
    /// What brings a program into memory, which no program has a say in; or a call that cannot fail so.
    Elsewhere,
    /// The call was not used that often.
    Nothing,
}

pub fn struck(report: &Path) -> Struck {
    let report = fs::read_to_string(report).unwrap_or_default();
    let mut loading = false;
    for line in report.lines() {
        if line.contains(OUR_FIRST_CALL) {
            loading = false;
        }
        if line.contains("(INJECTED)") {
            return if loading || cannot_fail(line) {
                Struck::Elsewhere
            } else {
                Struck::Hotswap
            };
        }
        loading |= line.contains("execve(");
    }
    Struck::Nothing
}

pub fn is_here(test: &str) -> bool {
    let version = Command::new("strace")
        .arg("-V")
        .stdout(Stdio::null())
        .status();
    if version.is_err() {
        skipped(test, "strace is not installed");
    }
    version.is_ok()
}

/// A wake-up by an eventfd, and the flags of a descriptor that is open.
fn cannot_fail(line: &str) -> bool {
    const NEVER: [&str; 3] = ["\\0\\0\\0\\0\", 8)", ", F_GETFD)", ", F_SETFD, "];
    NEVER.iter().any(|call| line.contains(call))
}

/// A strace that holds on to a process that runs already.
pub struct Attached(Child);

impl Attached {
    pub fn to(pid: Pid, fault: &Fault, report: &Path) -> Attached {
        Attached::with(&fault.options(report), pid)
    }

    pub fn with(options: &[String], pid: Pid) -> Attached {
        let child = Command::new("strace")
            .args(options)
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .spawn();
        let attached = Attached(child.expect("strace"));
        eventually("strace at its place", || {
            let tracer = processes::status(pid, "TracerPid")?;
            (tracer != "0").then_some(())
        });
        attached
    }

    pub fn let_go(mut self) {
        let pid = i32::try_from(self.0.id()).expect("a pid");
        // As the process may be gone already, strace may be, too.
        let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
        self.0.wait().expect("the end of strace");
    }
}
