//! What all listeners share: the options, the watcher, the relays, and the incidents to report.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;

use super::incident::Incident;
use super::kept::{Awaited, KeptSockets};
use super::listening_socket::{Interest, ListeningSocket};
use super::muted::MutedConnections;
use super::own_probes::OwnProbes;
use super::port_holder;
use super::relay::Relays;
use super::snapshot::Snapshots;
use super::watcher::Watcher;
use crate::socket::Inode;
use crate::supervisor::{Generation, Refusal, Time};

use nix::sys::epoll::EpollFlags;
use nix::unistd::{Gid, Uid};

mod take_off;

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

/// What becomes of new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intake {
    /// They go to the serving generation.
    Open,
    /// They wait for the next one on sockets of ours.
    Held,
    /// They are reset: as many so far, and for this reason.
    Refused { connections: usize, why: Refusal },
    /// They wait for the next hotswap on sockets of ours that a service manager keeps.
    Kept,
}

pub struct ListenerContext {
    pub options: SocketOptions,
    /// False once hotswap stops.
    pub repairs: bool,
    pub watcher: Watcher,
    pub relays: Relays,
    pub muted: MutedConnections,
    pub probes: OwnProbes,
    /// The last look at the kernel's tables, for each listener to take its part.
    pub snapshots: Snapshots,
    /// The user has been told what relaying means.
    has_relayed: bool,
    /// Descriptors or memory have run out: until then nothing is accepted from spares, or the loop would spin.
    exhausted: Option<Time>,
    /// As many clients are relayed as may be: the others wait until one ends.
    held_back: bool,
    pub intake: Intake,
    /// Sockets of a hotswap before that no listener has taken yet.
    pub kept: KeptSockets,
    pub awaited: Awaited,
    /// Where clients cannot wait for the next version, and were said not to.
    not_held: HashSet<String>,
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
            muted: MutedConnections::default(),
            probes: OwnProbes::default(),
            snapshots: Snapshots::default(),
            has_relayed: false,
            exhausted: None,
            held_back: false,
            intake: Intake::Open,
            kept: KeptSockets::default(),
            awaited: Awaited::default(),
            not_held: HashSet::new(),
            incidents: Vec::new(),
            strangers: Vec::new(),
        })
    }

    pub fn incident(&mut self, incident: Incident) {
        self.incidents.push(incident);
    }

    /// Clients of this address cannot wait for the next version: said once.
    pub fn cannot_hold(&mut self, listener: String) {
        if self.not_held.insert(listener.clone()) {
            self.incident(Incident::NotHeld { listener });
        }
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

    /// A socket that listens, watched from now on.
    pub fn watched(&self, fd: OwnedFd, owner: Option<Generation>) -> io::Result<ListeningSocket> {
        let mut socket = ListeningSocket::new(fd, owner)?;
        self.watcher.watch(&mut socket, Some(Interest::Shutdown))?;
        Ok(socket)
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
        let parts = [
            self.relays.deadline(),
            self.watcher.deadline(),
            self.awaited.deadline(),
            self.muted.due,
            self.exhausted,
        ];
        parts.into_iter().flatten().min()
    }

    /// Whether clients that were left on spare sockets can be taken off them now.
    pub fn can_go_on(&mut self, now: Time) -> bool {
        let has_room = self.held_back && !self.relays.is_full();
        self.held_back &= !has_room;
        self.exhausted.take_if(|until| *until <= now).is_some() || has_room
    }

    pub fn refuses(&self) -> bool {
        matches!(self.intake, Intake::Refused { .. })
    }

    /// No generation gets them any more.
    pub fn lets_nobody_in(&self) -> bool {
        matches!(self.intake, Intake::Refused { .. } | Intake::Kept)
    }

    /// They wait for the next hotswap: what no generation has is not closed.
    pub fn keeps(&self) -> bool {
        self.intake == Intake::Kept
    }

    /// They wait on sockets of ours.
    pub fn holds(&self) -> bool {
        matches!(self.intake, Intake::Held | Intake::Kept)
    }

    /// The target is a socket of ours that no generation is to be given.
    pub fn is_closed(&self) -> bool {
        self.intake != Intake::Open
    }

    /// What a spare socket is watched for.
    pub fn interest_in_spares(&self) -> Interest {
        if self.exhausted.is_some() || self.held_back || self.holds() {
            Interest::Shutdown
        } else {
            Interest::Clients
        }
    }

    /// Gives a socket of an address that is given up back to the kernel.
    pub fn close(&mut self, socket: &mut ListeningSocket, listener: &str) {
        self.close_clients(socket, listener);
        self.try_to_watch(socket, None, listener);
    }
}
