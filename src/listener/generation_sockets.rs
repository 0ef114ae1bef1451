//! The sockets that a generation has, and those that it is given when it is spawned.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use super::context::Intake;
use super::listening_socket::ListeningSocket;
use super::{Listener, ListenerId, Listeners};
use crate::socket::Inode;
use crate::socket::generation_socket::{GenerationSocket, InheritedSocket};
use crate::socket::inet::Family;
use crate::supervisor::{Generation, SocketChoice};

impl Listeners {
    /// A socket of each `--listen`ed or inherited listener for this generation, in their order.
    ///
    /// # Errors
    /// If a socket cannot be made: out of descriptors or memory.
    pub fn inherited_sockets(
        &mut self,
        generation: Generation,
        sockets: SocketChoice,
    ) -> io::Result<Vec<InheritedSocket>> {
        let mut inherited_sockets = Vec::new();
        self.spawning = self.spawning.max(Some(generation));
        // nothing serves: what clients wait on is for this generation
        if sockets == SocketChoice::Target && self.context.holds() {
            self.context.intake = Intake::Open;
        }
        let is_asked =
            |listener: &Listener| listener.captured.is_none() || sockets == SocketChoice::Target;
        if !self.all.iter().any(is_asked) {
            return Ok(inherited_sockets);
        }
        // between the processes of a generation, nobody waits for the next one
        let private = self.all.iter().filter(|one| !self.counts(one));
        let private: Vec<ListenerId> = private.map(|one| one.id).collect();
        self.with_snapshots(true, |all, context| {
            for listener in all {
                if listener.captured.is_none() {
                    let fd = listener
                        .steering
                        .inherited_socket(generation, sockets, context);
                    let fd = fd.map_err(|error| {
                        let address = listener.steering.address();
                        io::Error::new(error.kind(), format!("{address}: {error}"))
                    })?;
                    inherited_sockets.push(listener.inherited_socket_with(fd));
                } else if sockets == SocketChoice::Target
                    && listener.steering.is_steered()
                    && !context.awaited.has(listener.id)
                    && !private.contains(&listener.id)
                {
                    // one that it has not bound yet is kept for it, with the clients that wait there
                    listener
                        .steering
                        .inherited_socket(generation, sockets, context)?;
                }
            }
            io::Result::Ok(())
        })?;
        self.settle(generation)?;
        Ok(inherited_sockets)
    }

    #[cfg(test)]
    /// Whether it holds a socket of any listener.
    pub fn has_socket(&self, generation: Generation) -> bool {
        !self.sockets_of(generation).is_empty()
    }

    /// The sockets that this generation holds.
    pub fn sockets_of(&self, generation: Generation) -> Vec<GenerationSocket<'_>> {
        let counting = self.all.iter().filter(|listener| self.counts(listener));
        let held = counting.map(|listener| listener.held(generation));
        held.flatten().collect()
    }

    /// Where its connections are counted. A dead one has lost its sockets to a restart, but its processes may still
    /// answer what they have accepted: on TCP the kernel tells what they have.
    pub fn connected_sockets(
        &self,
        generation: Generation,
        is_lost: bool,
    ) -> Vec<GenerationSocket<'_>> {
        let own = self.sockets_of(generation);
        if !own.is_empty() || !is_lost {
            return own;
        }
        let counting = self.all.iter().filter(|listener| self.counts(listener));
        let ports = counting.map(|listener| listener.held_as(0, None, false));
        ports.filter(|one| one.kind.tcp_port().is_some()).collect()
    }
}

impl Listener {
    pub(super) fn held(&self, generation: Generation) -> Option<GenerationSocket<'_>> {
        let own = self.steering.socket_of(generation);
        let orphan = || Some(self.held_as(self.steering.orphan_of(generation)?, None, true));
        own.map(|socket| self.socket_as(socket)).or_else(orphan)
    }

    pub(super) fn socket_as<'a>(&self, socket: &'a ListeningSocket) -> GenerationSocket<'a> {
        self.held_as(socket.inode, Some(socket.fd()), socket.listens)
    }

    fn held_as<'a>(
        &self,
        inode: Inode,
        fd: Option<BorrowedFd<'a>>,
        listens: bool,
    ) -> GenerationSocket<'a> {
        let kind = self.steering.kind();
        let is_tcp = kind.tcp_port().is_some();
        let alike = fd.or_else(|| Some(self.steering.inet()?.1));
        let alike = alike.filter(|_| is_tcp);
        GenerationSocket {
            listener: self.id,
            fd,
            inode,
            kind,
            family: alike.and_then(|alike| Family::of_socket(alike).ok()),
            steered: self.steering.is_steered(),
            captured: self.captured.is_some(),
            listens,
        }
    }

    /// The socket that the generation is spawned with.
    fn inherited_socket_with(&self, fd: OwnedFd) -> InheritedSocket {
        let (kind, addr) = (self.steering.kind(), self.steering.address());
        // the prefix is for users: a server binds the bare address
        let addr = addr.strip_prefix("udp:").unwrap_or(&addr).to_owned();
        InheritedSocket {
            name: self.name.clone(),
            as_given: self.as_given.clone(),
            addr,
            kind,
            fd,
        }
    }
}
