//! A unix path with a socket for every generation: each is bound to a name beside the path, and rename(2) puts one there.
//!
//! The name beside the path stays, as a second link to the same file, so that cutting back is the same as cutting over.

mod hand_over;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, socket};

use super::context::ListenerContext;
use super::listening_socket::{Interest, ListeningSocket, connect};
use super::relay::Destination;
use super::steer::Inode;
use super::unix_dir::{FileId, UnixDir};
use super::{Incident, SocketOptions, SocketSource};
use crate::supervisor::{Generation, Time};
use crate::sys;

pub struct UnixPath {
    dir: UnixDir,
    sockets: Vec<NamedSocket>,
    target: Option<Inode>,
}

/// A socket and the name beside the path that it is bound to.
struct NamedSocket {
    socket: ListeningSocket,
    name: OsString,
    file: FileId,
}

impl UnixPath {
    /// Takes the path, which nobody else may have, and listens there.
    ///
    /// # Errors
    /// `EADDRINUSE` if another hotswap has it or somebody answers there, `EEXIST` if it is no socket.
    pub fn open(path: &Path, context: &ListenerContext) -> io::Result<Self> {
        let mut dir = UnixDir::of(path)?;
        dir.lock()?;
        dir.check_free()?;
        dir.sweep();
        let mut path = Self {
            dir,
            sockets: Vec::new(),
            target: None,
        };
        let first = path.grow(1, context)?;
        path.put(first)?;
        Ok(path)
    }

    /// A path that servers bind by themselves.
    pub fn captured(dir: UnixDir) -> Self {
        Self {
            dir,
            sockets: Vec::new(),
            target: None,
        }
    }

    /// Whether the names beside this path are short enough to be bound to.
    pub fn has_room(path: &Path) -> bool {
        let mut longest = path.as_os_str().to_owned();
        longest.push(".hotswap-999999");
        UnixAddr::new(longest.as_os_str()).is_ok()
    }

    pub fn dir(&self) -> &UnixDir {
        &self.dir
    }

    pub fn has(&self, inode: Inode) -> bool {
        self.sockets.iter().any(|named| named.socket.inode == inode)
    }

    pub fn socket_of(&self, generation: Generation) -> Option<&ListeningSocket> {
        self.named(generation).map(|named| &named.socket)
    }

    pub fn is_owned(&self) -> bool {
        self.sockets
            .iter()
            .any(|named| named.socket.owner.is_some())
    }

    /// Whether clients wait in a socket that no generation has.
    pub fn is_waiting(&self) -> bool {
        let target = self.target.and_then(|target| self.at(target));
        target.is_some_and(|at| self.sockets[at].socket.owner.is_none())
    }

    /// Gives the path up; clients that wait are counted and said.
    pub fn close(mut self, context: &mut ListenerContext) {
        let listener = self.shown();
        for NamedSocket { socket, .. } in &mut self.sockets {
            context.turn_away(socket, &listener);
            if let Err(error) = context.watch(socket, None) {
                log::debug!("cannot stop watching a socket of {listener}: {error}");
            }
        }
    }

    /// The file that clients reach, under all of its names.
    pub fn live_file(&self) -> Option<FileId> {
        self.at(self.target?).map(|at| self.sockets[at].file)
    }

    /// A duplicate of this generation's own socket, made now if it has none.
    pub fn inherited_socket(
        &mut self,
        generation: Generation,
        sockets: SocketSource,
        context: &ListenerContext,
    ) -> io::Result<OwnedFd> {
        if let Some(named) = self.named(generation) {
            return named.socket.fd().try_clone_to_owned();
        }
        let target = self.target.and_then(|target| self.at(target));
        let chosen = match sockets {
            SocketSource::Target => target,
            SocketSource::Own => target.filter(|at| self.sockets[*at].socket.owner.is_none()),
        };
        let at = match chosen {
            Some(at) if self.leads_to(at) => at,
            Some(_) => {
                let at = self.grow(generation.0, context)?;
                self.put(at)?;
                at
            }
            None => self.grow(generation.0, context)?,
        };
        let socket = &mut self.sockets[at].socket;
        socket.restore(context.options.backlog)?;
        let duplicate = socket.fd().try_clone_to_owned()?;
        socket.owner = Some(generation);
        Ok(duplicate)
    }

    /// Whether clients can come to this socket, or could if its names were put back.
    fn leads_to(&self, at: usize) -> bool {
        let NamedSocket { socket, file, .. } = &self.sockets[at];
        let mended = self.repair().is_ok();
        let there = self.dir.file(self.dir.name());
        mended && socket.listens && there.is_ok_and(|there| there == *file)
    }

    /// A socket that a server has bound to a name of this path, and that listens.
    pub fn adopt(
        &mut self,
        generation: Generation,
        fd: OwnedFd,
        bound_to: &OsStr,
        context: &ListenerContext,
    ) -> io::Result<()> {
        let file = self.dir.file(bound_to)?;
        let mut name = bound_to.to_owned();
        if name == self.dir.name() {
            name = self.dir.beside(generation.0);
            self.dir.remove(&name);
            self.dir.link(bound_to, &name)?;
        }
        let added = self.add(fd, Some(generation), name.clone(), file, context);
        if added.is_err() && name != bound_to {
            self.dir.remove(&name);
        }
        let inode = added?;
        if self.target.is_none() {
            self.target = Some(inode);
        }
        Ok(())
    }

    /// The path leads to this generation's socket, if it has one that listens; to which it led is returned.
    pub fn cut_over(
        &mut self,
        generation: Generation,
        context: &mut ListenerContext,
    ) -> io::Result<Option<Inode>> {
        let named = self.named(generation).filter(|named| named.socket.listens);
        let Some(inode) = named.map(|named| named.socket.inode) else {
            return Ok(None);
        };
        let before = self.target;
        if before == Some(inode) {
            self.repair()?;
            return Ok(None);
        }
        self.steer(inode)?;
        self.update_interests(context);
        Ok(before)
    }

    pub fn steer_back(&mut self, before: Inode, context: &mut ListenerContext) {
        if let Err(error) = self.steer(before) {
            context.incident(self.broken(&error));
        }
        self.update_interests(context);
    }

    fn steer(&mut self, inode: Inode) -> io::Result<()> {
        self.repair()?;
        let at = self.at(inode).ok_or(Errno::EBADF)?;
        let name = &self.sockets[at].name;
        let there = self.dir.file(self.dir.name()).ok();
        if there.is_some() && there == self.live_file() {
            self.dir.copy_mode_and_owner(name)?;
        }
        self.put(at)
    }

    fn put(&mut self, at: usize) -> io::Result<()> {
        let NamedSocket { socket, name, .. } = &self.sockets[at];
        self.dir.publish(name)?;
        self.target = Some(socket.inode);
        Ok(())
    }

    /// The two names of the live socket: a server may have unlinked either when it ended, or somebody else.
    pub fn repair(&self) -> io::Result<()> {
        let Some(named) = self.target.and_then(|target| self.at(target)) else {
            return Ok(());
        };
        let NamedSocket { name, file, socket } = &self.sockets[named];
        let beside = self.dir.file(name).is_ok_and(|there| there == *file);
        let there = self.dir.file(self.dir.name());
        let there = there.is_ok_and(|there| there == *file);
        if there && !beside {
            self.dir.remove(name);
            self.dir.link(self.dir.name(), name)?;
        } else if beside && !there && socket.listens {
            self.dir.publish(name)?;
        }
        Ok(())
    }

    /// The generation is gone: what waits on its socket is lost, unless that is the one that clients reach.
    pub fn leave(&mut self, generation: Generation, now: Time, context: &mut ListenerContext) {
        for named in &mut self.sockets {
            if named.socket.owner == Some(generation) {
                named.socket.owner = None;
                named.socket.since = now;
            }
        }
        self.update_interests(context);
        if let Err(error) = self.repair() {
            context.incident(self.broken(&error));
        }
    }

    /// A connection to this generation's socket alone, by the name beside the path.
    pub fn probe(&self, generation: Generation) -> io::Result<OwnedFd> {
        let named = self.named(generation).ok_or(Errno::ENOENT)?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let probe = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        let address = UnixAddr::new(&self.dir.path_of(&named.name))?;
        connect(probe.as_fd(), &address)?;
        Ok(probe)
    }

    /// Some were shut down. A unix socket does not recover from that: where clients come, a new one takes its place.
    pub fn woken(&mut self, events: &[(Inode, bool)], context: &mut ListenerContext) {
        for (inode, shut) in events {
            let Some(at) = self.at(*inode).filter(|_| *shut) else {
                continue;
            };
            self.sockets[at].socket.listens = false;
            if self.target != Some(*inode) || !context.repairs {
                continue;
            }
            let name = self.sockets[at].name.clone();
            self.dir.remove(&name);
            let again = self.bind(&name, context).and_then(|at| self.put(at));
            context.incident(match again {
                Ok(()) => Incident::Repaired {
                    listener: self.shown(),
                },
                Err(error) => self.broken(&error),
            });
        }
        self.update_interests(context);
    }

    fn grow(&mut self, number: u32, context: &ListenerContext) -> io::Result<usize> {
        let name = self.dir.beside(number);
        self.dir.remove(&name);
        self.bind(&name, context)
    }

    fn bind(&mut self, name: &OsStr, context: &ListenerContext) -> io::Result<usize> {
        let fd = unix_socket()?;
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
        let mut socket = ListeningSocket::new(fd, owner, sys::now())?;
        context.watch(&mut socket, Some(Interest::Shutdown))?;
        let inode = socket.inode;
        self.sockets.push(NamedSocket { socket, name, file });
        Ok(inode)
    }

    /// Closes what no generation has and no client reaches: nobody can come to it any more.
    fn update_interests(&mut self, context: &mut ListenerContext) {
        let target = self.target;
        let listener = self.shown();
        for NamedSocket { socket, name, file } in &mut self.sockets {
            let abandoned = socket.owner.is_none() && Some(socket.inode) != target;
            if abandoned {
                let to = Destination::Path(self.dir.path().to_owned());
                context.empty(socket, &listener, &to);
            }
            let wanted = (socket.listens && !abandoned).then_some(Interest::Shutdown);
            if let Err(error) = context.watch(socket, wanted) {
                log::debug!("cannot watch a socket of {listener}: {error}");
            }
            if abandoned && self.dir.file(name).is_ok_and(|there| there == *file) {
                self.dir.remove(name);
            }
        }
        self.sockets
            .retain(|named| named.socket.owner.is_some() || Some(named.socket.inode) == target);
    }

    fn broken(&self, error: &io::Error) -> Incident {
        Incident::Broken {
            listener: self.shown(),
            why: error.to_string(),
        }
    }

    pub fn shown(&self) -> String {
        self.dir.path().display().to_string()
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
        for NamedSocket { name, file, .. } in &self.sockets {
            self.dir.remove_if(*file);
            if self.dir.file(name).is_ok_and(|there| there == *file) {
                self.dir.remove(name);
            }
        }
    }
}

pub fn unix_socket() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    Ok(socket(AddressFamily::Unix, SockType::Stream, flags, None)?)
}
