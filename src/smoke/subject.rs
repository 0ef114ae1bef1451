//! The hotswap that is tried, as a child: how it is started, asked and stopped.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, mkdtemp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::http::Peer;
use super::interruption::Ending;
use crate::address::ways_to;
use crate::connections::listening::of_processes;
use crate::control::client::{self, Instance};
use crate::control::protocol::RequestKind;
use crate::control::socket_dirs::SocketDirs;
use crate::proc::process;
use crate::record::signal_name;
use crate::retry::pause;
use crate::sys;

/// How often a hotswap that starts is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How long a server that has only unix sockets of its own may take to open a port; as long as readiness waits for one.
const PORT: Duration = Duration::from_secs(2);
/// How long an answer to a question may take.
const ANSWER: Duration = Duration::from_secs(10);
/// How many lines of the log are shown when something went wrong.
const LAST_LINES: usize = 30;
/// The longest path of a directory in which a unix socket still fits.
const LONGEST_DIRECTORY: usize = 60;

/// What a running server is asked through, and what it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReportedListener {
    pub address: String,
    pub steered: bool,
    pub captured: bool,
}

impl ReportedListener {
    /// A unix path that the server chose may be for its own processes alone.
    pub fn is_for_clients(&self) -> bool {
        !self.captured || !self.address.starts_with('/')
    }
}

pub struct Subject {
    child: Child,
    directory: PathBuf,
    ending: Arc<Ending>,
}

impl Subject {
    /// Starts hotswap with these options; `command` is the server and its arguments.
    ///
    /// # Errors
    /// If there is no place for its files, or no process for it.
    pub fn start(options: &[OsString], command: &[OsString], ending: Arc<Ending>) -> Result<Self> {
        let program = std::env::current_exe().context("cannot find hotswap's own program")?;
        let directory = own_directory()?;
        let log = File::create(directory.join("log")).context("cannot make a log")?;
        let mut hotswap = Command::new(program);
        hotswap
            .args(options)
            // a file that changes meanwhile is not part of the trial
            .arg("--no-watch")
            .arg("--control")
            .arg(directory.join("control.sock"))
            .arg("--")
            .args(command)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot make a log")?)
            .stderr(log)
            // what is sent to our group, as Ctrl-C, comes to the trial alone, which stops it in its time
            .process_group(0);
        sys::process::tie_to_this_thread(&mut hotswap);
        match hotswap.spawn() {
            Ok(child) => Ok(Self {
                child,
                directory,
                ending,
            }),
            Err(error) => {
                let _ = fs::remove_dir_all(&directory);
                Err(error).context("cannot run hotswap")
            }
        }
    }

    /// Why it has ended by itself, if it has.
    pub fn has_ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok().flatten()?;
        let why = why_not_up(status);
        Some(format!("the server did not stay up: {why}"))
    }

    /// Its state as soon as a generation serves.
    ///
    /// # Errors
    /// If it ends before that, or `until` has come.
    pub fn serving(&mut self, until: Instant) -> Result<Value> {
        loop {
            if let Some(status) = self.child.try_wait().context("cannot wait for hotswap")? {
                let why = why_not_up(status);
                return Err(anyhow!("the server did not come up: {why}"));
            }
            if let Ok(state) = self.state()
                && state["state"] == "serving"
            {
                return Ok(state);
            }
            if self.ending.signal().is_some() {
                return Err(anyhow!("interrupted"));
            }
            if Instant::now() > until {
                return Err(anyhow!(
                    "the server did not come up in time\ntry: hotswap smoke --ready-timeout 2m"
                ));
            }
            pause(LOOK);
        }
    }

    /// The same once it shows an address for clients: a server may open its port after unix sockets of its own.
    pub fn with_port(&self, mut state: Value) -> Value {
        let until = Instant::now() + PORT;
        let lacks_port = |state: &Value| {
            let listeners = listeners(state);
            !listeners.is_empty() && !listeners.iter().any(ReportedListener::is_for_clients)
        };
        while lacks_port(&state) && Instant::now() < until && self.ending.signal().is_none() {
            pause(LOOK);
            state = self.state().unwrap_or(state);
        }
        state
    }

    /// # Errors
    /// If it does not answer.
    pub fn state(&self) -> Result<Value> {
        let answer = self.connect()?.answer(&RequestKind::Status);
        answer.map_err(|why| anyhow!(why))
    }

    /// # Errors
    /// If nobody is at its control socket.
    pub fn connect(&self) -> Result<Instance> {
        let path = self.directory.join("control.sock");
        if !path.exists() {
            return Err(anyhow!("hotswap has no control socket yet"));
        }
        let until = Instant::now() + ANSWER;
        client::find(&SocketDirs::ours(), path.to_str(), Some(until))
            .map_err(|nobody| anyhow!(nobody.why))
    }

    /// The end of what hotswap and the server wrote.
    pub fn last_lines(&self) -> Vec<String> {
        let mut last = VecDeque::new();
        let log = File::open(self.directory.join("log"));
        let lines = log.map(|log| BufReader::new(log).split(b'\n'));
        for line in lines.into_iter().flatten().map_while(Result::ok) {
            if last.len() == LAST_LINES {
                last.pop_front();
            }
            last.push_back(String::from_utf8_lossy(&line).into_owned());
        }
        last.into()
    }
}

impl Drop for Subject {
    /// Everything ends with us; the second signal ends a stop that hangs.
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).map(Pid::from_raw);
        // who has interrupted it waits for some seconds at most
        let patience = match self.ending.signal() {
            Some(_) => [3, 1, 1],
            None => [10, 5, 5],
        };
        for patience in patience.map(Duration::from_secs) {
            if let Ok(pid) = pid {
                let _ = kill(pid, Signal::SIGTERM);
            }
            let until = Instant::now() + patience;
            while Instant::now() < until {
                if !matches!(self.child.try_wait(), Ok(None)) {
                    let _ = fs::remove_dir_all(&self.directory);
                    return;
                }
                pause(LOOK);
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// An image without /tmp, or a container that cannot write there, has /dev/shm.
fn own_directory() -> Result<PathBuf> {
    let mut parents = vec![std::env::temp_dir(), "/tmp".into(), "/dev/shm".into()];
    parents.retain(|parent| parent.as_os_str().len() <= LONGEST_DIRECTORY);
    let mut error = None;
    for parent in &parents {
        match mkdtemp(&parent.join("hotswap-smoke-XXXXXX")) {
            Ok(directory) => return Ok(directory),
            Err(why) => error = error.or(Some(why)),
        }
    }
    let parents = parents.iter().map(|parent| parent.display().to_string());
    let parents: Vec<String> = parents.collect();
    let why = error.map_or("", |why| why.desc());
    Err(anyhow!(
        "cannot make a directory in any of {}: {why}\ntry: TMPDIR=DIR hotswap smoke",
        parents.join(", ")
    ))
}

/// hotswap ends with the status of a server that did not come up, but for a few of its own.
fn why_not_up(status: ExitStatus) -> String {
    match status.code() {
        None => "hotswap itself was killed".to_owned(),
        Some(124) => "it was not ready in time (status 124)".to_owned(),
        Some(125) => "hotswap itself failed (status 125)".to_owned(),
        Some(126) => "it cannot be run (status 126)".to_owned(),
        Some(127) => "its program was not found (status 127)".to_owned(),
        Some(status @ 129..160) => {
            let signal = signal_name(status - 128);
            format!("it was killed by {signal} (status {status})")
        }
        Some(status) => format!("it exited with status {status}"),
    }
}

/// The listeners of a state.
pub fn listeners(state: &Value) -> Vec<ReportedListener> {
    serde_json::from_value(state["listeners"].clone()).unwrap_or_default()
}

/// Where the server listens by itself, if hotswap owns none of its listeners.
pub fn unowned(state: &Value) -> Vec<Peer> {
    let serving = state["generations"].as_array().into_iter().flatten();
    let mut serving = serving.filter_map(|one| one["pid"].as_i64());
    let main = serving.next();
    let main = main
        .and_then(|pid| i32::try_from(pid).ok())
        .map(Pid::from_raw);
    let mut processes = Vec::from_iter(main);
    let mut next = 0;
    while let Some(process) = processes.get(next) {
        processes.extend(process::children(*process));
        next += 1;
    }
    let listening = of_processes(&processes).into_iter();
    listening
        .filter_map(|one| target(&one.address.to_string()))
        .collect()
}

/// Where a client reaches the server that listens on this address.
pub fn target(address: &str) -> Option<Peer> {
    if address.starts_with('/') {
        return Some(Peer::Unix(Path::new(address).to_owned()));
    }
    let ways = ways_to(address.parse().ok()?);
    ways.first().copied().map(Peer::Tcp)
}
