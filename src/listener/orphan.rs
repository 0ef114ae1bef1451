//! What a hotswap that is gone has left listening, as far as listeners are told.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::socket::Inode;
use crate::socket::inet::InetAddress;
use crate::supervisor::Generation;

/// A listening socket of a generation that has lost its hotswap. There is no descriptor of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrphanSocket {
    pub generation: Generation,
    pub inode: Inode,
}

/// One at a unix path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrphanPath {
    /// Where its clients connect to, unless another one has taken its place.
    pub path: PathBuf,
    /// The name in the same directory that the socket was bound to.
    pub bound: OsString,
    pub socket: OrphanSocket,
}

/// All of them.
pub struct Orphans<'a> {
    /// The generation that new connections went to.
    pub serving: Generation,
    pub tcp: Vec<(InetAddress, OrphanSocket)>,
    pub paths: Vec<OrphanPath>,
    /// The addresses of `--listen`, with the port that 0 has become.
    pub listening: Vec<String>,
    /// The addresses that were hotswap's, without paths, if that is known: another one, as on a port of the kernel's
    /// choice, is its server's own, and not kept by a swap either.
    pub owned: Option<Vec<String>>,
    /// Whether a process of the serving one has this socket.
    pub serving_has: Box<dyn Fn(Inode) -> bool + 'a>,
}

impl Orphans<'_> {
    pub fn at(&self, wanted: &InetAddress) -> Vec<OrphanSocket> {
        let here = self.tcp.iter().filter(|(at, _)| at.is_same(wanted));
        here.map(|(_, socket)| *socket).collect()
    }

    pub fn at_path(&self, path: &Path) -> Vec<&OrphanPath> {
        let here = self.paths.iter().filter(|one| one.path == path);
        here.collect()
    }

    /// The port that `host` with port 0 had before, `host` up to the colon.
    pub fn port_of(&self, host: &str) -> Option<u16> {
        let mut all = self.listening.iter();
        all.find_map(|one| one.strip_prefix(host)?.parse().ok())
    }
}
