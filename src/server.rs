//! The processes of one generation: starts, stops and kills them, and knows when all are gone.
//!
//! It never waits: the main loop reaps its processes, and tells it.

mod adopted;
pub mod environment;
pub mod output;
pub mod profile;
mod stop;
pub mod streams;
mod tree;

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::{fs, io};

use nix::poll::PollFlags;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, Uid};
use serde::{Deserialize, Serialize};

use crate::capture::filter::Stops;
use crate::cli::options::{Stderr, Stdin};
use crate::listener::InheritedSocket;
use crate::polled::Polled;
use crate::proc::descriptor;
use crate::proc::process::ProcessId;
use crate::stub::request::StubRequest;
use crate::stub::{self, FIRST};
use crate::supervisor::{Exit, Generation, Time};
use crate::{handoff, program};
use environment::Variables;
use output::Output;
use stop::Stopping;
use streams::ProcessStreams;
use tree::ProcessTree;

pub use crate::stub::OF_A_COMMAND;
pub use adopted::{Loss, Traces};

/// How often what forks is looked for before it is killed.
const ROUNDS: usize = 10;

/// What holds for every generation.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    pub command: Vec<OsString>,
    pub user: Option<String>,
    pub group: Option<String>,
    pub chdir: Option<PathBuf>,
    pub env_file: Option<PathBuf>,
    pub stderr: Stderr,
    /// HOTSWAP_INSTANCE.
    pub name: String,
    /// HOTSWAP_SOCKET.
    pub control: Option<PathBuf>,
    /// What its filter stops, unix paths apart; nothing if it runs without one.
    pub capture: Option<Stops>,
    pub stdin: Stdin,
}

/// What one generation is given.
#[derive(Debug)]
pub struct Launch {
    pub generation: Generation,
    pub sockets: Vec<InheritedSocket>,
    /// NOTIFY_SOCKET.
    pub notify: String,
    /// What it says that it is ready on, and the number it expects it at.
    pub ready_fd: Option<(RawFd, OwnedFd)>,
    /// Run this instead of what COMMAND leads to by now.
    pub program: Option<OwnedFd>,
    /// Clients come by a unix path, which its unlink(2) must not take away.
    pub paths: bool,
    /// What it inherits from hotswap's environment and the env file.
    pub variables: Variables,
    /// Run there, instead of in `--chdir`.
    pub directory: Option<OwnedFd>,
}

/// What a generation's own descriptors had to say.
#[derive(Debug)]
pub enum ServerEvent {
    /// exec has worked, unless its death is heard next.
    Running,
    /// Where its calls of bind(2) are to be answered.
    Captured(OwnedFd),
    /// It runs uncaptured: the errno.
    NotCaptured(i32),
    /// A process of an adopted generation is dead.
    Lost(Loss),
}

/// The processes of one generation.
#[derive(Debug, Serialize, Deserialize)]
pub struct Server {
    generation: Generation,
    started: Time,
    tree: ProcessTree,
    #[serde(flatten)]
    streams: ProcessStreams,
    #[serde(with = "handoff::optional_descriptor")]
    program: Option<OwnedFd>,
    /// Who called bind(2): a wrapper such as `npm` or `sh -c` is not asked to end.
    binder: Option<ProcessId>,
    /// How far it has been asked to stop, once it has.
    stopping: Option<Stopping>,
    /// What is left of it dies as soon as it is seen.
    doomed: bool,
    /// As in [`Launch`].
    paths: bool,
    /// Readable once a process of an adopted generation is dead.
    #[serde(skip)]
    waited_for: Option<OwnedFd>,
}

impl Server {
    /// Starts a generation. Whether its program could be run at all is said later, by a [`ServerEvent`].
    ///
    /// # Errors
    /// What is wrong with its arguments or its env file, and what the system refuses; then nothing is left of it.
    pub fn spawn(server_config: &ServerConfig, launch: Launch, now: Time) -> io::Result<Self> {
        let Launch {
            generation,
            sockets,
            notify,
            ready_fd,
            program,
            paths,
            variables,
            directory,
        } = launch;
        let environment =
            environment::variables(variables, server_config, generation, &sockets, &notify);
        let (output, stderr) = match server_config.stderr {
            Stderr::Inherit => (None, None),
            Stderr::Pass => Some(Output::open()?).unzip(),
        };
        let request = StubRequest {
            command: environment::arguments(&server_config.command, generation, &sockets)?,
            environment,
            listen_pid: !sockets.is_empty(),
            chdir: server_config.chdir.clone().map(PathBuf::into_os_string),
            directory: directory.as_ref().map(AsFd::as_fd),
            user: server_config.user.clone(),
            group: server_config.group.clone(),
            capture: server_config.capture.map(|stops| Stops { paths, ..stops }),
            open_stdin: server_config.stdin == Stdin::Open,
            stdout: None,
            stderr: stderr.as_ref().map(AsFd::as_fd),
            descriptors: descriptors(&sockets, ready_fd.as_ref())?,
            program: program.as_ref().map(AsFd::as_fd),
        };
        let held = program.is_none().then(|| {
            let path = find(server_config, &request).ok()?;
            program::hold(&path)
        });
        let (main, channel) = stub::start(&request)?;
        Ok(Self {
            generation,
            started: now,
            tree: ProcessTree::new(
                main,
                environment::of_hotswap(server_config, generation, &notify),
            ),
            streams: ProcessStreams::new(channel, output),
            program: program.or(held.flatten()),
            binder: None,
            stopping: None,
            doomed: false,
            paths,
            waited_for: None,
        })
    }

    /// Of its main process.
    pub fn pid(&self) -> Pid {
        self.tree.main
    }

    /// Its main process lives, or has not been reaped, and this is its pid.
    pub fn is_main(&self, pid: Pid) -> bool {
        self.tree.main_lives && self.tree.main == pid
    }

    /// Its main process lives, as /proc has it: it may be dead before that is heard.
    pub fn main_lives(&self) -> bool {
        self.tree.main_lives && ProcessId::of(self.tree.main).is_some()
    }

    pub fn started(&self) -> Time {
        self.started
    }

    /// Whether its unlink(2) is stopped, if it is captured.
    pub fn is_kept_from_unlinking(&self) -> bool {
        self.paths
    }

    /// exec has worked, as far as has been heard.
    pub fn runs(&self) -> bool {
        self.streams.have_seen_exec()
    }

    /// The file it runs, kept open in case a newer one fails. `None` for a script.
    pub fn program(&self) -> Option<BorrowedFd<'_>> {
        self.program.as_ref().map(AsFd::as_fd)
    }

    pub fn look(&mut self, now: Time) {
        self.streams.look(now);
        if self.ask_due().is_some_and(|due| due <= now) {
            self.ask_next();
        }
    }

    /// One of those descriptors has something to say.
    pub fn woken(&mut self, fd: RawFd) -> Vec<ServerEvent> {
        let is_it = |pidfd: &OwnedFd| pidfd.as_raw_fd() == fd;
        if self.waited_for.as_ref().is_some_and(is_it) {
            return vec![ServerEvent::Lost(self.adopted_died())];
        }
        if self.death().is_some_and(is_it) {
            self.ask_next();
            return Vec::new();
        }
        self.streams.woken(fd)
    }

    /// What the stub has reported so far.
    pub fn read_channel(&mut self) -> Vec<ServerEvent> {
        self.streams.read_channel()
    }

    /// Ends all of it, and whatever of it is seen from now on.
    pub fn kill(&mut self) {
        self.doomed = true;
        self.kill_what_is_left();
    }

    fn kill_what_is_left(&self) {
        if self.tree.main_lives || self.tree.group_exists() {
            let _ = killpg(self.tree.main, Signal::SIGKILL);
        }
        // Processes that have left the group are stopped first: they could fork as fast as they are killed.
        let mut stopped = HashSet::new();
        for _ in 0..ROUNDS {
            let left = self.processes();
            let before = stopped.len();
            for pid in &left {
                if stopped.insert(*pid) {
                    let _ = kill(*pid, Signal::SIGSTOP);
                }
            }
            if stopped.len() == before {
                break;
            }
        }
        for pid in self.processes() {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }

    /// All of its processes: what descends from the main one, and orphans that hotswap has adopted.
    pub fn processes(&self) -> Vec<Pid> {
        self.tree.processes()
    }

    /// These are its processes, wherever they came from.
    pub fn include(&mut self, proven: &[ProcessId]) {
        self.tree.include(proven);
    }

    /// Whether this process is one of them; it asks for less than all of them do.
    pub fn has(&self, process: Pid) -> bool {
        self.tree.has(process)
    }

    /// Whether its main process is one of this user.
    pub fn is_of(&self, user: Uid) -> bool {
        let owner = fs::metadata(format!("/proc/{}", self.tree.main)).map(|found| found.uid());
        owner.is_ok_and(|owner| owner == user.as_raw())
    }

    /// It was killed, and so is whatever of it is seen from now on.
    pub fn is_doomed(&self) -> bool {
        self.doomed
    }

    /// Nothing of it is left.
    pub fn is_gone(&self) -> bool {
        self.tree.is_empty()
    }

    /// Its main process has been reaped; `sockets` are the inodes of those that it has been given or has bound. `others` are
    /// not its own, whatever they hold: hotswap has started them, and they may not have come to their exec yet.
    pub fn died(&mut self, status: ExitStatus, sockets: &HashSet<u64>, others: &[Pid]) -> Exit {
        let stderr = self.streams.output().map(Output::pipe_inode);
        self.tree.lose_main(|process| {
            !others.contains(&process) && descriptor::holds_any(process, sockets, stderr)
        });
        let exit = self.streams.finish(status);
        if self.doomed {
            self.kill_what_is_left();
        }
        self.ask_next();
        exit
    }

    /// Other children of hotswap have been reaped: perhaps they were this one's, and have left orphans in turn.
    pub fn orphans_died(&mut self) {
        if self.doomed {
            self.kill_what_is_left();
        }
        self.ask_next();
    }

    /// The pipe that its stderr is, if that goes through hotswap.
    pub fn stderr(&self) -> Option<BorrowedFd<'_>> {
        self.streams.output()?.pipe()
    }

    /// The last lines of its stderr, if that goes through hotswap.
    pub fn last_lines(&self) -> Vec<String> {
        self.streams.last_lines()
    }
}

impl Polled for Server {
    fn polled(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let deaths = self.death().into_iter().chain(&self.waited_for);
        let deaths = deaths.map(|pidfd| (pidfd.as_fd(), PollFlags::POLLIN));
        self.streams.polled().into_iter().chain(deaths).collect()
    }

    /// When [`Server::look`] is due.
    fn deadline(&self) -> Option<Time> {
        let streams = self.streams.deadline().into_iter();
        streams.chain(self.ask_due()).min()
    }
}

/// The sockets and the descriptor to say ready on, with their numbers.
fn descriptors<'a>(
    sockets: &'a [InheritedSocket],
    ready: Option<&'a (RawFd, OwnedFd)>,
) -> io::Result<Vec<(BorrowedFd<'a>, RawFd)>> {
    let sockets = sockets.iter().map(|socket| socket.fd.as_fd());
    let mut all: Vec<(BorrowedFd, RawFd)> = sockets.zip(FIRST..).collect();
    if let Some((ready, fd)) = ready {
        if all.iter().any(|(_, number)| number == ready) {
            let text = format!(
                "cannot use --ready fd:{ready}: {ready} is the number of a listener\ntry: --ready fd:{}",
                FIRST + i32::try_from(all.len()).unwrap_or(0)
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        all.push((fd.as_fd(), *ready));
    }
    Ok(all)
}

fn find(server_config: &ServerConfig, request: &StubRequest) -> io::Result<PathBuf> {
    let command = server_config
        .command
        .first()
        .ok_or(io::ErrorKind::NotFound)?;
    program::find(
        command,
        server_config.chdir.as_deref(),
        request.variable("PATH"),
    )
}

#[cfg(test)]
mod tests;
