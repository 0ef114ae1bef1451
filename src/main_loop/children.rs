//! Children that end, and what they said before.

use std::io::ErrorKind;
use std::os::fd::RawFd;
use std::process::ExitStatus;

use super::World;
use super::wait::Batch;
use crate::capture::{Capture, filter};
use crate::server::{Report, Server};
use crate::supervisor::{Event, Exit, Generation, Time};
use crate::{ready, sys};

impl World {
    /// Every child that has ended: one SIGCHLD may stand for many.
    pub(super) fn reap(&mut self, now: Time, batch: &mut Batch) {
        let mut orphans = false;
        loop {
            let (pid, status) = match sys::process::reap() {
                Ok(Some(ended)) => ended,
                // No second SIGCHLD would come for who is left out now.
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Ok(None) | Err(_) => break,
            };
            let mut servers = self.servers.iter();
            let server = servers
                .find(|(_, server)| server.is_main(pid))
                .map(|(generation, _)| *generation);
            let command = self
                .commands
                .iter()
                .position(|(_, command)| command.pid() == pid);
            match (server, command) {
                (Some(generation), _) => self.bury(generation, status, batch),
                (None, Some(place)) => self.command_ended(place, status, now, batch),
                (None, None) => orphans = true,
            }
        }
        // Once for all of them: there may be hundreds, and each is looked for in all of /proc.
        if orphans {
            self.servers.values().for_each(Server::orphans_died);
        }
        let servers = self.servers.keys().copied();
        let gone = servers.filter(|generation| self.is_gone(*generation));
        batch.deaths.extend(gone.map(Event::Gone));
    }

    fn bury(&mut self, generation: Generation, status: ExitStatus, batch: &mut Batch) {
        let Some(server) = self.servers.get_mut(&generation) else {
            return;
        };
        let mut exit = server.died(status);
        if exit == Exit::Status(0) {
            let held = self.listeners.sockets_of(generation);
            if !ready::waited_on(&held, &server.processes()).is_empty() {
                exit = Exit::Background;
            }
        }
        self.listeners.died(generation);
        self.readiness
            .take_if(|(candidate, _)| *candidate == generation);
        batch.deaths.push(Event::Died(generation, exit));
    }

    pub(super) fn hear_server(&mut self, generation: Generation, fd: RawFd, now: Time) {
        let Some(server) = self.servers.get_mut(&generation) else {
            return;
        };
        let pid = server.pid();
        for report in server.woken(fd) {
            match report {
                Report::Running => self.watch.confirm(pid, now),
                Report::Captured(notifications) => {
                    let capture = Capture::new(generation, notifications);
                    self.captures.insert(generation, capture);
                }
                Report::NotCaptured(errno) => {
                    let why = filter::why_not(errno);
                    self.warn(format!("cannot capture what {generation} binds: {why}"));
                }
            }
        }
    }
}
