//! Real operations on real files, and how many changes a [`Watch`] reports.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::poll::{PollFd, PollTimeout, poll};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::{Changed, Fitness, IgnoreOptions, Watch, WatchTargets};
use crate::polled::Polled;
use crate::sys;

mod histories;
mod operations;
mod plain;
mod trees;

const DEBOUNCE: Duration = Duration::from_millis(50);
const POLL: Duration = Duration::from_secs(1);
const QUIET: Duration = Duration::from_millis(250);
/// How long an expected change may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A directory with a program in it, and a watch on the program.
struct Bench {
    home: TempDir,
    watch: Watch,
    warnings: Vec<String>,
    /// How long it must stay quiet before a test believes that nothing more will come.
    quiet: Duration,
}

impl Bench {
    /// The program is `server`, a script that says v1.
    fn new() -> Self {
        Self::with(|home| {
            publish(&home.join("server"), "v1");
            program("server")(home)
        })
    }

    fn with(targets: impl FnOnce(&Path) -> WatchTargets) -> Self {
        Self::with_debounce(DEBOUNCE, targets)
    }

    fn with_debounce(debounce: Duration, targets: impl FnOnce(&Path) -> WatchTargets) -> Self {
        Self::with_times(debounce, POLL, targets)
    }

    fn with_times(
        debounce: Duration,
        poll: Duration,
        targets: impl FnOnce(&Path) -> WatchTargets,
    ) -> Self {
        // A writer that opens the file during our lease raises it; hotswap itself blocks it.
        sys::catch_and_ignore(Signal::SIGIO).unwrap();
        let home = tempfile::tempdir().unwrap();
        let targets = targets(home.path());
        let (watch, warnings) = Watch::new(targets, debounce, poll, sys::now()).unwrap();
        let mut bench = Self {
            home,
            watch,
            warnings,
            quiet: QUIET,
        };
        assert_eq!(bench.all(), [], "before anything has happened");
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Every change until it has been quiet for a while.
    fn all(&mut self) -> Vec<Changed> {
        let mut changed = Vec::new();
        let mut until = sys::now() + self.quiet;
        while sys::now() < until {
            let more = self.turn(until);
            if !more.is_empty() {
                until = sys::now() + self.quiet;
            }
            changed.extend(more);
        }
        changed
    }

    /// The next change, which must be the only one.
    fn one(&mut self) -> Changed {
        let until = sys::now() + PATIENCE;
        let first = loop {
            if let Some(changed) = self.turn(until).pop() {
                break changed;
            }
            assert!(sys::now() < until, "nothing changed");
        };
        assert_eq!(self.all(), [], "after {first:?}");
        first
    }

    /// One turn of a main loop.
    fn turn(&mut self, until: Duration) -> Vec<Changed> {
        let deadline = self
            .watch
            .deadline()
            .map_or(until, |deadline| deadline.min(until));
        let timeout = deadline.saturating_sub(sys::now());
        let timeout = PollTimeout::try_from(timeout + Duration::from_micros(999)).unwrap();
        let polled = self.watch.polled();
        let mut polled: Vec<PollFd> = polled
            .iter()
            .map(|(fd, flags)| PollFd::new(fd.as_fd(), *flags))
            .collect();
        let woken = poll(&mut polled, timeout).unwrap() > 0;
        drop(polled);
        if woken {
            self.watch.woken(sys::now());
        }
        let now = sys::now();
        if self
            .watch
            .deadline()
            .is_some_and(|deadline| deadline <= now)
        {
            return self.watch.look(now);
        }
        Vec::new()
    }
}

/// Watches the program of that name.
fn program(name: &str) -> impl FnOnce(&Path) -> WatchTargets {
    move |home| WatchTargets {
        program: Some(home.join(name)),
        watch_program: true,
        ..WatchTargets::default()
    }
}

/// Writes a script beside `path` and renames it there.
fn publish(path: &Path, version: &str) {
    let draft = path.with_extension("draft");
    write(&draft, version);
    fs::rename(draft, path).unwrap();
}

/// Writes a script in place.
fn write(path: &Path, version: &str) {
    fs::write(path, format!("#!/bin/sh\necho {version}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}
