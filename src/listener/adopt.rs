//! Listeners for what a hotswap that is gone has captured, so that a candidate can join it, and what is left for the next
//! hotswap.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::captured_address::{CapturedAddress, PathEntry};
use super::context::Intake;
use super::kept::{KeptAt, KeptSocket};
use super::orphan::{OrphanPath, Orphans};
use super::private_path::PathUse;
use super::reuseport::ReuseportGroup;
use super::unix_dir::UnixDir;
use super::unix_path::UnixPath;
use super::{Incident, Listener, ListenerId, ListenerKind, Listeners};
use crate::socket::inet::InetAddress;
use crate::supervisor::{Generation, Time};
use crate::systemd::store::Wanted;

impl Listeners {
    /// New connections go to the serving one of these until the first cut-over. With `captures` what no `--listen` names
    /// becomes a listener, too, where sockets of several generations can share it.
    pub fn adopt(&mut self, orphans: &Orphans, captures: bool) {
        self.serving = Some(orphans.serving);
        let newest = orphans.tcp.iter().map(|(_, socket)| socket.generation);
        let newest = newest.chain(orphans.paths.iter().map(|one| one.socket.generation));
        self.adopted = newest.max().max(self.serving);
        if !captures {
            return;
        }
        for (address, _) in &orphans.tcp {
            if self.is_known(address) {
                continue;
            }
            let kept = self.context.kept.take_tcp(address);
            let context = &mut self.context;
            match ReuseportGroup::beside(*address, true, orphans, kept, context) {
                Ok(group) => {
                    let asked = CapturedAddress::of(address);
                    self.add_captured(asked, None, ListenerKind::Group(group));
                }
                Err(error) => log::debug!("cannot join {}: {error}", address.at),
            }
        }
        for one in &orphans.paths {
            let known = |listener: &Listener| {
                let dir = listener.steering.dir();
                dir.is_some_and(|dir| dir.path() == one.path)
            };
            if self.all.iter().any(known) {
                continue;
            }
            let path_use = Some(PathUse::new(one.socket.generation, false));
            let (there, kept) = (
                orphans.at_path(&one.path),
                self.context.kept.take_path(&one.path),
            );
            if let Err(error) = self.adopt_path(&one.path, &there, path_use, kept) {
                log::debug!("cannot take over {}: {error}", one.path.display());
            }
        }
    }

    /// Where these generations listen and no listener of ours is. With `captures`, all that counted was hotswap's.
    pub fn not_adopted(&self, orphans: &Orphans, captures: bool) -> Vec<(Generation, String)> {
        let has = |generation, address: &str| {
            self.all.iter().any(|listener| {
                listener.steering.orphan_of(generation).is_some()
                    && listener.steering.address() == address
            })
        };
        let was_owned = |address: &String| {
            let owned = orphans.owned.as_ref().filter(|_| captures);
            owned.is_none_or(|owned| owned.contains(address))
        };
        let tcp = orphans.tcp.iter();
        let tcp = tcp.map(|(at, socket)| (socket.generation, at.at.to_string()));
        let tcp = tcp.filter(|(_, address)| was_owned(address));
        // at a path that is gone nobody reaches it
        let is_there = |one: &&OrphanPath| one.path.symlink_metadata().is_ok();
        let paths = orphans.paths.iter().filter(is_there);
        let paths = paths.map(|one| (one.socket.generation, one.path.display().to_string()));
        let all = tcp.chain(paths);
        all.filter(|(generation, address)| !has(*generation, address))
            .collect()
    }

    /// The addresses that this generation of a hotswap that is gone has still to itself.
    pub fn kept_by_orphan(&self, orphan: Generation, except: &[ListenerId]) -> Vec<String> {
        let kept = self.all.iter().filter(|listener| {
            except.contains(&listener.id)
                && self.counts(listener)
                && listener.steering.orphan_of(orphan).is_some()
        });
        kept.map(|listener| listener.steering.address()).collect()
    }

    /// The generation that new connections go to, until it is gone.
    pub fn serving(&self) -> Option<Generation> {
        self.serving
    }

    /// The addresses of `--listen`, with the port that 0 has become.
    pub fn as_given(&self) -> Vec<String> {
        let own = self.all.iter().filter(|one| one.captured.is_none());
        own.map(|listener| listener.as_given.clone()).collect()
    }

    /// The addresses of all listeners, but for unix paths.
    pub fn owned(&self) -> Vec<String> {
        let others = self.all.iter().filter(|one| one.steering.dir().is_none());
        others.map(|listener| listener.steering.address()).collect()
    }

    /// The unix paths that clients may come by.
    pub fn paths(&self) -> Vec<Vec<u8>> {
        let dirs = self.all.iter().filter_map(|one| one.steering.dir());
        let paths = dirs.map(|dir| dir.path().as_os_str().as_bytes().to_vec());
        paths.collect()
    }

    fn is_known(&self, address: &InetAddress) -> bool {
        let known = |listener: &Listener| {
            let there = listener.steering.to_look_at();
            there.is_some_and(|(there, _)| there.is_same(address))
        };
        self.all.iter().any(known)
    }

    pub(super) fn adopt_path(
        &mut self,
        at: &Path,
        orphans: &[&OrphanPath],
        path_use: Option<PathUse>,
        kept: Option<OwnedFd>,
    ) -> io::Result<ListenerId> {
        let dir = UnixDir::of(at)?;
        let entry = PathEntry {
            directory: dir.id()?,
            name: dir.name().to_owned(),
            path: at.to_owned(),
        };
        let path = UnixPath::taken_over(dir, true, orphans, kept, &mut self.context)?;
        let captured = CapturedAddress::Path(entry);
        Ok(self.add_captured(captured, path_use, ListenerKind::Path(path)))
    }

    pub(super) fn add_captured(
        &mut self,
        captured: CapturedAddress,
        path_use: Option<PathUse>,
        steering: ListenerKind,
    ) -> ListenerId {
        let id = ListenerId(self.given_out);
        self.given_out += 1;
        self.all.push(Listener {
            id,
            name: String::new(),
            as_given: captured.to_string(),
            captured: Some(captured),
            path_use,
            awaits_start: false,
            steering,
        });
        self.review_paths();
        id
    }

    /// What no `--listen` names was captured: clients wait there for the server that binds it. Without capture it is
    /// given up.
    pub fn adopt_kept(&mut self, captures: bool) {
        for KeptSocket { socket, at } in std::mem::take(&mut self.context.kept.0) {
            if !captures {
                log::debug!("closing the kept socket of {at}");
                continue;
            }
            let done = match &at {
                KeptAt::Tcp(address) => {
                    let group = ReuseportGroup::kept(*address, true, socket, &mut self.context);
                    group.map(|group| {
                        let asked = CapturedAddress::of(address);
                        self.add_captured(asked, None, ListenerKind::Group(group))
                    })
                }
                KeptAt::Path(path) => self.adopt_path(path, &[], None, Some(socket)),
            };
            match done {
                Ok(listener) => self.context.awaited.listeners.push(listener),
                Err(error) => log::warn!("cannot use the socket kept for {at}: {error}"),
            }
        }
    }

    /// The first generation serves: until then it may bind what it has not bound yet.
    pub fn await_kept_until(&mut self, until: Time) {
        self.context.awaited.until.get_or_insert(until);
    }

    /// The sockets that new connections go to, where each generation has one of its own. Before the first has `served`,
    /// it may bind some only to look for a free port.
    pub fn to_keep(&self, served: bool) -> Vec<Wanted<'_>> {
        let counting = self.all.iter().filter(|listener| self.counts(listener));
        let steered = counting.filter(|listener| {
            let steering = &listener.steering;
            steering.is_steered() && !steering.is_hidden()
        });
        let to_keep = steered.filter_map(|listener| {
            let target = listener.steering.target();
            let address = match target {
                Some(target) => KeptAt::of(target.fd())?.to_string(),
                None => listener.steering.address(),
            };
            Some(Wanted {
                address,
                inode: target.map_or(0, |target| target.inode),
                socket: target.map(super::ListeningSocket::fd),
                is_early: listener.captured.is_some() && !served,
            })
        });
        to_keep.collect()
    }

    /// From now on new connections wait for the next hotswap, where the sockets are kept. No server is disturbed in
    /// accepting those that came before. Where none accepts, those that have come wait on as well.
    pub fn keep_clients(&mut self, are_accepted: bool) -> Vec<Incident> {
        self.context.intake = Intake::Kept;
        if are_accepted {
            self.steer_away()
        } else {
            Vec::new()
        }
    }

    /// hotswap ends: clients wait on what is kept for the next one, and find it where it is.
    pub fn leave_kept(&mut self) {
        for listener in &mut self.all {
            listener.steering.leave_kept(&mut self.context);
        }
    }
}
