//! A unix path with a socket for every generation: each is bound to a name beside the path, and rename(2) puts one there.
//!
//! The name beside the path stays, as a second link to the same file, so that cutting back is the same as cutting over.

mod orphans;
mod steering;
mod upkeep;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{UnixAddr, bind};
use serde::{Deserialize, Serialize};

use orphans::NamedOrphan;

use super::beside::beside;
use super::context::{ListenerContext, SocketOptions};
use super::listening_socket::{Interest, ListeningSocket};
use super::relay::Destination;
use super::steering::Steering;
use super::unix_dir::{Attributes, FileId, LedTo, UnixDir};
use crate::handoff;
use crate::socket::{Inode, unix_socket_like, unix_stream};
use crate::supervisor::Generation;
use crate::sys;

#[derive(Serialize, Deserialize)]
pub struct UnixPath {
    dir: UnixDir,
    sockets: Vec<NamedSocket>,
    target: Option<Inode>,
    /// A server has bound it by itself, and may close it at any moment.
    #[serde(default)]
    is_captured: bool,
    #[serde(default)]
    orphans: Vec<NamedOrphan>,
    /// The path was taken away on purpose, until it is to lead somewhere again.
    #[serde(default)]
    turned_away: bool,
    /// The mode and owner at the path, as they were last, and of which file.
    #[serde(skip)]
    seen: Option<(FileId, Attributes)>,
    /// The mode and owner that a candidate has given to the path before it listens there: its own socket gets them.
    #[serde(skip)]
    early: Option<(Generation, Attributes)>,
    /// Only processes of one generation use it: no name of ours is kept beside it, and its file is not removed.
    private: bool,
    /// What the path leads to instead of the target, once that was said.
    #[serde(skip)]
    led_to: Option<LedTo>,
}

/// A socket and its name beside the path.
#[derive(Serialize, Deserialize)]
struct NamedSocket {
    socket: ListeningSocket,
    #[serde(with = "handoff::os_string")]
    name: OsString,
    file: FileId,
    /// Its mode and owner are its own: no others are copied to it.
    #[serde(default)]
    has_attributes: bool,
}

impl UnixPath {
    /// Takes the path, which nobody else may have, and listens there.
    ///
    /// # Errors
    /// Those of [`UnixDir::take`] and of bind(2).
    pub fn open(path: &Path, context: &ListenerContext) -> io::Result<Self> {
        let mut path = Self::of(UnixDir::take(path)?, false);
        let first = path.grow(1, context)?;
        path.put(first)?;
        Ok(path)
    }

    /// A path where a server has bound its socket by itself, and listens.
    pub fn captured(
        dir: UnixDir,
        generation: Generation,
        socket: OwnedFd,
        context: &ListenerContext,
    ) -> io::Result<Self> {
        let mut path = Self::of(dir, true);
        let name = path.dir.name().to_owned();
        path.adopt(generation, socket, &name, context)?;
        Ok(path)
    }

    fn of(dir: UnixDir, is_captured: bool) -> Self {
        Self {
            dir,
            sockets: Vec::new(),
            target: None,
            is_captured,
            orphans: Vec::new(),
            turned_away: false,
            seen: None,
            early: None,
            private: false,
            led_to: None,
        }
    }

    /// Whether the names beside this path are short enough to be bound to.
    pub fn has_room(path: &Path) -> bool {
        let longest = beside(path.as_os_str(), 999_999);
        UnixAddr::new(longest.as_os_str()).is_ok()
    }

    /// A socket that a server has bound to a name of this path listens from now on.
    fn adopt(
        &mut self,
        generation: Generation,
        fd: OwnedFd,
        bound_to: &OsStr,
        context: &ListenerContext,
    ) -> io::Result<()> {
        sys::listen(fd.as_fd(), context.options.backlog)?;
        let file = self.dir.file(bound_to)?;
        let mut name = bound_to.to_owned();
        if name == self.dir.name() {
            name = self.dir.free_beside(generation.0);
            self.dir.link(bound_to, &name)?;
        }
        let added = self.add(fd, Some(generation), name.clone(), file, context);
        if added.is_err() && name != bound_to {
            self.dir.remove(&name);
        }
        let inode = added?;
        if let Some((_, wanted)) = self.early.take_if(|early| early.0 == generation) {
            self.dir.set_attributes(&name, wanted)?;
        }
        if self.target.is_none() {
            self.target = Some(inode);
        }
        self.note_attributes(Some(generation));
        Ok(())
    }

    fn steer(&mut self, inode: Inode) -> io::Result<()> {
        self.turned_away = false;
        self.repair()?;
        let own = self.at(inode).map(|at| &self.sockets[at]);
        let name = own.map(|own| &own.name);
        let name = name.or_else(|| Some(&self.orphan(inode)?.name));
        let name = name.ok_or(Errno::EBADF)?.clone();
        let has_its_own = own.is_some_and(|own| own.has_attributes);
        let live = self.live_file();
        // its server may have changed them
        if !has_its_own
            && live.is_some_and(|live| self.dir.has(self.dir.name(), live))
            && let Ok(found) = self.dir.attributes(self.dir.name())
        {
            self.dir.set_attributes(&name, found)?;
        }
        self.lead_to(inode, &name)?;
        self.note_attributes(None);
        Ok(())
    }

    fn put(&mut self, at: usize) -> io::Result<()> {
        let NamedSocket { socket, name, .. } = &self.sockets[at];
        self.lead_to(socket.inode, &name.clone())
    }

    fn lead_to(&mut self, inode: Inode, name: &OsStr) -> io::Result<()> {
        for path in self.dir.names() {
            self.dir.publish(name, path)?;
        }
        self.target = Some(inode);
        Ok(())
    }

    fn grow(&mut self, number: u32, context: &ListenerContext) -> io::Result<usize> {
        let name = self.dir.free_beside(number);
        self.bind(&name, context)
    }

    fn bind(&mut self, name: &OsStr, context: &ListenerContext) -> io::Result<usize> {
        let fd = match self.sockets.first() {
            Some(first) => unix_socket_like(first.socket.fd())?,
            None => unix_stream()?,
        };
        bind(fd.as_raw_fd(), &UnixAddr::new(&self.dir.path_of(name))?)?;
        let bound = self.finish(fd, name.to_owned(), context);
        if bound.is_err() {
            self.dir.remove(name);
        }
        bound
    }

    fn finish(
        &mut self,
        fd: OwnedFd,
        name: OsString,
        context: &ListenerContext,
    ) -> io::Result<usize> {
        let file = self.dir.file(&name)?;
        let SocketOptions { owner, mode, .. } = context.options;
        self.dir.set_mode_and_owner(&name, owner, mode)?;
        sys::listen(fd.as_fd(), context.options.backlog)?;
        self.add(fd, None, name, file, context)?;
        Ok(self.sockets.len() - 1)
    }

    fn add(
        &mut self,
        fd: OwnedFd,
        owner: Option<Generation>,
        name: OsString,
        file: FileId,
        context: &ListenerContext,
    ) -> io::Result<Inode> {
        let socket = context.watched(fd, owner)?;
        let inode = socket.inode;
        self.sockets.push(NamedSocket {
            socket,
            name,
            file,
            has_attributes: owner.is_some(),
        });
        Ok(inode)
    }

    /// Closes what no generation has and no client reaches: nobody can come to it any more.
    fn update_interests(&mut self, context: &mut ListenerContext) {
        let target = self.target;
        let listener = self.address();
        self.sockets.retain_mut(|named| {
            let socket = &mut named.socket;
            let is_target = Some(socket.inode) == target;
            let abandoned = socket.owner.is_none() && !is_target;
            let interest = if is_target && self.is_captured {
                Interest::Arrivals
            } else {
                Interest::Shutdown
            };
            let mut wanted = socket.listens.then_some(interest);
            let mut is_needed = true;
            if abandoned {
                let to = Destination::Path(self.dir.path().to_owned());
                is_needed = socket.listens && !context.empty(socket, &listener, &to);
                wanted = is_needed.then(|| context.interest_in_spares());
                self.dir.remove_if(&named.name, named.file);
            }
            context.try_to_watch(socket, wanted, &listener);
            is_needed
        });
    }

    fn named(&self, generation: Generation) -> Option<&NamedSocket> {
        let own = |named: &&NamedSocket| named.socket.owner == Some(generation);
        self.sockets.iter().find(own)
    }

    fn at(&self, inode: Inode) -> Option<usize> {
        let mut sockets = self.sockets.iter();
        sockets.position(|named| named.socket.inode == inode)
    }
}

impl Drop for UnixPath {
    fn drop(&mut self) {
        // the file of a private one is its server's affair
        if self.private || handoff::may_go_back() {
            return;
        }
        for NamedSocket { name, file, .. } in &self.sockets {
            self.dir.remove_if(self.dir.name(), *file);
            self.dir.remove_if(name, *file);
        }
    }
}
