//! The addresses that servers bind and that can become listeners.

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::fcntl::AtFlags;
use nix::sys::stat::fstatat;
use serde::{Deserialize, Serialize};

use super::unix_dir::{FileId, file_id};
use crate::address::covers;
use crate::escape::escape;
use crate::handoff;
use crate::retry::retry;
use crate::socket::inet::InetAddress;

/// The address that a server passes to bind(2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CapturedAddress {
    Tcp {
        at: SocketAddr,
        only_v6: bool,
        /// The network device it is bound to; 0 if it is not.
        device: u32,
    },
    Udp(SocketAddr),
    Path(PathEntry),
    /// Without its leading NUL.
    Abstract(Vec<u8>),
}

/// A name in a directory, or the same path: a start script may have replaced the directory, or what leads there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PathEntry {
    pub directory: FileId,
    #[serde(with = "handoff::os_string")]
    pub name: OsString,
    /// As the server knows it if that leads there for hotswap, too, else as hotswap does.
    #[serde(with = "handoff::os_string")]
    pub path: PathBuf,
}

impl PartialEq for PathEntry {
    fn eq(&self, other: &Self) -> bool {
        (self.directory, &self.name) == (other.directory, &other.name) || self.path == other.path
    }
}

impl Eq for PathEntry {}

/// The name that a socket is bound to; it is removed if nobody ever listens there.
#[derive(Debug, Serialize, Deserialize)]
pub struct BoundPath {
    #[serde(with = "handoff::descriptor")]
    pub directory: OwnedFd,
    #[serde(with = "handoff::os_string")]
    pub name: OsString,
    pub file: FileId,
}

impl BoundPath {
    /// Whether it is still there: some servers rename their path before they listen.
    pub fn is_there(&self) -> bool {
        let (name, flags) = (self.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
        let found = retry(|| fstatat(&self.directory, name, flags));
        found.is_ok_and(|found| file_id(&found) == self.file)
    }
}

impl CapturedAddress {
    /// As a server would ask for it that has a socket there.
    pub(super) fn of(address: &InetAddress) -> Self {
        Self::Tcp {
            at: address.at,
            only_v6: address.only_v6 == Some(true) && address.at.ip().is_unspecified(),
            device: address.device,
        }
    }

    /// Where sockets for it are bound, if it can be steered.
    pub(super) fn tcp(&self) -> Option<InetAddress> {
        let Self::Tcp {
            at,
            only_v6,
            device,
        } = *self
        else {
            return None;
        };
        Some(InetAddress {
            at,
            only_v6: Some(only_v6),
            device,
        })
    }

    pub(super) fn inet(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp { at, .. } | Self::Udp(at) => Some(*at),
            Self::Path(_) | Self::Abstract(_) => None,
        }
    }

    /// Whether a socket at one address may conflict with the other: same port, or same name.
    pub fn meets(&self, other: &Self) -> bool {
        match (self.inet(), other.inet()) {
            (Some(one), Some(other)) => one.port() == other.port(),
            _ => self == other,
        }
    }

    /// Whether clients of one address could reach the other, if that were alone.
    pub fn overlaps(&self, other: &Self) -> bool {
        self == other || self.covers(other) || other.covers(self)
    }

    /// Whether clients of the other address reach this one, if the other is not there.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let (Self::Tcp { at: one, .. }, Self::Tcp { at: two, .. }) = (self, other) else {
            return false;
        };
        covers(*one, self.is_dual(), *two)
    }

    /// Whether an IPv6 wildcard accepts IPv4 clients too.
    pub(super) fn is_dual(&self) -> bool {
        !matches!(self, Self::Tcp { only_v6: true, .. })
    }
}

impl fmt::Display for CapturedAddress {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Tcp { at, .. } => at.fmt(f),
            Self::Udp(at) => write!(f, "udp:{at}"),
            Self::Path(entry) => f.write_str(&escape(&entry.path.to_string_lossy())),
            Self::Abstract(name) => {
                write!(f, "unix:@{}", escape(&String::from_utf8_lossy(name)))
            }
        }
    }
}
