//! A hotswap that is asked for what cannot be done: what it says, and what it leaves behind.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::log::without_time;
use super::plan::{client_among_ours, hotswap};
use super::{eventually, hotswap_program, processes};

/// One attempt that must fail.
pub struct Attempt {
    pub dir: TempDir,
    pub status: Option<i32>,
    pub said: String,
}

/// Runs hotswap with these arguments; `{dir}` is a directory of its own.
pub fn attempt(arguments: &[&str]) -> Attempt {
    let dir = tempfile::tempdir().expect("a directory");
    attempt_in(dir, arguments, |_| {})
}

/// Likewise, where no other instance can be found.
pub fn attempt_among_ours(arguments: &[&str]) -> Attempt {
    let dir = tempfile::tempdir().expect("a directory");
    let client = client_among_ours(dir.path());
    attempt_by(client, dir, arguments)
}

pub fn attempt_in(dir: TempDir, arguments: &[&str], change: impl FnOnce(&mut Command)) -> Attempt {
    let mut command = hotswap(hotswap_program(), dir.path());
    change(&mut command);
    attempt_by(command, dir, arguments)
}

fn attempt_by(mut command: Command, dir: TempDir, arguments: &[&str]) -> Attempt {
    let own = dir.path().display().to_string();
    command.args(
        arguments
            .iter()
            .map(|argument| argument.replace("{dir}", &own)),
    );
    let mut child = command.stderr(Stdio::piped()).spawn().expect("hotswap");
    let status = eventually("its end", || child.try_wait().expect("a child"));
    let mut said = String::new();
    child
        .stderr
        .take()
        .expect("its stderr")
        .read_to_string(&mut said)
        .expect("its words");
    Attempt {
        dir,
        status: status.code(),
        said,
    }
}

impl Attempt {
    /// It has ended with this status, and said these among others.
    pub fn ended(&self, status: i32, texts: &[&str]) -> &Attempt {
        let said = &self.said;
        assert_eq!(self.status, Some(status), "{said}");
        for text in texts {
            assert!(said.contains(text), "no {text:?} in {said:?}");
        }
        self
    }

    /// One line that says what and why, and perhaps one that says what to do.
    pub fn is_refused(&self, status: i32, texts: &[&str]) -> &Attempt {
        self.ended(status, texts);
        let said = &self.said;
        let mut lines = said.lines();
        assert!(
            lines
                .next()
                .is_some_and(|line| without_time(line).starts_with("hotswap: ")),
            "{said}"
        );
        assert!(
            lines.all(|line| line.trim_start().starts_with("try: ")),
            "{said}"
        );
        assert!(processes::of_site(self.dir.path()).is_empty());
        let run = fs::read_dir(self.dir.path().join("run")).expect("the runtime directory");
        for entry in run.flatten().map(|entry| entry.path()) {
            let inside = fs::read_dir(&entry).map_or(0, Iterator::count);
            assert_eq!(inside, 0, "left behind in {}", entry.display());
        }
        self
    }
}

/// Runs a copy of hotswap as uid 65534, which may not see the directory it was built in.
pub fn as_nobody(dir: TempDir, arguments: &[&str]) -> Attempt {
    let copy = dir.path().join("hotswap");
    fs::copy(hotswap_program(), &copy).expect("a copy of hotswap");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
    let root = nix::unistd::geteuid().is_root();
    let mut command = hotswap(copy, dir.path());
    command
        .env_remove("XDG_RUNTIME_DIR")
        .args(arguments)
        .stderr(Stdio::piped());
    if root {
        command.uid(65_534).gid(65_534);
    }
    let output = command.output().expect("hotswap");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Attempt {
        dir,
        status: output.status.code(),
        said,
    }
}
