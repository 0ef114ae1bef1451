//! A site before it is opened: where, by which server, under which options of hotswap.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Instant;
use std::{env, thread};

use nix::unistd::Uid;
use tempfile::TempDir;

use super::log::Log;
use super::place::{Place, Target};
use super::program::{Server, install};
use super::site::Site;
use super::{hotswap_program, processes};

/// A site before it is opened.
pub struct Plan {
    place: Place,
    flags: Vec<String>,
    server: Server,
    /// What the program is, if it is no version of the server.
    content: Option<Vec<u8>>,
    /// A program that is there already, or will be.
    program: Option<PathBuf>,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    hotswap: PathBuf,
    wrapper: Vec<OsString>,
    terminal: Option<OwnedFd>,
    door: Option<Box<dyn FnOnce() + Send>>,
    dir: TempDir,
}

impl Plan {
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
            server: Server::hello(),
            content: None,
            program: None,
            arguments: Vec::new(),
            variables: Vec::new(),
            hotswap: hotswap_program(),
            wrapper: Vec::new(),
            terminal: None,
            door: None,
            dir,
        };
        match plan.place {
            Place::Captured(_) | Place::CapturedUnix => {
                plan.with(&["--no-watch", "--capture", "always"])
            }
            _ => plan.with(&["--no-watch"]),
        }
    }

    /// Further options of hotswap.
    pub fn with(mut self, flags: &[&str]) -> Plan {
        self.flags.extend(flags.iter().map(|&flag| flag.to_owned()));
        self
    }

    /// By `odd`, which misbehaves as told.
    pub fn by_odd(mut self, words: &str) -> Plan {
        self.server = Server::odd(words);
        self
    }

    /// By a script that is no version of anything, with these arguments.
    pub fn by_script(mut self, script: &str, arguments: &[&str]) -> Plan {
        self.content = Some(script.into());
        self.arguments = arguments
            .iter()
            .map(|&argument| argument.to_owned())
            .collect();
        self
    }

    /// By a program itself, rather than a script that becomes one.
    pub fn by_binary(mut self, content: Vec<u8>) -> Plan {
        self.content = Some(content);
        self
    }

    /// By a program that hotswap finds there, or not, with these arguments.
    pub fn by_program(mut self, path: PathBuf, arguments: &[&str]) -> Plan {
        self.program = Some(path);
        self.by_script("", arguments)
    }

    /// A changed program is a swap.
    pub fn watching(mut self) -> Plan {
        self.flags.retain(|flag| flag != "--no-watch");
        self
    }

    /// A variable of hotswap's own environment.
    pub fn variable(mut self, name: &str, value: &str) -> Plan {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Its server is there of its own accord.
    pub fn reached_at(mut self, target: Target) -> Plan {
        self.place = Place::Given(target);
        self
    }

    /// By another build of hotswap.
    pub fn of_build(mut self, hotswap: PathBuf) -> Plan {
        self.hotswap = hotswap;
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

    /// hotswap is started from a thread that has been through `door`.
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

    /// Started, and waited for until it has said where it is.
    pub fn opening(self, version: &str) -> Site {
        let place = self.place.clone();
        let mut site = self.starting(version);
        if place != Place::Nowhere {
            let announced = site.log.wait_for("hotswap: listening on ");
            site.targets = place.targets(site.dir(), &announced);
        }
        site
    }

    /// Started, and not waited for.
    pub fn starting(self, version: &str) -> Site {
        let binary = self.hotswap.canonicalize().expect("hotswap");
        let server = self.server.at(self.place.bound(self.dir.path()));
        let content = self
            .content
            .unwrap_or_else(|| server.script(version).into());
        let program = self.program.unwrap_or_else(|| {
            let program = self.dir.path().join("server");
            install(&program, &content, 0o755);
            program
        });
        let mut line = self.wrapper;
        line.push(binary.clone().into());
        if let Some(listen) = self.place.listen(self.dir.path()) {
            line.extend(["--listen".into(), listen.into()]);
        }
        line.extend(self.flags.into_iter().map(OsString::from));
        line.extend(["--".into(), program.into()]);
        line.extend(self.arguments.into_iter().map(OsString::from));
        let start = Start {
            line,
            variables: self.variables,
        };
        let mut command = start.command(self.dir.path());
        if let Some(terminal) = self.terminal {
            command.stdin(terminal);
        }
        let epoch = Instant::now();
        let door = self.door.unwrap_or_else(|| Box::new(|| {}));
        // A child is born where the thread that makes it is.
        let spawned = thread::spawn(move || {
            door();
            command.spawn().expect("hotswap")
        });
        let mut hotswap = spawned.join().expect("a hotswap");
        let log = Log::of(hotswap.stderr.take().expect("its stderr"), epoch);
        Site {
            log,
            targets: Vec::new(),
            epoch,
            server,
            binary,
            pid: OnceLock::new(),
            hotswap,
            start,
            dir: self.dir,
        }
    }
}

/// How a hotswap is started, and another one in its place.
#[derive(Clone)]
pub struct Start {
    pub line: Vec<OsString>,
    variables: Vec<(String, String)>,
}

impl Start {
    /// It is started by another program, such as env(1).
    pub fn inside(&mut self, wrapper: &[&str]) {
        self.line.splice(..0, wrapper.iter().map(OsString::from));
    }

    /// Further options of hotswap.
    pub fn with(&mut self, flags: &[&str]) {
        self.line.splice(1..1, flags.iter().map(OsString::from));
    }

    pub fn command(&self, dir: &Path) -> Command {
        let mut command = hotswap(&self.line[0], dir);
        let variables = self.variables.iter().map(|(name, value)| (name, value));
        command.args(&self.line[1..]).envs(variables);
        command.stderr(Stdio::piped());
        command
    }
}

/// A hotswap, or what starts it, that sees nothing of the machine's own hotswaps and can be found again.
pub fn hotswap(program: impl AsRef<OsStr>, dir: &Path) -> Command {
    let run = dir.join("run");
    fs::create_dir_all(&run).expect("a runtime directory");
    fs::set_permissions(&run, Permissions::from_mode(0o700)).expect("its mode");
    let owner = fs::metadata(dir).expect("the directory").uid();
    chown(&run, Some(owner), None).expect("its owner");
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        let ours = ["HOTSWAP_", "LISTEN_", "NOTIFY_"];
        if ours
            .iter()
            .any(|prefix| name.to_string_lossy().starts_with(prefix))
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

/// A client of hotswap that finds the instances of `dir` alone, whatever else runs on the machine.
pub fn client_among_ours(dir: &Path) -> Command {
    let hide =
        "for place in /run /tmp/hotswap-*; do test ! -d $place || mount -t tmpfs none $place; done";
    let mut command = hotswap("unshare", dir);
    if !Uid::effective().is_root() {
        command.arg("--map-root-user");
    }
    command.args(["--mount", "sh", "-c", &format!("{hide}; exec \"$@\""), "sh"]);
    command.arg(hotswap_program());
    command
}
