//! Carries out the actions of the core; a failure becomes an event.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Error, Result};

use super::World;
use super::generation::Spawned;
use super::waivers::Waivers;
use crate::listener::Incident;
use crate::polled::Alarm;
use crate::ready::notify::NotifySocket;
use crate::ready::{Rank, Readiness};
use crate::record::{Record, RecordKind};
use crate::server::{Launch, profile};
use crate::socket::{is_nonblocking, set_nonblocking};
use crate::supervisor::{
    Action, Cause, Event, Generation, ProgramChoice, Refusal, SocketChoice, Time,
};
use crate::sys;
use crate::watch::Fitness;

/// How often a program that is being written is looked at.
const FITNESS: Time = Time::from_millis(50);

impl World {
    pub(super) fn act(&mut self, action: Action) -> Vec<Event> {
        self.heritage.is_outdated = true;
        match action {
            Action::RunBeforeSwap(generation) => {
                return self.run_before_swap(generation).into_iter().collect();
            }
            Action::EndBeforeSwap => self.end_before_swap(),
            Action::CheckProgram => return self.check_program().into_iter().collect(),
            Action::Spawn {
                generation,
                cause,
                sockets,
                program,
                ready_timeout,
            } => {
                self.keep_paths_up();
                self.listeners.note_links();
                self.review_captured(sys::now());
                let spawned = self.spawn(generation, cause, sockets, program, ready_timeout);
                if let Err(error) = spawned {
                    self.free(generation);
                    return vec![Event::CannotSpawn(generation, format!("{error:#}"))];
                }
                if self.build.takes_outdated() {
                    return vec![Event::FileChanged];
                }
            }
            Action::CutOver(generation) => return self.cut_over(generation),
            Action::Hold => {
                let incidents = self.listeners.hold();
                self.look_at_muted(sys::now());
                log::debug!("new connections wait for the next version");
                self.publish_incidents(&incidents);
            }
            Action::Inherit(generation) => return self.inherit(generation),
            Action::Serve(generation) => return self.serve(generation),
            Action::Lose(generation) => self.lose(generation),
            Action::Empty(generation) => self.empty(generation),
            Action::Relay(generation) => {
                let incidents = self.listeners.relay_queue(generation);
                self.publish_incidents(&incidents);
            }
            Action::Quiesce(generation) => self.quiesce(generation),
            Action::Stop(generation) => {
                let one = self.generations.get(&generation);
                // At one that was never ready only our own probes wait.
                if one.is_some_and(|one| one.ready.is_some()) {
                    let incidents = self.listeners.relay_queue(generation);
                    self.publish_incidents(&incidents);
                }
                let incidents = self.listeners.turn_away_queue(generation);
                self.publish_incidents(&incidents);
                if let Some(one) = self.generations.get_mut(&generation) {
                    one.begin_draining(sys::now(), &self.listeners);
                    one.note_binder();
                    one.server.stop(self.args.stop_signal);
                }
                self.listeners.let_go(generation);
            }
            Action::Kill(generation) => {
                if let Some(one) = self.generations.get_mut(&generation) {
                    one.begin_draining(sys::now(), &self.listeners);
                    one.server.kill();
                    return Vec::from_iter(one.is_gone().then_some(Event::Gone(generation)));
                }
            }
            Action::Reopen(generation) => self.reopen(generation),
            Action::Free(generation) => self.free(generation),
            Action::TurnAway(why) => self.turn_away(why),
            Action::Announce(transition) => self.announce(&transition),
            Action::Answer(clients, verdict) => self.answer(&clients, &verdict),
            Action::Upgrade(saved) => self.upgrade(&saved),
            Action::RefuseUpgrade(why) => self.refuse_upgrade(why),
            Action::Postpone(client, other, until) => self.postpone(client, other, until),
            Action::Refuse(clients, why) => {
                for client in clients {
                    self.control.refuse(client, why, sys::now());
                }
            }
            Action::End(status) => {
                let refused = self.listeners.take_refused();
                self.publish_incidents(refused.as_slice());
                let now = sys::now();
                self.ended = Some((status, now));
                self.end_commands(now);
            }
        }
        Vec::new()
    }

    fn spawn(
        &mut self,
        generation: Generation,
        cause: Cause,
        sockets: SocketChoice,
        program: ProgramChoice,
        ready_timeout: Duration,
    ) -> Result<()> {
        let now = sys::now();
        let waivers = if matches!(cause, Cause::Asked | Cause::File) {
            std::mem::take(&mut self.waivers)
        } else {
            Waivers::default()
        };
        let is_free = cause == Cause::Restart && self.let_captured_go();
        let nonblocking = self.nonblocking_of_survivors();
        let sockets = self
            .listeners
            .inherited_sockets(generation, sockets)
            .context("cannot make its sockets")?;
        for socket in nonblocking {
            let _ = set_nonblocking(socket.as_fd(), true);
        }
        if profile::is_nginx(&self.args.command) {
            // Its workers share the socket, and hang in accept(2) where another was quicker.
            for inherited_socket in &sockets {
                inherited_socket
                    .set_nonblocking()
                    .context("cannot make its sockets non-blocking")?;
            }
        }
        let notify = NotifySocket::new().context("cannot make its notify socket")?;
        let mut readiness = Readiness::new(
            &self.ready_mode,
            now,
            ready_timeout,
            self.must_say_ready(cause, program) && !waivers.forget_ready,
        )
        .context("cannot make its ready pipe")?;
        // without it, what is on disk runs
        let (program, of) = match program {
            ProgramChoice::Current => None,
            ProgramChoice::Of(good) => self.held_program(good).ok().map(|held| (held, good)),
        }
        .unzip();
        self.follow_directory();
        let variables = self.variables(cause)?;
        let directory = self.directory_that_worked(cause);
        let built = self.build.starts();
        if !built {
            self.clear_screen();
        }
        let launch = Launch {
            generation,
            sockets,
            notify: notify.address().to_owned(),
            ready_fd: readiness.take_descriptor(),
            program,
            paths: self.listeners.have_paths(),
            variables: variables.clone(),
            directory,
        };
        self.watch.starts(built, now);
        self.identify(generation, of);
        if matches!(cause, Cause::First | Cause::Asked | Cause::File) {
            self.accept_program_of(generation);
        }
        let server = self.spawn_remembered(launch, now).map_err(|error| {
            // What is wrong with the command line says so itself.
            match error.raw_os_error() {
                Some(_) => Error::new(error).context("cannot make its process"),
                None => Error::new(error),
            }
        })?;
        let pid = server.pid().as_raw();
        let mut one = Spawned::new(server, notify);
        one.restarts = self.status_data.spawned(cause);
        one.readiness = Some(readiness);
        // it is to show anew where it listens
        one.rank = if is_free {
            Rank::First
        } else {
            self.rank_of(cause)
        };
        one.waivers = waivers;
        one.ready_timeout = ready_timeout;
        one.variables = variables;
        self.generations.insert(generation, one);
        self.remember();
        self.keep_stderr_of(generation);
        self.publish(&Record::started(generation, pid));
        Ok(())
    }

    /// Sockets that a restart is given while processes of a dead generation still accept there: one that finds no client
    /// must not wait in accept(2), with others in its hands.
    fn nonblocking_of_survivors(&self) -> Vec<OwnedFd> {
        let survivors = self.generations.iter();
        let survivors =
            survivors.filter(|(_, one)| one.is_lost && !one.server.processes().is_empty());
        let held = survivors.flat_map(|(generation, _)| self.listeners.sockets_of(*generation));
        let held = held.filter_map(|held| held.fd.filter(|fd| is_nonblocking(*fd)));
        held.filter_map(|fd| fd.try_clone_to_owned().ok()).collect()
    }

    /// Gives the candidate the dead generation's sockets wherever it has none.
    fn inherit(&mut self, generation: Generation) -> Vec<Event> {
        match self
            .listeners
            .inherited_sockets(generation, SocketChoice::Target)
        {
            Ok(_) => self.cut_over(generation),
            Err(error) => {
                let why = format!("cannot keep the sockets: {error}");
                vec![Event::CannotCutOver(generation, why)]
            }
        }
    }

    fn cut_over(&mut self, generation: Generation) -> Vec<Event> {
        let one = self.generations.get(&generation);
        let missing = one.map(|one| one.missing.clone()).unwrap_or_default();
        let is_spawned = one.is_some();
        let done = if !is_spawned && self.may_accept_early() {
            self.listeners.park(generation)
        } else {
            self.listeners.cut_over(generation, &missing)
        };
        match done {
            Ok(incidents) => {
                self.publish_incidents(&incidents);
                self.remember();
                let mut events = self.leave_orphans_alone(&missing);
                events.push(Event::CutOverDone(generation));
                events
            }
            Err(error) => {
                let why = format!("cannot cut over: {error}");
                let one = self.generations.get(&generation);
                if one.is_some_and(|one| one.serving_since.is_some()) {
                    self.warn(format!("clients wait for {generation}: {why}"));
                }
                vec![Event::CannotCutOver(generation, why)]
            }
        }
    }

    /// Connections that clients keep open wait for the next version, too.
    pub(super) fn look_at_muted(&mut self, now: Time) {
        if !self.listeners.muted_are_due(now) {
            return;
        }
        let of = self.listeners.mutes();
        let of = of.and_then(|of| self.generations.get(&of));
        let processes = of.map(|one| one.server.processes());
        self.listeners
            .look_at_muted(&processes.unwrap_or_default(), now);
    }

    pub(super) fn turn_away(&mut self, why: Refusal) {
        let keeps = why != Refusal::NothingServes && self.manager.keeps_sockets();
        let incidents = if keeps {
            let are_accepted = self.generations.values().any(Spawned::gets_clients);
            self.listeners.keep_clients(are_accepted)
        } else {
            self.listeners.turn_away(why)
        };
        self.publish_incidents(&incidents);
        if why == Refusal::NothingServes {
            return;
        }
        self.listeners.stop_repairing();
        if why == Refusal::Stopping {
            self.stopping_since = Some(sys::now());
        }
    }

    fn serve(&mut self, generation: Generation) -> Vec<Event> {
        if let Some(one) = self.generations.get_mut(&generation) {
            one.serving_since = Some(sys::now());
            one.readiness = None;
            self.said_ready.serves(one.said_ready);
            self.counting.accepted = std::mem::take(&mut one.accepts);
            self.counting.ever |= !self.counting.accepted.is_empty();
            let variables = std::mem::take(&mut one.variables);
            self.remember_worked(variables);
        }
        if !std::mem::replace(&mut self.has_served, true) {
            self.await_kept(generation);
            self.explain_unwatched(generation);
        }
        self.explain_stopped(generation);
        self.watch.serves();
        self.keep_program(generation);
        self.accept_program_of(generation);
        self.programs_that_serve_again()
    }

    fn reopen(&mut self, generation: Generation) {
        let Some(one) = self.generations.get_mut(&generation) else {
            return;
        };
        one.note_binder();
        if let Err(why) = one.server.reopen_logs(self.args.stop_signal) {
            let text = format!("does not get SIGUSR1: {why}");
            self.publish(&Record::of(RecordKind::Notice, generation, text));
        }
    }

    fn lose(&mut self, generation: Generation) {
        self.watch.nothing_serves();
        if let Some(one) = self.generations.get_mut(&generation) {
            one.is_lost = true;
        }
    }

    /// Nothing of it is left, or it never came to be.
    pub(super) fn free(&mut self, generation: Generation) {
        self.generations.remove(&generation);
        let incidents = self.listeners.leave(generation, sys::now());
        self.publish_incidents(&incidents);
        self.keep_paths_up();
    }

    pub(super) fn keep_paths_up(&mut self) {
        self.paths_looked = sys::now();
        // one that has failed may still be there
        let mut generations = self.generations.iter().rev();
        let candidate = generations.find(|(_, one)| one.serving_since.is_none());
        let candidate = candidate.map(|(generation, _)| *generation);
        let incidents = self.listeners.keep_paths_up(candidate);
        self.publish_incidents(&incidents);
    }

    /// Nothing while somebody is still writing it: then it is looked at again.
    pub(super) fn check_program(&mut self) -> Option<Event> {
        self.fitness_due = Alarm::default();
        match self.watch.fit() {
            Fitness::Fit => Some(Event::ProgramChecked(Ok(()))),
            Fitness::Unfit(why) => Some(Event::ProgramChecked(Err(why))),
            Fitness::BeingWritten => {
                self.fitness_due = Alarm(Some(sys::now() + FITNESS));
                None
            }
        }
    }

    pub(super) fn publish_incidents(&mut self, incidents: &[Incident]) {
        for incident in incidents {
            self.status_data.incident(incident);
            self.warn(incident.to_string());
        }
    }
}
