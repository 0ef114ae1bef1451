//! The sockets that a generation has bound through hotswap, or was given instead.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::sys::socket::{SockaddrStorage, getpeername};
use nix::unistd::{Pid, UnlinkatFlags, unlinkat};
use serde::{Deserialize, Serialize};

use super::caller::Caller;
use crate::handoff;
use crate::listener::{BoundPath, CapturedAddress, ListenerId};
use crate::proc::{descriptor, is_gone};

/// How many sockets may be bound without listening; beyond that the oldest are forgotten. Most are client sockets.
const MOST: usize = 512;
/// How many captured listeners a generation may have: hotswap holds a descriptor of each.
pub const MOST_LISTENERS: usize = 256;
/// How many descriptors are searched for a socket: that takes some 60 ms.
const MOST_SCANNED: u64 = 10_000;

#[derive(Serialize, Deserialize)]
pub struct BoundSocket {
    pub inode: u64,
    pub address: CapturedAddress,
    /// Where it was last seen.
    #[serde(with = "handoff::pid")]
    pub process: Pid,
    pub fd: RawFd,
    /// Our own descriptor, if none can be obtained when the server listens.
    #[serde(with = "handoff::optional_descriptor")]
    pub kept: Option<OwnedFd>,
    /// The name it is bound to, if it has one in the file system.
    pub path: Option<BoundPath>,
    pub listener: Option<ListenerId>,
    /// Its server was told that it has unlinked its path.
    #[serde(default)]
    pub unlinked: bool,
}

impl BoundSocket {
    /// Whether the server still has it where it was last seen.
    pub fn is_held(&self) -> bool {
        descriptor::socket_inode(self.process, self.fd) == Some(self.inode)
    }

    /// Whether its server has unlinked its path, so that another socket can be bound there without hotswap.
    pub fn has_left_its_path(&self) -> bool {
        let CapturedAddress::Path(entry) = &self.address else {
            return false;
        };
        let found = || entry.path.symlink_metadata().map_err(|error| error.kind());
        self.listener.is_some()
            && (self.unlinked || found().is_err_and(|kind| kind == ErrorKind::NotFound))
    }

    /// A duplicate of it, while the server holds it.
    pub fn descriptor(&self) -> Option<OwnedFd> {
        if let Some(kept) = &self.kept {
            return kept.try_clone().ok();
        }
        let holder = Caller::of(self.process).ok().filter(|_| self.is_held())?;
        holder.descriptor(self.fd).ok()
    }
}

impl Drop for BoundSocket {
    /// A name beside a path that clients will never reach, since nobody has listened there.
    fn drop(&mut self) {
        let Some(path) = &self.path else { return };
        let BoundPath {
            directory, name, ..
        } = path;
        let own = matches!(&self.address, CapturedAddress::Path(entry) if entry.name == *name);
        if !own && path.is_there() && !handoff::may_go_back() {
            let _ = unlinkat(directory, name.as_os_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

/// The sockets of one generation, in the order in which they were bound.
#[derive(Default, Serialize, Deserialize)]
pub struct BoundSockets {
    pub all: Vec<BoundSocket>,
    /// Sockets bound to port 0, by inode.
    pub port_zero: Vec<u64>,
    /// One of them listens.
    #[serde(default)]
    pub listens_on_chosen_port: bool,
}

impl BoundSockets {
    pub fn of(&mut self, inode: u64) -> Option<&mut BoundSocket> {
        self.all.iter_mut().find(|bound| bound.inode == inode)
    }

    pub fn at(&self, address: &CapturedAddress) -> Option<&BoundSocket> {
        self.all.iter().find(|bound| bound.address == *address)
    }

    /// The server was told that it has unlinked this path, or has bound it again.
    pub fn note_unlinked(&mut self, address: &CapturedAddress, unlinked: bool) {
        let here = self.all.iter_mut();
        for bound in here.filter(|bound| bound.address == *address) {
            bound.unlinked = unlinked;
        }
    }

    pub fn remember(&mut self, bound: BoundSocket) {
        self.let_clients_go();
        if self.of(bound.inode).is_some() {
            return;
        }
        if self.all.len() >= MOST
            && let Some(oldest) = self.all.iter().position(|bound| bound.listener.is_none())
        {
            self.all.remove(oldest);
        }
        self.all.push(bound);
    }

    /// A socket that connects will not listen: only its server keeps it open.
    fn let_clients_go(&mut self) {
        for bound in &mut self.all {
            bound.kept.take_if(|socket| is_client(socket));
        }
    }

    /// Drops those of the wanted ones that the server has closed, and returns which listeners they were.
    ///
    /// The cheapest first: the known descriptor, then the same number in every process of the generation, and only then all
    /// their descriptors. One that is on its way from one process to another is in no table: none counts as closed while
    /// descriptors are.
    pub fn drop_closed(
        &mut self,
        wanted: impl Fn(&BoundSocket) -> bool,
        processes: impl Fn() -> Vec<Pid>,
    ) -> Vec<ListenerId> {
        let suspects = self.all.iter().filter(|bound| wanted(bound));
        let mut suspects: HashSet<u64> = suspects
            .filter(|bound| !bound.is_held())
            .map(|bound| bound.inode)
            .collect();
        if suspects.is_empty() {
            return Vec::new();
        }
        let processes = processes();
        for bound in &mut self.all {
            let has =
                |process: &&Pid| descriptor::socket_inode(**process, bound.fd) == Some(bound.inode);
            if suspects.contains(&bound.inode)
                && let Some(process) = processes.iter().find(has)
            {
                bound.process = *process;
                suspects.remove(&bound.inode);
            }
        }
        // it may be received while it is looked for, or sent
        let is_on_the_way = || descriptor::are_on_the_way(&processes);
        if suspects.is_empty()
            || is_on_the_way()
            || !self.find_elsewhere(&mut suspects, &processes)
            || suspects.is_empty()
            || is_on_the_way()
        {
            return Vec::new();
        }
        let closed = self
            .all
            .extract_if(.., |bound| suspects.contains(&bound.inode));
        closed.filter_map(|bound| bound.listener).collect()
    }

    /// Excludes what one of the processes holds, and remembers where; false if there is too much to read, or something may
    /// not be read.
    fn find_elsewhere(&mut self, inodes: &mut HashSet<u64>, processes: &[Pid]) -> bool {
        let counts = processes.iter().map(|process| descriptor::count(*process));
        if counts.sum::<u64>() > MOST_SCANNED {
            return false;
        }
        processes.iter().all(|process| {
            let places = match descriptor::places_of(*process, inodes) {
                Ok(places) => places,
                Err(error) => return is_gone(&error),
            };
            for (inode, fd) in places {
                inodes.remove(&inode);
                if let Some(bound) = self.of(inode) {
                    (bound.process, bound.fd) = (*process, fd);
                }
            }
            true
        })
    }

    pub fn forget(&mut self, inode: u64) {
        self.all.retain(|bound| bound.inode != inode);
    }

    /// Whether one of them listens or may listen; bound client sockets do not count.
    pub fn are_in_use(&self) -> bool {
        let may_listen = |bound: &BoundSocket| {
            bound.is_held() && !bound.descriptor().is_some_and(|socket| is_client(&socket))
        };
        let mut all = self.all.iter();
        all.any(|bound| bound.listener.is_some() || may_listen(bound))
    }

    /// Whether the limit is reached.
    pub fn are_full(&self) -> bool {
        let listening = self.all.iter().filter(|bound| bound.listener.is_some());
        listening.count() >= MOST_LISTENERS
    }

    pub fn remember_port_zero(&mut self, inode: u64) {
        if self.port_zero.len() >= MOST {
            self.port_zero.remove(0);
        }
        self.port_zero.push(inode);
    }

    pub fn has_port_zero(&self, inode: u64) -> bool {
        self.port_zero.contains(&inode)
    }
}

fn is_client(socket: &OwnedFd) -> bool {
    getpeername::<SockaddrStorage>(socket.as_raw_fd()).is_ok()
}
