//! Reaps children, and reads what they have reported before.

use std::io::{self, ErrorKind};
use std::os::fd::RawFd;
use std::process::ExitStatus;

use nix::unistd::{Pid, getsid};

use super::World;
use super::generation::Lingering;
use super::wait::Batch;
use crate::capture::Capture;
use crate::capture::filter::{self, Stops};
use crate::connections::process_sockets::ProcessSockets;
use crate::server::ServerEvent;
use crate::supervisor::{Event, Exit, Generation};
use crate::{ready, sys};

impl World {
    /// Reaps every child that has ended: one SIGCHLD may stand for many.
    pub(super) fn reap(&mut self, batch: &mut Batch) {
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
                (None, Some(place)) => self.command_ended(place, status, batch),
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
        // what a server that ends at once has reported is not read yet, and a child of it may go on
        let one = self.generations.get_mut(&generation);
        let reports = one.map(|one| one.server.read_channel()).unwrap_or_default();
        self.hear_reports(generation, reports, batch);
        self.note_death(generation);
        let mains = self.generations.values().map(|one| one.server.pid());
        let commands = self.commands.iter().map(|(_, command)| command.pid());
        let others: Vec<Pid> = mains.chain(commands).collect();
        let Some(one) = self.generations.get_mut(&generation) else {
            return;
        };
        // a shared socket is another generation's as well, and proves nothing
        let held = self.listeners.sockets_of(generation);
        let own = held.iter().filter(|held| held.steered);
        let held = own.map(|held| held.inode).collect();
        let exit = one.server.died(status, &held, &others);
        one.readiness = None;
        let may_serve = exit == Exit::Status(0) && one.drains_since.is_none();
        self.listeners.died(generation);
        if may_serve {
            one.lingers = Some(Lingering::begin(batch.now, one.serving_since.is_some()));
        } else {
            batch.deaths.push(Event::Died(generation, exit));
        }
    }

    /// Where a main process has ended with 0: whether other processes of it wait for clients, as those of a daemon do, or
    /// will do so. A busy one will wait again in a moment.
    pub(super) fn look_at_lingering(&mut self, batch: &mut Batch) {
        let now = batch.now;
        for (generation, one) in &mut self.generations {
            let Some(lingering) = one.lingers.filter(|lingering| lingering.next <= now) else {
                continue;
            };
            let others = one.server.processes();
            let mut owners = ProcessSockets::default();
            owners.refresh(&others);
            let mut held = self.listeners.sockets_of(*generation);
            held.retain(|held| owners.have(held.inode));
            let has_served = one.serving_since.is_some();
            let has_daemon = !has_served && others.iter().any(|pid| is_daemon(*pid));
            let may_still = if has_served {
                !held.is_empty()
            } else {
                !others.is_empty()
            };
            let exit = if one.drains_since.is_some() {
                Exit::Status(0)
            } else if has_daemon || !ready::accepting_on(&held, &others).is_empty() {
                Exit::Background
            } else if lingering.is_over(now, may_still) {
                Exit::Status(0)
            } else {
                one.lingers = Some(lingering.again(now));
                continue;
            };
            one.lingers = None;
            batch.deaths.push(Event::Died(*generation, exit));
            // its last process may have been reaped with it
            let gone = one.is_gone().then_some(Event::Gone(*generation));
            batch.deaths.extend(gone);
        }
    }

    pub(super) fn handle_server(&mut self, generation: Generation, fd: RawFd, batch: &mut Batch) {
        let one = self.generations.get_mut(&generation);
        let reports = one.map(|one| one.server.woken(fd)).unwrap_or_default();
        self.hear_reports(generation, reports, batch);
    }

    fn hear_reports(
        &mut self,
        generation: Generation,
        reports: Vec<ServerEvent>,
        batch: &mut Batch,
    ) {
        let Some(one) = self.generations.get(&generation) else {
            return;
        };
        let pid = one.server.pid();
        for report in reports {
            match report {
                ServerEvent::Running => self.watch.confirm(pid, batch.now),
                ServerEvent::Lost(loss) => {
                    let events = self.orphan_lost(generation, loss);
                    batch.deaths.extend(events);
                }
                ServerEvent::Captured(notifications) => {
                    if let Some(one) = self.generations.get_mut(&generation) {
                        let stops = Stops {
                            paths: one.server.is_kept_from_unlinking(),
                            ..self.server_config.capture.unwrap_or_default()
                        };
                        one.capture = Some(Capture::new(generation, notifications, stops));
                    }
                    self.keep_calls_of(generation);
                }
                ServerEvent::NotCaptured(errno) => {
                    let why = filter::why_not(&io::Error::from_raw_os_error(errno));
                    self.warn(format!("cannot capture what {generation} binds: {why}"));
                }
            }
        }
    }
}

/// It has made a session of its own, as daemon(3) does.
fn is_daemon(pid: Pid) -> bool {
    let own = getsid(None);
    getsid(Some(pid)).is_ok_and(|session| own.is_ok_and(|own| own != session))
}
