//! Which processes belong to a generation, from /proc.
//!
//! Those that descend from its main process do. Those whose parent has ended become hotswap's own children (it is a
//! subreaper), and are known by their process group or by the variables they were started with; where they have written
//! over those, by a socket or a stderr that only this generation has.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::sys::signal::killpg;
use nix::unistd::{Pid, getpid};
use serde::{Deserialize, Serialize};

use super::environment::Variables;
use crate::handoff;
use crate::proc::process::{self, ProcessId, Stat, children, environment};
use crate::stub::OF_A_COMMAND;

/// No process has it.
const UNKNOWN: Pid = Pid::from_raw(i32::MAX);
/// The longest chain of ancestors: they can change while they are followed.
const DEEPEST: usize = 1000;

/// What identifies the processes of one generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessTree {
    #[serde(with = "handoff::pid")]
    pub main: Pid,
    /// It has not been reaped, so no other process has its pid.
    pub main_lives: bool,
    /// `NAME=VALUE`: the variables that all of its processes were started with.
    pub mark: Vec<Vec<u8>>,
    /// When the main process was started, in ticks.
    pub since: u64,
    /// Orphans without these variables.
    pub strays: Vec<ProcessId>,
    /// Its hotswap is gone: they are orphans of somebody else's.
    #[serde(default)]
    pub adopted: bool,
}

impl ProcessTree {
    pub fn new(main: Pid, variables: Variables) -> Self {
        Self {
            main,
            main_lives: true,
            since: Stat::of(main).map_or(u64::MAX, |stat| stat.started),
            ..Self::expected(variables)
        }
    }

    /// Of a generation that is about to be started: once its hotswap is gone, its main process is the oldest that carries
    /// these variables.
    pub fn expected(variables: Variables) -> Self {
        let written = |(name, value)| [name, value].join(OsStr::new("=")).as_bytes().to_vec();
        // a server may remove NOTIFY_SOCKET for its children
        let lasting = variables
            .into_iter()
            .filter(|(name, _)| name != "NOTIFY_SOCKET");
        Self {
            main: UNKNOWN,
            main_lives: false,
            since: Stat::of(getpid()).map_or(0, |hotswap| hotswap.started),
            mark: lasting.map(written).collect(),
            strays: Vec::new(),
            adopted: false,
        }
    }

    /// Its hotswap is gone.
    pub fn orphan(&mut self) {
        self.adopted = true;
        if self.main == UNKNOWN {
            let orphans = self.orphans().into_iter();
            let started = |pid| Some((Stat::of(pid)?.started, pid));
            if let Some((since, main)) = orphans.filter_map(started).min() {
                (self.main, self.since) = (main, since);
            }
        }
        let (pid, started) = (self.main, self.since);
        self.main_lives = ProcessId { pid, started }.lives();
    }

    /// The main process while it lives, its descendants, and its orphans.
    pub fn processes(&self) -> Vec<Pid> {
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        let mut left = self.orphans();
        left.extend(self.main_lives.then_some(self.main));
        while let Some(pid) = left.pop() {
            if seen.insert(pid) {
                found.push(pid);
                left.extend(children(pid));
            }
        }
        found
    }

    /// Whether it is one of them: by its ancestors, without reading any other process.
    pub fn has(&self, process: Pid) -> bool {
        let own = getpid();
        let is_root = |stat: &Stat| self.adopted || stat.parent == own;
        let mut process = process;
        for _ in 0..DEEPEST {
            if process == self.main {
                return self.main_lives;
            }
            match Stat::of(process) {
                Some(stat) if is_root(&stat) && self.has_orphan(process, &stat) => return true,
                Some(stat) if stat.parent == own => return false,
                Some(stat) => process = stat.parent,
                None => return false,
            }
        }
        false
    }

    /// A main process that is not reaped has its pid to itself, so /proc is not needed, which cannot be read without a
    /// free descriptor.
    pub fn id_of(&self, process: Pid) -> Option<ProcessId> {
        let is_child = process == self.main && self.main_lives && !self.adopted;
        let main = ProcessId {
            pid: self.main,
            started: self.since,
        };
        is_child.then_some(main).or_else(|| ProcessId::of(process))
    }

    pub fn is_empty(&self) -> bool {
        // somebody else reaps the adopted ones, or does not
        let has_group = !self.adopted && self.group_exists();
        !self.main_lives && !has_group && self.orphans().is_empty()
    }

    /// Whether its group has a member, a zombie included.
    pub fn group_exists(&self) -> bool {
        // EPERM: a member that hotswap may not signal
        !matches!(killpg(self.main, None), Err(Errno::ESRCH))
    }

    /// Children of hotswap, or of the process that has adopted them, that belong to it besides its main process.
    fn orphans(&self) -> Vec<Pid> {
        let mut orphans = if self.adopted {
            process::all().collect()
        } else {
            children(getpid())
        };
        orphans.retain(|pid| {
            let is_other = *pid != self.main;
            let living = |stat: &Stat| !(self.adopted && stat.has_ended());
            let stat = Stat::of(*pid).filter(living);
            is_other && stat.is_some_and(|stat| self.has_orphan(*pid, &stat))
        });
        orphans
    }

    fn has_orphan(&self, child: Pid, stat: &Stat) -> bool {
        // The variables of those that are older need not be read.
        let marked = || {
            stat.started >= self.since
                && environment(child).is_some_and(|environment| self.is_marked(&environment))
        };
        stat.group == self.main
            || self.strays.contains(&ProcessId {
                pid: child,
                started: stat.started,
            })
            || marked()
    }

    fn is_marked(&self, environment: &[u8]) -> bool {
        let carried: HashSet<&[u8]> = environment.split(|byte| *byte == 0).collect();
        self.mark.iter().all(|own| carried.contains(own.as_slice())) && !is_of_a_command(&carried)
    }

    /// These belong to it, though they may carry nothing and have left their parents.
    pub fn include(&mut self, proven: &[ProcessId]) {
        let new = proven.iter().filter(|one| !self.strays.contains(one));
        let new: Vec<ProcessId> = new.copied().collect();
        self.strays.extend(new);
    }

    /// Its main process has been reaped. Its orphans are remembered, since a title may take the room of their variables.
    /// Those that carry nothing already (or were started with no variables) belong to it if `descends` proves it: on
    /// hotswap as process 1 of a container, others become orphans, too.
    pub fn lose_main(&mut self, descends: impl Fn(Pid) -> bool) {
        for child in children(getpid()) {
            let Some(stat) = Stat::of(child) else {
                continue;
            };
            if stat.started < self.since || child == self.main {
                continue;
            }
            let Some(environment) = environment(child) else {
                continue;
            };
            if self.is_marked(&environment) || (says_nothing(&environment) && descends(child)) {
                self.strays.push(ProcessId {
                    pid: child,
                    started: stat.started,
                });
            }
        }
        self.main_lives = false;
    }
}

fn says_nothing(environment: &[u8]) -> bool {
    let carried: HashSet<&[u8]> = environment.split(|byte| *byte == 0).collect();
    let generation = |variable: &&[u8]| variable.starts_with(b"HOTSWAP_GENERATION=");
    !carried.iter().any(generation) && !is_of_a_command(&carried)
}

fn is_of_a_command(carried: &HashSet<&[u8]>) -> bool {
    let own = |variable: &&[u8]| {
        let rest = variable.strip_prefix(OF_A_COMMAND.as_bytes());
        rest.is_some_and(|rest| rest.starts_with(b"="))
    };
    carried.iter().any(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_orphan_is_known_by_all_of_the_variables() {
        let variables = vec![
            ("HOTSWAP_GENERATION".into(), "1".into()),
            ("HOTSWAP_INSTANCE".into(), "api".into()),
            ("NOTIFY_SOCKET".into(), "@1".into()),
        ];
        let tree = ProcessTree::new(Pid::from_raw(4711), variables);
        assert!(tree.is_marked(b"PATH=/bin\0HOTSWAP_INSTANCE=api\0HOTSWAP_GENERATION=1\0"));
        assert!(!tree.is_marked(b"HOTSWAP_INSTANCE=other\0HOTSWAP_GENERATION=1\0"));
        assert!(!tree.is_marked(b"HOTSWAP_INSTANCE=api\0HOTSWAP_GENERATION=11\0"));
        let of_a_command = b"HOTSWAP_INSTANCE=api\0HOTSWAP_GENERATION=1\0HOTSWAP_COMMAND=x\0";
        assert!(!tree.is_marked(of_a_command));
    }

    #[test]
    fn a_title_that_covers_the_variables_says_nothing() {
        assert!(says_nothing(b""));
        assert!(says_nothing(b"aster process nginx\0\0\0\0"));
        assert!(!says_nothing(b"A=1\0HOTSWAP_GENERATION=2\0"));
        assert!(!says_nothing(b"HOTSWAP_COMMAND=on-event\0"));
    }
}
