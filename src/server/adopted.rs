//! A generation whose hotswap is gone: its processes are no children of ours, so a pidfd tells of their deaths.

use std::os::fd::OwnedFd;

use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::streams::ProcessStreams;
use super::tree::ProcessTree;
use super::{Server, ServerConfig, environment};
use crate::proc::process::{ProcessId, Stat};
use crate::supervisor::{Generation, Time};
use crate::sys;

/// Of the times in /proc: `USER_HZ` is part of the kernel's interface.
const TICKS_A_SECOND: u64 = 100;

/// What is to be remembered of a generation, so that another hotswap can find its processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traces {
    pub generation: Generation,
    tree: ProcessTree,
}

impl Traces {
    /// Of a generation that is about to be started.
    pub fn expected(server_config: &ServerConfig, generation: Generation) -> Self {
        let variables = environment::of_hotswap(server_config, generation, "");
        let tree = ProcessTree::expected(variables);
        Self { generation, tree }
    }

    /// Its hotswap is gone.
    pub fn lose_hotswap(&mut self) {
        self.tree.orphan();
    }

    /// Its living processes.
    pub fn processes(&self) -> Vec<Pid> {
        self.tree.processes()
    }

    /// Its main process, or the oldest that is left.
    pub fn pid(&self) -> Option<Pid> {
        if self.tree.main_lives {
            return Some(self.tree.main);
        }
        let age = |pid: &Pid| Stat::of(*pid).map(|stat| stat.started);
        self.processes().into_iter().min_by_key(age)
    }
}

/// What the death of a process of an adopted generation has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Others are left.
    Some,
    /// Its main process.
    Main,
}

impl Server {
    /// What another hotswap needs to find its processes.
    pub fn traces(&self) -> Traces {
        let generation = self.generation;
        let tree = self.tree.clone();
        Traces { generation, tree }
    }

    /// Takes over what a hotswap that is gone has left.
    pub fn adopt(traces: Traces, program: Option<OwnedFd>, now: Time) -> Self {
        let Traces { generation, tree } = traces;
        let since = Time::from_millis(tree.since.saturating_mul(1000 / TICKS_A_SECOND));
        let mut server = Self {
            generation,
            started: since.min(now),
            tree,
            streams: ProcessStreams::default(),
            program,
            binder: None,
            stopping: None,
            doomed: false,
            paths: false,
            waited_for: None,
        };
        server.wait_for_next();
        server
    }

    /// Whether its processes are no children of this hotswap.
    pub fn is_adopted(&self) -> bool {
        self.tree.adopted
    }

    /// Waits for the death of one process: the main one, or any.
    pub(super) fn wait_for_next(&mut self) {
        self.waited_for = None;
        if !self.is_adopted() {
            return;
        }
        let main = self.tree.main_lives.then_some(self.tree.main);
        let mut all = main.into_iter().chain(self.processes());
        self.waited_for = all.find_map(|pid| sys::pidfd_open(pid, pid).ok());
    }

    /// That process is dead.
    pub(super) fn adopted_died(&mut self) -> Loss {
        let main_died = self.tree.main_lives && ProcessId::of(self.tree.main).is_none();
        if main_died {
            self.tree.main_lives = false;
        }
        self.orphans_died();
        self.wait_for_next();
        if main_died { Loss::Main } else { Loss::Some }
    }
}
