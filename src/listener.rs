//! The sockets that outlive every generation, and which of them new connections go to.
//!
//! Three kinds of listener answer to one trait: a TCP address steered by a reuseport group, a unix path steered by
//! rename(2), and one socket shared by all. Nothing here waits for a client or a server, and nothing here decides when a generation is ready or
//! gone: it is told.

mod adopt;
mod beside;
mod bound_address;
mod captured;
mod captured_address;
mod context;
mod cut_over;
mod door;
mod generation_sockets;
mod handoff;
mod incident;
mod kept;
mod link;
mod listening_socket;
mod member_index;
mod muted;
mod open;
mod orphan;
mod overlap;
mod own_probes;
mod paths;
mod port_holder;
mod private_path;
mod relay;
mod reuseport;
mod shared;
mod snapshot;
mod steering;
mod summary;
mod turn_away;
mod unix_dir;
mod unix_path;
mod watcher;

use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::poll::PollFlags;
use serde::{Deserialize, Serialize};

use crate::polled::Polled;
use crate::socket::Inode;
use crate::supervisor::{Generation, Time};
pub use beside::{beside, numbers_beside, without_number};
pub use captured::{BindPlan, Replacement};
pub use captured_address::{BoundPath, CapturedAddress, PathEntry};
pub use context::{ListenerContext, SocketOptions};
use door::Door;
pub use incident::Incident;
pub use kept::{KeptAt, KeptSocket, KeptSockets};
use link::Link;
use listening_socket::ListeningSocket;
pub use orphan::{OrphanPath, OrphanSocket, Orphans};
pub use port_holder::others_at;
use private_path::PathUse;
use reuseport::ReuseportGroup;
use shared::SharedSocket;
use snapshot::Snapshots;
use steering::Steering;
use unix_path::UnixPath;

pub use crate::socket::generation_socket::{
    GenerationSocket, InheritedSocket, ListenerId, SocketKind,
};

#[derive(Serialize, Deserialize)]
pub struct Listener {
    id: ListenerId,
    name: String,
    as_given: String,
    /// The address that the server asked for, if it was captured.
    captured: Option<CapturedAddress>,
    /// Of a captured path.
    path_use: Option<PathUse>,
    /// Clients wait there for the generation that starts. Until that is ready it may close its socket, as servers do that
    /// try their port out, and bind it again.
    #[serde(default)]
    awaits_start: bool,
    #[serde(alias = "sort")]
    steering: ListenerKind,
}

#[derive(Serialize, Deserialize)]
enum ListenerKind {
    Group(ReuseportGroup),
    Path(UnixPath),
    Shared(SharedSocket),
}

impl Deref for ListenerKind {
    type Target = dyn Steering;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Group(group) => group,
            Self::Path(path) => path,
            Self::Shared(shared) => shared,
        }
    }
}

impl DerefMut for ListenerKind {
    fn deref_mut(&mut self) -> &mut Self::Target {
        match self {
            Self::Group(group) => group,
            Self::Path(path) => path,
            Self::Shared(shared) => shared,
        }
    }
}

/// Every listener of this hotswap.
pub struct Listeners {
    all: Vec<Listener>,
    context: ListenerContext,
    /// How many listeners there have been so far.
    given_out: usize,
    /// The generation that new connections go to, until it is gone.
    serving: Option<Generation>,
    /// The latest generation that was given sockets for its spawn.
    spawning: Option<Generation>,
    /// Generations up to this one are of a hotswap that is gone: nothing is made for them.
    adopted: Option<Generation>,
    /// The way to a candidate that is being checked.
    door: Option<Door>,
    /// What the links to the paths of the generation that served said before the last spawn.
    links: Option<(Generation, Vec<Link>)>,
    habits: Habits,
}

/// What servers did at addresses, whether or not there is a listener now.
#[derive(Default, Serialize, Deserialize)]
pub struct Habits {
    /// Private paths of generations that were replaced.
    bound_before: Vec<CapturedAddress>,
    /// Addresses that were closed because restarts did not bind them.
    let_go: Vec<CapturedAddress>,
    /// Those among them that the next generation did bind: nobody may wait there while it starts.
    asks_first: Vec<CapturedAddress>,
}

impl Listeners {
    /// None so far.
    fn new(context: ListenerContext) -> Self {
        Self {
            all: Vec::new(),
            context,
            given_out: 0,
            serving: None,
            spawning: None,
            adopted: None,
            door: None,
            links: None,
            habits: Habits::default(),
        }
    }

    /// The addresses, as in `listening on ...`.
    pub fn listening(&self) -> Vec<String> {
        let own = self
            .all
            .iter()
            .filter(|listener| listener.captured.is_none());
        own.map(|listener| listener.steering.address()).collect()
    }

    pub fn ids(&self) -> Vec<ListenerId> {
        self.all.iter().map(|listener| listener.id).collect()
    }

    fn get(&self, listener: ListenerId) -> Option<&Listener> {
        self.all.iter().find(|one| one.id == listener)
    }

    fn get_mut(&mut self, listener: ListenerId) -> Option<&mut Listener> {
        self.all.iter_mut().find(|one| one.id == listener)
    }

    /// The address of a listener, for users.
    pub fn address_of(&self, listener: ListenerId) -> String {
        let listener = self.get(listener);
        listener.map_or_else(String::new, |one| one.steering.address())
    }

    /// A server has bound it by itself: it is closed once no generation has it.
    pub fn is_captured(&self, listener: ListenerId) -> bool {
        self.get(listener).is_some_and(|one| one.captured.is_some())
    }

    /// The generation is gone: its sockets become spares, except the targets, in which clients wait for the next one.
    pub fn leave(&mut self, generation: Generation, now: Time) -> Vec<Incident> {
        self.close_door(generation);
        for listener in &mut self.all {
            listener.steering.leave(generation, now, &mut self.context);
        }
        let context = &mut self.context;
        context.muted.leave(generation, &context.relays, now);
        self.forget_private();
        self.died(generation);
        self.return_clients();
        self.forget_unowned();
        self.context.take_incidents()
    }

    /// New clients of a listener that had stayed with the gone generation now go to the serving one.
    fn return_clients(&mut self) {
        let Some(serving) = self.serving.filter(|_| !self.context.is_closed()) else {
            return;
        };
        let waiting = self
            .all
            .iter_mut()
            .filter(|one| one.steering.is_waiting() && !one.steering.is_parked());
        for Listener { steering, .. } in waiting {
            if let Err(error) = steering.cut_over(serving, &mut self.context) {
                self.context
                    .incident(Incident::broken(steering.address(), &error));
            }
        }
    }

    /// A connection to that generation's own socket, whichever generation serves: made, not yet accepted.
    ///
    /// # Errors
    /// `NotFound` if it has no socket there, `WouldBlock` if its queue is full, else those of connect(2).
    pub fn probe(&mut self, generation: Generation, listener: ListenerId) -> io::Result<OwnedFd> {
        let listener = self.get_mut(listener).ok_or(io::ErrorKind::NotFound)?;
        let probe = listener.steering.probe(generation)?;
        self.context.probes.add(&probe);
        Ok(probe)
    }

    /// Whether clients have come to captured sockets, so that it is worth a look whether a server has closed one of them.
    pub fn have_arrivals(&mut self, now: Time) -> bool {
        self.context.watcher.has_arrivals(now)
    }

    /// An event on one of the sockets: one was shut down, or a client came to a spare.
    pub fn woken(&mut self, now: Time) -> Vec<Incident> {
        let ready = self.context.ready(now);
        self.let_in();
        let go_on = self.context.can_go_on(now);
        for Listener { steering, .. } in &mut self.all {
            let here = ready.iter().copied();
            let here: Vec<(Inode, bool)> = here.filter(|event| steering.has(event.0)).collect();
            if !here.is_empty() || go_on {
                steering.woken(&here, &mut self.context);
            }
        }
        self.context.take_incidents()
    }

    /// The deadline has come.
    pub fn look(&mut self, now: Time) -> Vec<Incident> {
        self.context.relays.look(now);
        self.context.watcher.look(now);
        if self.context.awaited.are_overdue(now) {
            self.forget_unowned();
        }
        let again = self.context.can_go_on(now);
        if again || self.deadline().is_some_and(|deadline| deadline <= now) {
            self.with_snapshots(true, |all, context| {
                for listener in all {
                    listener.steering.look(now, context);
                }
            });
            // closed first, so that a stranger that joins next comes after them
            self.with_snapshots(true, |all, context| {
                for listener in all {
                    listener.steering.recognize(context);
                }
            });
        }
        self.context.take_incidents()
    }

    /// Does something to all listeners, with one look at the kernel's tables: at who listens, and `with_spares` at which
    /// of those are idle.
    fn with_snapshots<T>(
        &mut self,
        with_spares: bool,
        does: impl FnOnce(&mut [Listener], &mut ListenerContext) -> T,
    ) -> T {
        let asked = self.all.iter();
        let mut asked: Vec<_> = asked.filter_map(|one| one.steering.to_look_at()).collect();
        if !with_spares {
            for (_, spares) in &mut asked {
                spares.clear();
            }
        }
        self.context.snapshots = Snapshots::of(&asked);
        let done = does(&mut self.all, &mut self.context);
        self.context.snapshots = Snapshots::default();
        done
    }

    /// What still waits on this generation's sockets goes to the one that serves, before it is told to stop.
    pub fn relay_queue(&mut self, generation: Generation) -> Vec<Incident> {
        if !self.context.lets_nobody_in() {
            for Listener { steering, .. } in &self.all {
                let is_elsewhere = steering
                    .target()
                    .is_none_or(|target| target.listens && target.owner != Some(generation));
                let own = steering
                    .socket_of(generation)
                    .filter(|own| own.listens && steering.is_steered());
                if let (Some(own), Some(to)) =
                    (own.filter(|_| is_elsewhere), steering.destination())
                {
                    self.context.empty(own, &steering.address(), &to);
                }
            }
        }
        self.relay_muted_before_stop(generation);
        self.context.take_incidents()
    }
}

impl Polled for Listeners {
    fn polled(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let fds = self.context.watcher.fds();
        fds.map(|fd| (fd, PollFlags::POLLIN)).collect()
    }

    /// When to look again without an event: a spare may be closed, or a relayed connection has lasted too long.
    fn deadline(&self) -> Option<Time> {
        let spare = self
            .all
            .iter()
            .filter_map(|listener| listener.steering.deadline());
        spare.chain(self.context.deadline()).min()
    }
}

#[cfg(test)]
mod tests;
