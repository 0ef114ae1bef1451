//! Sockets that a service manager has kept while there was no hotswap, until the listeners that they are of take them.

use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::ListenerId;
use super::beside::without_number;
use super::bound_address::BoundAddress;
use crate::socket::inet::InetAddress;
use crate::supervisor::Time;

/// One that has come back.
pub struct KeptSocket {
    pub socket: OwnedFd,
    pub at: KeptAt,
}

/// Where a socket is bound, as far as it tells itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeptAt {
    Tcp(InetAddress),
    /// The path that clients come by; the socket is bound to it, or to a name beside it.
    Path(PathBuf),
}

impl KeptAt {
    /// `None` if it is of no kind that is kept.
    pub fn of(socket: BorrowedFd) -> Option<Self> {
        match BoundAddress::of(socket) {
            BoundAddress::Tcp(at) => InetAddress::of(socket, at).ok().map(Self::Tcp),
            BoundAddress::Unix(bound) => {
                let bound = bound.path().filter(|bound| bound.is_absolute())?;
                let name = without_number(bound.file_name()?);
                Some(Self::Path(bound.with_file_name(name)))
            }
            BoundAddress::Udp(_) | BoundAddress::Unknown => None,
        }
    }
}

impl fmt::Display for KeptAt {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.at.fmt(f),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

/// Those that no listener has taken yet.
#[derive(Default)]
pub struct KeptSockets(pub Vec<KeptSocket>);

impl KeptSockets {
    pub fn take_tcp(&mut self, wanted: &InetAddress) -> Option<OwnedFd> {
        self.take(|at| matches!(at, KeptAt::Tcp(address) if address.is_same(wanted)))
    }

    pub fn take_path(&mut self, wanted: &Path) -> Option<OwnedFd> {
        self.take(|at| matches!(at, KeptAt::Path(path) if is_same_path(path, wanted)))
    }

    fn take(&mut self, is_it: impl Fn(&KeptAt) -> bool) -> Option<OwnedFd> {
        let at = self.0.iter().position(|kept| is_it(&kept.at))?;
        Some(self.0.remove(at).socket)
    }

    /// The port that `address` with port 0 had before, unless that is one of these.
    pub fn port_of(&self, address: IpAddr, taken: &[u16]) -> Option<u16> {
        let mut ports = self.0.iter().filter_map(|kept| match &kept.at {
            KeptAt::Tcp(there) if there.at.ip() == address => Some(there.at.port()),
            KeptAt::Tcp(_) | KeptAt::Path(_) => None,
        });
        ports.find(|port| !taken.contains(port))
    }
}

/// Captured listeners that no generation has: of the hotswap before, or of a generation that is dead. Clients wait there
/// until the server binds them, or has had the time to.
#[derive(Default)]
pub struct Awaited {
    pub listeners: Vec<ListenerId>,
    pub until: Option<Time>,
}

impl Awaited {
    pub fn has(&self, listener: ListenerId) -> bool {
        self.listeners.contains(&listener)
    }

    pub fn wait_for(&mut self, listener: ListenerId, until: Time) {
        self.until = self.until.max(Some(until));
        if !self.has(listener) {
            self.listeners.push(listener);
        }
    }

    /// A server binds it, or will not.
    pub fn came(&mut self, listener: ListenerId) {
        self.listeners.retain(|other| *other != listener);
    }

    pub fn deadline(&self) -> Option<Time> {
        self.until.filter(|_| !self.listeners.is_empty())
    }

    /// Then they are not awaited any more.
    pub fn are_overdue(&mut self, now: Time) -> bool {
        let overdue = self.deadline().is_some_and(|until| until <= now);
        if overdue {
            self.listeners.clear();
        }
        overdue
    }
}

fn is_same_path(one: &Path, other: &Path) -> bool {
    let directory = |path: &Path| {
        let found = fs::metadata(path.parent()?).ok()?;
        Some((found.dev(), found.ino()))
    };
    let same = || directory(one).is_some() && directory(one) == directory(other);
    one == other || (one.file_name() == other.file_name() && same())
}
