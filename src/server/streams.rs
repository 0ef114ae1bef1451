//! What comes from a process that hotswap has started: over the stub's channel until exec, and on its stderr.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use nix::poll::PollFlags;
use serde::{Deserialize, Serialize};

use super::ServerEvent;
use super::output::Output;
use crate::polled::Polled;
use crate::stub::channel::{StubChannel, StubMessage};
use crate::supervisor::{Exit, Time};

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct ProcessStreams {
    /// Until exec.
    #[serde(skip)]
    channel: Option<StubChannel>,
    /// Why it never became what it should, if it said so.
    #[serde(skip)]
    refusal: Option<(i32, String)>,
    /// If its stderr goes through hotswap.
    output: Option<Output>,
}

impl ProcessStreams {
    pub fn new(channel: StubChannel, output: Option<Output>) -> Self {
        Self {
            channel: Some(channel),
            refusal: None,
            output,
        }
    }

    /// exec has worked, as far as has been heard.
    pub fn have_seen_exec(&self) -> bool {
        self.channel.is_none() && self.refusal.is_none()
    }

    /// One of them has something to say.
    pub fn woken(&mut self, fd: RawFd) -> Vec<ServerEvent> {
        let channel = self.channel.as_ref();
        if channel.is_some_and(|channel| channel.fd().as_raw_fd() == fd) {
            return self.read_channel();
        }
        if let Some(output) = &mut self.output {
            output.woken();
        }
        Vec::new()
    }

    /// What the stub has reported so far.
    pub fn read_channel(&mut self) -> Vec<ServerEvent> {
        let messages = self.channel.as_ref().map(StubChannel::messages);
        let mut reports = Vec::new();
        for message in messages.unwrap_or_default() {
            match message {
                StubMessage::Closed => {
                    self.channel = None;
                    if self.refusal.is_none() {
                        reports.push(ServerEvent::Running);
                    }
                }
                StubMessage::Cannot { status, reason } => {
                    self.refusal = Some((status.into(), reason));
                }
                StubMessage::Captured(notifications) => {
                    reports.push(ServerEvent::Captured(notifications));
                }
                StubMessage::NotCaptured(errno) => reports.push(ServerEvent::NotCaptured(errno)),
            }
        }
        reports
    }

    pub fn look(&mut self, now: Time) {
        if let Some(output) = &mut self.output {
            output.look(now);
        }
    }

    /// The process has been reaped: what is left is passed on. How it has ended.
    pub fn finish(&mut self, status: ExitStatus) -> Exit {
        self.channel = None;
        if let Some(output) = &mut self.output {
            output.finish();
        }
        match (self.refusal.clone(), status.code(), status.signal()) {
            (Some((status, reason)), _, _) => Exit::CannotRun(status, reason),
            (None, Some(status), _) => Exit::Status(status),
            (None, None, signal) => Exit::Signal(signal.unwrap_or(0)),
        }
    }

    /// Its stderr, if that goes through hotswap.
    pub fn output(&self) -> Option<&Output> {
        self.output.as_ref()
    }

    pub fn last_lines(&self) -> Vec<String> {
        let output = self.output.as_ref();
        output.map(Output::last_lines).unwrap_or_default()
    }
}

impl Polled for ProcessStreams {
    fn polled(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let channel = self.channel.as_ref().map(StubChannel::fd);
        let output = self.output.as_ref().and_then(Output::polled);
        let both = channel.into_iter().chain(output);
        both.map(|fd| (fd, PollFlags::POLLIN)).collect()
    }

    /// When [`ProcessStreams::look`] is due.
    fn deadline(&self) -> Option<Time> {
        self.output.as_ref().and_then(Output::deadline)
    }
}
