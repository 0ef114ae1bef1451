//! Listeners that came with a server: it binds, and what it binds becomes a listener like those of `--listen`.
//!
//! Nothing is bound here: that is done with the server's own rights. Here it is decided who gets which socket.

mod address;

use std::ffi::OsStr;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

pub use address::{BoundPath, CapturedAddress, Spot};

use super::group::Group;
use super::means::Means;
use super::path::UnixPath;
use super::place::Place;
use super::shared::Shared;
use super::steer::Inode;
use super::{Kind, Listener, ListenerId, Listeners, Sockets, Sort, Survey};
use crate::address::covers;
use crate::supervisor::{Generation, Time};
use crate::sys;

/// What becomes of a bind(2) that no `--listen`ed address covers.
#[derive(Debug)]
pub enum Plan {
    /// Nobody else is to be there.
    Alone,
    /// Beside the sockets of other generations.
    Join,
    /// The server is given this one in the place of its own.
    Instead(Given),
}

/// A socket for a server that has made one of its own.
#[derive(Debug)]
pub struct Given {
    /// None before anybody has listened on it.
    pub listener: Option<ListenerId>,
    pub socket: OwnedFd,
    /// It is this generation's alone.
    pub steered: bool,
}

impl Listeners {
    /// A listener of `--listen`, or one that hotswap was given, at which this bind(2) is meant: of the same port, and
    /// equal, or one of them a wildcard.
    pub fn covering(&self, asked: &CapturedAddress) -> Option<ListenerId> {
        let own = || {
            self.all
                .iter()
                .filter(|listener| listener.captured.is_none())
        };
        let found = match asked {
            CapturedAddress::Tcp { at, .. } | CapturedAddress::Udp(at) => {
                let udp = matches!(asked, CapturedAddress::Udp(_));
                let alike = || own().filter_map(|listener| Some((listener, listener.inet(udp)?)));
                alike()
                    .find(|(_, (there, _))| there == at)
                    .or_else(|| alike().find(|(_, (there, dual))| covers(*there, *dual, *at)))
                    .or_else(|| {
                        alike().find(|(_, (there, _))| covers(*at, asked.is_dual(), *there))
                    })
                    .map(|(listener, _)| listener)
            }
            CapturedAddress::Path(spot) => own().find(|listener| {
                let place = listener.place();
                place.is_some_and(|place| place.is_at(spot.directory, &spot.name))
            }),
            CapturedAddress::Abstract(name) => own().find(|listener| match &listener.sort {
                Sort::Shared(shared) => shared.abstract_name() == Some(name),
                Sort::Group(_) | Sort::Path(_) => false,
            }),
        };
        found.map(|listener| listener.id)
    }

    pub fn has(&self, listener: ListenerId) -> bool {
        self.all.iter().any(|other| other.id == listener)
    }

    /// The socket that this generation has there.
    ///
    /// # Errors
    /// `ENOENT` if it has none.
    pub fn seat_of(&mut self, generation: Generation, listener: ListenerId) -> io::Result<Given> {
        let mut all = self.all.iter_mut();
        let listener = all
            .find(|other| other.id == listener)
            .ok_or(Errno::ENOENT)?;
        let (socket, steered) = match &mut listener.sort {
            Sort::Group(group) => {
                let socket = group.socket_of(generation).ok_or(Errno::ENOENT)?;
                (socket.fd().try_clone_to_owned()?, true)
            }
            Sort::Path(path) => {
                let socket = path.socket_of(generation).ok_or(Errno::ENOENT)?;
                (socket.fd().try_clone_to_owned()?, true)
            }
            Sort::Shared(shared) => (shared.seat(generation, &self.means)?, false),
        };
        Ok(Given {
            listener: Some(listener.id),
            socket,
            steered,
        })
    }

    /// What becomes of a bind(2) that nothing covers. A socket in which clients wait for whoever comes next is given
    /// to who comes, unless that would never notice.
    ///
    /// # Errors
    /// When descriptors or memory are out.
    pub fn plan(
        &mut self,
        generation: Generation,
        asked: &CapturedAddress,
        is_attached: bool,
    ) -> io::Result<Plan> {
        let survey = self.survey();
        let mut all = self.all.iter_mut();
        let Some(listener) = all.find(|listener| listener.captured.as_ref() == Some(asked)) else {
            return Ok(Plan::Alone);
        };
        let id = listener.id;
        match &mut listener.sort {
            Sort::Group(_) | Sort::Path(_) if is_attached => return Ok(Plan::Join),
            Sort::Group(group) if !group.has_seat(generation) => {
                if !group.is_waiting() {
                    return Ok(Plan::Join);
                }
                group.seat(generation, Sockets::Target, &survey, &mut self.means)?;
            }
            Sort::Path(path) if path.socket_of(generation).is_none() => {
                if !path.is_waiting() {
                    return Ok(Plan::Join);
                }
                path.seat(generation, Sockets::Target, &self.means)?;
            }
            Sort::Group(_) | Sort::Path(_) | Sort::Shared(_) => {}
        }
        self.seat_of(generation, id).map(Plan::Instead)
    }

    /// The generation listens on a socket that was bound to that address; whether the listener is new is said too.
    ///
    /// # Errors
    /// Those of listen(2).
    pub fn listen(
        &mut self,
        generation: Generation,
        asked: &CapturedAddress,
        socket: OwnedFd,
        path: Option<BoundPath>,
    ) -> io::Result<(ListenerId, bool)> {
        let survey = self.survey();
        let mut all = self.all.iter_mut();
        let there = all.find(|listener| listener.captured.as_ref() == Some(asked));
        let Some(listener) = there else {
            return Ok((self.found(generation, asked, socket, path)?, true));
        };
        let id = listener.id;
        // it may have come too late for the cut-over
        let serves = self.serving == Some(generation);
        match (&mut listener.sort, path) {
            (Sort::Group(group), _) => {
                group.join(generation, socket, &survey, &mut self.means)?;
                if serves {
                    group.prepare(generation, &Survey::of(&[group]), &mut self.means)?;
                    group.cut_over(generation, &mut self.means)?;
                }
            }
            (Sort::Path(there), Some(path)) => {
                sys::listen(socket.as_fd(), self.means.options.backlog)?;
                there.leave(generation, sys::now(), &mut self.means);
                there.adopt(generation, socket, &path.name, &self.means)?;
                if serves {
                    there.cut_over(generation, &mut self.means)?;
                }
            }
            // bound by two at once: what the first has is shared
            (Sort::Path(_) | Sort::Shared(_), _) => return Err(Errno::EADDRINUSE.into()),
        }
        Ok((id, false))
    }

    fn found(
        &mut self,
        generation: Generation,
        asked: &CapturedAddress,
        socket: OwnedFd,
        path: Option<BoundPath>,
    ) -> io::Result<ListenerId> {
        let place = match (asked, path) {
            (CapturedAddress::Path(spot), Some(BoundPath { directory, .. })) => {
                let (name, path) = (spot.name.clone(), spot.path.clone());
                Some(Place::within(directory, name, path))
            }
            _ => None,
        };
        let steered = asked.family().filter(|_| !self.means.options.share);
        let sort = match (steered, place) {
            (Some(made_of), _) => {
                let group = Group::of_server(socket, made_of, generation, &self.means)?;
                Sort::Group(group)
            }
            (None, Some(place)) if !self.means.options.share => {
                sys::listen(socket.as_fd(), self.means.options.backlog)?;
                let mut path = UnixPath::captured(place);
                let name = path.place().name().to_owned();
                path.adopt(generation, socket, &name, &self.means)?;
                Sort::Path(path)
            }
            (None, place) => {
                let mut shared = Shared::own(socket, &self.means)?;
                if let Some(place) = place {
                    shared.keep_path(place)?;
                }
                shared.seat(generation, &self.means)?;
                Sort::Shared(shared)
            }
        };
        let id = ListenerId(self.given_out);
        self.given_out += 1;
        self.all.push(Listener {
            id,
            name: String::new(),
            spelled: asked.to_string(),
            captured: Some(asked.clone()),
            sort,
        });
        Ok(id)
    }

    /// A server listens on a socket that it has had as a listener before; `None` if it is none of ours.
    pub fn listen_again(&mut self, inode: Inode) -> Option<io::Result<ListenerId>> {
        let mut all = self.all.iter_mut();
        let listener = all.find(|listener| listener.has(inode))?;
        let done = match &mut listener.sort {
            Sort::Group(group) => group.listen_again(inode, &mut self.means),
            Sort::Path(_) => Ok(()),
            Sort::Shared(shared) => shared.mend(&self.means),
        };
        Some(done.map(|()| listener.id))
    }

    /// Whether any listener is a path in the file system.
    pub fn have_paths(&self) -> bool {
        self.all.iter().any(|listener| listener.place().is_some())
    }

    pub fn have_path_named(&self, name: &OsStr) -> bool {
        let mut places = self.all.iter().filter_map(Listener::place);
        places.any(|place| place.name() == name)
    }

    /// Whether clients come in there, by a socket of ours.
    pub fn is_live(&self, spot: &Spot) -> bool {
        self.all.iter().any(|listener| {
            let here = |place: &&Place| place.is_at(spot.directory, &spot.name);
            let Some(place) = listener.place().filter(here) else {
                return false;
            };
            let live = match &listener.sort {
                Sort::Path(path) => path.live_file(),
                Sort::Shared(shared) => shared.live_file(),
                Sort::Group(_) => None,
            };
            live.is_some() && place.file(place.name()).ok() == live
        })
    }

    /// What other generations have at that port, if it is not quite that address.
    pub fn conflicting(&self, generation: Generation, asked: &CapturedAddress) -> Option<String> {
        let port = asked.inet()?.port();
        let mut all = self.all.iter();
        let there = all.find(|listener| {
            let other = listener.captured.as_ref() != Some(asked);
            other && listener.kind() == Kind::Tcp { port } && listener.held(generation).is_none()
        })?;
        Some(there.addr())
    }

    /// The generation has closed its socket there.
    pub fn abandon(&mut self, generation: Generation, listener: ListenerId, now: Time) {
        if let Some(listener) = self.all.iter_mut().find(|other| other.id == listener) {
            match &mut listener.sort {
                Sort::Group(group) => group.leave(generation, now, &mut self.means),
                Sort::Path(path) => path.leave(generation, now, &mut self.means),
                Sort::Shared(shared) => shared.leave(generation),
            }
        }
        self.forget_unowned();
    }

    /// A captured listener lives as long as a generation has it. Where nothing serves, clients wait for the next one.
    pub(super) fn forget_unowned(&mut self) {
        if self.serving.is_none() {
            return;
        }
        let (keep, forget) = std::mem::take(&mut self.all)
            .into_iter()
            .partition(|listener| listener.captured.is_none() || listener.is_owned());
        self.all = keep;
        for listener in forget {
            listener.close(&mut self.means);
        }
    }
}

impl Listener {
    fn place(&self) -> Option<&Place> {
        match &self.sort {
            Sort::Path(path) => Some(path.place()),
            Sort::Shared(shared) => shared.place(),
            Sort::Group(_) => None,
        }
    }

    /// Its internet address, if it is of that protocol, and whether it answers both families.
    fn inet(&self, udp: bool) -> Option<(SocketAddr, bool)> {
        let (address, socket) = match &self.sort {
            Sort::Group(group) if !udp => (group.address(), group.any()?),
            Sort::Shared(shared) if udp == matches!(shared.kind(), Kind::Udp { .. }) => {
                (shared.address()?, shared.fd())
            }
            Sort::Group(_) | Sort::Path(_) | Sort::Shared(_) => return None,
        };
        let (level, name) = (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY);
        let dual = sys::socket_option(socket, level, name).is_ok_and(|only| only == 0);
        Some((address, dual))
    }

    fn is_owned(&self) -> bool {
        match &self.sort {
            Sort::Group(group) => group.is_owned(),
            Sort::Path(path) => path.is_owned(),
            Sort::Shared(shared) => !shared.is_unused(),
        }
    }

    fn close(self, means: &mut Means) {
        match self.sort {
            Sort::Group(group) => group.close(means),
            Sort::Path(path) => path.close(means),
            Sort::Shared(shared) => shared.close(means),
        }
    }
}
