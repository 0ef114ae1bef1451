//! How we know that a candidate accepts connections, in each of the modes of `--ready`.
//!
//! It looks, listens and asks; whether there is still time is not its business. It makes no connection and runs no
//! command itself: it says what it wishes, and is told what came of it.

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

/// How often a candidate is looked at when it has just been started or begun to listen, and at most how seldom later.
const OFTEN: Duration = Duration::from_micros(250);
const SELDOM: Duration = Duration::from_millis(50);
/// In between, after this part of the time since; and never for more than so much of the time.
const PART: u32 = 100;
const SHARE: u32 = 5;

/// A candidate as it is now.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// Its sockets.
    pub held: &'a [Held<'a>],
    /// The listeners that it must accept on.
    pub wanted: &'a [ListenerId],
    /// Finds all of its processes, which takes much longer than all the rest: for who has something to look for.
    pub processes: &'a dyn Fn() -> Vec<Pid>,
    /// It is the first generation: nobody else accepts.
    pub first: bool,
    /// It has called bind or listen itself.
    pub captured: bool,
    /// [`sys::spent`] before any of this was looked for.
    pub spent: Time,
}

/// How it was known, in the words of the log, which adds how long it took.
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
    /// Listeners that it was wanted on and does not accept on: a warning, and their clients stay with the old one.
    pub missing: Vec<ListenerId>,
    /// It has a listener, and was given the benefit of the doubt all the same: a warning.
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

/// What a candidate that was given up has not shown, as far as that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// It accepts, and does not say READY=1 as those before it did.
    Word,
    Accepting(Vec<ListenerId>),
    /// The last status it answered with.
    Answer {
        path: String,
        status: u16,
    },
}

/// What [`Readiness`] wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// A connection to the candidate's own socket; then [`Readiness::probed`].
    Probe(ListenerId),
    /// Run by a shell, with HOTSWAP_PID; then [`Readiness::executed`].
    Execute(String),
}

/// One candidate.
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
    /// Begins with a candidate that is started now and given up after `timeout`. If this server has ever said READY=1, it
    /// has to say it again.
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

    /// The descriptor that the candidate is to have under this number; to be closed here once it has it.
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

    /// Its descriptor is ready: look now.
    pub fn woken(&mut self) {
        if let Way::Newline(newline) = &mut self.way {
            newline.read();
        }
    }

    /// It has said READY=1, or something that means the same: look now.
    pub fn said_ready(&mut self) {
        match &mut self.way {
            Way::Auto(rule) => rule.auto.said_ready(),
            Way::Notify { said } => *said = true,
            _ => {}
        }
    }

    /// When to look again; `None` where there is nothing to look for.
    pub fn deadline(&self) -> Option<Time> {
        self.next
    }

    /// What is to be done now; to be asked for after each look.
    pub fn wishes(&mut self) -> Vec<Wish> {
        std::mem::take(&mut self.wishes)
    }

    /// The connection that was wished for, or why there is none.
    pub fn probed(&mut self, listener: ListenerId, connection: io::Result<OwnedFd>, now: Time) {
        let probe = connection.and_then(Probe::new);
        match &mut self.way {
            Way::Auto(rule) => rule.probes.made(listener, probe, now),
            Way::Tcp(probes) => probes.made(listener, probe, now),
            Way::Http(http) => http.made(probe, now),
            Way::Notify { .. } | Way::Newline(_) | Way::Execute(_) | Way::After(_) => {}
        }
    }

    /// The command that was wished for has ended, with 0 or otherwise: look now.
    pub fn executed(&mut self, succeeded: bool) {
        if let Way::Execute(execute) = &mut self.way {
            execute.ended(succeeded);
            self.next = execute.deadline();
        }
    }

    /// Looks at the candidate, and says if and how it is ready. To be called when the deadline has come and whenever
    /// something was told.
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

    /// What it is still waited for, where more is known than that.
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
        let soon = now + (age / PART).clamp(OFTEN, SELDOM).max(took * SHARE);
        match &self.way {
            Way::Auto(rule) if rule.auto.only_waits_for_word() => None,
            Way::Auto(_) | Way::Tcp(_) | Way::Http(_) => Some(soon),
            Way::Execute(execute) => execute.deadline(),
            Way::Notify { .. } | Way::Newline(_) => None,
            Way::After(after) => Some(self.started + *after),
        }
    }
}

/// The listeners on which some thread of these processes waits at this moment.
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
