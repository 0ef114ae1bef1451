//! Listeners that came with a server: it binds, and what it binds becomes a listener like those of `--listen`.
//!
//! Nothing is bound here: that is done with the server's own rights. Here it is decided who gets which socket.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use nix::errno::Errno;

use super::group::Group;
use super::means::Means;
use super::open::Family;
use super::shared::Shared;
use super::steer::Inode;
use super::{Kind, Listener, ListenerId, Listeners, Sockets, Sort};
use crate::address::covers;
use crate::supervisor::{Generation, Time};
use crate::sys;

/// What a server asks bind(2) for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CapturedAddress {
    Tcp {
        at: SocketAddr,
        only_v6: bool,
        /// The network device it is bound to; 0 is none.
        device: u32,
    },
    Udp(SocketAddr),
    /// Without its leading NUL.
    Abstract(Vec<u8>),
}

/// What becomes of a bind(2) that no `--listen`ed address covers.
#[derive(Debug)]
pub enum Plan {
    /// Nobody else is to be there.
    Alone,
    /// Beside the sockets of other generations.
    Join,
    /// The server is given this one in the place of its own.
    Instead(Given),
}

/// A socket for a server that has made one of its own.
#[derive(Debug)]
pub struct Given {
    /// None before anybody has listened on it.
    pub listener: Option<ListenerId>,
    pub socket: OwnedFd,
    /// It is this generation's alone.
    pub steered: bool,
}

impl CapturedAddress {
    /// What a socket for it is made of, if it can be steered.
    fn family(&self) -> Option<(Family, u32)> {
        let Self::Tcp {
            at,
            only_v6,
            device,
        } = self
        else {
            return None;
        };
        let family = if at.is_ipv4() {
            Family::V4
        } else {
            Family::V6 {
                only: Some(*only_v6),
            }
        };
        Some((family, *device))
    }

    fn inet(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp { at, .. } | Self::Udp(at) => Some(*at),
            Self::Abstract(_) => None,
        }
    }

    /// Whether an IPv6 wildcard would answer IPv4 clients too.
    fn is_dual(&self) -> bool {
        !matches!(self, Self::Tcp { only_v6: true, .. })
    }
}

impl fmt::Display for CapturedAddress {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Tcp { at, .. } => at.fmt(f),
            Self::Udp(at) => write!(f, "udp:{at}"),
            Self::Abstract(name) => write!(f, "unix:@{}", String::from_utf8_lossy(name)),
        }
    }
}

impl Listeners {
    /// A listener of `--listen`, or one that hotswap was given, at which this bind(2) is meant: of the same port, and
    /// equal, or one of them a wildcard.
    pub fn covering(&self, asked: &CapturedAddress) -> Option<ListenerId> {
        let own = || {
            self.all
                .iter()
                .filter(|listener| listener.captured.is_none())
        };
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
            CapturedAddress::Abstract(_) => {
                let words = asked.to_string();
                own().find(|listener| listener.addr() == words)
            }
        };
        found.map(|listener| listener.id)
    }

    /// The socket that this generation has there.
    ///
    /// # Errors
    /// `ENOENT` if it has none.
    pub fn seat_of(&mut self, generation: Generation, listener: ListenerId) -> io::Result<Given> {
        let mut all = self.all.iter_mut();
        let listener = all
            .find(|other| other.id == listener)
            .ok_or(Errno::ENOENT)?;
        let (socket, steered) = match &mut listener.sort {
            Sort::Group(group) => {
                let socket = group.socket_of(generation).ok_or(Errno::ENOENT)?;
                (socket.fd().try_clone_to_owned()?, true)
            }
            Sort::Path(path) => {
                let socket = path.socket_of(generation).ok_or(Errno::ENOENT)?;
                (socket.fd().try_clone_to_owned()?, true)
            }
            Sort::Shared(shared) => (shared.seat(generation, &self.means)?, false),
        };
        Ok(Given {
            listener: Some(listener.id),
            socket,
            steered,
        })
    }

    /// What becomes of a bind(2) that nothing covers. A socket in which clients wait for whoever comes next is given
    /// to who comes.
    ///
    /// # Errors
    /// When descriptors or memory are out.
    pub fn plan(&mut self, generation: Generation, asked: &CapturedAddress) -> io::Result<Plan> {
        let mut all = self.all.iter_mut();
        let Some(listener) = all.find(|listener| listener.captured.as_ref() == Some(asked)) else {
            return Ok(Plan::Alone);
        };
        let id = listener.id;
        if let Sort::Group(group) = &mut listener.sort
            && !group.has_seat(generation)
        {
            if !group.is_waiting() {
                return Ok(Plan::Join);
            }
            group.seat(
                generation,
                Sockets::Target,
                &HashSet::new(),
                &mut self.means,
            )?;
        }
        self.seat_of(generation, id).map(Plan::Instead)
    }

    /// The generation listens on a socket that was bound to that address; whether the listener is new is said too.
    ///
    /// # Errors
    /// Those of listen(2).
    pub fn listen(
        &mut self,
        generation: Generation,
        asked: &CapturedAddress,
        socket: OwnedFd,
    ) -> io::Result<(ListenerId, bool)> {
        let mut all = self.all.iter_mut();
        let there = all.find(|listener| listener.captured.as_ref() == Some(asked));
        let Some(listener) = there else {
            return Ok((self.found(generation, asked, socket)?, true));
        };
        let id = listener.id;
        match &mut listener.sort {
            Sort::Group(group) => {
                group.join(generation, socket, &mut self.means)?;
                // it came too late for the cut-over
                if self.serving == Some(generation) {
                    group.prepare(generation, &mut self.means)?;
                    group.cut_over(generation, &mut self.means)?;
                }
            }
            // bound by two at once: the first is shared
            Sort::Path(_) | Sort::Shared(_) => return Err(Errno::EADDRINUSE.into()),
        }
        Ok((id, false))
    }

    fn found(
        &mut self,
        generation: Generation,
        asked: &CapturedAddress,
        socket: OwnedFd,
    ) -> io::Result<ListenerId> {
        let sort = if let Some(made_of) = asked.family().filter(|_| !self.means.options.share) {
            let group = Group::of_server(socket, made_of, generation, &self.means)?;
            Sort::Group(group)
        } else {
            let mut shared = Shared::own(socket, &self.means)?;
            shared.seat(generation, &self.means)?;
            Sort::Shared(shared)
        };
        let id = ListenerId(self.given_out);
        self.given_out += 1;
        self.all.push(Listener {
            id,
            name: String::new(),
            spelled: asked.to_string(),
            captured: Some(asked.clone()),
            sort,
        });
        Ok(id)
    }

    /// A server listens on a socket that it has had as a listener before; `None` if it is none of ours.
    pub fn listen_again(&mut self, inode: Inode) -> Option<io::Result<ListenerId>> {
        let mut all = self.all.iter_mut();
        let listener = all.find(|listener| listener.has(inode))?;
        let done = match &mut listener.sort {
            Sort::Group(group) => group.listen_again(inode, &mut self.means),
            Sort::Path(_) => Ok(()),
            Sort::Shared(shared) => shared.mend(&self.means),
        };
        Some(done.map(|()| listener.id))
    }

    /// What another generation has at that port, if it is not quite that address.
    pub fn conflicting(&self, asked: &CapturedAddress) -> Option<String> {
        let port = asked.inet()?.port();
        let mut all = self.all.iter();
        let there = all.find(|listener| listener.kind() == Kind::Tcp { port })?;
        Some(there.addr())
    }

    /// The generation has closed its socket there.
    pub fn abandon(&mut self, generation: Generation, listener: ListenerId, now: Time) {
        if let Some(listener) = self.all.iter_mut().find(|other| other.id == listener) {
            match &mut listener.sort {
                Sort::Group(group) => group.leave(generation, now, &mut self.means),
                Sort::Path(path) => path.leave(generation, now, &mut self.means),
                Sort::Shared(shared) => shared.leave(generation),
            }
        }
        self.forget_unowned();
    }

    /// A captured listener lives as long as a generation has it. Where nothing serves, clients wait for the next one.
    pub(super) fn forget_unowned(&mut self) {
        if self.serving.is_none() {
            return;
        }
        let (keep, forget) = std::mem::take(&mut self.all)
            .into_iter()
            .partition(|listener| listener.captured.is_none() || listener.is_owned());
        self.all = keep;
        for listener in forget {
            listener.close(&mut self.means);
        }
    }
}

impl Listener {
    /// Its internet address, if it is of that protocol, and whether it answers both families.
    fn inet(&self, udp: bool) -> Option<(SocketAddr, bool)> {
        let (address, socket) = match &self.sort {
            Sort::Group(group) if !udp => (group.address(), group.any()?),
            Sort::Shared(shared) if udp == matches!(shared.kind(), Kind::Udp { .. }) => {
                (shared.address()?, shared.fd())
            }
            Sort::Group(_) | Sort::Path(_) | Sort::Shared(_) => return None,
        };
        let (level, name) = (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY);
        let dual = sys::socket_option(socket, level, name).is_ok_and(|only| only == 0);
        Some((address, dual))
    }

    fn is_owned(&self) -> bool {
        match &self.sort {
            Sort::Group(group) => group.is_owned(),
            Sort::Path(path) => path.is_owned(),
            Sort::Shared(shared) => !shared.is_unused(),
        }
    }

    fn close(self, means: &mut Means) {
        match self.sort {
            Sort::Group(group) => group.close(means),
            Sort::Path(path) => path.close(means),
            Sort::Shared(shared) => shared.close(means),
        }
    }
}
