//! How we know that a candidate accepts connections, in each of the modes of `--ready`.
//!
//! It never judges whether there is still time, and it makes no connection and runs no command itself: it says what it
//! wants done, and is told the result.

mod auto;
mod blocked_threads;
mod cpu_use;
mod exec;
mod fd;
mod glance;
pub mod http;
mod mode;
pub mod notify;
mod observe;
mod outcome;
mod outside;
mod pace;
mod probe;
mod reason;
mod stopped;
mod target;
mod view;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::poll::PollFlags;

use crate::listener::ListenerId;
use crate::polled::Polled;
use crate::supervisor::{Exit, Time};
use crate::sys;
use auto::Auto;
pub use auto::{Need, Rank};
use exec::ExecCommand;
use fd::ReadyFd;
pub use glance::Glance;
use http::Http;
pub use mode::ReadyMode;
pub use observe::accepting_on;
use observe::{Observer, look_by_probes};
pub use outcome::{Ready, ReadyBy};
use pace::LookPace;
use probe::{Probe, Probes};
pub use reason::{NotReadyReason, hint_at_stopped, stopped_by};
use stopped::StoppedProcesses;
pub use stopped::{Stopped, stopped_among};
use target::{ReadyTarget, targets};
pub use view::{CandidateView, Required};

/// A first generation is given the benefit of the doubt this long before the ready timeout, or a tenth of it.
const MARGIN: Duration = Duration::from_millis(100);
/// A candidate that is not ready by then gets a line that says what is waited for, if it has twice that time or more.
const LATE: Duration = Duration::from_secs(5);

/// What the user should know of a candidate that is not ready yet; each is said once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadyNotice {
    /// A first generation has been there for a while, and listens nowhere.
    ListensNowhere,
    /// It has been there for a while, and is not ready.
    NotYet,
    Stopped(Stopped),
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
    pace: LookPace,
    glance: Option<Glance>,
    /// How and when the mode was satisfied, apart from the addresses.
    satisfied: Option<(ReadyBy, Time)>,
    /// Where it must accept and has not yet, at the last look.
    missing: Vec<ListenerId>,
    stopped: StoppedProcesses,
    /// When it is late, until that was said.
    late_at: Option<Time>,
    notices: Vec<ReadyNotice>,
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
                let give_up = started + timeout.saturating_sub(MARGIN.min(timeout / 10));
                Method::Auto(Observer {
                    auto: Auto::new(started, give_up, said_before),
                    probes: Probes::default(),
                    all_seen: Time::ZERO,
                })
            }
            ReadyMode::Tcp => Method::Tcp(Probes::default()),
            ReadyMode::Http { host, path } => {
                Method::Http(Http::new(host.as_deref(), path, started))
            }
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
        let is_told = !matches!(mode, ReadyMode::After(_)) && timeout >= LATE * 2;
        Ok(Self {
            started,
            next,
            late_at: is_told.then_some(started + LATE),
            requests: Vec::new(),
            method,
            pace: LookPace::new(started),
            glance: None,
            satisfied: None,
            missing: Vec::new(),
            stopped: StoppedProcesses::new(started),
            notices: Vec::new(),
        })
    }

    /// The descriptor that the candidate gets under this number. The caller closes it after the spawn.
    pub fn take_descriptor(&mut self) -> Option<(RawFd, OwnedFd)> {
        match &mut self.method {
            Method::ReadyFd(newline) => Some((newline.number, newline.take_theirs()?)),
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

    /// The candidate has said `STATUS=`, as servers do that say READY=1. Whether that is news.
    pub fn said_status(&mut self) -> bool {
        match &mut self.method {
            Method::Auto(rule) => rule.auto.said_status(),
            _ => false,
        }
    }

    /// A request waits for the verdict on it. The caller looks next.
    pub fn is_waited_for(&mut self) {
        if let Method::Auto(rule) = &mut self.method {
            rule.auto.is_waited_for();
        }
    }

    /// What the last look wants done.
    pub fn requests(&mut self) -> Vec<ReadyRequest> {
        std::mem::take(&mut self.requests)
    }

    /// What the user should know, each only once.
    pub fn take_notices(&mut self) -> Vec<ReadyNotice> {
        std::mem::take(&mut self.notices)
    }

    /// Those of its processes that were stopped at the last look.
    pub fn stopped(&self) -> &[Stopped] {
        self.stopped.all()
    }

    /// The result of [`ReadyRequest::Probe`].
    pub fn probed(&mut self, listener: ListenerId, connection: io::Result<OwnedFd>, now: Time) {
        let probe = connection.and_then(Probe::new);
        match &mut self.method {
            Method::Auto(rule) => rule.probes.made(listener, probe, now),
            Method::Tcp(probes) => probes.made(listener, probe, now),
            Method::Http(http) => http.made(probe, now),
            _ => {}
        }
    }

    /// The command of [`ReadyRequest::ExecCommand`] has ended. The caller looks next.
    pub fn executed(&mut self, exit: Exit) {
        if let Method::ExecCommand(execute) = &mut self.method {
            execute.ended(exit);
            self.next = execute.deadline();
        }
    }

    /// Looks at the candidate; `Some` once it is ready. The caller looks at the deadline and after every event.
    pub fn look(&mut self, now: Time, view: &CandidateView) -> Option<Ready> {
        // before all that is looked at
        let used = sys::cpu_time_of(view.main);
        let mut ready = self.judge(now, view);
        let stopped = self.stopped.look(now, view, ready.is_some()).into_iter();
        self.notices.extend(stopped.map(ReadyNotice::Stopped));
        if let Some(ready) = &mut ready {
            ready.accepts = self.accepts(view);
        }
        let took = sys::cpu_time().saturating_sub(view.cpu_time);
        if ready.is_none() && self.late_at.take_if(|late| *late <= now).is_some() {
            let is_said = self.notices.contains(&ReadyNotice::ListensNowhere);
            self.notices
                .extend((!is_said).then_some(ReadyNotice::NotYet));
        }
        let next = self.next_look(now, took, view.rank);
        let is_seen = matches!(self.method, Method::Auto(_)) && view.rank != Rank::First;
        let glance = || self.pace.glance(now, view.main, used);
        self.glance = (next.is_some() && is_seen).then(glance);
        self.next = next.into_iter().chain(self.late_at).min();
        let mut stopped = self.stopped.all().iter();
        let main_is_stopped = stopped.any(|stopped| stopped.pid == view.main);
        ready.filter(|_| !main_is_stopped)
    }

    fn judge(&mut self, now: Time, view: &CandidateView) -> Option<Ready> {
        match &mut self.method {
            Method::Auto(rule) => {
                let ready = rule.look(now, view, &mut self.requests);
                if rule.auto.take_explanation(now) {
                    self.notices.push(ReadyNotice::ListensNowhere);
                }
                return ready;
            }
            Method::Tcp(probes) => {
                let (missing, accepted) = look_by_probes(probes, now, view, &mut self.requests);
                self.missing = missing;
                if accepted {
                    self.satisfied.get_or_insert((ReadyBy::AcceptedAProbe, now));
                }
            }
            _ => {
                self.missing = view.does_not_listen();
                if self.satisfied.is_none() {
                    self.satisfied = self.look_by_mode(now, view).map(|how| (how, now));
                }
            }
        }
        let (how, since) = self.satisfied.clone()?;
        let forgiven = view
            .patience
            .is_some_and(|patience| now >= since + patience);
        let is_ready = self.missing.is_empty() || forgiven;
        is_ready.then(|| Ready {
            missing: self.missing.clone(),
            ..how.into()
        })
    }

    /// In the modes that know nothing of the addresses.
    fn look_by_mode(&mut self, now: Time, view: &CandidateView) -> Option<ReadyBy> {
        match &mut self.method {
            Method::Auto(_) | Method::Tcp(_) => None,
            Method::Http(http) => {
                let mut targets = targets(view);
                targets.retain(ReadyTarget::can_be_probed);
                targets.sort_by_key(|target| !target.is_tcp());
                let first = targets.first().map(|target| target.listener);
                http.look(now, first, &mut self.requests)
            }
            Method::ExecCommand(execute) => execute.look(now, &mut self.requests),
            Method::Notify { said } => said.then_some(ReadyBy::SaidReady),
            Method::ReadyFd(newline) => {
                let number = newline.number;
                newline.came().then_some(ReadyBy::ReadyFd(number))
            }
            Method::After(after) => (now >= self.started + *after).then_some(ReadyBy::Assumed),
        }
    }

    fn accepts(&self, view: &CandidateView) -> Vec<ListenerId> {
        match &self.method {
            Method::Auto(rule) => rule.auto.accepts(),
            Method::Tcp(probes) => probes.accepted(),
            _ => {
                let listening = view
                    .held
                    .iter()
                    .filter(|held| held.listens || !held.captured);
                listening.map(|held| held.listener).collect()
            }
        }
    }

    /// What it has not shown yet, as it was seen last; if that is known.
    pub fn not_ready_reason(&self, name: &dyn Fn(ListenerId) -> String) -> Option<NotReadyReason> {
        if let Some(stopped) = self.stopped.all().first() {
            return Some(NotReadyReason::Stopped(stopped.signal));
        }
        let missing: Vec<String> = self.missing.iter().map(|one| name(*one)).collect();
        let missing = (!missing.is_empty()).then_some(NotReadyReason::DoesNotAccept(missing));
        if self.satisfied.is_some() {
            return missing;
        }
        match &self.method {
            Method::Auto(rule) => rule.auto.not_ready_reason(name),
            Method::Tcp(_) => missing.or(Some(NotReadyReason::NothingToAsk)),
            Method::Http(http) => {
                let nothing = (!http.has_target()).then_some(NotReadyReason::NothingToAsk);
                http.not_ready_reason().or(missing).or(nothing)
            }
            Method::Notify { .. } => Some(NotReadyReason::NoReadyMessage),
            Method::ReadyFd(newline) => Some(NotReadyReason::NoNewline(newline.number)),
            Method::ExecCommand(execute) => execute.not_ready_reason(),
            Method::After(_) => None,
        }
    }

    /// How to see in between whether another look is worth it.
    pub fn glance(&self) -> Option<Glance> {
        self.glance
    }

    fn next_look(&mut self, now: Time, took: Duration, rank: Rank) -> Option<Time> {
        let listens_since = match &self.method {
            Method::Auto(rule) => rule.auto.listens_since(),
            _ => None,
        };
        let soon = self.pace.next_look(now, took, rank, listens_since);
        match &self.method {
            Method::Auto(rule) if rule.auto.only_lacks_ready_message() => {
                rule.auto.waits_for_message_until(rank)
            }
            _ if self.satisfied.is_some() => Some(soon),
            Method::Auto(_) | Method::Tcp(_) | Method::Http(_) => Some(soon),
            Method::ExecCommand(execute) => execute.deadline(),
            Method::Notify { .. } | Method::ReadyFd(_) => None,
            Method::After(after) => Some(self.started + *after),
        }
    }
}

impl Polled for Readiness {
    fn polled(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let fd = match &self.method {
            Method::ReadyFd(newline) => newline.ours(),
            _ => None,
        };
        Vec::from_iter(fd.map(|fd| (fd, PollFlags::POLLIN)))
    }

    /// When to look again; `None` if there is nothing to look for.
    fn deadline(&self) -> Option<Time> {
        self.next
    }
}

#[cfg(test)]
mod tests;
