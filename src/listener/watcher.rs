//! The one epoll set of all listening sockets and relayed connections, so that the main loop polls one descriptor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::listening_socket::{Interest, ListeningSocket};
use crate::socket::Inode;

pub struct Watcher(Epoll);

impl Watcher {
    pub fn new() -> io::Result<Self> {
        Ok(Self(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?))
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.0.as_fd()
    }

    /// Watches it for this from now on, or no longer. It must not be closed while watched: as long as a server has it too,
    /// the kernel would keep reporting it.
    pub fn watch(
        &self,
        socket: &mut ListeningSocket,
        interest: Option<Interest>,
    ) -> io::Result<()> {
        let flags = |interest| match interest {
            Interest::Clients => EpollFlags::EPOLLIN,
            Interest::Shutdown => EpollFlags::empty(),
        };
        let (before, wanted) = (socket.interest.map(flags), interest.map(flags));
        self.change(socket.fd(), socket.inode, before, wanted)?;
        socket.interest = interest;
        Ok(())
    }

    /// Reports these flags of a descriptor as this inode's from now on, instead of those before; none leaves it out.
    pub fn change(
        &self,
        fd: BorrowedFd,
        inode: Inode,
        before: Option<EpollFlags>,
        wanted: Option<EpollFlags>,
    ) -> io::Result<()> {
        let event = |flags| EpollEvent::new(flags, inode);
        match (before, wanted) {
            (before, wanted) if before == wanted => {}
            (None, Some(flags)) => self.0.add(fd, event(flags))?,
            (Some(_), Some(flags)) => self.0.modify(fd, &mut event(flags))?,
            (Some(_) | None, None) => self.0.delete(fd)?,
        }
        Ok(())
    }

    /// Some of what has happened since, without waiting.
    pub fn ready(&self) -> Vec<(Inode, EpollFlags)> {
        let mut events = [EpollEvent::empty(); 64];
        let ready = self.0.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        let ready = events.iter().take(ready);
        ready.map(|event| (event.data(), event.events())).collect()
    }
}
