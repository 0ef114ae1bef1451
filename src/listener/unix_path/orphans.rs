//! Takes over a path that leads to a server whose hotswap is gone, by a rename as at any cut-over, or to a socket that a
//! service manager has kept.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{UnixAddr, getpeername, getsockname};
use serde::{Deserialize, Serialize};

use super::UnixPath;
use crate::handoff;
use crate::listener::context::ListenerContext;
use crate::listener::orphan::{OrphanPath, OrphanSocket};
use crate::listener::unix_dir::{FileId, UnixDir};
use crate::socket::client::unix_client;
use crate::socket::{Inode, inode_of, listens};
use crate::supervisor::Generation;

/// What the name of a socket that was kept ends with.
const KEPT: &str = "kept";

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
    /// `EADDRINUSE` if none of these is the one that answers there; those of connect(2).
    pub fn taken_over(
        dir: UnixDir,
        is_captured: bool,
        orphans: &[&OrphanPath],
        kept: Option<OwnedFd>,
        context: &mut ListenerContext,
    ) -> io::Result<Self> {
        let answers = match who_answers(dir.path()) {
            // full of clients that wait
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && orphans.is_empty() => {
                let kept = kept.as_ref().ok_or(Errno::EADDRINUSE)?;
                bound_name(kept.as_fd())?
            }
            answers => answers?,
        };
        let live = dir.file(dir.name())?;
        let mut path = Self::of(dir, is_captured);
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
        if let Some(kept) = kept {
            let is_live = bound_name(kept.as_fd()).is_ok_and(|bound| bound == answers);
            path.add_kept(kept, is_live, context)?;
        }
        path.target.map(|_| path).ok_or(Errno::EADDRINUSE.into())
    }

    /// Goes on with what waits in it. If the path leads elsewhere, that is carried there.
    pub fn add_kept(
        &mut self,
        kept: OwnedFd,
        is_live: bool,
        context: &mut ListenerContext,
    ) -> io::Result<()> {
        let inode = inode_of(kept.as_fd())?;
        if self.orphan(inode).is_some() || !listens(kept.as_fd()) {
            return Ok(());
        }
        // the names with a number are for those of this hotswap
        let name = self.dir.beside(KEPT);
        self.dir.remove(&name);
        let mut file = FileId::default();
        if is_live {
            self.dir.link(self.dir.name(), &name)?;
            file = self.dir.file(&name)?;
            let bound = bound_name(kept.as_fd())?;
            if bound != self.dir.name() {
                self.dir.remove_if(&bound, file);
            }
            self.target = Some(inode);
        }
        self.add(kept, None, name, file, context)?;
        self.update_interests(context);
        Ok(())
    }

    pub(super) fn orphan(&self, socket: Inode) -> Option<&NamedOrphan> {
        let mut orphans = self.orphans.iter();
        orphans.find(|orphan| orphan.socket.inode == socket)
    }

    pub(super) fn forget_orphan(&mut self, generation: Generation) {
        let own = |one: &mut NamedOrphan| one.socket.generation == generation;
        let gone: Vec<NamedOrphan> = self.orphans.extract_if(.., own).collect();
        for NamedOrphan { name, file, .. } in gone {
            if self.dir.has(&name, file) {
                self.dir.remove(&name);
                continue;
            }
            // a restart has the socket of the dead one, and its name
            let sockets = self.sockets.iter().map(|socket| &socket.name);
            let orphans = self.orphans.iter().map(|orphan| &orphan.name);
            let names: Vec<_> = sockets.chain(orphans).collect();
            self.dir
                .sweep(|there| names.iter().any(|name| *name == there));
        }
    }
}

/// The name that the socket was bound to which answers at the path, whatever it has been renamed to.
fn who_answers(path: &Path) -> io::Result<OsString> {
    let client = unix_client(&UnixAddr::new(path)?)?;
    file_name(&getpeername(client.as_raw_fd())?)
}

fn bound_name(socket: BorrowedFd) -> io::Result<OsString> {
    file_name(&getsockname(socket.as_raw_fd())?)
}

fn file_name(bound: &UnixAddr) -> io::Result<OsString> {
    let name = bound.path().and_then(Path::file_name);
    Ok(name.ok_or(Errno::EADDRINUSE)?.to_owned())
}
