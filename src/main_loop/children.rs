//! Reaps children, and reads what they have reported before.

use std::io::ErrorKind;
use std::os::fd::RawFd;
use std::process::ExitStatus;
use std::thread::sleep;
use std::time::Duration;

use super::World;
use super::wait::Batch;
use crate::capture::{Capture, filter};
use crate::connections::process_sockets::ProcessSockets;
use crate::server::ServerEvent;
use crate::supervisor::{Event, Exit, Generation, Time};
use crate::{ready, sys};

/// How often to look at processes whose main process has exited with 0.
const LOOKS: u32 = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);

impl World {
    /// Reaps every child that has ended: one SIGCHLD may stand for many.
    pub(super) fn reap(&mut self, now: Time, batch: &mut Batch) {
        let mut orphans = false;
        loop {
            let (pid, status) = match sys::process::reap() {
                Ok(Some(ended)) => ended,
                // No second SIGCHLD would come for a child that is skipped now.
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Ok(None) | Err(_) => break,
            };
            let mut generations = self.generations.iter();
            let server = generations
                .find(|(_, one)| one.server.is_main(pid))
                .map(|(generation, _)| *generation);
            let command = self
                .commands
                .iter()
                .position(|(_, command)| command.pid() == pid);
            match (server, command) {
                (Some(generation), _) => self.main_process_died(generation, status, batch),
                (None, Some(place)) => self.command_ended(place, status, now, batch),
                (None, None) => orphans = true,
            }
        }
        // Once for all of them: there may be hundreds, and each search reads all of /proc.
        if orphans {
            let generations = self.generations.values_mut();
            generations.for_each(|one| one.server.orphans_died());
        }
        let gone = self.generations.iter().filter(|(_, one)| one.is_gone());
        batch
            .deaths
            .extend(gone.map(|(generation, _)| Event::Gone(*generation)));
    }

    fn main_process_died(&mut self, generation: Generation, status: ExitStatus, batch: &mut Batch) {
        let Some(one) = self.generations.get_mut(&generation) else {
            return;
        };
        let mut exit = one.server.died(status);
        one.readiness = None;
        if exit == Exit::Status(0) && self.is_still_serving(generation) {
            exit = Exit::Background;
        }
        self.listeners.died(generation);
        batch.deaths.push(Event::Died(generation, exit));
    }

    /// Whether other processes of it wait for clients, though it was not told to end; a busy one will wait again soon.
    fn is_still_serving(&self, generation: Generation) -> bool {
        let one = self.generations.get(&generation);
        let one = one.filter(|one| one.drains_since.is_none());
        let others = one.map(|one| one.server.processes()).unwrap_or_default();
        let mut owners = ProcessSockets::default();
        owners.refresh(&others);
        let mut held = self.listeners.sockets_of(generation);
        held.retain(|held| owners.have(held.inode));
        let looks = if held.is_empty() { 0 } else { LOOKS };
        (0..looks).any(|_| {
            let waits = !ready::accepting_on(&held, &others).is_empty();
            if !waits {
                sleep(BETWEEN_LOOKS);
            }
            waits
        })
    }

    pub(super) fn handle_server(&mut self, generation: Generation, fd: RawFd, now: Time) {
        let Some(one) = self.generations.get_mut(&generation) else {
            return;
        };
        let pid = one.server.pid();
        let reports = one.server.woken(fd);
        for report in reports {
            match report {
                ServerEvent::Running => self.watch.confirm(pid, now),
                ServerEvent::Captured(notifications) => {
                    if let Some(one) = self.generations.get_mut(&generation) {
                        one.capture = Some(Capture::new(
                            generation,
                            notifications,
                            one.server.is_kept_from_unlinking(),
                        ));
                    }
                }
                ServerEvent::NotCaptured(errno) => {
                    let why = filter::why_not(errno);
                    self.warn(format!("cannot capture what {generation} binds: {why}"));
                }
            }
        }
    }
}
