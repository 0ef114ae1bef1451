//! The sockets that outlive every generation, and which of them new connections go to.
//!
//! Three sorts of listener answer to one set of verbs: a TCP address steered by a reuseport group, a unix path steered by
//! rename(2), and one socket shared by all. Nothing here waits, and nothing here decides when a generation is ready or
//! gone: it is told.

mod captured;
mod cut_over;
mod group;
mod hand_over;
mod means;
mod note;
mod open;
mod owner;
mod path;
mod place;
mod relay;
mod seat;
mod shared;
mod shown;
mod socket;
mod steer;
mod survey;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use nix::poll::PollFlags;
use nix::unistd::{Gid, Uid};

use crate::address::Listen;
use crate::supervisor::{Generation, Time};
pub use captured::{BoundPath, CapturedAddress, Given, Plan, Spot};
use group::Group;
pub use means::Means;
pub use note::Note;
pub use open::SO_BINDTOIFINDEX;
pub use owner::holders_of_port;
use path::UnixPath;
pub use place::beside;
pub use seat::{Held, Kind, Seat};
use shared::Shared;
pub use socket::listens;
use steer::Inode;
use survey::Survey;

/// What holds for every listener.
#[derive(Clone, Debug)]
pub struct SocketOptions {
    pub backlog: u32,
    pub mode: Option<u32>,
    pub owner: Option<(Option<Uid>, Option<Gid>)>,
    pub share: bool,
}

/// One address that hotswap owns; never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(pub usize);

/// Which socket a generation is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sockets {
    /// Its own, made now if it has none.
    Own,
    /// The one that new connections go to: a restart takes the dead one's, with the clients that wait in it.
    Target,
}

struct Listener {
    id: ListenerId,
    name: String,
    spelled: String,
    /// What the server asked for that it came with.
    captured: Option<CapturedAddress>,
    sort: Sort,
}

enum Sort {
    Group(Group),
    Path(UnixPath),
    Shared(Shared),
}

impl Listener {
    fn kind(&self) -> Kind {
        match &self.sort {
            Sort::Group(group) => Kind::Tcp {
                port: group.address().port(),
            },
            Sort::Path(_) => Kind::Unix,
            Sort::Shared(shared) => shared.kind(),
        }
    }

    fn has(&self, inode: Inode) -> bool {
        match &self.sort {
            Sort::Group(group) => group.has(inode),
            Sort::Path(path) => path.has(inode),
            Sort::Shared(shared) => shared.inode() == inode,
        }
    }

    fn addr(&self) -> String {
        match &self.sort {
            Sort::Group(group) => group.address().to_string(),
            Sort::Path(path) => path.shown(),
            Sort::Shared(shared) => shared.addr(),
        }
    }

    fn held(&self, generation: Generation) -> Option<Held<'_>> {
        let (fd, inode, listens, steered) = match &self.sort {
            Sort::Group(group) => {
                let socket = group.socket_of(generation)?;
                (socket.fd(), socket.inode, socket.listens, true)
            }
            Sort::Path(path) => {
                let socket = path.socket_of(generation)?;
                (socket.fd(), socket.inode, socket.listens, true)
            }
            Sort::Shared(shared) => {
                let fd = shared.fd_of(generation)?;
                (fd, shared.inode(), shared.listens(), false)
            }
        };
        Some(Held {
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
    means: Means,
    /// How many listeners there have been.
    given_out: usize,
    /// The generation that new connections go to, as long as it is there.
    serving: Option<Generation>,
    /// The latest generation that was given its sockets, to be spawned with.
    seated: Option<Generation>,
}

impl Listeners {
    /// Opens what `--listen` names, and takes over the sockets that hotswap itself was given, with their names. Beside the
    /// listeners come warnings.
    ///
    /// # Errors
    /// What cannot be listened on, and why; who has it, if /proc tells.
    pub fn open(
        listens: &[Listen],
        mut means: Means,
        inherited: Vec<(OwnedFd, String)>,
    ) -> anyhow::Result<(Self, Vec<String>)> {
        let (all, warnings) = open::all(listens, inherited, &mut means)?;
        let listeners = Self {
            given_out: all.len(),
            all,
            means,
            serving: None,
            seated: None,
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
    pub fn seats(&mut self, generation: Generation, sockets: Sockets) -> io::Result<Vec<Seat>> {
        let mut seats = Vec::new();
        let survey = self.survey();
        self.seated = self.seated.max(Some(generation));
        for listener in &mut self.all {
            let captured = listener.captured.is_some();
            // one that it has not bound yet is kept for it, with the clients that wait there
            if captured && sockets == Sockets::Own {
                continue;
            }
            let fd = match &mut listener.sort {
                Sort::Group(group) => group.seat(generation, sockets, &survey, &mut self.means)?,
                Sort::Path(path) => path.seat(generation, sockets, &self.means)?,
                Sort::Shared(_) if captured => continue,
                Sort::Shared(shared) => shared.seat(generation, &self.means)?,
            };
            if captured {
                continue;
            }
            let kind = listener.kind();
            let addr = listener.addr();
            // what tells it from TCP is for users: a server binds the bare address
            let (addr, port) = match kind {
                Kind::Tcp { port } => (addr, Some(port)),
                Kind::Udp { .. } => (addr.replacen("udp:", "", 1), None),
                Kind::Unix | Kind::Abstract | Kind::Other => (addr, None),
            };
            seats.push(Seat {
                name: listener.name.clone(),
                spelled: listener.spelled.clone(),
                addr,
                port,
                kind,
                fd,
            });
        }
        self.settle(generation)?;
        Ok(seats)
    }

    /// What a listener is called in the words for users.
    pub fn address_of(&self, listener: ListenerId) -> String {
        let listener = self.all.iter().find(|other| other.id == listener);
        listener.map(Listener::addr).unwrap_or_default()
    }

    #[cfg(test)]
    /// Whether it holds a socket of any listener.
    pub fn has_seat(&self, generation: Generation) -> bool {
        self.all
            .iter()
            .any(|listener| listener.held(generation).is_some())
    }

    /// The sockets that this generation holds.
    pub fn sockets_of(&self, generation: Generation) -> Vec<Held<'_>> {
        let held = self.all.iter().map(|listener| listener.held(generation));
        held.flatten().collect()
    }

    /// The generation is gone: its sockets are parked, but for those that new connections go to, in which clients wait
    /// for the next.
    pub fn leave(&mut self, generation: Generation, now: Time) -> Vec<Note> {
        for listener in &mut self.all {
            match &mut listener.sort {
                Sort::Group(group) => group.leave(generation, now, &mut self.means),
                Sort::Path(path) => path.leave(generation, now, &mut self.means),
                Sort::Shared(shared) => shared.leave(generation),
            }
        }
        self.died(generation);
        self.bring_home();
        self.forget_unowned();
        self.means.take_notes()
    }

    /// Clients that had stayed with a generation that is gone now go to the one that serves.
    fn bring_home(&mut self) {
        let Some(serving) = self.serving else { return };
        for listener in &mut self.all {
            let result = match &mut listener.sort {
                Sort::Group(group) if group.is_waiting() => {
                    group.cut_over(serving, &mut self.means)
                }
                Sort::Path(path) if path.is_waiting() => path.cut_over(serving, &mut self.means),
                Sort::Group(_) | Sort::Path(_) | Sort::Shared(_) => continue,
            };
            if let Err(error) = result {
                let (listener, why) = (listener.addr(), error.to_string());
                self.means.note(Note::Broken { listener, why });
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
            Some(Sort::Group(group)) => group.probe(generation),
            Some(Sort::Path(path)) => path.probe(generation),
            Some(Sort::Shared(shared)) => shared.probe(generation),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub fn polled(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        vec![(self.means.fd(), PollFlags::POLLIN)]
    }

    /// Something has happened on one of the sockets: one was shut down, or a client came to a parked one.
    pub fn woken(&mut self, _fd: RawFd, _flags: PollFlags, now: Time) -> Vec<Note> {
        let ready = self.means.ready(now);
        for listener in &mut self.all {
            let here = ready.iter().copied();
            let here: Vec<_> = here.filter(|event| listener.has(event.0)).collect();
            match &mut listener.sort {
                _ if here.is_empty() => {}
                Sort::Group(group) => group.woken(&here, &mut self.means),
                Sort::Path(path) => path.woken(&here, &mut self.means),
                Sort::Shared(shared) => shared.woken(&mut self.means),
            }
        }
        self.means.take_notes()
    }

    /// When to look again without being woken: when a parked socket may be closed, or a relayed connection lasts too long.
    pub fn deadline(&self) -> Option<Time> {
        let parked = self.groups().filter_map(Group::deadline).min();
        parked.into_iter().chain(self.means.deadline()).min()
    }

    /// The deadline has come.
    pub fn look(&mut self, now: Time) -> Vec<Note> {
        let again = self.means.look(now);
        if again || self.deadline().is_some_and(|deadline| deadline <= now) {
            let survey = self.survey();
            for listener in &mut self.all {
                if let Sort::Group(group) = &mut listener.sort {
                    group.reap(&survey, now, &mut self.means);
                    group.tend(&mut self.means);
                }
            }
            // what was closed is closed: a stranger that comes next comes after it
            let survey = self.survey();
            for listener in &mut self.all {
                if let Sort::Group(group) = &mut listener.sort {
                    group.recognize(&survey, &mut self.means);
                }
            }
        }
        self.means.take_notes()
    }

    fn groups(&self) -> impl Iterator<Item = &Group> {
        self.all.iter().filter_map(|listener| match &listener.sort {
            Sort::Group(group) => Some(group),
            Sort::Path(_) | Sort::Shared(_) => None,
        })
    }

    fn survey(&self) -> Survey {
        Survey::of(&self.groups().collect::<Vec<_>>())
    }

    /// hotswap stops: what is shut down now stays so.
    pub fn stop_repairing(&mut self) {
        self.means.repairs = false;
    }
}

#[cfg(test)]
mod tests;
