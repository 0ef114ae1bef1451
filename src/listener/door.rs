//! A way to one candidate alone, for a command that checks whether it is ready: any other client reaches the generation
//! that serves.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, AsRawFd};

use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{UnixAddr, getsockname};

use super::{Listener, ListenerContext, ListenerId, Listeners};
use crate::socket::generation_socket::SocketKind;
use crate::socket::{Inode, inode_of};
use crate::supervisor::Generation;

/// How many clients are let in at one wake-up.
const AT_ONCE: usize = 16;

/// An address of hotswap's whose clients are relayed to a candidate.
pub struct Door {
    listener: TcpListener,
    inode: Inode,
    candidate: Generation,
    /// Those that were let in, as relays name them.
    let_in: Vec<Inode>,
}

impl Door {
    fn open(candidate: Generation) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let inode = inode_of(listener.as_fd())?;
        Ok(Self {
            listener,
            inode,
            candidate,
            let_in: Vec::new(),
        })
    }
}

impl Listeners {
    /// An address that leads to this candidate until [`Listeners::close_door`]: `127.0.0.1:PORT`, or the path of its own
    /// socket if it has no TCP socket.
    ///
    /// # Errors
    /// Those of socket(2), bind(2) and epoll_ctl(2).
    pub fn open_door(&mut self, candidate: Generation) -> io::Result<String> {
        self.close_door(candidate);
        if self.first_tcp(candidate).is_none()
            && let Some(path) = self.all.iter().find_map(|one| own_path(one, candidate))
        {
            return Ok(path);
        }
        let door = Door::open(candidate)?;
        let address = door.listener.local_addr()?;
        let clients = Some(EpollFlags::EPOLLIN);
        let watcher = &self.context.watcher;
        watcher.change(door.listener.as_fd(), door.inode, None, clients)?;
        self.door = Some(door);
        Ok(address.to_string())
    }

    /// Whether a candidate has a socket to itself, to which such an address can lead; `None` without any listener.
    pub fn lead_to_one(&self) -> Option<bool> {
        let mut all = self.all.iter();
        (!self.all.is_empty()).then(|| all.any(|one| one.steering.is_steered()))
    }

    /// The check is over. Its clients stay, except those that the candidate has not answered: in its queue they would be
    /// taken for clients of the server.
    pub fn close_door(&mut self, candidate: Generation) {
        let door = self.door.take_if(|door| door.candidate == candidate);
        if let Some(door) = door {
            let clients = Some(EpollFlags::EPOLLIN);
            let watcher = &self.context.watcher;
            // closing it ends the watching as well: nobody else has it
            let _ = watcher.change(door.listener.as_fd(), door.inode, clients, None);
            for client in door.let_in {
                self.context.relays.give_up_unanswered(client);
            }
        }
    }

    /// Clients may have come. If the candidate has no socket for them yet, they are turned away.
    pub(super) fn let_in(&mut self) {
        for _ in 0..AT_ONCE {
            let Some(door) = &self.door else { return };
            let (candidate, accepted) = (door.candidate, door.listener.accept());
            let Ok((client, _)) = accepted else { return };
            let Some(listener) = self
                .first_tcp(candidate)
                .filter(|_| !self.context.relays.is_full())
            else {
                continue;
            };
            let led = client.set_nonblocking(true).and_then(|()| {
                let inode = inode_of(client.as_fd())?;
                let server = self.probe(candidate, listener)?;
                let ListenerContext {
                    relays, watcher, ..
                } = &mut self.context;
                relays.join(client.into(), server, watcher)?;
                Ok(inode)
            });
            match led {
                Ok(inode) => self
                    .door
                    .iter_mut()
                    .for_each(|door| door.let_in.push(inode)),
                Err(error) => log::debug!("cannot connect a check to {candidate}: {error}"),
            }
        }
    }

    fn first_tcp(&self, candidate: Generation) -> Option<ListenerId> {
        let is_tcp = |one: &Listener| {
            let socket = one.steering.socket_of(candidate);
            let is_tcp = matches!(one.steering.kind(), SocketKind::Tcp { .. });
            is_tcp && one.steering.is_steered() && socket.is_some_and(|socket| socket.listens)
        };
        self.all.iter().find(|one| is_tcp(one)).map(|one| one.id)
    }
}

fn own_path(listener: &Listener, candidate: Generation) -> Option<String> {
    let steered = listener.steering.kind() == SocketKind::Unix && listener.steering.is_steered();
    let socket = listener.steering.socket_of(candidate).filter(|_| steered)?;
    let bound: UnixAddr = getsockname(socket.fd().as_raw_fd()).ok()?;
    // a server may have bound it by a name relative to its own directory
    let name = bound.path()?.file_name()?;
    let path = listener.steering.dir()?.path().with_file_name(name);
    path.is_absolute().then(|| path.display().to_string())
}
