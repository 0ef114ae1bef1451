//! Listeners that came with a server: it binds, and what it binds becomes a listener like those of `--listen`.
//!
//! Nothing is bound here: that is done with the server's own rights. Here it is decided who gets which socket.

mod address;

use std::ffi::OsStr;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

pub use address::{BoundPath, CapturedAddress, PathEntry};

use super::context::ListenerContext;
use super::reuseport::ReuseportGroup;
use super::shared::SharedSocket;
use super::steer::Inode;
use super::unix_dir::UnixDir;
use super::unix_path::UnixPath;
use super::{Listener, ListenerId, ListenerKind, Listeners, Snapshot, SocketKind, SocketSource};
use crate::address::covers;
use crate::supervisor::{Generation, Time};
use crate::sys;

/// What becomes of a bind(2) that no `--listen`ed address covers.
#[derive(Debug)]
pub enum BindPlan {
    /// Nobody else is to be there.
    Alone,
    /// Beside the sockets of other generations.
    Join,
    /// The server is given this one in the place of its own.
    Instead(Replacement),
}

/// A socket for a server that has made one of its own.
#[derive(Debug)]
pub struct Replacement {
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
            CapturedAddress::Path(entry) => own().find(|listener| {
                let dir = listener.dir();
                dir.is_some_and(|dir| dir.is_at(entry.directory, &entry.name))
            }),
            CapturedAddress::Abstract(name) => own().find(|listener| match &listener.sort {
                ListenerKind::Shared(shared) => shared.abstract_name() == Some(name),
                ListenerKind::Group(_) | ListenerKind::Path(_) => false,
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
    pub fn inherited_socket_of(
        &mut self,
        generation: Generation,
        listener: ListenerId,
    ) -> io::Result<Replacement> {
        let mut all = self.all.iter_mut();
        let listener = all
            .find(|other| other.id == listener)
            .ok_or(Errno::ENOENT)?;
        let (socket, steered) = match &mut listener.sort {
            ListenerKind::Group(group) => {
                let socket = group.socket_of(generation).ok_or(Errno::ENOENT)?;
                (socket.fd().try_clone_to_owned()?, true)
            }
            ListenerKind::Path(path) => {
                let socket = path.socket_of(generation).ok_or(Errno::ENOENT)?;
                (socket.fd().try_clone_to_owned()?, true)
            }
            ListenerKind::Shared(shared) => {
                (shared.inherited_socket(generation, &self.context)?, false)
            }
        };
        Ok(Replacement {
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
    ) -> io::Result<BindPlan> {
        let snapshot = self.snapshot();
        let mut all = self.all.iter_mut();
        let Some(listener) = all.find(|listener| listener.captured.as_ref() == Some(asked)) else {
            return Ok(BindPlan::Alone);
        };
        let id = listener.id;
        match &mut listener.sort {
            ListenerKind::Group(_) | ListenerKind::Path(_) if is_attached => {
                return Ok(BindPlan::Join);
            }
            ListenerKind::Group(group) if !group.has_socket(generation) => {
                if !group.is_waiting() {
                    return Ok(BindPlan::Join);
                }
                group.inherited_socket(
                    generation,
                    SocketSource::Target,
                    &snapshot,
                    &mut self.context,
                )?;
            }
            ListenerKind::Path(path) if path.socket_of(generation).is_none() => {
                if !path.is_waiting() {
                    return Ok(BindPlan::Join);
                }
                path.inherited_socket(generation, SocketSource::Target, &self.context)?;
            }
            ListenerKind::Group(_) | ListenerKind::Path(_) | ListenerKind::Shared(_) => {}
        }
        self.inherited_socket_of(generation, id)
            .map(BindPlan::Instead)
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
        let snapshot = self.snapshot();
        let mut all = self.all.iter_mut();
        let there = all.find(|listener| listener.captured.as_ref() == Some(asked));
        let Some(listener) = there else {
            return Ok((self.found(generation, asked, socket, path)?, true));
        };
        let id = listener.id;
        // it may have come too late for the cut-over
        let serves = self.serving == Some(generation);
        match (&mut listener.sort, path) {
            (ListenerKind::Group(group), _) => {
                group.join(generation, socket, &snapshot, &mut self.context)?;
                if serves {
                    group.prepare(generation, &Snapshot::of(&[group]), &mut self.context)?;
                    group.cut_over(generation, &mut self.context)?;
                }
            }
            (ListenerKind::Path(there), Some(path)) => {
                sys::listen(socket.as_fd(), self.context.options.backlog)?;
                there.leave(generation, sys::now(), &mut self.context);
                there.adopt(generation, socket, &path.name, &self.context)?;
                if serves {
                    there.cut_over(generation, &mut self.context)?;
                }
            }
            // bound by two at once: what the first has is shared
            (ListenerKind::Path(_) | ListenerKind::Shared(_), _) => {
                return Err(Errno::EADDRINUSE.into());
            }
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
        let dir = match (asked, path) {
            (CapturedAddress::Path(entry), Some(BoundPath { directory, .. })) => {
                let (name, path) = (entry.name.clone(), entry.path.clone());
                Some(UnixDir::within(directory, name, path))
            }
            _ => None,
        };
        let steered = asked.family().filter(|_| !self.context.options.share);
        let sort = match (steered, dir) {
            (Some(made_of), _) => {
                let group = ReuseportGroup::of_server(socket, made_of, generation, &self.context)?;
                ListenerKind::Group(group)
            }
            (None, Some(dir)) if !self.context.options.share => {
                sys::listen(socket.as_fd(), self.context.options.backlog)?;
                let mut path = UnixPath::captured(dir);
                let name = path.dir().name().to_owned();
                path.adopt(generation, socket, &name, &self.context)?;
                ListenerKind::Path(path)
            }
            (None, dir) => {
                let mut shared = SharedSocket::own(socket, &self.context)?;
                if let Some(dir) = dir {
                    shared.keep_path(dir)?;
                }
                shared.inherited_socket(generation, &self.context)?;
                ListenerKind::Shared(shared)
            }
        };
        let id = ListenerId(self.given_out);
        self.given_out += 1;
        self.all.push(Listener {
            id,
            name: String::new(),
            as_given: asked.to_string(),
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
            ListenerKind::Group(group) => group.listen_again(inode, &mut self.context),
            ListenerKind::Path(_) => Ok(()),
            ListenerKind::Shared(shared) => shared.repair(&self.context),
        };
        Some(done.map(|()| listener.id))
    }

    /// Whether any listener is a path in the file system.
    pub fn have_paths(&self) -> bool {
        self.all.iter().any(|listener| listener.dir().is_some())
    }

    pub fn have_path_named(&self, name: &OsStr) -> bool {
        let mut places = self.all.iter().filter_map(Listener::dir);
        places.any(|dir| dir.name() == name)
    }

    /// Whether clients come in there, by a socket of ours.
    pub fn is_live(&self, entry: &PathEntry) -> bool {
        self.all.iter().any(|listener| {
            let here = |dir: &&UnixDir| dir.is_at(entry.directory, &entry.name);
            let Some(dir) = listener.dir().filter(here) else {
                return false;
            };
            let live = match &listener.sort {
                ListenerKind::Path(path) => path.live_file(),
                ListenerKind::Shared(shared) => shared.live_file(),
                ListenerKind::Group(_) => None,
            };
            live.is_some() && dir.file(dir.name()).ok() == live
        })
    }

    /// What other generations have at that port, if it is not quite that address.
    pub fn conflicting(&self, generation: Generation, asked: &CapturedAddress) -> Option<String> {
        let port = asked.inet()?.port();
        let mut all = self.all.iter();
        let there = all.find(|listener| {
            let other = listener.captured.as_ref() != Some(asked);
            other
                && listener.kind() == SocketKind::Tcp { port }
                && listener.held(generation).is_none()
        })?;
        Some(there.addr())
    }

    /// The generation has closed its socket there.
    pub fn abandon(&mut self, generation: Generation, listener: ListenerId, now: Time) {
        if let Some(listener) = self.all.iter_mut().find(|other| other.id == listener) {
            match &mut listener.sort {
                ListenerKind::Group(group) => group.leave(generation, now, &mut self.context),
                ListenerKind::Path(path) => path.leave(generation, now, &mut self.context),
                ListenerKind::Shared(shared) => shared.leave(generation),
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
            listener.close(&mut self.context);
        }
    }
}

impl Listener {
    fn dir(&self) -> Option<&UnixDir> {
        match &self.sort {
            ListenerKind::Path(path) => Some(path.dir()),
            ListenerKind::Shared(shared) => shared.dir(),
            ListenerKind::Group(_) => None,
        }
    }

    /// Its internet address, if it is of that protocol, and whether it answers both families.
    fn inet(&self, udp: bool) -> Option<(SocketAddr, bool)> {
        let (address, socket) = match &self.sort {
            ListenerKind::Group(group) if !udp => (group.address(), group.any()?),
            ListenerKind::Shared(shared)
                if udp == matches!(shared.kind(), SocketKind::Udp { .. }) =>
            {
                (shared.address()?, shared.fd())
            }
            ListenerKind::Group(_) | ListenerKind::Path(_) | ListenerKind::Shared(_) => {
                return None;
            }
        };
        let (level, name) = (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY);
        let dual = sys::socket_option(socket, level, name).is_ok_and(|only| only == 0);
        Some((address, dual))
    }

    fn is_owned(&self) -> bool {
        match &self.sort {
            ListenerKind::Group(group) => group.is_owned(),
            ListenerKind::Path(path) => path.is_owned(),
            ListenerKind::Shared(shared) => !shared.is_unused(),
        }
    }

    fn close(self, context: &mut ListenerContext) {
        match self.sort {
            ListenerKind::Group(group) => group.close(context),
            ListenerKind::Path(path) => path.close(context),
            ListenerKind::Shared(shared) => shared.close(context),
        }
    }
}
