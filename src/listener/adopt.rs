//! Listeners for what a hotswap that is gone has captured, so that a candidate can join it.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::captured_address::{CapturedAddress, PathEntry};
use super::orphan::{OrphanPath, Orphans};
use super::private_path::PathUse;
use super::reuseport::ReuseportGroup;
use super::unix_dir::UnixDir;
use super::unix_path::UnixPath;
use super::{Listener, ListenerId, ListenerKind, Listeners};
use crate::socket::inet::InetAddress;
use crate::supervisor::Generation;

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
            let group = ReuseportGroup::beside(
                *address,
                true,
                orphans.at(address),
                orphans,
                &mut self.context,
            );
            match group {
                Ok(group) => {
                    let asked = CapturedAddress::Tcp {
                        at: address.at,
                        only_v6: address.only_v6 == Some(true) && address.at.ip().is_unspecified(),
                        device: address.device,
                    };
                    self.add_captured(asked, None, ListenerKind::Group(group));
                }
                Err(error) => log::debug!("cannot join {}: {error}", address.at),
            }
        }
        for one in &orphans.paths {
            let known = |listener: &Listener| {
                let dir = listener.sort.dir();
                dir.is_some_and(|dir| dir.path() == one.path)
            };
            if self.all.iter().any(known) {
                continue;
            }
            if let Err(error) = self.adopt_path(one, orphans) {
                log::debug!("cannot take over {}: {error}", one.path.display());
            }
        }
    }

    /// Where these generations listen and no listener of ours is.
    pub fn not_adopted(&self, orphans: &Orphans) -> Vec<(Generation, String)> {
        let has = |generation, address: &str| {
            self.all.iter().any(|listener| {
                listener.sort.orphan_of(generation).is_some() && listener.sort.address() == address
            })
        };
        let tcp = orphans.tcp.iter();
        let tcp = tcp.map(|(at, socket)| (socket.generation, at.at.to_string()));
        let paths = orphans.paths.iter();
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
                && listener.sort.orphan_of(orphan).is_some()
        });
        kept.map(|listener| listener.sort.address()).collect()
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

    /// The unix paths that clients may come by.
    pub fn paths(&self) -> Vec<Vec<u8>> {
        let dirs = self.all.iter().filter_map(|one| one.sort.dir());
        let paths = dirs.map(|dir| dir.path().as_os_str().as_bytes().to_vec());
        paths.collect()
    }

    fn is_known(&self, address: &InetAddress) -> bool {
        let known = |listener: &Listener| {
            let there = listener.sort.surveyed();
            there.is_some_and(|(there, _)| {
                let alike = there.is_only_v6() == address.is_only_v6();
                there.at == address.at && there.device == address.device && alike
            })
        };
        self.all.iter().any(known)
    }

    fn adopt_path(&mut self, one: &OrphanPath, orphans: &Orphans) -> io::Result<()> {
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let parent = one.path.parent().unwrap_or(Path::new("/"));
        let directory = File::options()
            .read(true)
            .custom_flags(flags)
            .open(parent)?;
        let found = directory.metadata()?;
        let name = one.path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let entry = PathEntry {
            directory: (found.dev(), found.ino()),
            name: name.to_owned(),
            path: one.path.clone(),
        };
        let dir = UnixDir::within(directory.into(), name.to_owned(), one.path.clone());
        let path = UnixPath::beside(dir, true, &orphans.at_path(&one.path))?;
        let path_use = PathUse::new(one.socket.generation, false);
        let captured = CapturedAddress::Path(entry);
        self.add_captured(captured, Some(path_use), ListenerKind::Path(path));
        Ok(())
    }

    fn add_captured(
        &mut self,
        captured: CapturedAddress,
        path_use: Option<PathUse>,
        sort: ListenerKind,
    ) {
        let id = ListenerId(self.given_out);
        self.given_out += 1;
        self.all.push(Listener {
            id,
            name: String::new(),
            as_given: captured.to_string(),
            captured: Some(captured),
            path_use,
            sort,
        });
        self.review_paths();
    }
}
