//! Everything that is kept of a spawned generation until it is gone: its processes, sockets, readiness and drain.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::waivers::Waivers;
use crate::capture::Capture;
use crate::drain::Drain;
use crate::listener::{GenerationSocket, ListenerId, Listeners};
use crate::polled::Polled;
use crate::ready::notify::NotifySocket;
use crate::ready::{Rank, Readiness};
use crate::server::Server;
use crate::server::environment::Variables;
use crate::supervisor::{Generation, Time};

/// An upgrade carries it over. Skipped fields belong to a candidate, which an upgrade lets end first, or they are set
/// again after it.
#[allow(clippy::struct_excessive_bools, reason = "each says one thing")]
#[derive(Serialize, Deserialize)]
pub(super) struct Spawned {
    pub server: Server,
    /// Where its calls of bind(2) are answered, as long as one of its processes may make one.
    pub capture: Option<Capture>,
    pub notify: NotifySocket,
    /// How it shows that it is ready, until it has.
    #[serde(skip)]
    pub readiness: Option<Readiness>,
    /// What it still has to do, once new connections go elsewhere. The core says after an upgrade where it is.
    #[serde(skip)]
    pub drain: Option<Drain>,
    /// Restarts in a row that led to it.
    pub restarts: u32,
    /// What showed that it was ready, and how long after the spawn.
    pub ready: Option<(String, Duration)>,
    pub serving_since: Option<Time>,
    pub drains_since: Option<Time>,
    pub said_ready: bool,
    /// What it inherited, until it serves.
    #[serde(skip)]
    pub variables: Variables,
    /// What it is to those before it.
    #[serde(skip)]
    pub rank: Rank,
    #[serde(skip)]
    pub waivers: Waivers,
    /// How long it may take to get ready.
    pub ready_timeout: Duration,
    /// Its main process has exited with 0, and the core has not heard of it yet.
    pub lingers: Option<Lingering>,
    /// Since when it listens on sockets that it has bound itself.
    pub bound: BTreeMap<ListenerId, Time>,
    /// It has listened on a socket that it bound itself, rather than on one that is kept for it.
    #[serde(default)]
    pub has_bound: bool,
    /// It has bound something in a network namespace where hotswap cannot.
    #[serde(default)]
    pub is_in_other_network: bool,
    /// It served, and is dead.
    #[serde(default)]
    pub is_lost: bool,
    /// It was called ready, and accepted on nothing then.
    #[serde(default)]
    pub accepted_nowhere: bool,
    /// Where it was seen accepting.
    pub accepts: Vec<ListenerId>,
    /// Where the one before it accepts, and it was not seen to.
    pub missing: Vec<ListenerId>,
    /// Where it listens beside the listeners of this hotswap, which has adopted it.
    #[serde(default)]
    pub elsewhere: Vec<String>,
}

/// After the main process exits with 0: how long to look for a daemon among the others.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Lingering {
    /// When to look.
    #[serde(skip)]
    pub next: Time,
    until: Time,
    /// From when on it is enough that nobody could become one.
    #[serde(skip)]
    at_least: Time,
}

impl Lingering {
    const AT_LEAST: Duration = Duration::from_millis(20);
    /// For workers that are busy, and accept again in a moment.
    const TIME: Duration = Duration::from_millis(250);
    /// For one that is still about to fork again, and to make its session.
    const TIME_AT_START: Duration = Duration::from_secs(1);
    const BETWEEN_LOOKS: Duration = Duration::from_millis(1);

    pub fn begin(now: Time, has_served: bool) -> Self {
        let time = if has_served {
            Self::TIME
        } else {
            Self::TIME_AT_START
        };
        Self {
            next: now,
            until: now + time,
            at_least: now + Self::AT_LEAST,
        }
    }

    /// `may_still` is that others of it live which could be, or come to be, a daemon.
    pub fn is_over(self, now: Time, may_still: bool) -> bool {
        self.until <= now || (self.at_least <= now && !may_still)
    }

    /// The less time is left, the sooner.
    pub fn again(self, now: Time) -> Self {
        let left = self.until.saturating_sub(now);
        Self {
            next: now + Self::BETWEEN_LOOKS.max(left / 64),
            ..self
        }
    }
}

impl Polled for Lingering {
    fn deadline(&self) -> Option<Time> {
        Some(self.next)
    }
}

/// What a generation has in the poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Server,
    Capture,
    Notify,
    Readiness,
    Drain,
    Lingering,
}

impl Spawned {
    pub fn new(server: Server, notify: NotifySocket) -> Self {
        Self {
            server,
            capture: None,
            notify,
            readiness: None,
            drain: None,
            restarts: 0,
            ready: None,
            serving_since: None,
            drains_since: None,
            said_ready: false,
            variables: Variables::new(),
            rank: Rank::First,
            waivers: Waivers::default(),
            ready_timeout: Duration::ZERO,
            lingers: None,
            bound: BTreeMap::new(),
            has_bound: false,
            is_in_other_network: false,
            is_lost: false,
            accepted_nowhere: false,
            accepts: Vec::new(),
            missing: Vec::new(),
            elsewhere: Vec::new(),
        }
    }

    /// New connections go to it, and it is alive.
    pub fn serves(&self) -> bool {
        let drains = self.drains_since.is_some() || self.is_lost;
        self.serving_since.is_some() && !drains
    }

    /// New connections may go to it, and it has shown that it accepts them.
    pub fn gets_clients(&self) -> bool {
        let drains = self.drains_since.is_some() || self.is_lost;
        self.ready.is_some() && !drains
    }

    /// Whether it has bound that itself: what is kept for it of a dead generation it may never bind.
    pub fn has_bound_to(&self, listener: ListenerId) -> bool {
        let capture = self.capture.as_ref();
        capture.map_or(self.has_bound, |capture| capture.listens_on(listener))
    }

    /// Its sockets. It does not listen on what is kept for it before it has bound that itself.
    pub fn sockets<'a>(
        &self,
        generation: Generation,
        listeners: &'a Listeners,
    ) -> Vec<GenerationSocket<'a>> {
        let mut all = listeners.sockets_of(generation);
        let is_kept =
            |one: &&mut GenerationSocket| one.captured && !self.has_bound_to(one.listener);
        for kept in all.iter_mut().filter(is_kept) {
            (kept.fd, kept.listens) = (None, false);
        }
        all
    }

    /// Captured listeners that it has bound itself.
    pub fn listens_on(&self, generation: Generation, listeners: &Listeners) -> Vec<ListenerId> {
        let all = self.sockets(generation, listeners);
        let own = all.iter().filter(|one| one.captured && one.listens);
        own.map(|one| one.listener).collect()
    }

    /// It is told to end, or clients go elsewhere.
    pub fn begin_draining(&mut self, now: Time, listeners: &Listeners) {
        self.readiness = None;
        if let Some(capture) = &mut self.capture {
            capture.guard_paths(listeners);
        }
        self.drains_since.get_or_insert(now);
    }

    /// What of it waits in the poll.
    pub fn rooms(&self) -> impl Iterator<Item = (Part, &dyn Polled)> {
        let readiness = self.readiness.as_ref().filter(|_| self.server.runs());
        let rooms: [(Part, Option<&dyn Polled>); 6] = [
            (Part::Server, Some(&self.server)),
            (Part::Capture, self.capture.as_ref().map(|room| room as _)),
            (Part::Notify, Some(&self.notify)),
            (Part::Readiness, readiness.map(|room| room as _)),
            (Part::Drain, self.drain.as_ref().map(|room| room as _)),
            (Part::Lingering, self.lingers.as_ref().map(|room| room as _)),
        ];
        rooms
            .into_iter()
            .filter_map(|(part, room)| Some((part, room?)))
    }

    /// Nothing of it is left: no process that belongs to it, and none under its filter, unless that could not be killed
    /// because nothing proves whose it is.
    pub fn is_gone(&self) -> bool {
        let is_let_go = self.capture.is_none() || self.server.is_doomed();
        self.server.is_gone() && is_let_go && self.lingers.is_none()
    }

    /// Before a signal is sent, which is for the one that has bound.
    pub fn note_binder(&mut self) {
        if let Some(binder) = self.binder() {
            self.server.bound_by(binder);
        }
    }

    /// Who is asked to end: not a wrapper, which would leave the server behind.
    pub fn binder(&self) -> Option<Pid> {
        self.capture.as_ref().and_then(Capture::stop_target)
    }
}
