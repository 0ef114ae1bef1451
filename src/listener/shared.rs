//! One socket for all generations: abstract unix, UDP, inherited sockets, and all under `--share`.
//!
//! Its flags are never changed, since the serving generation would see it.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{UnixAddr, bind};
use serde::{Deserialize, Serialize};

use super::bound_address::BoundAddress;
use super::captured_address::BoundPath;
use super::context::ListenerContext;
use super::incident::Incident;
use super::listening_socket::{Interest, ListeningSocket};
use super::steering::Steering;
use super::unix_dir::{FileId, UnixDir};
use crate::handoff;
use crate::socket::client::{client_of, connect_now, unix_client};
use crate::socket::generation_socket::SocketKind;
use crate::socket::{Inode, listens, unix_stream};
use crate::supervisor::{Generation, SocketChoice, Time};
use crate::sys;

/// The number of the name beside a shared path: no generation has it.
const NOBODYS: u32 = 0;

#[derive(Serialize, Deserialize)]
pub struct SharedSocket {
    socket: ListeningSocket,
    /// Read from the socket.
    #[serde(skip)]
    at: BoundAddress,
    /// A path of ours, and the file that is ours there.
    path: Option<(UnixDir, FileId)>,
    had_by: BTreeSet<Generation>,
    /// A server has bound it by itself, and may close it at any moment.
    #[serde(default)]
    is_captured: bool,
}

impl SharedSocket {
    /// A bound socket of ours; a stream socket begins to listen.
    pub fn own(fd: OwnedFd, context: &ListenerContext) -> io::Result<Self> {
        let steering = sys::socket_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_TYPE)?;
        if steering == libc::SOCK_STREAM {
            sys::listen(fd.as_fd(), context.options.backlog)?;
        }
        Self::inherited(fd, context)
    }

    /// A path that is bound to as it is, so that a server finds there what it looks for.
    ///
    /// # Errors
    /// Those of [`UnixDir::take`].
    pub fn path(path: &Path, context: &ListenerContext) -> io::Result<Self> {
        let dir = UnixDir::take(path)?;
        let (fd, file) = bind_at(&dir, context)?;
        let mut shared = Self::own(fd, context)?;
        shared.path = Some((dir, file));
        Ok(shared)
    }

    /// A socket that hotswap was given. What does not listen is kept as it is.
    pub fn inherited(fd: OwnedFd, context: &ListenerContext) -> io::Result<Self> {
        let at = BoundAddress::of(fd.as_fd());
        let socket = if listens(fd.as_fd()) {
            context.watched(fd, None)?
        } else {
            ListeningSocket::new(fd, None)?
        };
        Ok(Self {
            socket,
            at,
            path: None,
            had_by: BTreeSet::new(),
            is_captured: false,
        })
    }

    /// A server has bound it by itself, to a path or not.
    pub fn captured(
        fd: OwnedFd,
        dir: Option<UnixDir>,
        generation: Generation,
        context: &ListenerContext,
    ) -> io::Result<Self> {
        let mut shared = Self::own(fd, context)?;
        shared.is_captured = true;
        shared.watch(context)?;
        shared.had_by.insert(generation);
        if let Some(dir) = dir {
            let file = dir.file(dir.name())?;
            keep_second_name(&dir);
            shared.path = Some((dir, file));
        }
        Ok(shared)
    }

    fn watch(&mut self, context: &ListenerContext) -> io::Result<()> {
        let interest = if self.is_captured {
            Interest::Arrivals
        } else {
            Interest::Shutdown
        };
        context.watcher.watch(&mut self.socket, Some(interest))
    }

    /// Puts back what one generation may have changed for all: the backlog, the path, and listening at all.
    fn repair(&mut self, context: &ListenerContext) -> io::Result<()> {
        if self.socket.listens {
            sys::listen(self.socket.fd(), context.options.backlog)?;
        } else if self.is_remade_alone() {
            self.remake(context)?;
        } else if self.is_tcp() {
            self.listen_once_more(context)?;
        }
        let Some((dir, file)) = &self.path else {
            return Ok(());
        };
        if dir.has(dir.name(), *file) {
            return Ok(());
        }
        let beside = dir.beside(NOBODYS);
        if dir.has(&beside, *file) {
            return dir.publish(&beside, dir.name());
        }
        self.remake(context)
    }

    /// An abstract name is free once nobody has the socket that was shut down.
    fn is_remade_alone(&self) -> bool {
        self.abstract_name().is_some() && self.had_by.is_empty()
    }

    fn is_tcp(&self) -> bool {
        matches!(self.at, BoundAddress::Tcp(_))
    }

    /// A new socket at the same unix address; whoever had the old one keeps it, and hears nothing from it.
    fn remake(&mut self, context: &ListenerContext) -> io::Result<()> {
        context.watcher.watch(&mut self.socket, None)?;
        let fd = match (&mut self.path, &self.at) {
            (Some((dir, file)), _) => {
                dir.remove(dir.name());
                let (fd, new) = bind_at(dir, context)?;
                *file = new;
                fd
            }
            (None, BoundAddress::Unix(address)) => {
                let fd = unix_stream()?;
                // the name goes with the last descriptor, which is this one
                self.socket = ListeningSocket::new(fd.try_clone()?, None)?;
                bind(fd.as_raw_fd(), address)?;
                fd
            }
            (None, BoundAddress::Tcp(_) | BoundAddress::Udp(_) | BoundAddress::Unknown) => {
                return Err(Errno::EINVAL.into());
            }
        };
        sys::listen(fd.as_fd(), context.options.backlog)?;
        self.socket = ListeningSocket::new(fd, None)?;
        self.watch(context)
    }

    fn listen_once_more(&mut self, context: &ListenerContext) -> io::Result<()> {
        // a unix socket that was shut down stays so, whatever listen(2) says
        if self.path.is_some() {
            return self.remake(context);
        }
        self.socket.listens = false;
        if matches!(self.at, BoundAddress::Unix(_)) {
            return Err(Errno::EINVAL.into());
        }
        sys::listen(self.socket.fd(), context.options.backlog)?;
        self.socket.listens = true;
        self.watch(context)
    }
}

impl Steering for SharedSocket {
    fn kind(&self) -> SocketKind {
        match &self.at {
            BoundAddress::Tcp(address) => SocketKind::Tcp {
                port: address.port(),
            },
            BoundAddress::Udp(address) => SocketKind::Udp {
                port: address.port(),
            },
            BoundAddress::Unix(address) if address.path().is_some() => SocketKind::Unix,
            BoundAddress::Unix(_) => SocketKind::Abstract,
            BoundAddress::Unknown => SocketKind::Other,
        }
    }

    fn address(&self) -> String {
        self.at.to_string()
    }

    fn is_steered(&self) -> bool {
        false
    }

    fn has(&self, inode: Inode) -> bool {
        self.socket.inode == inode
    }

    fn socket_of(&self, generation: Generation) -> Option<&ListeningSocket> {
        let has = self.had_by.contains(&generation);
        has.then_some(&self.socket)
    }

    fn inherited_socket(
        &mut self,
        generation: Generation,
        _: SocketChoice,
        context: &mut ListenerContext,
    ) -> io::Result<OwnedFd> {
        self.repair(context)?;
        let duplicate = self.socket.duplicate()?;
        self.had_by.insert(generation);
        Ok(duplicate)
    }

    fn prepare(&mut self, _: Generation, context: &mut ListenerContext) -> io::Result<()> {
        self.repair(context)
    }

    /// Bound by two at once: what the first has is shared.
    fn join(
        &mut self,
        _: Generation,
        _: OwnedFd,
        _: Option<BoundPath>,
        _: &mut ListenerContext,
    ) -> io::Result<()> {
        Err(Errno::EADDRINUSE.into())
    }

    fn listen_again(&mut self, _: Inode, context: &mut ListenerContext) -> io::Result<()> {
        self.repair(context)
    }

    fn leave(&mut self, generation: Generation, _: Time, context: &mut ListenerContext) {
        self.had_by.remove(&generation);
        // clients wait for the next one
        if !self.socket.listens
            && self.is_tcp()
            && context.repairs
            && let Err(error) = self.listen_once_more(context)
        {
            context.incident(Incident::broken(self.address(), &error));
        }
    }

    /// A plain connection: it reaches whichever generation accepts first.
    fn probe(&mut self, generation: Generation) -> io::Result<OwnedFd> {
        if !self.had_by.contains(&generation) {
            return Err(Errno::ENOENT.into());
        }
        match &self.at {
            BoundAddress::Tcp(address) => {
                let (probe, to) = client_of(*address)?;
                connect_now(probe.as_fd(), to)?;
                Ok(probe)
            }
            BoundAddress::Unix(address) => unix_client(address),
            BoundAddress::Udp(_) | BoundAddress::Unknown => Err(Errno::EOPNOTSUPP.into()),
        }
    }

    /// Somebody has shut it down, for everybody: that is undone for the others. Of one that has it alone, threads would stay
    /// in accept(2), which they leave when it is shut down; it listens again for the next.
    fn woken(&mut self, _: &[(Inode, bool)], context: &mut ListenerContext) {
        let listener = self.address();
        context.try_to_watch(&mut self.socket, None, &listener);
        self.socket.listens = self.abstract_name().is_none() && listens(self.socket.fd());
        let is_for_one = self.is_tcp() && self.had_by.len() == 1;
        if context.repairs && !is_for_one {
            let again = self.listen_once_more(context);
            context.incident(Incident::listens_again(listener, again));
        }
    }

    fn target(&self) -> Option<&ListeningSocket> {
        Some(&self.socket)
    }

    fn is_owned(&self) -> bool {
        !self.had_by.is_empty()
    }

    fn close(&mut self, context: &mut ListenerContext) {
        let listener = self.address();
        context.try_to_watch(&mut self.socket, None, &listener);
    }

    fn resume(&mut self, context: &mut ListenerContext) {
        self.at = BoundAddress::of(self.socket.fd());
        let listener = self.address();
        if self.socket.listens
            && let Err(error) = self.watch(context)
        {
            log::debug!("cannot watch a socket of {listener}: {error}");
        }
    }

    fn inet(&self) -> Option<(SocketAddr, BorrowedFd<'_>)> {
        match &self.at {
            BoundAddress::Tcp(address) | BoundAddress::Udp(address) => {
                Some((*address, self.socket.fd()))
            }
            BoundAddress::Unix(_) | BoundAddress::Unknown => None,
        }
    }

    fn keep_up(&mut self, _: Option<Generation>, context: &mut ListenerContext) {
        let Some((dir, file)) = self.path.as_mut().filter(|_| !context.refuses()) else {
            return;
        };
        let beside = dir.beside(NOBODYS);
        let followed = dir.follow(std::slice::from_ref(&beside));
        if !dir.has(dir.name(), *file) && dir.has(&beside, *file) {
            let done = followed.and_then(|_| dir.publish(&beside, dir.name()));
            if let Err(error) = done {
                log::debug!("cannot put {} back: {error}", dir.path().display());
            }
        }
    }

    fn dir(&self) -> Option<&UnixDir> {
        self.path.as_ref().map(|(dir, _)| dir)
    }

    fn live_file(&self) -> Option<FileId> {
        self.path.as_ref().map(|(_, file)| *file)
    }

    fn abstract_name(&self) -> Option<&[u8]> {
        match &self.at {
            BoundAddress::Unix(address) => address.as_abstract(),
            BoundAddress::Tcp(_) | BoundAddress::Udp(_) | BoundAddress::Unknown => None,
        }
    }
}

impl Drop for SharedSocket {
    fn drop(&mut self) {
        if let Some((dir, file)) = &self.path
            && !handoff::may_go_back()
        {
            dir.remove_if(dir.name(), *file);
            dir.remove(&dir.beside(NOBODYS));
        }
    }
}

/// Binds to the path itself, and keeps a second name of it, for when a server has unlinked the first.
fn bind_at(dir: &UnixDir, context: &ListenerContext) -> io::Result<(OwnedFd, FileId)> {
    let fd = unix_stream()?;
    dir.remove(dir.name());
    bind(fd.as_raw_fd(), &UnixAddr::new(dir.path())?)?;
    dir.set_mode_and_owner(dir.name(), context.options.owner, context.options.mode)?;
    keep_second_name(dir);
    Ok((fd, dir.file(dir.name())?))
}

fn keep_second_name(dir: &UnixDir) {
    let beside = dir.beside(NOBODYS);
    dir.remove(&beside);
    if let Err(error) = dir.link(dir.name(), &beside) {
        log::debug!("cannot link {}: {error}", dir.path_of(&beside).display());
    }
}
