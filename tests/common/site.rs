//! One hotswap with a server that can be published anew, in a directory of its own.
//!
//! The program hotswap runs is a script that becomes one of tests/servers: a new version is a new script renamed over it.
//! Nothing of a site outlives it, whatever its processes did.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::crowd::{Crowd, Guests, Habit};
use super::log::Log;
use super::place::{Place, Target};
use super::plan::{Plan, Start};
use super::program::{Server, install};
use super::{eventually, processes};

/// How the lines of a swap's end read; the first is the good one.
const VERDICTS: [&str; 4] = [
    "is serving",
    " aborted: ",
    " rolled back: ",
    "nothing serves",
];
/// So many may drain before hotswap kills the oldest (`--max-draining`).
const DRAINING: usize = 3;

pub struct Site {
    pub log: Log,
    pub targets: Vec<Target>,
    pub(super) epoch: Instant,
    pub(super) server: Server,
    /// The program that hotswap itself is.
    pub(super) binary: PathBuf,
    pub(super) pid: OnceLock<Pid>,
    /// hotswap, or its wrapper.
    pub(super) hotswap: Child,
    pub start: Start,
    pub(super) dir: TempDir,
}

impl Site {
    pub fn at(place: Place) -> Plan {
        Plan::at(place)
    }

    /// On 127.0.0.1, by the example server.
    pub fn serving(version: &str) -> Site {
        Site::at(Place::Tcp4).serving(version)
    }
}

impl Site {
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// How long ago it was opened: the clock of its log, and of its clients' failures.
    pub fn age(&self) -> Duration {
        self.epoch.elapsed()
    }

    pub fn program(&self) -> PathBuf {
        self.dir().join("server")
    }

    /// The program that hotswap is.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// The process of hotswap, which its wrapper may have made.
    pub fn hotswap(&self) -> Pid {
        let is_hotswap = |pid: &Pid| {
            let is_it = |program| program == self.binary;
            let program = fs::read_link(format!("/proc/{pid}/exe"));
            program.is_ok_and(is_it)
        };
        // Others that run the same program are about to become servers.
        let find = || {
            processes::of_site(self.dir())
                .into_iter()
                .filter(is_hotswap)
                .min()
        };
        *self
            .pid
            .get_or_init(|| eventually("hotswap's process", find))
    }

    /// Installs a new version of the same server.
    pub fn publish(&self, version: &str) -> &Site {
        self.publish_file(self.server.script(version).as_bytes(), 0o755)
    }

    /// Installs a version that misbehaves.
    pub fn publish_odd(&self, version: &str, words: &str) -> &Site {
        self.publish_file(self.server.as_odd(words).script(version).as_bytes(), 0o755)
    }

    /// Installs any file at all.
    pub fn publish_file(&self, content: &[u8], mode: u32) -> &Site {
        install(&self.program(), content, mode);
        self
    }

    pub fn signal(&self, signal: Signal) -> &Site {
        kill(self.hotswap(), signal).expect("a signal to hotswap");
        self
    }

    /// SIGKILL to hotswap alone.
    pub fn kill_hotswap(&mut self) -> &mut Site {
        self.signal(Signal::SIGKILL);
        self.end();
        self
    }

    /// Another hotswap takes the place of one that is gone.
    pub fn start_again(&mut self) -> &mut Site {
        let mut command = self.start.command(self.dir());
        self.hotswap = command.spawn().expect("hotswap");
        let stderr = self.hotswap.stderr.take().expect("its stderr");
        self.log = Log::of(stderr, self.epoch);
        self.pid = OnceLock::new();
        self
    }

    /// hotswap stands still while `what` is done.
    pub fn while_stopped<T>(&self, what: impl FnOnce(&Site) -> T) -> T {
        processes::stop(self.hotswap());
        let result = what(self);
        self.signal(Signal::SIGCONT);
        result
    }

    /// Asks for a swap, and waits until the new generation is said to serve.
    pub fn swap(&self) -> &Site {
        let verdict = self.swap_for_a_verdict();
        assert!(verdict.contains(VERDICTS[0]), "{verdict}");
        self
    }

    /// Asks for a swap that must fail, and waits for hotswap's line about it.
    pub fn swap_in_vain(&self) -> String {
        let verdict = self.swap_for_a_verdict();
        assert!(!verdict.contains(VERDICTS[0]), "{verdict}");
        verdict
    }

    /// Asks for a swap, and waits for hotswap's line about it, be it good or bad.
    pub fn swap_for_a_verdict(&self) -> String {
        let mark = self.log.mark();
        self.signal(Signal::SIGHUP);
        self.log.wait_after(mark, &VERDICTS)
    }

    /// So many swaps, to v2, v3 and so on, each as soon as there is room for one more that drains.
    pub fn swaps(&self, count: usize) -> &Site {
        for version in 2..count + 2 {
            self.publish(&format!("v{version}")).swap();
            eventually("the end of a drain", || {
                let gone = self.log.count("is gone after");
                (self.log.count("is draining") <= gone + DRAINING).then_some(())
            });
        }
        self
    }

    pub fn wait_until_gone(&self, generation: u32) -> &Site {
        self.log
            .wait_for(&format!("generation {generation} is gone"));
        self
    }

    /// The main process of a generation.
    pub fn pid(&self, generation: u32) -> Pid {
        let line = self
            .log
            .wait_for(&format!("generation {generation} started, pid "));
        let pid = line.rsplit(' ').next().and_then(|pid| pid.parse().ok());
        Pid::from_raw(pid.unwrap_or_else(|| panic!("no pid in {line}")))
    }

    /// The same, once it is the server itself and no longer hotswap on its way there.
    pub fn executed(&self, generation: u32) -> Pid {
        let pid = self.pid(generation);
        eventually("the server itself", || {
            let program = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
            (program != self.binary()).then_some(pid)
        })
    }

    pub fn guests(&self) -> Guests {
        Guests::of(self.targets.clone(), self.epoch)
    }

    /// So many clients of every kind, each coming again once it is answered.
    pub fn clients(&self, count: usize) -> Crowd {
        self.guests().mixed(count).come()
    }

    /// Clients with one request each, which takes the server this long and is under way: others were answered since.
    pub fn slow_clients(&self, count: usize, time: Duration) -> Crowd {
        let clients = self.guests().and(count, Habit::taking(time)).come();
        let others = self.guests().and(1, Habit::default()).come();
        others.until_answered(5);
        clients
    }

    /// SIGTERM, and what hotswap ends with.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.end()
    }

    pub fn has_ended(&mut self) -> bool {
        self.hotswap.try_wait().expect("a child").is_some()
    }

    /// What hotswap ends with, of itself.
    pub fn end(&mut self) -> ExitStatus {
        eventually("the end of hotswap", || {
            self.hotswap.try_wait().expect("a child")
        })
    }

    pub fn expect_status(&mut self, status: i32) -> &Site {
        assert_eq!(self.end().code(), Some(status), "{}", self.log.timed());
        self
    }

    pub fn expect_no_process(&self) {
        eventually("the end of every process", || {
            processes::all_of_site(self.dir()).is_empty().then_some(())
        });
    }

    /// No process, no socket file; only what the test itself put there.
    pub fn expect_nothing_left(&self) {
        self.expect_no_process();
        let left: Vec<_> = fs::read_dir(self.dir())
            .expect("the directory")
            .flatten()
            .collect();
        let strange = |name: &OsString| !["server", "run"].iter().any(|known| name == known);
        let strange: Vec<_> = left
            .iter()
            .map(fs::DirEntry::file_name)
            .filter(strange)
            .collect();
        assert!(strange.is_empty(), "left behind: {strange:?}");
        let sockets: Vec<_> = walk(&self.dir().join("run"));
        assert!(sockets.is_empty(), "left behind: {sockets:?}");
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("what hotswap said:\n{}", self.log.timed());
        }
        let _ = self.hotswap.kill();
        let _ = self.hotswap.wait();
        if !thread::panicking() {
            processes::kill_all_of_site(self.dir());
            return;
        }
        for pid in processes::of_site(self.dir()) {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let inside = |path: PathBuf| {
        if path.is_dir() {
            walk(&path)
        } else {
            vec![path]
        }
    };
    entries.map(|entry| entry.path()).flat_map(inside).collect()
}
