//! What is measured: hotswap around a server, and that server alone.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::load;

const PATIENCE: Duration = Duration::from_secs(60);

/// A program that was built beside this one.
pub fn built(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("the path of this program");
    own.ancestors().nth(1).expect("a folder").join(name)
}

pub fn hotswap() -> PathBuf {
    let own = std::env::current_exe().expect("the path of this program");
    own.ancestors().nth(2).expect("a folder").join("hotswap")
}

pub fn free_address() -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    socket.local_addr().expect("its address")
}

/// How the server gets its socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    Listen,
    Captured,
}

impl Means {
    pub const BOTH: [Means; 2] = [Means::Listen, Means::Captured];
}

/// A running hotswap.
pub struct Site {
    pub address: SocketAddr,
    pub dir: TempDir,
    pub began: Instant,
    hotswap: Child,
    log: Receiver<(Instant, String)>,
    name: String,
}

impl Site {
    /// Around the quick server, which takes so many milliseconds to start.
    pub fn open(means: Means, start: u32, options: &[&str]) -> Site {
        Site::with_listeners(means, 1, start, options)
    }

    pub fn with_listeners(means: Means, count: usize, start: u32, options: &[&str]) -> Site {
        let dir = tempfile::tempdir().expect("a folder");
        let address = free_address();
        let program = dir.path().join("server");
        let script = format!("#!/bin/sh\nexec {} \"$@\"\n", built("quick").display());
        fs::write(&program, script).expect("a script");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&program, mode).expect("its mode");
        let mut command = Command::new(hotswap());
        command.args(options);
        if means == Means::Listen {
            command.arg("--listen").arg(address.to_string());
            for _ in 1..count {
                command.args(["--listen", "127.0.0.1:0"]);
            }
        }
        let watched = !options.contains(&"--no-watch");
        let server = if watched { program } else { built("quick") };
        command.args(["--name", "bench", "--"]).arg(server);
        command.args([address.to_string(), start.to_string()]);
        let site = Site::run(command, dir, address);
        site.wait_for("generation 1 is serving");
        site
    }

    /// Around any server that takes the socket it is given; it is not waited for.
    pub fn around(server: &[String]) -> Site {
        let address = free_address();
        let mut command = Command::new(hotswap());
        command.args(["--no-watch", "--quiesce", "0s", "--name", "bench"]);
        command.args(["--listen", &address.to_string(), "--"]);
        command.args(server);
        Site::run(command, tempfile::tempdir().expect("a folder"), address)
    }

    fn run(mut command: Command, dir: TempDir, address: SocketAddr) -> Site {
        command.env("XDG_RUNTIME_DIR", dir.path());
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let began = Instant::now();
        let mut hotswap = command.spawn().expect("hotswap");
        let stderr = BufReader::new(hotswap.stderr.take().expect("its stderr"));
        let (sender, log) = channel();
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let _ = sender.send((Instant::now(), line));
            }
        });
        let name = "bench".to_owned();
        Site {
            address,
            dir,
            began,
            hotswap,
            log,
            name,
        }
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.hotswap.id()).expect("a pid")
    }

    pub fn signal(&self) {
        kill(Pid::from_raw(self.pid()), Signal::SIGHUP).expect("a signal");
    }

    /// `hotswap swap`, until it has its verdict.
    pub fn swap(&self, options: &[&str]) {
        let mut client = Command::new(hotswap());
        client
            .env("XDG_RUNTIME_DIR", self.dir.path())
            .args(["swap", &self.name])
            .args(options);
        let output = client.output().expect("a client");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "a swap was given up: {said}");
    }

    /// Waits for a line with these words; when it came, and the line.
    pub fn wait_for(&self, words: &str) -> (Instant, String) {
        let until = Instant::now() + PATIENCE;
        let mut before = Vec::new();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.log.recv_timeout(left) {
                Ok((at, line)) if line.contains(words) => return (at, line),
                Ok((_, line)) => before.push(line),
                Err(why) => panic!("{why}: hotswap never said {words:?}, but {before:#?}"),
            }
        }
    }

    /// Kills its server, and tells when.
    pub fn kill_server(&self) -> Instant {
        let (_, servers) = self.children();
        let now = Instant::now();
        for server in servers {
            kill(Pid::from_raw(server), Signal::SIGKILL).expect("a server");
        }
        now
    }

    /// Proportional share of its memory, in kB, with that of its keeper.
    pub fn memory(&self) -> f64 {
        let (keepers, _) = self.children();
        let all = keepers.into_iter().chain([self.pid()]);
        all.map(|pid| field(&format!("/proc/{pid}/smaps_rollup"), "Pss:"))
            .sum()
    }

    /// The children that run hotswap's program, and the others.
    fn children(&self) -> (Vec<i32>, Vec<i32>) {
        let pid = self.pid();
        let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let list = list.expect("its children");
        let children = list.split_ascii_whitespace();
        let program = |pid: i32| fs::read_link(format!("/proc/{pid}/exe")).ok();
        children
            .filter_map(|child| child.parse().ok())
            .partition(|child| program(*child) == program(pid))
    }

    pub fn threads(&self) -> f64 {
        field(&format!("/proc/{}/status", self.pid()), "Threads:")
    }

    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, Iterator::count)
    }

    /// How often its threads have been put to sleep or aside.
    pub fn wakes(&self) -> f64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).expect("its threads");
        tasks
            .flatten()
            .map(|task| {
                let status = task.path().join("status").display().to_string();
                field(&status, "voluntary_ctxt_switches:")
                    + field(&status, "nonvoluntary_ctxt_switches:")
            })
            .sum()
    }

    /// How long its threads have run, to the nanosecond.
    pub fn cpu(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).expect("its threads");
        let nanoseconds = tasks.flatten().filter_map(|task| {
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(nanoseconds.sum())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // twice: at once, with all of its servers
        for _ in 0..2 {
            let _ = kill(Pid::from_raw(self.pid()), Signal::SIGTERM);
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.hotswap.wait();
    }
}

/// Now, by the clock that servers tell their times by.
pub fn monotonic() -> u128 {
    let clock = nix::time::ClockId::CLOCK_MONOTONIC;
    Duration::from(nix::time::clock_gettime(clock).expect("the clock")).as_nanos()
}

pub fn nanoseconds(count: u128) -> Duration {
    Duration::from_nanos(u64::try_from(count).unwrap_or(0))
}

fn field(path: &str, name: &str) -> f64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in {path}"))
}

/// The server without hotswap.
pub struct Bare {
    pub address: SocketAddr,
    pub began: Instant,
    server: Child,
}

impl Bare {
    /// Forks and executes it, no more.
    pub fn open(start: u32) -> Bare {
        let address = free_address();
        let mut command = Command::new(built("quick"));
        command.args([address.to_string(), start.to_string()]);
        let began = Instant::now();
        let server = command.stdin(Stdio::null()).spawn().expect("the server");
        Bare {
            address,
            began,
            server,
        }
    }

    /// The floor: from before the fork to main(), and to the first answer.
    pub fn first_answer(start: u32) -> (Duration, Duration) {
        let began = monotonic();
        let bare = Bare::open(start);
        let (answer, at) = load::until_answered_by(bare.address, 0);
        (nanoseconds(answer.began - began), at - bare.began)
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
