//! What all listeners share: the options, the watcher, the relays, and the incidents to report.

use std::io;

use super::incident::Incident;
use super::listening_socket::{Interest, ListeningSocket};
use super::port_holder;
use super::relay::{Destination, Relays, has_left};
use super::snapshot::Surveys;
use super::watcher::Watcher;
use crate::socket::{Inode, set_nonblocking};
use crate::supervisor::Time;
use crate::sys;

use nix::sys::epoll::EpollFlags;
use nix::unistd::{Gid, Uid};

/// How many clients are accepted from a spare at once, so that a flood does not block the loop.
const AT_ONE_GO: usize = 256;

/// How long to wait before accepting from spares again after a failure.
const PATIENCE: Time = Time::from_secs(1);

/// What holds for every listener.
#[derive(Clone, Debug)]
pub struct SocketOptions {
    pub backlog: u32,
    pub mode: Option<u32>,
    pub owner: Option<(Option<Uid>, Option<Gid>)>,
    pub share: bool,
}

pub struct ListenerContext {
    pub options: SocketOptions,
    /// False once hotswap stops.
    pub repairs: bool,
    pub watcher: Watcher,
    pub relays: Relays,
    /// The last look at the kernel's tables, for each listener to take its part.
    pub surveys: Surveys,
    /// The user has been told what relaying means.
    has_relayed: bool,
    /// Descriptors or memory have run out: until then nothing is accepted from spares, or the loop would spin.
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
            watcher: Watcher::new()?,
            relays: Relays::default(),
            surveys: Surveys::default(),
            has_relayed: false,
            exhausted: None,
            incidents: Vec::new(),
            strangers: Vec::new(),
        })
    }

    pub fn incident(&mut self, incident: Incident) {
        self.incidents.push(incident);
    }

    /// A stranger has joined. Finding out who it is takes long, and is left for later.
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

    /// Like [`Watcher::watch`], when nothing can be done about a failure.
    pub fn try_to_watch(
        &self,
        socket: &mut ListeningSocket,
        interest: Option<Interest>,
        listener: &str,
    ) {
        if let Err(error) = self.watcher.watch(socket, interest) {
            log::debug!("cannot change how a socket of {listener} is watched: {error}");
        }
    }

    /// The listening sockets with an event, and whether they were shut down. Events of relayed connections are handled here.
    pub fn ready(&mut self, now: Time) -> Vec<(Inode, bool)> {
        let mut listening = Vec::new();
        for (inode, flags) in self.watcher.ready() {
            if !self.relays.woken(inode, flags, &self.watcher, now) {
                listening.push((inode, flags.contains(EpollFlags::EPOLLHUP)));
            }
        }
        listening
    }

    pub fn deadline(&self) -> Option<Time> {
        let relays = self.relays.deadline();
        relays.into_iter().chain(self.exhausted).min()
    }

    /// Whether spares must be looked at again.
    pub fn look(&mut self, now: Time) -> bool {
        self.relays.look(now);
        self.exhausted.take_if(|until| *until <= now).is_some()
    }

    /// What a spare is watched for.
    pub fn interest_in_spares(&self) -> Interest {
        match self.exhausted {
            Some(_) => Interest::Shutdown,
            None => Interest::Clients,
        }
    }

    /// Accepts the clients that wait on a spare and relays them to the target. Returns whether some are left because too
    /// many came at once.
    pub fn take_off(&mut self, socket: &ListeningSocket, listener: &str, to: &Destination) -> bool {
        self.accept(socket, listener, Some(to).filter(|_| self.repairs))
    }

    /// The same until none is left, for a socket that is about to be closed or given away.
    pub fn empty(&mut self, socket: &ListeningSocket, listener: &str, to: &Destination) {
        while self.take_off(socket, listener, to) {}
    }

    /// Closes the clients that wait on a socket of an address that is given up.
    pub fn turn_away(&mut self, socket: &ListeningSocket, listener: &str) {
        while self.accept(socket, listener, None) {}
    }

    /// Gives a socket of an address that is given up back to the kernel.
    pub fn close(&mut self, socket: &mut ListeningSocket, listener: &str) {
        self.turn_away(socket, listener);
        self.try_to_watch(socket, None, listener);
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
                // the client left while it waited
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
            if has_left(&client) {
                continue;
            }
            let to = to.filter(|_| !self.relays.is_full());
            let carried = to.map(|to| self.relays.take(client, to, &self.watcher, sys::now()));
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
