//! Looks at the candidate.

use std::time::Duration;

use nix::unistd::Pid;

use super::generation::Spawned;
use super::wait::Batch;
use super::{Purpose, World};
use crate::capture::Capture;
use crate::listener::ListenerId;
use crate::proc::{self, process::Stat};
use crate::ready::notify::NotifyMessage;
use crate::ready::{self, CandidateView, Rank, Readiness, Ready, ReadyNotice, ReadyRequest};
use crate::record::{Record, RecordKind, format_duration};
use crate::server::Server;
use crate::supervisor::{Event, Exit, Generation, Supervisor, Time};
use crate::sys;
use crate::sys::message::Sender;

/// How long after it began to serve a generation may still say by a signal that it is ready.
const LATE_WORD: Duration = Duration::from_secs(1);

impl World {
    /// Looks even if the deadline has not come: an event may have changed something.
    pub(super) fn look_at_candidate(&mut self, batch: &mut Batch) {
        let now = batch.now;
        // A look would slow down its exec, whose end is reported by a descriptor.
        let starts = |one: &Spawned| one.readiness.is_some() && one.server.runs();
        let mut generations = self.generations.iter();
        let starting = generations.find(|(_, one)| starts(one));
        let Some(candidate) = starting.map(|(generation, _)| *generation) else {
            return;
        };
        self.keep_paths_up();
        let cpu_time = sys::cpu_time();
        if self.counting.is_due(now) {
            self.review_captured(now);
        }
        let Some(one) = self.generations.get(&candidate) else {
            return;
        };
        let moved = self.moved(candidate, one);
        let required = self.required_of(candidate, one, &moved, now);
        let optional = self.optional_for(one);
        let patience = self.patience();
        let mut held = one.sockets(candidate, &self.listeners);
        held.retain(|held| moved.iter().all(|moved| moved.from != held.listener));
        let Some(one) = self.generations.get_mut(&candidate) else {
            return;
        };
        let Spawned {
            server, readiness, ..
        } = one;
        let Some(readiness) = readiness else { return };
        let capture = one.capture.as_ref();
        let view = CandidateView {
            held: &held,
            required: &required,
            optional: &optional,
            main: server.pid(),
            processes: &|| server.processes(),
            rank: one.rank,
            captured: capture.is_some_and(Capture::called_bind_or_listen),
            hidden: capture.is_some_and(Capture::is_hidden),
            chosen_port: capture.is_some_and(Capture::listens_on_chosen_port),
            patience,
            cpu_time,
        };
        let ready = readiness.look(now, &view);
        let (requests, notices) = (readiness.requests(), readiness.take_notices());
        for notice in notices {
            self.explain(candidate, notice, now);
        }
        if let Some(ready) = ready {
            // what it said before it accepted counts first, and may not have been read yet
            if self.read_notify_messages(candidate, now) {
                return;
            }
            self.became_ready(candidate, ready, &optional, now);
            self.name_listeners(Some(candidate), now);
            batch.readiness.push(Event::Ready(candidate));
            return;
        }
        for request in requests {
            self.perform_request(candidate, request, now);
        }
    }

    fn became_ready(
        &mut self,
        candidate: Generation,
        ready: Ready,
        optional: &[ListenerId],
        now: Time,
    ) {
        let old = self.serving_generation().map(|(old, _)| old);
        let Some(one) = self.generations.get_mut(&candidate) else {
            return;
        };
        let after = now.saturating_sub(one.server.started());
        one.ready = Some((ready.how.to_string(), after));
        one.readiness = None;
        if one.rank != Rank::First {
            // Clients of an optional address that it leaves out also stay with the old generation.
            let left = optional.iter().filter(|one| !ready.accepts.contains(one));
            one.missing = ready.missing.iter().chain(left).copied().collect();
        }
        one.accepted_nowhere = ready.accepts.is_empty();
        one.accepts = ready.accepts;
        if ready.unsaid {
            self.warn(format!(
                "{candidate} has not sent READY=1, which an earlier generation had sent; it serves, since nothing else does"
            ));
        }
        if ready.doubtful {
            self.warn(format!("{candidate} was not seen accepting connections"));
        }
        self.release_kept(candidate, now);
        for listener in ready.missing {
            let address = self.listeners.address_of(listener);
            let clients = match old {
                Some(old) if self.listeners.is_captured(listener) => {
                    format!("are refused once {old} is gone")
                }
                Some(old) => format!("wait once {old} is gone"),
                None => "wait".to_owned(),
            };
            self.warn(format!(
                "{candidate} does not accept on {address}: its clients {clients}"
            ));
        }
    }

    /// How long it may still take to get ready, as the end of a line.
    fn time_left(&self, candidate: Generation, now: Time) -> String {
        let one = self.generations.get(&candidate);
        let until = one.map(|one| one.server.started() + one.ready_timeout);
        let left = until.map(|until| format_duration(until.saturating_sub(now)));
        left.map_or(String::new(), |left| {
            format!("; waiting for it, {left} at most")
        })
    }

    /// What keeps it from getting ready.
    fn explain(&mut self, candidate: Generation, notice: ReadyNotice, now: Time) {
        match notice {
            ReadyNotice::ListensNowhere => {
                let text = "does not listen on anything yet: it counts as ready when it has not used the processor for 10s";
                let at_most = self.time_left(candidate, now);
                let text = format!("{text}{at_most}\ntry: --ready after:1s");
                self.publish(&Record::of(RecordKind::Notice, candidate, text));
            }
            ReadyNotice::NotYet => {
                let one = self.generations.get(&candidate);
                let readiness = one.and_then(|one| one.readiness.as_ref());
                let name = |listener| self.listeners.address_of(listener);
                let seen = readiness.and_then(|readiness| readiness.not_ready_reason(&name));
                let seen = seen.map_or(String::new(), |seen| format!(": {seen}"));
                let at_most = self.time_left(candidate, now);
                let text = format!("is not ready yet{seen}{at_most}");
                self.publish(&Record::of(RecordKind::Notice, candidate, text));
            }
            ReadyNotice::Stopped(stopped) => {
                let main = self.generations.get(&candidate);
                let is_main = main.is_some_and(|one| one.server.pid() == stopped.pid);
                let (pid, how) = (stopped.pid, ready::stopped_by(stopped.signal));
                let who = if is_main {
                    candidate.to_string()
                } else {
                    format!("process {pid} of {candidate}")
                };
                let hint = ready::hint_at_stopped(&stopped);
                self.warn(format!("{who} {how}\ntry: {hint}"));
            }
        }
    }

    /// That its main process runs was seen when it got ready, so others can be named after the cut-over.
    pub(super) fn explain_stopped(&mut self, generation: Generation) {
        let one = self.generations.get(&generation);
        let processes = one.map(|one| one.server.processes());
        for stopped in ready::stopped_among(processes.unwrap_or_default()) {
            self.explain(generation, ReadyNotice::Stopped(stopped), sys::now());
        }
    }

    /// That another program serves than the one that is watched: a launcher that no list names has started it.
    pub(super) fn explain_unwatched(&mut self, generation: Generation) {
        let Some(one) = self.generations.get(&generation) else {
            return;
        };
        let held = self.listeners.sockets_of(generation);
        let waits = |pid: &Pid| !ready::accepting_on(&held, &[*pid]).is_empty();
        let serves = one.binder();
        let serves = serves.or_else(|| one.server.processes().into_iter().find(waits));
        let program = serves.and_then(proc::executable);
        if let Some(text) = program.and_then(|program| self.watch.about_unwatched(&program)) {
            self.warn(text);
        }
    }

    /// Why what lives does not prove itself: it has closed a socket that clients need, or, in the end, a signal has stopped it.
    pub(super) fn unproven(&mut self, supervisor: &Supervisor, now: Time) -> Option<Event> {
        let swap = supervisor.swap().filter(|swap| swap.is_proving())?;
        let generation = swap.generation;
        let is_over = swap.deadline().is_some_and(|until| until <= now);
        let one = self.generations.get(&generation)?;
        let counting = one.accepts.iter().copied();
        let counting = counting.filter(|one| self.counting.accepted.contains(one));
        let counting = counting.map(|listener| (listener, self.listeners.address_of(listener)));
        let counting: Vec<(ListenerId, String)> = counting.collect();
        if is_over {
            self.release_closed_listeners(now);
        }
        let held = self.listeners.sockets_of(generation);
        let is_closed = |listener| held.iter().all(|held| held.listener != listener);
        let closed = counting.iter().find(|(listener, _)| is_closed(*listener));
        let why = if let Some((_, address)) = closed {
            format!("it no longer listens on {address}")
        } else if is_over {
            let one = self.generations.get(&generation)?;
            let serves = [Some(one.server.pid()), one.binder()];
            let stopped = ready::stopped_among(serves.into_iter().flatten().collect());
            format!("it {}", ready::stopped_by(stopped.first()?.signal))
        } else {
            return None;
        };
        Some(Event::Unproven(generation, why))
    }

    fn readiness_of(&mut self, generation: Generation) -> Option<&mut Readiness> {
        self.generations.get_mut(&generation)?.readiness.as_mut()
    }

    fn perform_request(&mut self, candidate: Generation, request: ReadyRequest, now: Time) {
        match request {
            ReadyRequest::Probe(listener) => {
                let connection = self.listeners.probe(candidate, listener);
                if let Some(readiness) = self.readiness_of(candidate) {
                    readiness.probed(listener, connection, now);
                }
            }
            ReadyRequest::ExecCommand(line) => {
                let Some(one) = self.generations.get(&candidate) else {
                    return;
                };
                let until = now + one.ready_timeout;
                let mut variables = vec![
                    ("HOTSWAP_PID", one.server.pid().to_string()),
                    ("HOTSWAP_GENERATION", candidate.0.to_string()),
                ];
                match self.listeners.open_door(candidate) {
                    Ok(address) => variables.push(("HOTSWAP_CANDIDATE", address)),
                    Err(error) => {
                        self.warn(format!("cannot open an address for a check: {error}"));
                    }
                }
                if self
                    .run(Purpose::Ready(candidate), &line, &variables, Some(until))
                    .is_err()
                {
                    let exit = Exit::CannotRun(126, "the command cannot be run".to_owned());
                    self.ready_command_ended(candidate, exit);
                }
            }
        }
    }

    pub(super) fn ready_command_ended(&mut self, candidate: Generation, exit: Exit) {
        self.listeners.close_door(candidate);
        if let Some(readiness) = self.readiness_of(candidate) {
            readiness.executed(exit);
        }
    }

    /// Whether it has said for the first time how far it is.
    pub(super) fn read_notify_messages(&mut self, generation: Generation, now: Time) -> bool {
        let Some(one) = self.generations.get_mut(&generation) else {
            return false;
        };
        // A helper may have ended by now. Nobody else has the address, and another user could not use it.
        let is_gone = |sender: Sender| Stat::of(sender.pid).is_none();
        let messages = one.notify.woken(now, |sender| {
            one.server.has(sender.pid) || (is_gone(sender) && one.server.is_of(sender.uid))
        });
        let is_status = |message: &NotifyMessage| matches!(message, NotifyMessage::Status(_));
        let readiness = one.readiness.as_mut();
        let is_news = readiness
            .is_some_and(|readiness| messages.iter().any(is_status) && readiness.said_status());
        if !messages.contains(&NotifyMessage::Ready) {
            return is_news;
        }
        one.said_ready = true;
        if one.serving_since.is_some() {
            self.said_ready.serves(true);
        }
        if let Some(readiness) = &mut one.readiness {
            readiness.said_ready();
        }
        is_news
    }

    /// A server in the style of endless sends SIGTERM to its old parent, which means that it is ready. The signal may
    /// come just after that was seen.
    pub(super) fn ready_by_signal(&mut self, sender: Pid) -> bool {
        let now = sys::now();
        // It may be dead or even reaped by now.
        let is_of = |server: &Server| server.pid() == sender || server.has(sender);
        let mut generations = self.generations.values_mut();
        let Some(one) = generations.find(|one| is_of(&one.server)) else {
            return false;
        };
        if let Some(readiness) = &mut one.readiness {
            readiness.said_ready();
            return true;
        }
        one.serving_since
            .is_none_or(|since| now < since + LATE_WORD)
    }
}
