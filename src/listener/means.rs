//! What every listener works with: the set of watched sockets, the options, and the notes for the user.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::socket::{Interest, Socket, set_nonblocking};
use super::steer::Inode;
use super::{Note, SocketOptions};
use crate::sys;

/// How many clients are taken off a parked socket at one go, so that a flood of them does not hold up the loop.
const AT_ONE_GO: usize = 256;

pub struct Means {
    pub options: SocketOptions,
    /// False once hotswap stops.
    pub repairs: bool,
    /// One descriptor for the main loop's poll, however many sockets there are.
    epoll: Epoll,
    notes: Vec<Note>,
}

impl Means {
    pub fn new(options: SocketOptions) -> io::Result<Self> {
        Ok(Self {
            options,
            repairs: true,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            notes: Vec::new(),
        })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    pub fn note(&mut self, note: Note) {
        self.notes.push(note);
    }

    pub fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// Watches it for this from now on, or no longer. It must not be closed while watched: as long as a server has it
    /// too, the kernel would go on reporting it, with no way to stop that.
    pub fn watch(&self, socket: &mut Socket, interest: Option<Interest>) -> io::Result<()> {
        if socket.interest == interest {
            return Ok(());
        }
        let flags = match interest {
            Some(Interest::Clients) => EpollFlags::EPOLLIN,
            Some(Interest::Shutdown) | None => EpollFlags::empty(),
        };
        let mut event = EpollEvent::new(flags, socket.inode);
        match (socket.interest, interest) {
            (_, None) => self.epoll.delete(socket.fd())?,
            (None, Some(_)) => self.epoll.add(socket.fd(), event)?,
            (Some(_), Some(_)) => self.epoll.modify(socket.fd(), &mut event)?,
        }
        socket.interest = interest;
        Ok(())
    }

    /// The sockets on which something has happened, and whether they were shut down.
    pub fn ready(&self) -> Vec<(Inode, bool)> {
        let mut events = [EpollEvent::empty(); 64];
        let ready = self.epoll.wait(&mut events, EpollTimeout::ZERO);
        let ready = events.iter().take(ready.unwrap_or(0));
        ready
            .map(|event| (event.data(), event.events().contains(EpollFlags::EPOLLHUP)))
            .collect()
    }

    /// Takes off a parked socket whoever waits on it, and closes: a client that comes back goes to the living.
    pub fn turn_away(&mut self, socket: &Socket, listener: &str) {
        let mut connections = 0;
        if set_nonblocking(socket.fd(), true).is_ok() {
            while connections < AT_ONE_GO && sys::accept(socket.fd()).is_ok() {
                connections += 1;
            }
        }
        if connections > 0 {
            self.note(Note::Lost {
                listener: listener.to_owned(),
                connections,
            });
        }
    }
}
