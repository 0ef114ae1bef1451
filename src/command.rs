//! A command that hotswap runs for itself: before a swap, after an event, to ask whether a server is ready.
//!
//! Its output goes to stderr, because stdout belongs to the server. It never waits for the command: the main loop reaps it.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use nix::poll::PollFlags;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::cli::options::Stderr;
use crate::polled::Polled;
use crate::server::output::Output;
use crate::server::streams::ProcessStreams;
use crate::server::{OF_A_COMMAND, environment};
use crate::stub;
use crate::stub::request::StubRequest;
use crate::supervisor::{Exit, Time};

/// The time from SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct Command {
    main: Pid,
    streams: ProcessStreams,
    deadline: Option<Time>,
    asked_to_end: bool,
}

/// Runs one line with sh(1).
pub fn shell(line: &str) -> Vec<OsString> {
    ["/bin/sh", "-c", line].map(OsString::from).to_vec()
}

impl Command {
    /// Starts it in its own process group, with these variables beside those that a server has from its surroundings and the
    /// env file. Its stderr goes where the server's goes, its stdout with it unless it has one of its own; at the deadline it
    /// is asked to end, soon after killed.
    ///
    /// # Errors
    /// What is wrong with the env file, and what the system refuses. That the program cannot be run is told by [`Command::died`].
    pub fn start(
        purpose: &'static str,
        command: Vec<OsString>,
        told: &[(&str, OsString)],
        env_file: Option<&Path>,
        stdout: Option<BorrowedFd>,
        stderr: Stderr,
        deadline: Option<Time>,
    ) -> io::Result<Self> {
        let mut environment = environment::inherited(env_file, &[])?;
        for (name, value) in told {
            environment::set(&mut environment, name, value);
        }
        environment::set(&mut environment, OF_A_COMMAND, purpose);
        let (output, theirs) = match stderr {
            Stderr::Inherit => (None, io::stderr().as_fd().try_clone_to_owned()?),
            Stderr::Pass => {
                let (output, theirs) = Output::open()?;
                (Some(output), theirs)
            }
        };
        let request = StubRequest {
            command,
            environment,
            stdout: stdout.or(Some(theirs.as_fd())),
            stderr: Some(theirs.as_fd()),
            ..StubRequest::default()
        };
        let (main, channel) = stub::start(&request)?;
        Ok(Self {
            main,
            streams: ProcessStreams::new(channel, output),
            deadline,
            asked_to_end: false,
        })
    }

    pub fn pid(&self) -> Pid {
        self.main
    }

    pub fn woken(&mut self, fd: RawFd) {
        // commands have no filter
        drop(self.streams.woken(fd));
    }

    /// Checks its deadline.
    pub fn look(&mut self, now: Time) {
        self.streams.look(now);
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            if self.asked_to_end {
                self.kill();
            } else {
                self.end(now);
            }
        }
    }

    /// Asks all of it to end, and kills the rest soon after.
    pub fn end(&mut self, now: Time) {
        self.asked_to_end = true;
        self.deadline = Some(now + GRACE);
        let _ = killpg(self.main, Signal::SIGTERM);
        let _ = killpg(self.main, Signal::SIGCONT);
    }

    /// Asks it to end then, if it has more time.
    pub fn hurry(&mut self, until: Time) {
        if !self.asked_to_end {
            self.deadline = Some(self.deadline.map_or(until, |deadline| deadline.min(until)));
        }
    }

    pub fn kill(&mut self) {
        self.asked_to_end = true;
        self.deadline = None;
        let _ = killpg(self.main, Signal::SIGKILL);
    }

    /// Whether it was asked to end.
    pub fn was_asked_to_end(&self) -> bool {
        self.asked_to_end
    }

    /// It has been reaped. What it has left behind in the background lives on, unless it was asked to end.
    pub fn died(mut self, status: ExitStatus) -> Ended {
        drop(self.streams.read_channel());
        let exit = self.streams.finish(status);
        if self.asked_to_end {
            let _ = killpg(self.main, Signal::SIGKILL);
        }
        Ended {
            exit,
            last_lines: self.streams.last_lines(),
        }
    }
}

impl Polled for Command {
    fn polled(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        self.streams.polled()
    }

    fn deadline(&self) -> Option<Time> {
        let streams = self.streams.deadline();
        self.deadline.into_iter().chain(streams).min()
    }
}

/// The result of a command.
#[derive(Debug)]
pub struct Ended {
    pub exit: Exit,
    /// The last lines of its output, if that goes through hotswap.
    pub last_lines: Vec<String>,
}

#[cfg(test)]
mod tests;
