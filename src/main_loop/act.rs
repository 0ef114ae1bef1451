//! Doing what the core has decided; what fails comes back as an event.

use anyhow::{Context, Error, Result};
use nix::sys::signal::Signal;

use super::{Life, World};
use crate::drain::Drain;
use crate::listener::{self, Note};
use crate::log as lines;
use crate::news::News;
use crate::ready::Readiness;
use crate::ready::notify::NotifySocket;
use crate::server::{Launch, Server, profile};
use crate::supervisor::{Action, Cause, Event, Generation, Program, Sockets, Time};
use crate::sys;
use crate::watch::Fitness;

/// How often a program that is being written is looked at.
const FITNESS: Time = Time::from_millis(50);

impl World {
    pub(super) fn act(&mut self, action: Action) -> Vec<Event> {
        match action {
            Action::RunBeforeSwap(generation) => {
                return self.run_before_swap(generation).into_iter().collect();
            }
            Action::EndBeforeSwap => self.end_before_swap(),
            Action::CheckProgram => return self.check_program().into_iter().collect(),
            Action::Spawn {
                generation,
                cause,
                beside,
                sockets,
                program,
            } => {
                self.review_captured(beside, sys::now());
                if let Err(error) = self.spawn(generation, cause, sockets, program) {
                    self.free(generation);
                    return vec![Event::CannotSpawn(generation, format!("{error:#}"))];
                }
            }
            Action::CutOver(generation) => return vec![self.cut_over(generation)],
            Action::Inherit(generation) => return vec![self.inherit(generation)],
            Action::Serve(generation) => self.serve(generation),
            Action::Lose(_) => self.watch.nothing_serves(),
            Action::Empty(generation) => self.drain(generation),
            Action::Quiesce(generation) => {
                if let Some(drain) = self.drains.get_mut(&generation) {
                    drain.count_connections();
                }
            }
            Action::Stop(generation) => {
                self.leaves(generation);
                let binder = self.binder(generation);
                if let Some(server) = self.servers.get_mut(&generation) {
                    log::debug!("{generation} is told to stop by {}", self.stop_signal);
                    if let Some(binder) = binder {
                        server.bound_by(binder);
                    }
                    server.stop(self.stop_signal);
                }
            }
            Action::Kill(generation) => {
                self.leaves(generation);
                if let Some(server) = self.servers.get_mut(&generation) {
                    server.kill();
                }
            }
            Action::Reopen(generation) => {
                let server = self
                    .servers
                    .get(&generation)
                    .filter(|_| self.stop_signal != Signal::SIGUSR1);
                if let Some(server) = server {
                    server.signal_main(Signal::SIGUSR1);
                }
            }
            Action::Free(generation) => self.free(generation),
            Action::TurnAway => self.listeners.stop_repairing(),
            Action::Announce(announcement) => self.announce(&announcement),
            Action::Answer(clients, verdict) => self.answer(&clients, &verdict),
            Action::Upgrade(memory) => return self.upgrade(&memory),
            Action::RefuseUpgrade(why) => self.refuse_upgrade(why),
            Action::End(status) => self.ended = Some(status),
        }
        Vec::new()
    }

    fn spawn(
        &mut self,
        generation: Generation,
        cause: Cause,
        sockets: Sockets,
        program: Program,
    ) -> Result<()> {
        let now = sys::now();
        let sockets = match sockets {
            Sockets::Own => listener::Sockets::Own,
            Sockets::Target => listener::Sockets::Target,
        };
        let seats = self
            .listeners
            .seats(generation, sockets)
            .context("cannot make its sockets")?;
        if profile::is_nginx(&self.args.command) {
            // Its workers share the socket, and hang in accept(2) where another was quicker.
            for seat in &seats {
                seat.set_nonblocking()
                    .context("cannot make its sockets non-blocking")?;
            }
        }
        let notify = NotifySocket::new().context("cannot make its notify socket")?;
        let mut readiness = Readiness::new(
            &self.ready_mode,
            now,
            self.args.ready_timeout,
            self.says_ready,
        )
        .context("cannot make its ready pipe")?;
        let program = match program {
            Program::Current => None,
            Program::Of(good) => self.kept_program(good).ok(),
        };
        if self.args.clear && self.args.dev {
            lines::clear_terminal();
        }
        let launch = Launch {
            generation,
            seats,
            notify: notify.address().to_owned(),
            ready_fd: readiness.take_descriptor(),
            program,
        };
        self.watch.baseline();
        let server = Server::spawn(&self.recipe, launch, now).map_err(|error| {
            // What is wrong with the command line says so itself.
            match error.raw_os_error() {
                Some(_) => Error::new(error).context("cannot make its process"),
                None => Error::new(error),
            }
        })?;
        self.tell(&News::started(generation, server.pid().as_raw()));
        self.lives.insert(
            generation,
            Life {
                cause,
                restarts: self.figures.spawned(cause),
                started: now,
                ready: None,
                serving_since: None,
                drains_since: None,
                said_ready: false,
                accepts: Vec::new(),
                missing: Vec::new(),
            },
        );
        self.notify.insert(generation, notify);
        self.servers.insert(generation, server);
        self.readiness = Some((generation, readiness));
        Ok(())
    }

    /// Where it has no socket yet it is to bind that of the dead one.
    fn inherit(&mut self, generation: Generation) -> Event {
        match self.listeners.seats(generation, listener::Sockets::Target) {
            Ok(_) => self.cut_over(generation),
            Err(error) => {
                Event::CannotCutOver(generation, format!("cannot keep the sockets: {error}"))
            }
        }
    }

    fn cut_over(&mut self, generation: Generation) -> Event {
        let missing = self
            .lives
            .get(&generation)
            .map(|life| life.missing.as_slice());
        match self
            .listeners
            .cut_over(generation, missing.unwrap_or_default())
        {
            Ok(notes) => {
                self.tell_notes(&notes);
                Event::CutOverDone(generation)
            }
            Err(error) => Event::CannotCutOver(generation, format!("cannot cut over: {error}")),
        }
    }

    fn drain(&mut self, generation: Generation) {
        self.leaves(generation);
        let mut drain = Drain::new(sys::now());
        let held = self.listeners.sockets_of(generation);
        let held = held.iter().map(|held| held.listener);
        drain.doubt(
            held.filter(|listener| !self.accepted_on.contains(listener))
                .collect(),
        );
        self.drains.insert(generation, drain);
    }

    fn serve(&mut self, generation: Generation) {
        if let Some(life) = self.lives.get_mut(&generation) {
            life.serving_since = Some(sys::now());
            self.says_ready |= life.said_ready;
            self.accepted_on = std::mem::take(&mut life.accepts);
        }
        self.readiness = None;
        self.watch.serves();
        self.keep_program(generation);
    }

    fn leaves(&mut self, generation: Generation) {
        if let Some(life) = self.lives.get_mut(&generation) {
            life.drains_since.get_or_insert(sys::now());
        }
    }

    /// Nothing of it is left, or it never came to be.
    pub(super) fn free(&mut self, generation: Generation) {
        self.servers.remove(&generation);
        self.captures.remove(&generation);
        self.notify.remove(&generation);
        self.drains.remove(&generation);
        self.lives.remove(&generation);
        self.readiness
            .take_if(|(candidate, _)| *candidate == generation);
        let notes = self.listeners.leave(generation, sys::now());
        self.tell_notes(&notes);
    }

    /// Nothing while somebody is still writing it: then it is looked at again.
    pub(super) fn check_program(&mut self) -> Option<Event> {
        self.fitness_due = None;
        match self.watch.fit() {
            Fitness::Fit => Some(Event::ProgramChecked(Ok(()))),
            Fitness::Unfit(why) => Some(Event::ProgramChecked(Err(why))),
            Fitness::BeingWritten => {
                self.fitness_due = Some(sys::now() + FITNESS);
                None
            }
        }
    }

    pub(super) fn tell_notes(&mut self, notes: &[Note]) {
        for note in notes {
            self.figures.note(note);
            self.warn(note.to_string());
        }
    }
}
