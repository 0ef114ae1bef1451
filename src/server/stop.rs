//! The order in which the processes of a generation are asked to stop.
//!
//! First the one that accepts connections; once that is dead, the main process; once that is dead, whatever is left. A wrapper
//! that is asked first leaves its server behind, and one that starts its server anew would keep the old version alive. One
//! that ends with its server has a moment for its last words. One that has started its server anew is asked at once, and the
//! new server a moment later: the wrapper may see to that itself, or see its signal only once that is dead.

use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::libc::c_int;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::{Server, profile};
use crate::proc::process::ProcessId;
use crate::proc::status;
use crate::record::signal_name;
use crate::supervisor::Time;
use crate::sys;

/// How long a wrapper may take to end by itself once its server is dead.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How far a generation has been asked to stop.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Stopping {
    /// The number of the signal that the user wants sent, if it is not to be what each program expects.
    signal: Option<c_int>,
    asked: Vec<ProcessId>,
    /// Readable once the process that is waited for is dead. A main process is reaped.
    #[serde(skip)]
    death: Option<OwnedFd>,
    /// When the next one is asked, if nothing has ended by then.
    #[serde(skip)]
    due: Option<Time>,
    /// A server listens after the one that was asked is dead.
    #[serde(default)]
    starts_anew: bool,
}

impl Server {
    /// The process that called bind(2) is the first to be asked.
    pub fn bound_by(&mut self, process: Pid) {
        self.binder = ProcessId::of(process);
    }

    /// Asks it to stop, and wakes it up for that.
    pub fn stop(&mut self, signal: Option<c_int>) {
        self.stopping.get_or_insert_default().signal = signal;
        self.ask_next();
    }

    /// Passes SIGUSR1 on to the process that would be asked to stop, if it has a use for it: it kills those that do not
    /// catch it.
    ///
    /// # Errors
    /// Why it was not passed on.
    pub fn reopen_logs(&self, stop_signal: Option<c_int>) -> Result<(), &'static str> {
        const NOT_CAUGHT: &str = "it does not catch it";
        let main = self.tree.main_lives.then_some(self.tree.main);
        let process = self.living_binder().or(main).ok_or(NOT_CAUGHT)?;
        let stops = stop_signal.unwrap_or_else(|| profile::stop_signal(process) as c_int);
        if stops == Signal::SIGUSR1 as c_int {
            return Err("that is its stop signal");
        }
        if profile::is_node(process) {
            return Err("node would open its debugger");
        }
        let catches = status::catches(process, Signal::SIGUSR1).unwrap_or(false);
        let sent = catches && kill(process, Signal::SIGUSR1).is_ok();
        sent.then_some(()).ok_or(NOT_CAUGHT)
    }

    /// Goes on after an upgrade: its next process is asked, and the death of one that was adopted is waited for anew.
    pub fn resume(&mut self) {
        self.wait_for_next();
        self.ask_next();
    }

    /// One of its processes listens. If the one that was asked first is dead, that is another server.
    pub fn listens(&mut self, binder: Option<Pid>) {
        if self.living_binder().is_some() {
            return;
        }
        let Some(stopping) = &mut self.stopping else {
            return;
        };
        stopping.starts_anew = true;
        stopping.due = Some(sys::now() + LAST_WORDS);
        self.binder = binder.and_then(ProcessId::of);
        self.ask_next();
    }

    /// Asks those whose turn it is by now. Call it when a process may have ended.
    pub fn ask_next(&mut self) {
        let Some(stopping) = &self.stopping else {
            return;
        };
        let was_asked = |process| {
            let id = self.tree.id_of(process);
            id.is_some_and(|id| stopping.asked.contains(&id))
        };
        let binder = self.living_binder();
        let main = self.tree.main_lives.then_some(self.tree.main);
        let starts_anew = stopping.starts_anew && binder.is_some();
        let (turn, has_a_moment) = match (binder, main) {
            (_, Some(main)) if starts_anew && !was_asked(main) => (vec![main], false),
            (Some(binder), _) => (vec![binder], starts_anew && !was_asked(binder)),
            (None, Some(main)) => (vec![main], !stopping.asked.is_empty() && !was_asked(main)),
            (None, None) => (self.processes(), false),
        };
        let ids = turn.iter().filter(|process| !was_asked(**process));
        let ids: Vec<ProcessId> = ids.filter_map(|one| self.tree.id_of(*one)).collect();
        let generation = self.generation;
        let Some(stopping) = &mut self.stopping else {
            return;
        };
        let now = sys::now();
        if has_a_moment && now < *stopping.due.get_or_insert(now + LAST_WORDS) {
            stopping.death = None;
            return;
        }
        stopping.due.take_if(|due| !starts_anew || *due <= now);
        // before it is asked: it may end, and be reaped by what has started it, at once
        stopping.death = binder.and_then(|binder| sys::pidfd_open(binder, binder).ok());
        if binder.is_some() && stopping.death.is_none() {
            stopping.due = Some(now + LAST_WORDS);
        }
        let wanted = stopping.signal;
        for id in ids {
            let process = id.pid;
            let signal = wanted.unwrap_or_else(|| profile::stop_signal(process) as c_int);
            let name = signal_name(signal);
            log::debug!("{generation}: process {process} is asked to stop by {name}");
            let _ = sys::send_signal(process, signal);
            let _ = kill(process, Signal::SIGCONT);
            stopping.asked.push(id);
        }
        // A stopped wrapper could not reap it.
        if let Some(main) = main {
            let _ = kill(main, Signal::SIGCONT);
        }
    }

    /// When [`Server::ask_next`] has to be called, whether a process has ended or not.
    pub(super) fn ask_due(&self) -> Option<Time> {
        self.stopping.as_ref()?.due
    }

    fn living_binder(&self) -> Option<Pid> {
        let binder = self.binder.filter(|binder| binder.lives())?.pid;
        (binder != self.tree.main && self.has(binder)).then_some(binder)
    }

    /// Readable once the process that was asked first is dead.
    pub(super) fn death(&self) -> Option<&OwnedFd> {
        self.stopping.as_ref()?.death.as_ref()
    }
}
