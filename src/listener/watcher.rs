//! The epoll sets of all listening sockets and relayed connections, so that the main loop polls two descriptors.
//!
//! One reports events that need action. The other, edge-triggered, only says that clients come to sockets that
//! their servers may have closed; then it is left out of the poll for a while, and no client costs anything meanwhile.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::listening_socket::{Interest, ListeningSocket};
use crate::socket::Inode;
use crate::supervisor::Time;

/// How long arrivals are not heard of after one.
const PAUSE: Duration = Duration::from_secs(1);

pub struct Watcher {
    events: Epoll,
    arrivals: Epoll,
    paused_until: Option<Time>,
}

impl Watcher {
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            events: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            arrivals: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            paused_until: None,
        })
    }

    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let arrivals = self.paused_until.is_none().then(|| self.arrivals.0.as_fd());
        [self.events.0.as_fd()].into_iter().chain(arrivals)
    }

    /// Whether clients have come to sockets with [`Interest::Arrivals`]; the pause begins.
    pub fn has_arrivals(&mut self, now: Time) -> bool {
        let mut events = [EpollEvent::empty(); 64];
        let came = self.paused_until.is_none()
            && (self.arrivals.wait(&mut events, EpollTimeout::ZERO)).is_ok_and(|came| came > 0);
        if came {
            self.paused_until = Some(now + PAUSE);
        }
        came
    }

    /// When arrivals are to be heard of again.
    pub fn deadline(&self) -> Option<Time> {
        self.paused_until
    }

    pub fn look(&mut self, now: Time) {
        self.paused_until.take_if(|until| *until <= now);
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
            Interest::Shutdown | Interest::Arrivals => EpollFlags::empty(),
        };
        let (before, wanted) = (socket.interest.map(flags), interest.map(flags));
        self.change(socket.fd(), socket.inode, before, wanted)?;
        match (socket.interest, interest) {
            (Some(Interest::Arrivals), Some(Interest::Arrivals)) => {}
            (_, Some(Interest::Arrivals)) => {
                let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
                let event = EpollEvent::new(flags, socket.inode);
                self.arrivals.add(socket.fd(), event)?;
            }
            (Some(Interest::Arrivals), _) => self.arrivals.delete(socket.fd())?,
            _ => {}
        }
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
            (None, Some(flags)) => self.events.add(fd, event(flags))?,
            (Some(_), Some(flags)) => self.events.modify(fd, &mut event(flags))?,
            (Some(_) | None, None) => self.events.delete(fd)?,
        }
        Ok(())
    }

    /// Some of what has happened since, without waiting.
    pub fn ready(&self) -> Vec<(Inode, EpollFlags)> {
        let mut events = [EpollEvent::empty(); 64];
        let ready = self
            .events
            .wait(&mut events, EpollTimeout::ZERO)
            .unwrap_or(0);
        let ready = events.iter().take(ready);
        ready.map(|event| (event.data(), event.events())).collect()
    }
}
