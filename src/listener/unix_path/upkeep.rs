//! Keeps a path leading to the socket that clients are to reach, with the mode and the owner that its server gave it.
//!
//! A start script may replace its directory, a server may rename its socket there, and anybody may remove a name.

use std::ffi::{OsStr, OsString};
use std::io;

use super::{NamedSocket, UnixPath};
use crate::listener::context::ListenerContext;
use crate::listener::incident::Incident;
use crate::listener::unix_dir::FileId;
use crate::supervisor::Generation;

impl UnixPath {
    /// What should hold at any moment: the path leads to the target. If it cannot be put back, that is said once. A change
    /// of its mode or owner by `candidate` is one of that one's own socket.
    pub(super) fn keep_up(&mut self, candidate: Option<Generation>, context: &mut ListenerContext) {
        if self.private || self.turned_away || context.holds() {
            return;
        }
        self.note_attributes(candidate);
        let target = self.target.and_then(|target| self.at(target));
        let owner = target.and_then(|at| self.sockets[at].socket.owner);
        if candidate.is_some() && owner == candidate && self.dir.is_free() {
            return; // it has unlinked its own path, and may be about to bind it again
        }
        let done = self.follow().and_then(|()| {
            // its server may have renamed it: clients come by that name, too
            if let (true, Some(at)) = (self.is_captured, target) {
                let NamedSocket { name, file, .. } = &self.sockets[at];
                self.dir.find_aliases(*file, name);
            }
            self.repair()
        });
        if let Err(error) = done {
            log::debug!("cannot put {} back: {error}", self.dir.path().display());
        }
        let target = target.filter(|at| self.sockets[*at].socket.listens);
        let leads_to = target.and_then(|at| self.dir.led_to_instead(self.sockets[at].file));
        if leads_to != self.led_to {
            if let Some(to) = leads_to {
                let listener = self.dir.path().display().to_string();
                context.incident(Incident::Misled { listener, to });
            }
            self.led_to = leads_to;
        }
    }

    /// A replaced directory is followed, so that the path leads to the serving generation there, too.
    pub(super) fn follow(&mut self) -> io::Result<()> {
        let names = self.names();
        if self.dir.follow(&names)? {
            self.repair()?;
        }
        Ok(())
    }

    pub(super) fn names(&self) -> Vec<OsString> {
        let names = self.sockets.iter().map(|named| named.name.clone());
        let orphans = self.orphans.iter().map(|orphan| orphan.name.clone());
        names.chain(orphans).collect()
    }

    /// Whether clients can come to this socket, or could if its names were put back.
    pub(super) fn leads_to(&mut self, at: usize) -> bool {
        let mended = self.repair().is_ok();
        let NamedSocket { socket, file, .. } = &self.sockets[at];
        mended && socket.listens && self.dir.has(self.dir.name(), *file)
    }

    /// The names of the live socket: a server may have unlinked any when it ended, or somebody else.
    pub(super) fn repair(&mut self) -> io::Result<()> {
        if self.private || self.turned_away {
            return Ok(());
        }
        let Some((name, file, listens)) = self.live_name() else {
            return Ok(());
        };
        let gone = self.dir.names().filter(|path| !self.dir.has(path, file));
        let gone: Vec<_> = gone.map(ToOwned::to_owned).collect();
        let name = name.to_owned();
        if self.dir.has(&name, file) {
            if gone.is_empty() || !listens {
                return Ok(());
            }
            for path in gone {
                self.dir.publish(&name, &path)?;
            }
        } else if let Some(path) = self.dir.names().find(|path| self.dir.has(path, file)) {
            self.dir.remove(&name);
            self.dir.link(path, &name)?;
        } else {
            return Ok(());
        }
        if let (Some((_, seen)), Ok(found)) = (&mut self.seen, self.dir.attributes(self.dir.name()))
        {
            *seen = seen.changed_with(found);
        }
        Ok(())
    }

    /// The name beside the path of what clients are to reach there, its file, and whether it listens.
    pub(super) fn live_name(&self) -> Option<(&OsStr, FileId, bool)> {
        let target = self.target?;
        let own = self.at(target).map(|at| &self.sockets[at]);
        let own = own.map(|own| (own.name.as_os_str(), own.file, own.socket.listens));
        let orphan = || self.orphan(target);
        own.or_else(|| orphan().map(|orphan| (orphan.name.as_os_str(), orphan.file, true)))
    }

    /// Takes note of the mode and owner at the path. While both have a socket there, a change is one of the newer one's:
    /// the candidate cannot know that another has the path still. What it changes before it listens, it gets once it does.
    pub(super) fn note_attributes(&mut self, candidate: Option<Generation>) {
        let Some((_, file, _)) = self.live_name() else {
            return;
        };
        if !self.dir.has(self.dir.name(), file) {
            return;
        }
        let Ok(found) = self.dir.attributes(self.dir.name()) else {
            return;
        };
        let live = self.target.and_then(|target| self.at(target));
        let owner = live.and_then(|live| self.sockets[live].socket.owner);
        if let Some(live) = live {
            self.sockets[live].has_attributes = true;
        }
        let before = self
            .seen
            .filter(|(seen, before)| *seen == file && *before != found);
        let candidate = candidate.filter(|candidate| Some(*candidate) > owner);
        let (Some((_, before)), Some(candidate)) = (before, candidate) else {
            self.seen = Some((file, found));
            return;
        };
        let mut sockets = self.sockets.iter();
        let newer = sockets.position(|named| named.socket.owner == Some(candidate));
        let given = if let Some(newer) = newer {
            self.sockets[newer].has_attributes = true;
            self.dir.set_attributes(&self.sockets[newer].name, found)
        } else {
            self.early = Some((candidate, found));
            Ok(())
        };
        let back = self.dir.set_attributes(self.dir.name(), before);
        if let Err(error) = given.and(back) {
            let path = self.dir.path().display();
            log::debug!("cannot keep mode and owner of {path}: {error}");
        }
        let now = self.dir.attributes(self.dir.name());
        self.seen = Some((file, before.changed_with(now.unwrap_or(found))));
    }
}
