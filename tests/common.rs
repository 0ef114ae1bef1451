//! The fluent harness: a site, the versions that are published on it, and the clients who come.
//!
//! It never sleeps for luck: it waits for what is announced, with a deadline, and shows hotswap's own words when that
//! does not come.

pub mod attempt;
pub mod crowd;
pub mod datagrams;
pub mod families;
pub mod log;
pub mod network;
pub mod place;
pub mod plan;
pub mod processes;
pub mod program;
pub mod site;
pub mod strace;
pub mod tally;
mod visits;
mod wire;

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{env, thread};

use nix::fcntl::{Flock, FlockArg};

/// Far longer than anything takes on a machine with nothing else to do.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until no other test loads the machine, in this process or another, and keeps it so until it is dropped.
pub fn alone() -> Flock<File> {
    let file = File::create(concat!(env!("CARGO_TARGET_TMPDIR"), "/alone")).expect("a lock file");
    Flock::lock(file, FlockArg::LockExclusive).expect("a lock")
}

/// The program under test: `HOTSWAP_BIN` if it is set, so that a test can be shown to fail on an older build.
pub fn hotswap_program() -> PathBuf {
    let path = env::var_os("HOTSWAP_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_hotswap").into());
    let path = PathBuf::from(path);
    assert!(
        path.is_absolute(),
        "HOTSWAP_BIN is not an absolute path: {}",
        path.display()
    );
    path
}

/// A program of tests/servers.
pub fn server(name: &str) -> PathBuf {
    let tests = env::current_exe().expect("the path of this test");
    let path = tests
        .ancestors()
        .nth(2)
        .expect("a target directory")
        .join("examples")
        .join(name);
    assert!(
        path.exists(),
        "{} is not there; try: cargo build --examples",
        path.display()
    );
    path
}

/// Says by name that a test could not be run here; `scripts/check` prints it at its end.
pub fn skipped(name: &str, why: &str) {
    eprintln!("skipped: {name}: {why}");
    if let Some(list) = env::var_os("SKIPPED_TESTS") {
        let list = File::options().append(true).create(true).open(list);
        writeln!(list.expect("the list"), "{name}: {why}").expect("a line in the list");
    }
}

/// Waits until it holds.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(since.elapsed() < PATIENCE, "never seen: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Raises the flag when it is dropped, so that the threads of a test end with it, however it ends.
pub struct Raised<'a>(pub &'a AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
