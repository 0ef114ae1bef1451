//! What every listener works with: the set of watched sockets, the options, and the notes for the user.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use serde_json::Value;

use super::listening_socket::{Interest, ListeningSocket, set_nonblocking};
use super::relay::{Destination, Relays, has_left};
use super::steer::Inode;
use super::{Incident, SocketOptions, port_holder};
use crate::supervisor::Time;
use crate::sys;

/// How many clients are taken off a parked socket at one go, so that a flood of them does not hold up the loop.
const AT_ONE_GO: usize = 256;

/// How long nobody is taken off a parked socket once that has failed.
const PATIENCE: Time = Time::from_secs(1);

pub struct ListenerContext {
    pub options: SocketOptions,
    /// False once hotswap stops.
    pub repairs: bool,
    /// One descriptor for the main loop's poll, however many sockets there are.
    epoll: Epoll,
    relays: Relays,
    /// The user has been told what that means.
    has_relayed: bool,
    /// Descriptors or memory are out: until then nobody is taken off a parked socket, or the loop would try for ever.
    exhausted: Option<Time>,
    incidents: Vec<Incident>,
    /// Strangers that have not been named yet, and where they listen.
    strangers: Vec<(String, Inode)>,
}

impl ListenerContext {
    pub fn new(options: SocketOptions) -> io::Result<Self> {
        Ok(Self {
            options,
            repairs: true,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            relays: Relays::default(),
            has_relayed: false,
            exhausted: None,
            incidents: Vec::new(),
            strangers: Vec::new(),
        })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    pub fn incident(&mut self, incident: Incident) {
        self.incidents.push(incident);
    }

    /// A stranger has joined. To find out who it is takes long, and is left for later.
    pub fn found_stranger(&mut self, listener: String, inode: Inode) {
        self.strangers.push((listener, inode));
    }

    pub fn take_incidents(&mut self) -> Vec<Incident> {
        for (listener, inode) in std::mem::take(&mut self.strangers) {
            let who = port_holder::holder_of(inode);
            self.incident(Incident::Stranger { listener, who });
        }
        std::mem::take(&mut self.incidents)
    }

    /// Watches it for this from now on, or no longer. It must not be closed while watched: as long as a server has it
    /// too, the kernel would go on reporting it, with no way to stop that.
    pub fn watch(
        &self,
        socket: &mut ListeningSocket,
        interest: Option<Interest>,
    ) -> io::Result<()> {
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

    /// The listening sockets on which something has happened, and whether they were shut down. What has happened on
    /// relayed connections is seen to.
    pub fn ready(&mut self, now: Time) -> Vec<(Inode, bool)> {
        let mut events = [EpollEvent::empty(); 64];
        let ready = self.epoll.wait(&mut events, EpollTimeout::ZERO);
        let mut listening = Vec::new();
        for event in events.iter().take(ready.unwrap_or(0)) {
            let (inode, flags) = (event.data(), event.events());
            if !self.relays.woken(inode, flags, &self.epoll, now) {
                listening.push((inode, flags.contains(EpollFlags::EPOLLHUP)));
            }
        }
        listening
    }

    #[cfg(test)]
    /// How many connections are relayed.
    pub fn relays(&self) -> usize {
        self.relays.count()
    }

    pub fn hand_over_relays<'a>(&'a self, descriptors: &mut Vec<BorrowedFd<'a>>) -> Value {
        self.relays.hand_over(descriptors)
    }

    pub fn take_over_relays(
        &mut self,
        state: &Value,
        descriptors: &mut impl Iterator<Item = OwnedFd>,
    ) -> Option<()> {
        self.relays.take_over(state, descriptors, &self.epoll)
    }

    pub fn deadline(&self) -> Option<Time> {
        let relays = self.relays.deadline();
        relays.into_iter().chain(self.exhausted).min()
    }

    /// Whether parked sockets must be looked after again.
    pub fn look(&mut self, now: Time) -> bool {
        self.relays.look(now);
        self.exhausted.take_if(|until| *until <= now).is_some()
    }

    /// What a parked socket is watched for.
    pub fn interest_in_spares(&self) -> Interest {
        match self.exhausted {
            Some(_) => Interest::Shutdown,
            None => Interest::Clients,
        }
    }

    /// Takes off a parked socket whoever waits on it, to be carried to where new connections go. Whether somebody is
    /// left, since too many came at once.
    pub fn take_off(&mut self, socket: &ListeningSocket, listener: &str, to: &Destination) -> bool {
        self.accept(socket, listener, Some(to).filter(|_| self.repairs))
    }

    /// The same until nobody is left, for a socket that is to be closed or given away.
    pub fn empty(&mut self, socket: &ListeningSocket, listener: &str, to: &Destination) {
        while self.take_off(socket, listener, to) {}
    }

    /// Closes whoever waits on a socket of an address that is given up.
    pub fn turn_away(&mut self, socket: &ListeningSocket, listener: &str) {
        while self.accept(socket, listener, None) {}
    }

    fn accept(
        &mut self,
        socket: &ListeningSocket,
        listener: &str,
        to: Option<&Destination>,
    ) -> bool {
        let (mut relayed, mut lost) = (0, 0);
        if set_nonblocking(socket.fd(), true).is_err() {
            return false;
        }
        let mut is_left = true;
        for _ in 0..AT_ONE_GO {
            let client = match sys::accept(socket.fd()) {
                Ok(client) => client,
                // it went away while it waited
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => {
                    let scarce = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
                    if error
                        .raw_os_error()
                        .is_some_and(|errno| scarce.contains(&errno))
                    {
                        self.exhausted = Some(sys::now() + PATIENCE);
                    }
                    is_left = false;
                    break;
                }
            };
            if has_left(client.as_fd()) {
                continue;
            }
            let to = to.filter(|_| !self.relays.is_full());
            let carried = to.map(|to| self.relays.take(client, to, &self.epoll, sys::now()));
            match carried {
                Some(Ok(())) => relayed += 1,
                Some(Err(_)) | None => lost += 1,
            }
        }
        let listener = listener.to_owned();
        if relayed > 0 {
            let first = !std::mem::replace(&mut self.has_relayed, true);
            self.incident(Incident::Relayed {
                listener: listener.clone(),
                connections: relayed,
                first,
            });
        }
        if lost > 0 {
            self.incident(Incident::Lost {
                listener,
                connections: lost,
            });
        }
        is_left
    }
}
