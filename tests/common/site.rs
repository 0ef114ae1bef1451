//! One hotswap with a server that can be published anew, in a directory of its own.
//!
//! The program hotswap runs is a script that becomes one of tests/servers: a new version is a new script renamed over it.
//! Nothing of a site outlives it, whatever its processes did.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::crowd::{Crowd, Guests};
use super::log::Log;
use super::place::{Place, Target};
use super::{eventually, processes, server};

/// How the lines of a swap's end read; the first is the good one.
const VERDICTS: [&str; 4] = [
    "is serving",
    " aborted: ",
    " rolled back: ",
    "nothing serves",
];
/// So many may drain before hotswap kills the oldest (`--max-draining`).
const DRAINING: usize = 3;

/// A site before it is opened.
pub struct Plan {
    place: Place,
    flags: Vec<String>,
    server: String,
    wrapper: Vec<OsString>,
    terminal: Option<OwnedFd>,
    door: Option<Box<dyn FnOnce() + Send>>,
    dir: TempDir,
}

pub struct Site {
    pub log: Log,
    pub targets: Vec<Target>,
    epoch: Instant,
    server: String,
    hotswap: Child,
    dir: TempDir,
}

impl Site {
    pub fn at(place: Place) -> Plan {
        let dir = tempfile::Builder::new()
            .prefix("site")
            .tempdir()
            .expect("a directory");
        // For servers and hotswaps of other users.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("its mode");
        let plan = Plan {
            place,
            flags: Vec::new(),
            server: "hello".to_owned(),
            wrapper: Vec::new(),
            terminal: None,
            door: None,
            dir,
        };
        plan.with(&["--no-watch"])
    }

    /// On 127.0.0.1, by the example server.
    pub fn serving(version: &str) -> Site {
        Site::at(Place::Tcp4).serving(version)
    }
}

impl Plan {
    /// Further options of hotswap.
    pub fn with(mut self, flags: &[&str]) -> Plan {
        self.flags.extend(flags.iter().map(|&flag| flag.to_owned()));
        self
    }

    /// By `odd`, which misbehaves as told.
    pub fn by_odd(mut self, words: &str) -> Plan {
        self.server = format!("odd {words}");
        self
    }

    /// hotswap is started by another program, such as unshare(1).
    pub fn inside(mut self, wrapper: &[&str]) -> Plan {
        self.wrapper = wrapper.iter().map(OsString::from).collect();
        self
    }

    /// hotswap gets it as its stdin.
    pub fn on_terminal(mut self, terminal: OwnedFd) -> Plan {
        self.terminal = Some(terminal);
        self
    }

    /// hotswap is started from a thread that has been through `door`, and found at `targets`, given its port.
    pub fn through(mut self, door: impl FnOnce() + Send + 'static) -> Plan {
        self.door = Some(Box::new(door));
        self
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn serving(self, version: &str) -> Site {
        let site = self.opening(version);
        site.log.wait_for("generation 1 is serving");
        site
    }

    /// Started, and not waited for.
    pub fn opening(self, version: &str) -> Site {
        let dir = self.dir.path();
        let mut command: Vec<OsString> = self.wrapper;
        command.push(env!("CARGO_BIN_EXE_hotswap").into());
        command.extend(self.flags.into_iter().map(OsString::from));
        if let Some(listen) = self.place.listen(dir) {
            command.extend(["--listen".into(), listen.into()]);
        }
        command.extend(["--".into(), dir.join("server").into()]);
        publish(dir, &script(&self.server, version));
        let mut hotswap = hotswap(&command[0], dir);
        hotswap.args(&command[1..]).stderr(Stdio::piped());
        if let Some(terminal) = self.terminal {
            hotswap.stdin(terminal);
        }
        let epoch = Instant::now();
        let door = self.door.unwrap_or_else(|| Box::new(|| {}));
        // A child is born where the thread that makes it is.
        let spawned = thread::spawn(move || {
            door();
            hotswap.spawn().expect("hotswap")
        });
        let mut hotswap = spawned.join().expect("a hotswap");
        let log = Log::of(hotswap.stderr.take().expect("its stderr"), epoch);
        let mut site = Site {
            log,
            targets: Vec::new(),
            epoch,
            server: self.server,
            hotswap,
            dir: self.dir,
        };
        let announced = site.log.wait_for("hotswap: listening on ");
        site.targets = self.place.targets(site.dir(), &announced);
        site
    }
}

impl Site {
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn program(&self) -> PathBuf {
        self.dir().join("server")
    }

    /// The process of hotswap, which its wrapper may have made.
    pub fn hotswap(&self) -> Pid {
        let ours = Path::new(env!("CARGO_BIN_EXE_hotswap"))
            .canonicalize()
            .expect("hotswap");
        let is_hotswap = |pid: &Pid| {
            fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|program| program == ours)
        };
        // The next ones are about to become servers.
        eventually("hotswap's process", || {
            processes::of_site(self.dir())
                .into_iter()
                .filter(is_hotswap)
                .min()
        })
    }

    /// Installs a new version of the same server, by rename, as deployments do.
    pub fn publish(&self, version: &str) -> &Site {
        publish(self.dir(), &script(&self.server, version));
        self
    }

    /// Installs a version that misbehaves.
    pub fn publish_odd(&self, version: &str, words: &str) -> &Site {
        publish(self.dir(), &script(&format!("odd {words}"), version));
        self
    }

    /// Installs any file at all.
    pub fn publish_file(&self, content: &[u8], mode: u32) -> &Site {
        let new = self.dir().join("server.new");
        fs::write(&new, content).expect("a new program");
        fs::set_permissions(&new, Permissions::from_mode(mode)).expect("its mode");
        fs::rename(new, self.program()).expect("the program");
        self
    }

    pub fn signal(&self, signal: Signal) -> &Site {
        kill(self.hotswap(), signal).expect("a signal to hotswap");
        self
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

    fn swap_for_a_verdict(&self) -> String {
        let mark = self.log.mark();
        self.signal(Signal::SIGHUP);
        self.log.wait_after(mark, &VERDICTS)
    }

    /// So many swaps, to v2, v3 and so on, each as soon as there is room for one more that drains.
    pub fn swaps(&self, count: usize) -> &Site {
        for version in 2..count + 2 {
            self.publish(&format!("v{version}")).swap();
            eventually("the end of a drain", || {
                let draining = self.log.count("is draining") - self.log.count("is gone");
                (draining <= DRAINING).then_some(())
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

    pub fn guests(&self) -> Guests {
        Guests::of(self.targets.clone(), self.epoch)
    }

    /// So many clients of every kind, each coming again once it is answered.
    pub fn clients(&self, count: usize) -> Crowd {
        self.guests().mixed(count).come()
    }

    /// SIGTERM, and what hotswap ends with.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.end()
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

    /// No process, no socket file; only what the test itself put there.
    pub fn expect_nothing_left(&self) {
        eventually("the end of every process", || {
            processes::of_site(self.dir()).is_empty().then_some(())
        });
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

/// A hotswap, or what starts it, that sees nothing of the machine's own hotswaps and can be found again.
pub fn hotswap(program: &OsString, dir: &Path) -> Command {
    let run = dir.join("run");
    fs::create_dir_all(&run).expect("a runtime directory");
    fs::set_permissions(&run, Permissions::from_mode(0o700)).expect("its mode");
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let name_ = name.to_string_lossy();
        if ["HOTSWAP_", "LISTEN_", "NOTIFY_"]
            .iter()
            .any(|prefix| name_.starts_with(prefix))
        {
            command.env_remove(&name);
        }
    }
    command
        .env_remove("RUNTIME_DIRECTORY")
        .env("XDG_RUNTIME_DIR", run)
        .env(processes::MARK, dir);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// A program that becomes one of tests/servers.
fn script(server_and_words: &str, version: &str) -> String {
    let (name, words) = server_and_words
        .split_once(' ')
        .unwrap_or((server_and_words, ""));
    let server = server(name);
    format!(
        "#!/bin/sh\nVERSION={version} exec '{}' {words} \"$@\"\n",
        server.display()
    )
}

fn publish(dir: &Path, script: &str) {
    let new = dir.join("server.new");
    File::create(&new)
        .and_then(|_| fs::write(&new, script))
        .expect("a new program");
    fs::set_permissions(&new, Permissions::from_mode(0o755)).expect("its mode");
    fs::rename(new, dir.join("server")).expect("the program");
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
