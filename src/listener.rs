//! The sockets that outlive every generation, and which of them new connections go to.
//!
//! Three sorts of listener answer to one set of verbs: a TCP address steered by a reuseport group, a unix path steered by
//! rename(2), and one socket shared by all. Nothing here waits, and nothing here decides when a generation is ready or
//! gone: it is told.

mod captured;
mod context;
mod cut_over;
mod generation_socket;
mod hand_over;
mod incident;
mod listening_socket;
mod open;
mod port_holder;
mod relay;
mod reuseport;
mod shared;
mod snapshot;
mod steer;
mod summary;
mod unix_dir;
mod unix_path;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use nix::poll::PollFlags;
use nix::unistd::{Gid, Uid};
use serde::{Deserialize, Serialize};

use crate::address::Listen;
use crate::supervisor::{Generation, Time};
pub use captured::{BindPlan, BoundPath, CapturedAddress, PathEntry, Replacement};
pub use context::ListenerContext;
pub use generation_socket::{GenerationSocket, InheritedSocket, SocketKind};
pub use incident::Incident;
pub use listening_socket::listens;
pub use open::SO_BINDTOIFINDEX;
pub use port_holder::holders_of_port;
use reuseport::ReuseportGroup;
use shared::SharedSocket;
use snapshot::Snapshot;
use steer::Inode;
pub use unix_dir::beside;
use unix_path::UnixPath;

/// What holds for every listener.
#[derive(Clone, Debug)]
pub struct SocketOptions {
    pub backlog: u32,
    pub mode: Option<u32>,
    pub owner: Option<(Option<Uid>, Option<Gid>)>,
    pub share: bool,
}

/// One address that hotswap owns; never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ListenerId(pub usize);

/// Which socket a generation is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketSource {
    /// Its own, made now if it has none.
    Own,
    /// The one that new connections go to: a restart takes the dead one's, with the clients that wait in it.
    Target,
}

struct Listener {
    id: ListenerId,
    name: String,
    as_given: String,
    /// What the server asked for that it came with.
    captured: Option<CapturedAddress>,
    sort: ListenerKind,
}

enum ListenerKind {
    Group(ReuseportGroup),
    Path(UnixPath),
    Shared(SharedSocket),
}

impl Listener {
    fn kind(&self) -> SocketKind {
        match &self.sort {
            ListenerKind::Group(group) => SocketKind::Tcp {
                port: group.address().port(),
            },
            ListenerKind::Path(_) => SocketKind::Unix,
            ListenerKind::Shared(shared) => shared.kind(),
        }
    }

    fn has(&self, inode: Inode) -> bool {
        match &self.sort {
            ListenerKind::Group(group) => group.has(inode),
            ListenerKind::Path(path) => path.has(inode),
            ListenerKind::Shared(shared) => shared.inode() == inode,
        }
    }

    fn addr(&self) -> String {
        match &self.sort {
            ListenerKind::Group(group) => group.address().to_string(),
            ListenerKind::Path(path) => path.shown(),
            ListenerKind::Shared(shared) => shared.addr(),
        }
    }

    fn held(&self, generation: Generation) -> Option<GenerationSocket<'_>> {
        let (fd, inode, listens, steered) = match &self.sort {
            ListenerKind::Group(group) => {
                let socket = group.socket_of(generation)?;
                (socket.fd(), socket.inode, socket.listens, true)
            }
            ListenerKind::Path(path) => {
                let socket = path.socket_of(generation)?;
                (socket.fd(), socket.inode, socket.listens, true)
            }
            ListenerKind::Shared(shared) => {
                let fd = shared.fd_of(generation)?;
                (fd, shared.inode(), shared.listens(), false)
            }
        };
        Some(GenerationSocket {
            listener: self.id,
            fd,
            inode,
            kind: self.kind(),
            steered,
            captured: self.captured.is_some(),
            listens,
        })
    }
}

/// Every listener of this hotswap.
pub struct Listeners {
    all: Vec<Listener>,
    context: ListenerContext,
    /// How many listeners there have been.
    given_out: usize,
    /// The generation that new connections go to, as long as it is there.
    serving: Option<Generation>,
    /// The latest generation that was given its sockets, to be spawned with.
    spawning: Option<Generation>,
}

impl Listeners {
    /// Opens what `--listen` names, and takes over the sockets that hotswap itself was given, with their names. Beside the
    /// listeners come warnings.
    ///
    /// # Errors
    /// What cannot be listened on, and why; who has it, if /proc tells.
    pub fn open(
        listens: &[Listen],
        mut context: ListenerContext,
        inherited: Vec<(OwnedFd, String)>,
    ) -> anyhow::Result<(Self, Vec<String>)> {
        let (all, warnings) = open::all(listens, inherited, &mut context)?;
        let listeners = Self {
            given_out: all.len(),
            all,
            context,
            serving: None,
            spawning: None,
        };
        Ok((listeners, warnings))
    }

    /// The addresses, as they are said in `listening on ...`.
    pub fn listening(&self) -> Vec<String> {
        let own = self
            .all
            .iter()
            .filter(|listener| listener.captured.is_none());
        own.map(Listener::addr).collect()
    }

    /// A socket of each `--listen`ed or inherited listener for this generation, in their order.
    ///
    /// # Errors
    /// When a socket cannot be made: out of descriptors or memory.
    pub fn inherited_sockets(
        &mut self,
        generation: Generation,
        sockets: SocketSource,
    ) -> io::Result<Vec<InheritedSocket>> {
        let mut inherited_sockets = Vec::new();
        let snapshot = self.snapshot();
        self.spawning = self.spawning.max(Some(generation));
        for listener in &mut self.all {
            let captured = listener.captured.is_some();
            // one that it has not bound yet is kept for it, with the clients that wait there
            if captured && sockets == SocketSource::Own {
                continue;
            }
            let fd = match &mut listener.sort {
                ListenerKind::Group(group) => {
                    group.inherited_socket(generation, sockets, &snapshot, &mut self.context)?
                }
                ListenerKind::Path(path) => {
                    path.inherited_socket(generation, sockets, &self.context)?
                }
                ListenerKind::Shared(_) if captured => continue,
                ListenerKind::Shared(shared) => {
                    shared.inherited_socket(generation, &self.context)?
                }
            };
            if captured {
                continue;
            }
            let kind = listener.kind();
            let addr = listener.addr();
            // what tells it from TCP is for users: a server binds the bare address
            let (addr, port) = match kind {
                SocketKind::Tcp { port } => (addr, Some(port)),
                SocketKind::Udp { .. } => (addr.replacen("udp:", "", 1), None),
                SocketKind::Unix | SocketKind::Abstract | SocketKind::Other => (addr, None),
            };
            inherited_sockets.push(InheritedSocket {
                name: listener.name.clone(),
                as_given: listener.as_given.clone(),
                addr,
                port,
                kind,
                fd,
            });
        }
        self.settle(generation)?;
        Ok(inherited_sockets)
    }

    /// What a listener is called in the words for users.
    pub fn address_of(&self, listener: ListenerId) -> String {
        let listener = self.all.iter().find(|other| other.id == listener);
        listener.map(Listener::addr).unwrap_or_default()
    }

    #[cfg(test)]
    /// Whether it holds a socket of any listener.
    pub fn has_socket(&self, generation: Generation) -> bool {
        self.all
            .iter()
            .any(|listener| listener.held(generation).is_some())
    }

    /// The sockets that this generation holds.
    pub fn sockets_of(&self, generation: Generation) -> Vec<GenerationSocket<'_>> {
        let held = self.all.iter().map(|listener| listener.held(generation));
        held.flatten().collect()
    }

    /// The generation is gone: its sockets are parked, but for those that new connections go to, in which clients wait
    /// for the next.
    pub fn leave(&mut self, generation: Generation, now: Time) -> Vec<Incident> {
        for listener in &mut self.all {
            match &mut listener.sort {
                ListenerKind::Group(group) => group.leave(generation, now, &mut self.context),
                ListenerKind::Path(path) => path.leave(generation, now, &mut self.context),
                ListenerKind::Shared(shared) => shared.leave(generation),
            }
        }
        self.died(generation);
        self.return_clients();
        self.forget_unowned();
        self.context.take_incidents()
    }

    /// Clients that had stayed with a generation that is gone now go to the one that serves.
    fn return_clients(&mut self) {
        let Some(serving) = self.serving else { return };
        for listener in &mut self.all {
            let result = match &mut listener.sort {
                ListenerKind::Group(group) if group.is_waiting() => {
                    group.cut_over(serving, &mut self.context)
                }
                ListenerKind::Path(path) if path.is_waiting() => {
                    path.cut_over(serving, &mut self.context)
                }
                ListenerKind::Group(_) | ListenerKind::Path(_) | ListenerKind::Shared(_) => {
                    continue;
                }
            };
            if let Err(error) = result {
                let (listener, why) = (listener.addr(), error.to_string());
                self.context.incident(Incident::Broken { listener, why });
            }
        }
    }

    /// A connection of ours to that generation's own socket, whoever serves: made, not yet accepted.
    ///
    /// # Errors
    /// `NotFound` if it has no socket there, `WouldBlock` if its queue is full, else those of connect(2).
    pub fn probe(&mut self, generation: Generation, listener: ListenerId) -> io::Result<OwnedFd> {
        let listener = self.all.iter_mut().find(|other| other.id == listener);
        match listener.map(|listener| &mut listener.sort) {
            Some(ListenerKind::Group(group)) => group.probe(generation),
            Some(ListenerKind::Path(path)) => path.probe(generation),
            Some(ListenerKind::Shared(shared)) => shared.probe(generation),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub fn polled(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        vec![(self.context.fd(), PollFlags::POLLIN)]
    }

    /// Something has happened on one of the sockets: one was shut down, or a client came to a parked one.
    pub fn woken(&mut self, _fd: RawFd, _flags: PollFlags, now: Time) -> Vec<Incident> {
        let ready = self.context.ready(now);
        for listener in &mut self.all {
            let here = ready.iter().copied();
            let here: Vec<_> = here.filter(|event| listener.has(event.0)).collect();
            match &mut listener.sort {
                _ if here.is_empty() => {}
                ListenerKind::Group(group) => group.woken(&here, &mut self.context),
                ListenerKind::Path(path) => path.woken(&here, &mut self.context),
                ListenerKind::Shared(shared) => shared.woken(&mut self.context),
            }
        }
        self.context.take_incidents()
    }

    /// When to look again without being woken: when a parked socket may be closed, or a relayed connection lasts too long.
    pub fn deadline(&self) -> Option<Time> {
        let spare = self.groups().filter_map(ReuseportGroup::deadline).min();
        spare.into_iter().chain(self.context.deadline()).min()
    }

    /// The deadline has come.
    pub fn look(&mut self, now: Time) -> Vec<Incident> {
        let again = self.context.look(now);
        if again || self.deadline().is_some_and(|deadline| deadline <= now) {
            let snapshot = self.snapshot();
            for listener in &mut self.all {
                if let ListenerKind::Group(group) = &mut listener.sort {
                    group.reap(&snapshot, now, &mut self.context);
                    group.update_interests(&mut self.context);
                }
            }
            // what was closed is closed: a stranger that comes next comes after it
            let snapshot = self.snapshot();
            for listener in &mut self.all {
                if let ListenerKind::Group(group) = &mut listener.sort {
                    group.recognize(&snapshot, &mut self.context);
                }
            }
        }
        self.context.take_incidents()
    }

    fn groups(&self) -> impl Iterator<Item = &ReuseportGroup> {
        self.all.iter().filter_map(|listener| match &listener.sort {
            ListenerKind::Group(group) => Some(group),
            ListenerKind::Path(_) | ListenerKind::Shared(_) => None,
        })
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot::of(&self.groups().collect::<Vec<_>>())
    }

    /// hotswap stops: what is shut down now stays so.
    pub fn stop_repairing(&mut self) {
        self.context.repairs = false;
    }
}

#[cfg(test)]
mod tests;
