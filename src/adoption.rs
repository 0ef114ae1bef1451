//! What a hotswap that was killed has left behind, for the next one of the same name, directory and command.
//!
//! It finds out and remembers. Which generation is drained when, the core decides, and the listeners join what listens.

pub mod memory;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::unistd::{Pid, getpid};

use crate::connections::listening::listening;
use crate::connections::process_sockets::ProcessSockets;
use crate::connections::unix;
use crate::listener::{OrphanPath, OrphanSocket, Orphans, without_number};
use crate::proc::process::{self, Stat};
use crate::server::Traces;
use crate::socket::Inode;
use crate::socket::inet::{Family, InetAddress};
use crate::supervisor::Generation;
use memory::Remembered;

/// A generation that lives on without its hotswap.
pub struct Orphan {
    pub traces: Traces,
    pub pid: Pid,
    processes: Vec<Pid>,
    sockets: ProcessSockets,
}

/// All that are to be adopted.
pub struct Adoption {
    pub orphans: BTreeMap<Generation, Orphan>,
    /// The one that new connections went to.
    pub serving: Generation,
    remembered: Remembered,
}

impl Adoption {
    /// The living generations of what is remembered; `None` if there are none.
    pub fn of(remembered: Remembered) -> Option<Self> {
        let generations = remembered.generations.iter().cloned();
        let living = generations.filter_map(Orphan::of);
        let orphans: BTreeMap<_, _> = living.map(|one| (one.traces.generation, one)).collect();
        let newest = orphans.keys().next_back().copied()?;
        let serving = remembered.serving.filter(|one| orphans.contains_key(one));
        Some(Self {
            serving: serving.unwrap_or(newest),
            orphans,
            remembered,
        })
    }

    /// What they have listening.
    pub fn listening(&self) -> Orphans<'_> {
        let owner_of = |inode: Inode| {
            let mut orphans = self.orphans.iter().rev();
            let owner = orphans.find(|(_, orphan)| orphan.sockets.have(inode));
            owner.map(|(generation, _)| *generation)
        };
        let orphan = |inode| {
            let generation = owner_of(inode)?;
            Some(OrphanSocket { generation, inode })
        };
        let mut tcp = Vec::new();
        for family in Family::ALL {
            for one in listening(family, 0).unwrap_or_default() {
                let address = InetAddress {
                    at: one.address,
                    only_v6: (family == Family::V6).then_some(one.only_v6),
                    device: one.device,
                };
                tcp.extend(orphan(one.inode).map(|socket| (address, socket)));
            }
        }
        let mut paths = Vec::new();
        for (inode, bound) in unix::listening().unwrap_or_default() {
            let bound = bound.file_name().map(ToOwned::to_owned);
            let (Some(bound), Some(socket)) = (bound, orphan(inode)) else {
                continue;
            };
            let is_of = |path: &&Path| {
                let name = path.file_name().unwrap_or_default();
                bound == name || without_number(&bound) == name
            };
            let known = self.remembered.paths.iter();
            let mut known = known.map(|path| Path::new(OsStr::from_bytes(path)));
            if let Some(path) = known.find(is_of) {
                paths.push(OrphanPath {
                    path: path.to_owned(),
                    bound,
                    socket,
                });
            }
        }
        Orphans {
            serving: self.serving,
            tcp,
            paths,
            listening: self.remembered.listening.clone(),
            owned: self.remembered.owned.clone(),
            serving_has: Box::new(|inode| {
                let serving = self.orphans.get(&self.serving);
                let mut sockets = ProcessSockets::default();
                sockets.refresh(serving.map_or(&[], |orphan| &orphan.processes));
                sockets.have(inode)
            }),
        }
    }
}

/// A process of each generation that still lives, be it adopted or not.
pub fn living(remembered: &Remembered) -> Vec<Pid> {
    let generations = remembered.generations.iter().cloned();
    let living = generations.filter_map(|mut traces| {
        traces.lose_hotswap();
        traces.processes();
        traces.pid()
    });
    living.collect()
}

impl Orphan {
    /// `None` if nothing of it is left, or where it cannot be reached from here.
    fn of(mut traces: Traces) -> Option<Self> {
        traces.lose_hotswap();
        let processes = traces.processes();
        let pid = traces.pid()?;
        let mut sockets = ProcessSockets::default();
        sockets.refresh(&processes);
        let network = process::namespace(pid, "net");
        (network == process::namespace(getpid(), "net")).then_some(Self {
            traces,
            pid,
            processes,
            sockets,
        })
    }

    /// The process that is asked to stop first: the oldest that holds one of these sockets, if the main one does not.
    pub fn binder(&self, sockets: &[Inode]) -> Option<Pid> {
        let holds = |pid: &Pid| {
            let mut own = ProcessSockets::default();
            own.refresh(&[*pid]);
            sockets.iter().any(|socket| own.have(*socket))
        };
        let age = |pid: &Pid| Stat::of(*pid).map(|stat| stat.started);
        let holders = self.processes.iter().copied().filter(holds);
        holders
            .min_by_key(|pid| (*pid != self.pid, age(pid)))
            .filter(|pid| *pid != self.pid)
    }

    /// The program that it runs, if that is the file that COMMAND leads to or led to.
    pub fn program(&self, command: &Path) -> Option<OwnedFd> {
        let running = format!("/proc/{}/exe", self.pid);
        let link = fs::read_link(&running).ok()?;
        let shown = link.to_str()?;
        let path = shown.strip_suffix(" (deleted)").unwrap_or(shown);
        let is_it = Path::new(path) == command;
        is_it.then(|| fs::File::open(running).ok().map(Into::into))?
    }
}
