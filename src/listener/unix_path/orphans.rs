//! Takes over a path that leads to a server whose hotswap is gone, by a rename as at any cut-over.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{UnixAddr, getpeername};
use serde::{Deserialize, Serialize};

use super::UnixPath;
use crate::handoff;
use crate::listener::orphan::{OrphanPath, OrphanSocket};
use crate::listener::unix_dir::{FileId, UnixDir};
use crate::socket::Inode;
use crate::socket::client::unix_client;
use crate::supervisor::Generation;

/// A socket of which there is no descriptor, and its name beside the path.
#[derive(Serialize, Deserialize)]
pub(super) struct NamedOrphan {
    pub socket: OrphanSocket,
    #[serde(with = "handoff::os_string")]
    pub name: OsString,
    pub file: FileId,
}

impl UnixPath {
    /// The path stays as it is until the cut-over.
    ///
    /// # Errors
    /// `EADDRINUSE` if none of these is the one that answers there.
    pub fn beside(dir: UnixDir, is_captured: bool, orphans: &[&OrphanPath]) -> io::Result<Self> {
        let answers = who_answers(dir.path())?;
        let live = dir.file(dir.name())?;
        let mut path = Self::of(dir);
        path.is_captured = is_captured;
        for OrphanPath { bound, socket, .. } in orphans {
            let is_live = answers == *bound;
            let mut name = bound.clone();
            if name == path.dir.name() {
                name = path.dir.beside(socket.generation.0);
                if is_live && path.dir.file(&name).ok() != Some(live) {
                    path.dir.remove(&name);
                    path.dir.link(bound, &name)?;
                }
            }
            // it may have lost its name to another one
            let file = path.dir.file(&name).unwrap_or_default();
            if is_live {
                path.target = Some(socket.inode);
            }
            let socket = *socket;
            path.orphans.push(NamedOrphan { socket, name, file });
        }
        path.target.map(|_| path).ok_or(Errno::EADDRINUSE.into())
    }

    pub(super) fn orphan(&self, socket: Inode) -> Option<&NamedOrphan> {
        let mut orphans = self.orphans.iter();
        orphans.find(|orphan| orphan.socket.inode == socket)
    }

    pub(super) fn forget_orphan(&mut self, generation: Generation) {
        let own = |one: &mut NamedOrphan| one.socket.generation == generation;
        for NamedOrphan { name, file, .. } in self.orphans.extract_if(.., own) {
            if self.dir.file(&name).is_ok_and(|there| there == file) {
                self.dir.remove(&name);
            }
        }
    }
}

/// The name that the socket was bound to which answers at the path, whatever it has been renamed to.
fn who_answers(path: &Path) -> io::Result<OsString> {
    let client = unix_client(&UnixAddr::new(path)?)?;
    let bound: UnixAddr = getpeername(client.as_raw_fd())?;
    let name = bound.path().and_then(Path::file_name);
    Ok(name.ok_or(Errno::EADDRINUSE)?.to_owned())
}
