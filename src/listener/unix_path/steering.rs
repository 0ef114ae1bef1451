//! A unix path as one of the kinds of listener.

use std::io;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::socket::UnixAddr;

use super::{NamedSocket, UnixPath};
use crate::listener::captured_address::BoundPath;
use crate::listener::context::ListenerContext;
use crate::listener::incident::Incident;
use crate::listener::listening_socket::ListeningSocket;
use crate::listener::steering::Steering;
use crate::listener::unix_dir::{FileId, LedTo, UnixDir};
use crate::socket::Inode;
use crate::socket::client::unix_client;
use crate::socket::generation_socket::SocketKind;
use crate::supervisor::{Generation, SocketChoice, Time};
use crate::sys;

/// The number of the name of a socket on which clients wait: no generation has it.
const HELD: u32 = 0;

impl Steering for UnixPath {
    fn kind(&self) -> SocketKind {
        SocketKind::Unix
    }

    fn address(&self) -> String {
        self.dir.path().display().to_string()
    }

    fn is_steered(&self) -> bool {
        true
    }

    fn has(&self, inode: Inode) -> bool {
        self.sockets.iter().any(|named| named.socket.inode == inode)
    }

    fn socket_of(&self, generation: Generation) -> Option<&ListeningSocket> {
        self.named(generation).map(|named| &named.socket)
    }

    fn orphan_of(&self, generation: Generation) -> Option<Inode> {
        let mut orphans = self.orphans.iter();
        let orphan = orphans.find(|orphan| orphan.socket.generation == generation)?;
        Some(orphan.socket.inode)
    }

    /// A duplicate of this generation's own socket, made now if it has none.
    fn inherited_socket(
        &mut self,
        generation: Generation,
        sockets: SocketChoice,
        context: &mut ListenerContext,
    ) -> io::Result<OwnedFd> {
        if let Some(named) = self.named(generation) {
            return named.socket.duplicate();
        }
        self.follow()?;
        let target = self.target.and_then(|target| self.at(target));
        let chosen = match sockets {
            SocketChoice::Target => target,
            SocketChoice::Own => {
                target.filter(|at| self.sockets[*at].socket.owner.is_none() && !context.holds())
            }
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
        let duplicate = socket.duplicate()?;
        socket.owner = Some(generation);
        Ok(duplicate)
    }

    /// The path leads to this generation's socket, if it has one that listens. Returns the previous target.
    fn cut_over(
        &mut self,
        generation: Generation,
        context: &mut ListenerContext,
    ) -> io::Result<Option<Inode>> {
        let named = self.named(generation).filter(|named| named.socket.listens);
        let own = named.map(|named| named.socket.inode);
        let Some(inode) = own.or_else(|| self.orphan_of(generation)) else {
            return Ok(None);
        };
        let before = self.target;
        if before == Some(inode) {
            self.turned_away = false;
            self.repair()?;
            return Ok(None);
        }
        self.steer(inode)?;
        self.update_interests(context);
        Ok(before)
    }

    fn steer_back(&mut self, before: Inode, context: &mut ListenerContext) {
        if let Err(error) = self.steer(before) {
            context.incident(Incident::broken(self.address(), &error));
        }
        self.update_interests(context);
    }

    fn join(
        &mut self,
        generation: Generation,
        socket: OwnedFd,
        path: Option<BoundPath>,
        context: &mut ListenerContext,
    ) -> io::Result<()> {
        let path = path.ok_or(Errno::EADDRINUSE)?;
        let names = self.names();
        if self.dir.enter(path.directory.try_clone()?, &names)? {
            self.repair()?;
        }
        self.leave(generation, sys::now(), context);
        self.adopt(generation, socket, &path.name, context)
    }

    fn listen_again(&mut self, _: Inode, _: &mut ListenerContext) -> io::Result<()> {
        Ok(())
    }

    /// The generation is gone: what waits on its socket is lost, unless that is the one that clients reach.
    fn leave(&mut self, generation: Generation, now: Time, context: &mut ListenerContext) {
        self.note_attributes(Some(generation));
        self.forget_orphan(generation);
        for named in &mut self.sockets {
            if named.socket.owner == Some(generation) {
                named.socket.owner = None;
                named.socket.since = now;
            }
        }
        self.update_interests(context);
        if let Err(error) = self.repair() {
            context.incident(Incident::broken(self.address(), &error));
        }
    }

    fn hold(&mut self, context: &mut ListenerContext) -> io::Result<()> {
        self.follow()?;
        let at = self.grow(HELD, context)?;
        self.sockets[at].socket.held = true;
        self.steer(self.sockets[at].socket.inode)
    }

    /// The path is gone until it leads to a generation again, unless clients wait for the next hotswap.
    fn turn_away(&mut self, context: &mut ListenerContext) -> io::Result<()> {
        if context.holds() && !self.private {
            return self.hold(context);
        }
        if let Some(file) = self.live_file() {
            self.dir.remove_if(self.dir.name(), file);
        }
        self.turned_away = true;
        Ok(())
    }

    fn leave_kept(&mut self, _: &mut ListenerContext) {
        let target = self.target;
        self.sockets
            .retain(|named| Some(named.socket.inode) != target);
    }

    fn let_go(&mut self, generation: Generation, context: &mut ListenerContext) {
        let listener = self.address();
        let kept = self.target.filter(|_| context.keeps());
        self.sockets.retain_mut(|named| {
            let socket = &mut named.socket;
            let theirs = socket.owner == Some(generation) && Some(socket.inode) != kept;
            if theirs {
                context.try_to_watch(socket, None, &listener);
                self.dir.remove_if(&named.name, named.file);
            }
            !theirs
        });
    }

    /// A connection to this generation's socket alone, by the name beside the path.
    fn probe(&mut self, generation: Generation) -> io::Result<OwnedFd> {
        let named = self.named(generation).ok_or(Errno::ENOENT)?;
        unix_client(&UnixAddr::new(&self.dir.path_of(&named.name))?)
    }

    /// Some were shut down. A unix socket cannot recover from that: if it is the target, a new one replaces it.
    fn woken(&mut self, events: &[(Inode, bool)], context: &mut ListenerContext) {
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
            context.incident(Incident::listens_again(self.address(), again));
        }
        self.update_interests(context);
    }

    fn look(&mut self, _: Time, context: &mut ListenerContext) {
        self.update_interests(context);
    }

    fn target(&self) -> Option<&ListeningSocket> {
        let at = self.at(self.target?)?;
        Some(&self.sockets[at].socket)
    }

    fn is_owned(&self) -> bool {
        let mut sockets = self.sockets.iter();
        !self.orphans.is_empty() || sockets.any(|named| named.socket.owner.is_some())
    }

    fn close(&mut self, context: &mut ListenerContext) {
        let listener = self.address();
        for NamedSocket { socket, .. } in &mut self.sockets {
            context.close(socket, &listener);
        }
    }

    fn resume(&mut self, context: &mut ListenerContext) {
        self.update_interests(context);
    }

    fn set_private(&mut self, private: bool) -> io::Result<()> {
        if private && !self.private {
            for NamedSocket { name, file, .. } in &self.sockets {
                if *name != *self.dir.name() {
                    self.dir.remove_if(name, *file);
                }
            }
        }
        self.private = private;
        self.repair()
    }

    fn put_back(&mut self) -> io::Result<()> {
        self.repair()
    }

    /// A candidate that finds nothing there binds the path itself, as it would without hotswap: it may tend its file.
    fn lends_path(&mut self) -> bool {
        if let Err(error) = self.repair() {
            log::debug!("cannot put {} back: {error}", self.dir.path().display());
        }
        let lends = self.dir.is_free();
        if lends {
            self.led_to = Some(LedTo::Socket);
        }
        lends
    }

    fn keep_up(&mut self, candidate: Option<Generation>, context: &mut ListenerContext) {
        UnixPath::keep_up(self, candidate, context);
    }

    fn dir(&self) -> Option<&UnixDir> {
        Some(&self.dir)
    }

    /// The file that clients reach, under all of its names.
    fn live_file(&self) -> Option<FileId> {
        self.live_name().map(|(_, file, _)| file)
    }
}
