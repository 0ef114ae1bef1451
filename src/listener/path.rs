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

use super::means::Means;
use super::place::{FileId, Place};
use super::relay::Destination;
use super::socket::{Interest, Socket, connect};
use super::steer::Inode;
use super::{Note, SocketOptions, Sockets};
use crate::supervisor::{Generation, Time};
use crate::sys;

pub struct UnixPath {
    place: Place,
    sockets: Vec<Named>,
    target: Option<Inode>,
}

/// A socket and the name beside the path that it is bound to.
struct Named {
    socket: Socket,
    name: OsString,
    file: FileId,
}

impl UnixPath {
    /// Takes the path, which nobody else may have, and listens there.
    ///
    /// # Errors
    /// `EADDRINUSE` if another hotswap has it or somebody answers there, `EEXIST` if it is no socket.
    pub fn open(path: &Path, means: &Means) -> io::Result<Self> {
        let mut place = Place::of(path)?;
        place.lock()?;
        place.check_free()?;
        place.sweep();
        let mut path = Self {
            place,
            sockets: Vec::new(),
            target: None,
        };
        let first = path.grow(1, means)?;
        path.put(first)?;
        Ok(path)
    }

    /// A path that servers bind by themselves.
    pub fn captured(place: Place) -> Self {
        Self {
            place,
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

    pub fn place(&self) -> &Place {
        &self.place
    }

    pub fn has(&self, inode: Inode) -> bool {
        self.sockets.iter().any(|named| named.socket.inode == inode)
    }

    pub fn socket_of(&self, generation: Generation) -> Option<&Socket> {
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
    pub fn close(mut self, means: &mut Means) {
        let listener = self.shown();
        for Named { socket, .. } in &mut self.sockets {
            means.turn_away(socket, &listener);
            if let Err(error) = means.watch(socket, None) {
                log::debug!("cannot stop watching a socket of {listener}: {error}");
            }
        }
    }

    /// The file that clients reach, under all of its names.
    pub fn live_file(&self) -> Option<FileId> {
        self.at(self.target?).map(|at| self.sockets[at].file)
    }

    /// A duplicate of this generation's own socket, made now if it has none.
    pub fn seat(
        &mut self,
        generation: Generation,
        sockets: Sockets,
        means: &Means,
    ) -> io::Result<OwnedFd> {
        if let Some(named) = self.named(generation) {
            return named.socket.fd().try_clone_to_owned();
        }
        let target = self.target.and_then(|target| self.at(target));
        let chosen = match sockets {
            Sockets::Target => target,
            Sockets::Own => target.filter(|at| self.sockets[*at].socket.owner.is_none()),
        };
        let at = match chosen {
            Some(at) if self.leads_to(at) => at,
            Some(_) => {
                let at = self.grow(generation.0, means)?;
                self.put(at)?;
                at
            }
            None => self.grow(generation.0, means)?,
        };
        let socket = &mut self.sockets[at].socket;
        socket.restore(means.options.backlog)?;
        let duplicate = socket.fd().try_clone_to_owned()?;
        socket.owner = Some(generation);
        Ok(duplicate)
    }

    /// Whether clients can come to this socket, or could if its names were put back.
    fn leads_to(&self, at: usize) -> bool {
        let Named { socket, file, .. } = &self.sockets[at];
        let mended = self.mend().is_ok();
        let there = self.place.file(self.place.name());
        mended && socket.listens && there.is_ok_and(|there| there == *file)
    }

    /// A socket that a server has bound to a name of this path, and that listens.
    pub fn adopt(
        &mut self,
        generation: Generation,
        fd: OwnedFd,
        bound_to: &OsStr,
        means: &Means,
    ) -> io::Result<()> {
        let file = self.place.file(bound_to)?;
        let mut name = bound_to.to_owned();
        if name == self.place.name() {
            name = self.place.beside(generation.0);
            self.place.remove(&name);
            self.place.link(bound_to, &name)?;
        }
        let added = self.add(fd, Some(generation), name.clone(), file, means);
        if added.is_err() && name != bound_to {
            self.place.remove(&name);
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
        means: &mut Means,
    ) -> io::Result<Option<Inode>> {
        let named = self.named(generation).filter(|named| named.socket.listens);
        let Some(inode) = named.map(|named| named.socket.inode) else {
            return Ok(None);
        };
        let before = self.target;
        if before == Some(inode) {
            self.mend()?;
            return Ok(None);
        }
        self.steer(inode)?;
        self.tend(means);
        Ok(before)
    }

    pub fn steer_back(&mut self, before: Inode, means: &mut Means) {
        if let Err(error) = self.steer(before) {
            means.note(self.broken(&error));
        }
        self.tend(means);
    }

    fn steer(&mut self, inode: Inode) -> io::Result<()> {
        self.mend()?;
        let at = self.at(inode).ok_or(Errno::EBADF)?;
        let name = &self.sockets[at].name;
        let there = self.place.file(self.place.name()).ok();
        if there.is_some() && there == self.live_file() {
            self.place.dress_alike(name)?;
        }
        self.put(at)
    }

    fn put(&mut self, at: usize) -> io::Result<()> {
        let Named { socket, name, .. } = &self.sockets[at];
        self.place.publish(name)?;
        self.target = Some(socket.inode);
        Ok(())
    }

    /// The two names of the live socket: a server may have unlinked either when it ended, or somebody else.
    pub fn mend(&self) -> io::Result<()> {
        let Some(named) = self.target.and_then(|target| self.at(target)) else {
            return Ok(());
        };
        let Named { name, file, socket } = &self.sockets[named];
        let beside = self.place.file(name).is_ok_and(|there| there == *file);
        let there = self.place.file(self.place.name());
        let there = there.is_ok_and(|there| there == *file);
        if there && !beside {
            self.place.remove(name);
            self.place.link(self.place.name(), name)?;
        } else if beside && !there && socket.listens {
            self.place.publish(name)?;
        }
        Ok(())
    }

    /// The generation is gone: what waits on its socket is lost, unless that is the one that clients reach.
    pub fn leave(&mut self, generation: Generation, now: Time, means: &mut Means) {
        for named in &mut self.sockets {
            if named.socket.owner == Some(generation) {
                named.socket.owner = None;
                named.socket.since = now;
            }
        }
        self.tend(means);
        if let Err(error) = self.mend() {
            means.note(self.broken(&error));
        }
    }

    /// A connection to this generation's socket alone, by the name beside the path.
    pub fn probe(&self, generation: Generation) -> io::Result<OwnedFd> {
        let named = self.named(generation).ok_or(Errno::ENOENT)?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let probe = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        let address = UnixAddr::new(&self.place.path_of(&named.name))?;
        connect(probe.as_fd(), &address)?;
        Ok(probe)
    }

    /// Some were shut down. A unix socket does not recover from that: where clients come, a new one takes its place.
    pub fn woken(&mut self, events: &[(Inode, bool)], means: &mut Means) {
        for (inode, shut) in events {
            let Some(at) = self.at(*inode).filter(|_| *shut) else {
                continue;
            };
            self.sockets[at].socket.listens = false;
            if self.target != Some(*inode) || !means.repairs {
                continue;
            }
            let name = self.sockets[at].name.clone();
            self.place.remove(&name);
            let again = self.bind(&name, means).and_then(|at| self.put(at));
            means.note(match again {
                Ok(()) => Note::Repaired {
                    listener: self.shown(),
                },
                Err(error) => self.broken(&error),
            });
        }
        self.tend(means);
    }

    fn grow(&mut self, number: u32, means: &Means) -> io::Result<usize> {
        let name = self.place.beside(number);
        self.place.remove(&name);
        self.bind(&name, means)
    }

    fn bind(&mut self, name: &OsStr, means: &Means) -> io::Result<usize> {
        let fd = unix_socket()?;
        bind(fd.as_raw_fd(), &UnixAddr::new(&self.place.path_of(name))?)?;
        let bound = self.finish(fd, name.to_owned(), means);
        if bound.is_err() {
            self.place.remove(name);
        }
        bound
    }

    fn finish(&mut self, fd: OwnedFd, name: OsString, means: &Means) -> io::Result<usize> {
        let file = self.place.file(&name)?;
        let SocketOptions { owner, mode, .. } = means.options;
        self.place.dress(&name, owner, mode)?;
        sys::listen(fd.as_fd(), means.options.backlog)?;
        self.add(fd, None, name, file, means)?;
        Ok(self.sockets.len() - 1)
    }

    fn add(
        &mut self,
        fd: OwnedFd,
        owner: Option<Generation>,
        name: OsString,
        file: FileId,
        means: &Means,
    ) -> io::Result<Inode> {
        let mut socket = Socket::new(fd, owner, sys::now())?;
        means.watch(&mut socket, Some(Interest::Shutdown))?;
        let inode = socket.inode;
        self.sockets.push(Named { socket, name, file });
        Ok(inode)
    }

    /// Closes what no generation has and no client reaches: nobody can come to it any more.
    fn tend(&mut self, means: &mut Means) {
        let target = self.target;
        let listener = self.shown();
        for Named { socket, name, file } in &mut self.sockets {
            let abandoned = socket.owner.is_none() && Some(socket.inode) != target;
            if abandoned {
                let to = Destination::Path(self.place.path().to_owned());
                means.empty(socket, &listener, &to);
            }
            let wanted = (socket.listens && !abandoned).then_some(Interest::Shutdown);
            if let Err(error) = means.watch(socket, wanted) {
                log::debug!("cannot watch a socket of {listener}: {error}");
            }
            if abandoned && self.place.file(name).is_ok_and(|there| there == *file) {
                self.place.remove(name);
            }
        }
        self.sockets
            .retain(|named| named.socket.owner.is_some() || Some(named.socket.inode) == target);
    }

    fn broken(&self, error: &io::Error) -> Note {
        Note::Broken {
            listener: self.shown(),
            why: error.to_string(),
        }
    }

    pub fn shown(&self) -> String {
        self.place.path().display().to_string()
    }

    fn named(&self, generation: Generation) -> Option<&Named> {
        let own = |named: &&Named| named.socket.owner == Some(generation);
        self.sockets.iter().find(own)
    }

    fn at(&self, inode: Inode) -> Option<usize> {
        let mut sockets = self.sockets.iter();
        sockets.position(|named| named.socket.inode == inode)
    }
}

impl Drop for UnixPath {
    fn drop(&mut self) {
        for Named { name, file, .. } in &self.sockets {
            self.place.remove_if(*file);
            if self.place.file(name).is_ok_and(|there| there == *file) {
                self.place.remove(name);
            }
        }
    }
}

pub fn unix_socket() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    Ok(socket(AddressFamily::Unix, SockType::Stream, flags, None)?)
}
