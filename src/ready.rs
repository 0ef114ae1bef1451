//! How we know that a candidate accepts connections, in each of the modes of `--ready`.
//!
//! It never judges whether there is still time, and it makes no connection and runs no command itself: it says what it
//! wants done, and is told the result.

mod auto;
mod execute;
mod http;
mod mode;
mod newline;
pub mod notify;
mod probe;
mod rule;
mod seen;
mod target;

use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::poll::PollFlags;
use nix::unistd::Pid;

use crate::listener::{Held, ListenerId};
use crate::supervisor::Time;
use crate::sys;
use auto::Auto;
use execute::Execute;
use http::Http;
pub use mode::Mode;
use newline::Newline;
use probe::{Probe, Probes};
use rule::{Rule, look_by_probes};
use target::{Target, targets};

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
pub struct View<'a> {
    /// Its sockets.
    pub held: &'a [Held<'a>],
    /// The listeners it must accept on.
    pub wanted: &'a [ListenerId],
    /// Finds all of its processes. That takes much longer than the rest, so it is called only if there is something to
    /// look for.
    pub processes: &'a dyn Fn() -> Vec<Pid>,
    /// It is the first generation: nothing else accepts.
    pub first: bool,
    /// It has called bind or listen itself.
    pub captured: bool,
    /// [`sys::spent`] before any of this was collected.
    pub spent: Time,
}

/// What showed that it is ready. The log adds how long that took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    Accepting,
    AcceptedAProbe,
    SaidReady,
    Newline(RawFd),
    Status(u16),
    Command,
    Assumed,
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Accepting => write!(f, "accepting"),
            Self::AcceptedAProbe => write!(f, "accepted a probe"),
            Self::SaidReady => write!(f, "READY=1"),
            Self::Newline(fd) => write!(f, "newline on descriptor {fd}"),
            Self::Status(status) => write!(f, "status {status}"),
            Self::Command => write!(f, "command succeeded"),
            Self::Assumed => write!(f, "assumed ready"),
        }
    }
}

/// The candidate is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    pub how: How,
    /// Listeners it should accept on and does not: a warning, and their clients stay with the old generation.
    pub missing: Vec<ListenerId>,
    /// It has a listener, and was assumed to accept without proof: a warning.
    pub doubtful: bool,
}

impl From<How> for Ready {
    fn from(how: How) -> Self {
        Self {
            how,
            missing: Vec::new(),
            doubtful: false,
        }
    }
}

/// What a candidate that timed out has not shown, if that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// It accepts, but has not said READY=1 as earlier generations did.
    Word,
    Accepting(Vec<ListenerId>),
    /// The last status in its answers.
    Answer {
        path: String,
        status: u16,
    },
}

/// What [`Readiness`] wants done for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Connect to the candidate's own socket, then call [`Readiness::probed`].
    Probe(ListenerId),
    /// Run this in a shell with HOTSWAP_PID set; when it has ended, call [`Readiness::executed`].
    Execute(String),
}

/// The readiness of one candidate.
#[derive(Debug)]
pub struct Readiness {
    started: Time,
    next: Option<Time>,
    wishes: Vec<Wish>,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Auto(Rule),
    Notify { said: bool },
    Newline(Newline),
    Tcp(Probes),
    Http(Http),
    Execute(Execute),
    After(Duration),
}

impl Readiness {
    /// For a candidate that starts now and is aborted after `timeout`. A server that has ever said READY=1 must say it
    /// again.
    ///
    /// # Errors
    /// Those of pipe2(2).
    pub fn new(
        mode: &Mode,
        started: Time,
        timeout: Duration,
        said_before: bool,
    ) -> io::Result<Self> {
        let mut next = Some(started);
        let way = match mode {
            Mode::Auto => {
                let auto = Auto::new(started, started + timeout, said_before);
                let probes = Probes::default();
                Way::Auto(Rule { auto, probes })
            }
            Mode::Tcp => Way::Tcp(Probes::default()),
            Mode::Http(path) => Way::Http(Http::new(path, started)),
            Mode::Exec(command) => Way::Execute(Execute::new(command, started)),
            Mode::Notify => {
                next = None;
                Way::Notify { said: false }
            }
            Mode::Fd(number) => {
                next = None;
                Way::Newline(Newline::new(*number)?)
            }
            Mode::After(after) => {
                next = Some(started + *after);
                Way::After(*after)
            }
        };
        Ok(Self {
            started,
            next,
            wishes: Vec::new(),
            way,
        })
    }

    /// The descriptor that the candidate gets under this number. The caller closes it after the spawn.
    pub fn take_descriptor(&mut self) -> Option<(RawFd, OwnedFd)> {
        match &mut self.way {
            Way::Newline(newline) => Some((newline.number, newline.take_theirs()?)),
            _ => None,
        }
    }

    pub fn polled(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        match &self.way {
            Way::Newline(newline) => Some((newline.ours()?, PollFlags::POLLIN)),
            _ => None,
        }
    }

    /// The polled descriptor is readable. The caller looks next.
    pub fn woken(&mut self) {
        if let Way::Newline(newline) = &mut self.way {
            newline.read();
        }
    }

    /// The candidate has said READY=1 or an equivalent. The caller looks next.
    pub fn said_ready(&mut self) {
        match &mut self.way {
            Way::Auto(rule) => rule.auto.said_ready(),
            Way::Notify { said } => *said = true,
            _ => {}
        }
    }

    /// When to look again; `None` if there is nothing to look for.
    pub fn deadline(&self) -> Option<Time> {
        self.next
    }

    /// What the last look wants done.
    pub fn wishes(&mut self) -> Vec<Wish> {
        std::mem::take(&mut self.wishes)
    }

    /// The result of [`Wish::Probe`].
    pub fn probed(&mut self, listener: ListenerId, connection: io::Result<OwnedFd>, now: Time) {
        let probe = connection.and_then(Probe::new);
        match &mut self.way {
            Way::Auto(rule) => rule.probes.made(listener, probe, now),
            Way::Tcp(probes) => probes.made(listener, probe, now),
            Way::Http(http) => http.made(probe, now),
            Way::Notify { .. } | Way::Newline(_) | Way::Execute(_) | Way::After(_) => {}
        }
    }

    /// The command of [`Wish::Execute`] has ended. The caller looks next.
    pub fn executed(&mut self, succeeded: bool) {
        if let Way::Execute(execute) = &mut self.way {
            execute.ended(succeeded);
            self.next = execute.deadline();
        }
    }

    /// Looks at the candidate; `Some` once it is ready. The caller looks at the deadline and after every event.
    pub fn look(&mut self, now: Time, view: &View) -> Option<Ready> {
        let wishes = &mut self.wishes;
        let ready = match &mut self.way {
            Way::Auto(rule) => rule.look(now, view, wishes),
            Way::Tcp(probes) => look_by_probes(probes, now, view, wishes),
            Way::Http(http) => {
                let first = targets(view).into_iter().find(Target::can_be_probed);
                http.look(now, first.map(|target| target.listener), wishes)
            }
            Way::Execute(execute) => execute.look(now, wishes),
            Way::Notify { said } => said.then(|| How::SaidReady.into()),
            Way::Newline(newline) => newline.came().then(|| How::Newline(newline.number).into()),
            Way::After(after) => (now >= self.started + *after).then(|| How::Assumed.into()),
        };
        let took = sys::spent().saturating_sub(view.spent);
        self.next = self.next_look(now, took);
        ready
    }

    /// What it has not shown yet, if that is known.
    pub fn lack(&self) -> Option<Lack> {
        match &self.way {
            Way::Auto(rule) => rule.auto.lack(),
            Way::Http(http) => http.lack(),
            Way::Tcp(_)
            | Way::Notify { .. }
            | Way::Newline(_)
            | Way::Execute(_)
            | Way::After(_) => None,
        }
    }

    fn next_look(&self, now: Time, took: Duration) -> Option<Time> {
        let listens_since = match &self.way {
            Way::Auto(rule) => rule.auto.listens_since(),
            _ => None,
        };
        let age = now.saturating_sub(listens_since.unwrap_or(self.started));
        let soon = now + (age / FRACTION).clamp(SHORTEST, LONGEST).max(took * SHARE);
        match &self.way {
            Way::Auto(rule) if rule.auto.only_waits_for_word() => None,
            Way::Auto(_) | Way::Tcp(_) | Way::Http(_) => Some(soon),
            Way::Execute(execute) => execute.deadline(),
            Way::Notify { .. } | Way::Newline(_) => None,
            Way::After(after) => Some(self.started + *after),
        }
    }
}

/// The listeners on which some thread of these processes is waiting right now.
pub fn waited_on(held: &[Held], pids: &[Pid]) -> Vec<ListenerId> {
    let (wanted, first, captured, spent) = (&[], false, false, Time::ZERO);
    let all = targets(&View {
        held,
        wanted,
        processes: &|| pids.to_vec(),
        first,
        captured,
        spent,
    });
    let sought: Vec<_> = all.iter().filter_map(|target| target.socket).collect();
    let waiting = seen::look(pids, &sought).waiting;
    let is_waited_on = |target: &&Target| {
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
