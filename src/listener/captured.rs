//! Captured listeners: what a server binds becomes a listener like those of `--listen`.
//!
//! It decides which generation gets which socket. The binding itself is done with the server's rights, in `capture`.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use nix::errno::Errno;

use super::captured_address::{BoundPath, CapturedAddress};
use super::context::ListenerContext;
use super::private_path::PathUse;
use super::reuseport::ReuseportGroup;
use super::shared::SharedSocket;
use super::unix_dir::UnixDir;
use super::unix_path::UnixPath;
use super::{Listener, ListenerId, ListenerKind, Listeners};
use crate::address::covers;
use crate::socket::Inode;
use crate::socket::generation_socket::SocketKind;
use crate::supervisor::{Generation, SocketChoice, Time};
use crate::sys;

/// What to do with a bind(2) that no `--listen`ed address covers.
#[derive(Debug)]
pub enum BindPlan {
    /// Bind it exclusively: it is the first.
    Alone,
    /// Bind it beside the sockets of other generations.
    Join,
    /// Give the server this socket instead of its own.
    Instead(Replacement),
}

/// A socket that replaces the server's own.
#[derive(Debug)]
pub struct Replacement {
    /// `None` before anybody has listened on it.
    pub listener: Option<ListenerId>,
    pub socket: OwnedFd,
    /// Only this generation has it.
    pub steered: bool,
}

impl Listeners {
    /// The `--listen`ed or inherited listener that this bind(2) means: the same port, and the same address or a wildcard on
    /// either side.
    pub fn covering(&self, asked: &CapturedAddress) -> Option<ListenerId> {
        let own = || self.all.iter().filter(|one| one.captured.is_none());
        let found = match asked {
            CapturedAddress::Tcp { at, .. } | CapturedAddress::Udp(at) => {
                let udp = matches!(asked, CapturedAddress::Udp(_));
                let alike = || own().filter_map(|listener| Some((listener, listener.inet(udp)?)));
                alike()
                    .find(|(_, (there, _))| there == at)
                    .or_else(|| alike().find(|(_, (there, dual))| covers(*there, *dual, *at)))
                    .or_else(|| {
                        alike().find(|(_, (there, _))| covers(*at, asked.is_dual(), *there))
                    })
                    .map(|(listener, _)| listener)
            }
            CapturedAddress::Path(entry) => own().find(|listener| {
                let is_it = |dir: &UnixDir| {
                    dir.is_at(entry.directory, &entry.name) || dir.path() == entry.path
                };
                listener.steering.dir().is_some_and(is_it)
            }),
            CapturedAddress::Abstract(name) => {
                own().find(|listener| listener.steering.abstract_name() == Some(name))
            }
        };
        found.map(|listener| listener.id)
    }

    /// Whether a socket of the sequenced-packet type may become a listener there: not where hotswap makes the sockets.
    pub fn may_have_packets(&self, asked: &CapturedAddress) -> bool {
        !self.context.options.share && self.covering(asked).is_none()
    }

    /// The socket that this generation has there.
    ///
    /// # Errors
    /// `ENOENT` if it has none.
    pub fn inherited_socket_of(
        &mut self,
        generation: Generation,
        listener: ListenerId,
    ) -> io::Result<Replacement> {
        let mut all = self.all.iter_mut();
        let listener = all.find(|other| other.id == listener);
        let listener = listener.ok_or(Errno::ENOENT)?;
        let steering = &mut listener.steering;
        let steered = steering.is_steered();
        let socket = if steered {
            let socket = steering.socket_of(generation).ok_or(Errno::ENOENT)?;
            socket.duplicate()?
        } else {
            steering.inherited_socket(generation, SocketChoice::Own, &mut self.context)?
        };
        Ok(Replacement {
            listener: Some(listener.id),
            socket,
            steered,
        })
    }

    /// What to do with a bind(2) that no listener covers. A socket in which clients wait for the next generation is given to
    /// this one, unless the server would never notice the replacement.
    ///
    /// # Errors
    /// If descriptors or memory run out.
    pub fn plan(
        &mut self,
        generation: Generation,
        asked: &CapturedAddress,
        is_attached: bool,
    ) -> io::Result<BindPlan> {
        let mut all = self.all.iter_mut();
        let Some(listener) = all.find(|listener| listener.captured.as_ref() == Some(asked)) else {
            return Ok(BindPlan::Alone);
        };
        let (id, steering) = (listener.id, &mut listener.steering);
        self.context.awaited.came(id);
        if steering.is_steered() {
            let is_left_to_it = steering.is_waiting() && !self.context.holds();
            if is_attached || (steering.socket_of(generation).is_none() && !is_left_to_it) {
                if !self.context.is_closed() && steering.lends_path() {
                    return Ok(BindPlan::Alone);
                }
                return Ok(BindPlan::Join);
            }
            steering.inherited_socket(generation, SocketChoice::Target, &mut self.context)?;
        }
        self.meet(generation, id);
        self.inherited_socket_of(generation, id)
            .map(BindPlan::Instead)
    }

    /// The generation listens on a socket that was bound to that address. Also returns whether the listener is new.
    ///
    /// # Errors
    /// Those of listen(2).
    pub fn listen(
        &mut self,
        generation: Generation,
        asked: &CapturedAddress,
        socket: OwnedFd,
        path: Option<BoundPath>,
    ) -> io::Result<(ListenerId, bool)> {
        let mut all = self.all.iter();
        let there = all.position(|listener| listener.captured.as_ref() == Some(asked));
        let Some(at) = there else {
            return Ok((self.found(generation, asked, socket, path)?, true));
        };
        self.meet(generation, self.all[at].id);
        let Listener { id, steering, .. } = &mut self.all[at];
        steering.join(generation, socket, path, &mut self.context)?;
        // it may have come too late for the cut-over
        let gets_clients = !self.context.is_closed() && !steering.is_parked();
        if self.serving == Some(generation) && gets_clients {
            steering.prepare(generation, &mut self.context)?;
            steering.cut_over(generation, &mut self.context)?;
        }
        Ok((*id, false))
    }

    fn found(
        &mut self,
        generation: Generation,
        asked: &CapturedAddress,
        socket: OwnedFd,
        path: Option<BoundPath>,
    ) -> io::Result<ListenerId> {
        let habits = &mut self.habits;
        if let Some(at) = habits.let_go.iter().position(|one| one == asked) {
            habits.asks_first.push(habits.let_go.remove(at));
        }
        let may_be_private = path.is_some() || matches!(asked, CapturedAddress::Abstract(_));
        let was_bound = habits.bound_before.contains(asked);
        let path_use = may_be_private.then(|| PathUse::new(generation, was_bound));
        let dir = match (asked, path) {
            (CapturedAddress::Path(entry), Some(BoundPath { directory, .. })) => {
                let (name, path) = (entry.name.clone(), entry.path.clone());
                Some(UnixDir::within(directory, name, path))
            }
            _ => None,
        };
        let is_early = self.is_served_elsewhere(generation, asked);
        let context = &self.context;
        let share = context.options.share;
        let mut steering = match (asked.tcp(), dir) {
            (Some(_), _) if !share => {
                let owner = Some(generation);
                ListenerKind::Group(ReuseportGroup::new(socket, owner, is_early, context)?)
            }
            (None, Some(dir)) if !share => {
                ListenerKind::Path(UnixPath::captured(dir, generation, socket, context)?)
            }
            (_, dir) => {
                ListenerKind::Shared(SharedSocket::captured(socket, dir, generation, context)?)
            }
        };
        steering.resume(&mut self.context);
        Ok(self.add_captured(asked.clone(), path_use, steering))
    }

    /// A server calls listen(2) again on a listener; `None` if hotswap does not know the socket.
    pub fn listen_again(&mut self, inode: Inode) -> Option<io::Result<ListenerId>> {
        let mut all = self.all.iter_mut();
        let listener = all.find(|listener| listener.steering.has(inode))?;
        let mut done = listener.steering.listen_again(inode, &mut self.context);
        // clients wait in a spare since it was shut down
        if let Some(serving) = self.serving.filter(|_| !self.context.is_closed())
            && listener.steering.is_waiting()
            && !listener.steering.is_parked()
        {
            let cut_over = |()| listener.steering.cut_over(serving, &mut self.context);
            done = done.and_then(cut_over).map(drop);
        }
        Some(done.map(|()| listener.id))
    }

    /// The generation has closed its socket there. If no other has one and no client waits for its start, the listener is
    /// closed as well, and its clients are reset, as by the bare server.
    pub fn abandon(&mut self, generation: Generation, listener: ListenerId, now: Time) {
        let Some(at) = self.all.iter().position(|other| other.id == listener) else {
            return;
        };
        let listener = &mut self.all[at];
        listener.steering.leave(generation, now, &mut self.context);
        let is_owned = listener.steering.is_owned();
        // its server may bind there again until the stop has ended it
        let is_stopping = !self.context.repairs;
        let is_needed = is_owned || listener.awaits_start || is_stopping || self.context.keeps();
        if listener.captured.is_some() && !is_needed {
            self.all.remove(at).steering.close(&mut self.context);
        }
    }

    /// The generation is ready. What was kept for it and what it has not bound is no longer its own: clients wait there
    /// until then, unless the address has moved.
    pub fn release_kept(
        &mut self,
        generation: Generation,
        bound: &[ListenerId],
        moved: &[ListenerId],
        (until, now): (Time, Time),
    ) {
        // private ones are kept for nobody: who has one has bound it
        let counting: Vec<bool> = self.all.iter().map(|one| self.counts(one)).collect();
        for (listener, counts) in self.all.iter_mut().zip(counting) {
            let was_awaited = std::mem::take(&mut listener.awaits_start);
            let is_own = listener.steering.socket_of(generation).is_some() || was_awaited;
            let is_kept = listener.captured.is_some() && counts && is_own;
            if is_kept && !bound.contains(&listener.id) {
                listener.steering.leave(generation, now, &mut self.context);
                self.context.awaited.wait_for(listener.id, until);
            }
        }
        for moved in moved {
            self.context.awaited.came(*moved);
        }
    }

    /// A captured listener lives as long as a generation has it, or may still bind it. If nothing serves, clients wait for the
    /// next one.
    pub(super) fn forget_unowned(&mut self) {
        if self.serving.is_some() && !self.context.keeps() {
            self.close_captured(|one, context| {
                let is_awaited = one.awaits_start || context.awaited.has(one.id);
                !one.steering.is_owned() && !is_awaited
            });
        }
    }

    /// Closes the captured listeners that no generation has, but these; where they were.
    pub fn close_unowned(&mut self, but: &[ListenerId]) -> Vec<String> {
        let is_useless = |one: &Listener| !one.steering.is_owned() && !but.contains(&one.id);
        let useless = self.all.iter().filter(|one| is_useless(one));
        self.habits.let_go = useless.filter_map(|one| one.captured.clone()).collect();
        self.close_captured(|one, _| is_useless(one))
    }

    /// Its server binds it only where nobody answers.
    pub(super) fn is_asked_first(&self, listener: &Listener) -> bool {
        let captured = listener.captured.as_ref();
        captured.is_some_and(|asked| self.habits.asks_first.contains(asked))
    }

    fn close_captured(
        &mut self,
        is_useless: impl Fn(&Listener, &ListenerContext) -> bool,
    ) -> Vec<String> {
        let is_useless =
            |one: &mut Listener| one.captured.is_some() && is_useless(one, &self.context);
        let mut useless: Vec<Listener> = self.all.extract_if(.., is_useless).collect();
        for listener in &mut useless {
            listener.steering.close(&mut self.context);
        }
        useless.iter().map(|one| one.steering.address()).collect()
    }
}

impl Listener {
    /// Its internet address, if it is of that protocol, and whether it answers both families.
    fn inet(&self, udp: bool) -> Option<(SocketAddr, bool)> {
        let is_of_it = udp == matches!(self.steering.kind(), SocketKind::Udp { .. });
        let (address, socket) = self.steering.inet().filter(|_| is_of_it)?;
        let (level, name) = (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY);
        let dual = sys::socket_option(socket, level, name).is_ok_and(|only| only == 0);
        Some((address, dual))
    }
}
