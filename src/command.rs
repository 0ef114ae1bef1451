//! A command that hotswap runs for itself: before a swap, after an event, to ask whether a server is ready.
//!
//! Its output goes to stderr, because stdout belongs to the server. It never waits for the command: the main loop reaps it.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use nix::poll::PollFlags;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::cli::options::Stderr;
use crate::polled::Polled;
use crate::server::output::Output;
use crate::server::{OF_A_COMMAND, environment, exit_of};
use crate::stub;
use crate::stub::channel::{StubChannel, StubMessage};
use crate::stub::request::StubRequest;
use crate::supervisor::{Exit, Time};

/// The time from SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct Command {
    main: Pid,
    /// Until exec.
    channel: Option<StubChannel>,
    refusal: Option<(i32, String)>,
    output: Option<Output>,
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
            channel: Some(channel),
            refusal: None,
            output,
            deadline,
            asked_to_end: false,
        })
    }

    pub fn pid(&self) -> Pid {
        self.main
    }

    pub fn woken(&mut self, fd: RawFd) {
        if self
            .channel
            .as_ref()
            .is_some_and(|channel| channel.fd().as_raw_fd() == fd)
        {
            self.read_channel();
        } else if let Some(output) = &mut self.output {
            output.woken();
        }
    }

    fn read_channel(&mut self) {
        for answer in self
            .channel
            .as_mut()
            .map(StubChannel::messages)
            .unwrap_or_default()
        {
            match answer {
                StubMessage::Running => self.channel = None,
                StubMessage::Cannot { status, reason } => {
                    self.refusal = Some((status.into(), reason));
                }
                // commands have no filter
                StubMessage::Captured(_) | StubMessage::NotCaptured(_) => {}
            }
        }
    }

    /// Checks its deadline.
    pub fn look(&mut self, now: Time) {
        if let Some(output) = &mut self.output {
            output.look(now);
        }
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
        self.read_channel();
        if let Some(output) = &mut self.output {
            output.finish();
        }
        if self.asked_to_end {
            let _ = killpg(self.main, Signal::SIGKILL);
        }
        let exit = exit_of(status, self.refusal.take());
        let last_lines = self.output.as_ref().map(Output::last_lines);
        Ended {
            exit,
            last_lines: last_lines.unwrap_or_default(),
        }
    }
}

impl Polled for Command {
    fn polled(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let channel = self.channel.as_ref().map(StubChannel::fd);
        let output = self.output.as_ref().and_then(Output::polled);
        let both = channel.into_iter().chain(output);
        both.map(|fd| (fd, PollFlags::POLLIN)).collect()
    }

    fn deadline(&self) -> Option<Time> {
        let output = self.output.as_ref().and_then(Output::deadline);
        self.deadline.into_iter().chain(output).min()
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
