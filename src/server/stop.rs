//! The order in which the processes of a generation are asked to stop.
//!
//! First the one that accepts connections; once that is dead, the main process; once that is dead, whatever is left. A wrapper
//! that is asked first leaves its server behind, and one that starts its server anew would keep the old version alive. One
//! that ends with its server has a moment for its last words.

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
    /// When the main process is asked, if it has not ended by then.
    #[serde(skip)]
    main_due: Option<Time>,
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

    /// Asks those whose turn it is by now. Call it when a process may have ended.
    pub fn ask_next(&mut self) {
        let binder = self.living_binder();
        let turn = match (binder, self.tree.main_lives) {
            _ if self.stopping.is_none() => return,
            (Some(binder), _) => vec![binder],
            (None, true) => vec![self.tree.main],
            (None, false) => self.processes(),
        };
        let main_lives = self.tree.main_lives;
        let main = self.tree.main;
        let ids = turn.into_iter().filter_map(|one| self.tree.id_of(one));
        let ids: Vec<ProcessId> = ids.collect();
        let main_id = self.tree.id_of(main);
        let generation = self.generation;
        let Some(stopping) = &mut self.stopping else {
            return;
        };
        let main_is_next = binder.is_none() && main_lives && !stopping.asked.is_empty();
        let was_asked = |id| stopping.asked.contains(&id);
        if main_is_next && !main_id.is_some_and(was_asked) {
            let now = sys::now();
            let due = *stopping.main_due.get_or_insert(now + LAST_WORDS);
            if now < due {
                stopping.death = None;
                return;
            }
        }
        stopping.main_due = None;
        // before it is asked: it may end, and be reaped by what has started it, at once
        stopping.death = binder.and_then(|binder| sys::pidfd_open(binder, binder).ok());
        if binder.is_some() && stopping.death.is_none() {
            stopping.main_due = Some(sys::now() + LAST_WORDS);
        }
        let wanted = stopping.signal;
        for id in ids {
            if stopping.asked.contains(&id) {
                continue;
            }
            let process = id.pid;
            let signal = wanted.unwrap_or_else(|| profile::stop_signal(process) as c_int);
            let name = signal_name(signal);
            log::debug!("{generation}: process {process} is asked to stop by {name}");
            let _ = sys::send_signal(process, signal);
            let _ = kill(process, Signal::SIGCONT);
            stopping.asked.push(id);
        }
        // A stopped wrapper could not reap it.
        if main_lives {
            let _ = kill(main, Signal::SIGCONT);
        }
    }

    /// When [`Server::ask_next`] has to be called, whether a process has ended or not.
    pub(super) fn ask_due(&self) -> Option<Time> {
        self.stopping.as_ref()?.main_due
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
