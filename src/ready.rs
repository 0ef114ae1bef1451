//! How we know that a candidate accepts connections, in each of the modes of `--ready`.
//!
//! It never judges whether there is still time, and it makes no connection and runs no command itself: it says what it
//! wants done, and is told the result.

mod auto;
mod blocked_threads;
mod exec;
mod fd;
mod http;
mod mode;
pub mod notify;
mod observe;
mod probe;
mod target;

use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::poll::PollFlags;
use nix::unistd::Pid;

use crate::listener::{GenerationSocket, ListenerId};
use crate::supervisor::Time;
use crate::sys;
use auto::Auto;
use exec::ExecCommand;
use fd::ReadyFd;
use http::Http;
pub use mode::ReadyMode;
use observe::{Observer, look_by_probes};
use probe::{Probe, Probes};
use target::{ReadyTarget, targets};

/// The time between two looks at a candidate: the shortest, after its start or when it has begun to listen, and the
/// longest.
const SHORTEST: Duration = Duration::from_micros(250);
const LONGEST: Duration = Duration::from_millis(50);
/// Between those, the next look comes after this fraction of the time since then; and looks take at most one part in
/// `SHARE` of the time.
const FRACTION: u32 = 100;
const SHARE: u32 = 5;

/// The current state of a candidate.
#[derive(Clone, Copy)]
pub struct CandidateView<'a> {
    /// Its sockets.
    pub held: &'a [GenerationSocket<'a>],
    /// The listeners it must accept on.
    pub wanted: &'a [ListenerId],
    /// Finds all of its processes. That takes much longer than the rest, so it is called only if there is something to
    /// look for.
    pub processes: &'a dyn Fn() -> Vec<Pid>,
    /// It is the first generation: nothing else accepts.
    pub first: bool,
    /// It has called bind or listen itself.
    pub captured: bool,
    /// [`sys::cpu_time`] before any of this was collected.
    pub cpu_time: Time,
}

/// What showed that it is ready. The log adds how long that took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadyBy {
    Accepting,
    AcceptedAProbe,
    SaidReady,
    ReadyFd(RawFd),
    Status(u16),
    Command,
    Assumed,
}

impl fmt::Display for ReadyBy {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Accepting => write!(f, "accepting"),
            Self::AcceptedAProbe => write!(f, "accepted a probe"),
            Self::SaidReady => write!(f, "READY=1"),
            Self::ReadyFd(fd) => write!(f, "newline on descriptor {fd}"),
            Self::Status(status) => write!(f, "status {status}"),
            Self::Command => write!(f, "command succeeded"),
            Self::Assumed => write!(f, "assumed ready"),
        }
    }
}

/// The candidate is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    pub how: ReadyBy,
    /// Listeners it should accept on and does not: a warning, and their clients stay with the old generation.
    pub missing: Vec<ListenerId>,
    /// It has a listener, and was assumed to accept without proof: a warning.
    pub doubtful: bool,
}

impl From<ReadyBy> for Ready {
    fn from(how: ReadyBy) -> Self {
        Self {
            how,
            missing: Vec::new(),
            doubtful: false,
        }
    }
}

/// What a candidate that timed out has not shown, if that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotReadyReason {
    /// It accepts, but has not said READY=1 as earlier generations did.
    NoReadyMessage,
    Accepting(Vec<ListenerId>),
    /// The last status in its answers.
    Answer {
        path: String,
        status: u16,
    },
}

/// What [`Readiness`] wants done for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadyRequest {
    /// Connect to the candidate's own socket, then call [`Readiness::probed`].
    Probe(ListenerId),
    /// Run this in a shell with HOTSWAP_PID set; when it has ended, call [`Readiness::executed`].
    ExecCommand(String),
}

/// The readiness of one candidate.
#[derive(Debug)]
pub struct Readiness {
    started: Time,
    next: Option<Time>,
    requests: Vec<ReadyRequest>,
    method: Method,
}

#[derive(Debug)]
enum Method {
    Auto(Observer),
    Notify { said: bool },
    ReadyFd(ReadyFd),
    Tcp(Probes),
    Http(Http),
    ExecCommand(ExecCommand),
    After(Duration),
}

impl Readiness {
    /// For a candidate that starts now and is aborted after `timeout`. A server that has ever said READY=1 must say it
    /// again.
    ///
    /// # Errors
    /// Those of pipe2(2).
    pub fn new(
        mode: &ReadyMode,
        started: Time,
        timeout: Duration,
        said_before: bool,
    ) -> io::Result<Self> {
        let mut next = Some(started);
        let method = match mode {
            ReadyMode::Auto => {
                let auto = Auto::new(started, started + timeout, said_before);
                let probes = Probes::default();
                Method::Auto(Observer { auto, probes })
            }
            ReadyMode::Tcp => Method::Tcp(Probes::default()),
            ReadyMode::Http(path) => Method::Http(Http::new(path, started)),
            ReadyMode::Exec(command) => Method::ExecCommand(ExecCommand::new(command, started)),
            ReadyMode::Notify => {
                next = None;
                Method::Notify { said: false }
            }
            ReadyMode::Fd(number) => {
                next = None;
                Method::ReadyFd(ReadyFd::new(*number)?)
            }
            ReadyMode::After(after) => {
                next = Some(started + *after);
                Method::After(*after)
            }
        };
        Ok(Self {
            started,
            next,
            requests: Vec::new(),
            method,
        })
    }

    /// The descriptor that the candidate gets under this number. The caller closes it after the spawn.
    pub fn take_descriptor(&mut self) -> Option<(RawFd, OwnedFd)> {
        match &mut self.method {
            Method::ReadyFd(newline) => Some((newline.number, newline.take_theirs()?)),
            _ => None,
        }
    }

    pub fn polled(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        match &self.method {
            Method::ReadyFd(newline) => Some((newline.ours()?, PollFlags::POLLIN)),
            _ => None,
        }
    }

    /// The polled descriptor is readable. The caller looks next.
    pub fn woken(&mut self) {
        if let Method::ReadyFd(newline) = &mut self.method {
            newline.read();
        }
    }

    /// The candidate has said READY=1 or an equivalent. The caller looks next.
    pub fn said_ready(&mut self) {
        match &mut self.method {
            Method::Auto(rule) => rule.auto.said_ready(),
            Method::Notify { said } => *said = true,
            _ => {}
        }
    }

    /// When to look again; `None` if there is nothing to look for.
    pub fn deadline(&self) -> Option<Time> {
        self.next
    }

    /// What the last look wants done.
    pub fn requests(&mut self) -> Vec<ReadyRequest> {
        std::mem::take(&mut self.requests)
    }

    /// The result of [`ReadyRequest::Probe`].
    pub fn probed(&mut self, listener: ListenerId, connection: io::Result<OwnedFd>, now: Time) {
        let probe = connection.and_then(Probe::new);
        match &mut self.method {
            Method::Auto(rule) => rule.probes.made(listener, probe, now),
            Method::Tcp(probes) => probes.made(listener, probe, now),
            Method::Http(http) => http.made(probe, now),
            Method::Notify { .. }
            | Method::ReadyFd(_)
            | Method::ExecCommand(_)
            | Method::After(_) => {}
        }
    }

    /// The command of [`ReadyRequest::ExecCommand`] has ended. The caller looks next.
    pub fn executed(&mut self, succeeded: bool) {
        if let Method::ExecCommand(execute) = &mut self.method {
            execute.ended(succeeded);
            self.next = execute.deadline();
        }
    }

    /// Looks at the candidate; `Some` once it is ready. The caller looks at the deadline and after every event.
    pub fn look(&mut self, now: Time, view: &CandidateView) -> Option<Ready> {
        let requests = &mut self.requests;
        let ready = match &mut self.method {
            Method::Auto(rule) => rule.look(now, view, requests),
            Method::Tcp(probes) => look_by_probes(probes, now, view, requests),
            Method::Http(http) => {
                let first = targets(view).into_iter().find(ReadyTarget::can_be_probed);
                http.look(now, first.map(|target| target.listener), requests)
            }
            Method::ExecCommand(execute) => execute.look(now, requests),
            Method::Notify { said } => said.then(|| ReadyBy::SaidReady.into()),
            Method::ReadyFd(newline) => newline
                .came()
                .then(|| ReadyBy::ReadyFd(newline.number).into()),
            Method::After(after) => (now >= self.started + *after).then(|| ReadyBy::Assumed.into()),
        };
        let took = sys::cpu_time().saturating_sub(view.cpu_time);
        self.next = self.next_look(now, took);
        ready
    }

    /// What it has not shown yet, if that is known.
    pub fn not_ready_reason(&self) -> Option<NotReadyReason> {
        match &self.method {
            Method::Auto(rule) => rule.auto.not_ready_reason(),
            Method::Http(http) => http.not_ready_reason(),
            Method::Tcp(_)
            | Method::Notify { .. }
            | Method::ReadyFd(_)
            | Method::ExecCommand(_)
            | Method::After(_) => None,
        }
    }

    fn next_look(&self, now: Time, took: Duration) -> Option<Time> {
        let listens_since = match &self.method {
            Method::Auto(rule) => rule.auto.listens_since(),
            _ => None,
        };
        let age = now.saturating_sub(listens_since.unwrap_or(self.started));
        let soon = now + (age / FRACTION).clamp(SHORTEST, LONGEST).max(took * SHARE);
        match &self.method {
            Method::Auto(rule) if rule.auto.only_lacks_ready_message() => None,
            Method::Auto(_) | Method::Tcp(_) | Method::Http(_) => Some(soon),
            Method::ExecCommand(execute) => execute.deadline(),
            Method::Notify { .. } | Method::ReadyFd(_) => None,
            Method::After(after) => Some(self.started + *after),
        }
    }
}

/// The listeners on which some thread of these processes is waiting right now.
pub fn accepting_on(held: &[GenerationSocket], pids: &[Pid]) -> Vec<ListenerId> {
    let (wanted, first, captured, cpu_time) = (&[], false, false, Time::ZERO);
    let all = targets(&CandidateView {
        held,
        wanted,
        processes: &|| pids.to_vec(),
        first,
        captured,
        cpu_time,
    });
    let sought: Vec<_> = all.iter().filter_map(|target| target.socket).collect();
    let waiting = blocked_threads::look(pids, &sought).waiting;
    let is_waited_on = |target: &&ReadyTarget| {
        let socket = target.socket.as_ref();
        socket.is_some_and(|socket| waiting.contains(&socket.inode))
    };
    all.iter()
        .filter(is_waited_on)
        .map(|target| target.listener)
        .collect()
}

#[cfg(test)]
mod tests;
