//! Looks at the candidate, and at the generations that drain.

use std::time::Duration;

use nix::unistd::Pid;

use super::generation::Spawned;
use super::wait::Batch;
use super::{Purpose, World};
use crate::capture::Capture;
use crate::drain::{Drain, DrainEvent, LookCost};
use crate::ready::notify::NotifyMessage;
use crate::ready::{CandidateView, Readiness, ReadyRequest};
use crate::record;
use crate::server::Server;
use crate::supervisor::{Event, Generation, Time};
use crate::sys;

/// How long after it began to serve a generation may still say by a signal that it is ready.
const LATE_WORD: Duration = Duration::from_secs(1);

impl World {
    /// Looks even if the deadline has not come: an event may have changed something.
    pub(super) fn look_at_candidate(&mut self, now: Time, batch: &mut Batch) {
        let mut starting = self.generations.iter_mut();
        let starting = starting.find_map(|(generation, one)| {
            let Spawned {
                server, readiness, ..
            } = one;
            // A look would slow down its exec, whose end is reported by a descriptor.
            let readiness = readiness.as_mut().filter(|_| server.runs())?;
            Some((*generation, readiness, server, one.capture.as_ref()))
        });
        let Some((candidate, readiness, server, capture)) = starting else {
            return;
        };
        let cpu_time = sys::cpu_time();
        let held = self.listeners.sockets_of(candidate);
        // The first generation must accept on every socket it has.
        let wanted = self.accepted_on.clone();
        let first = wanted.is_empty();
        let view = CandidateView {
            held: &held,
            wanted: &wanted,
            processes: &|| server.processes(),
            first,
            captured: capture.is_some_and(Capture::called_bind_or_listen),
            cpu_time,
        };
        let ready = readiness.look(now, &view);
        let requests = readiness.requests();
        if let Some(ready) = ready {
            let mut accepts: Vec<_> = held.iter().map(|held| held.listener).collect();
            accepts.retain(|listener| !ready.missing.contains(listener));
            if let Some(one) = self.generations.get_mut(&candidate) {
                let after = now.saturating_sub(one.server.started());
                one.ready = Some((ready.how.to_string(), after));
                one.readiness = None;
                one.accepts = accepts;
                if !first {
                    one.missing.clone_from(&ready.missing);
                }
            }
            if ready.doubtful {
                self.warn(format!("{candidate} was not seen accepting connections"));
            }
            for listener in ready.missing {
                let address = self.listeners.address_of(listener);
                let clients = if first {
                    "wait"
                } else {
                    "stay with the old one"
                };
                self.warn(format!(
                    "{candidate} does not accept on {address}: its clients {clients}"
                ));
            }
            self.name_listeners(Some(candidate), now);
            batch.readiness.push(Event::Ready(candidate));
            return;
        }
        for request in requests {
            self.perform_request(candidate, request, now);
        }
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
                let one = self.generations.get(&candidate);
                let variables = one.map(|one| ("HOTSWAP_PID", one.server.pid().to_string()));
                let until = now + self.args.ready_timeout;
                if self
                    .run(
                        Purpose::Ready(candidate),
                        &line,
                        variables.as_slice(),
                        Some(until),
                    )
                    .is_err()
                {
                    self.ready_command_ended(candidate, false);
                }
            }
        }
    }

    pub(super) fn ready_command_ended(&mut self, candidate: Generation, well: bool) {
        if let Some(readiness) = self.readiness_of(candidate) {
            readiness.executed(well);
        }
    }

    pub(super) fn read_notify_messages(&mut self, generation: Generation, now: Time) {
        let Some(one) = self.generations.get_mut(&generation) else {
            return;
        };
        let messages = one.notify.woken(now, |pid| one.server.has(pid));
        if !messages.contains(&NotifyMessage::Ready) {
            return;
        }
        one.said_ready = true;
        self.says_ready |= one.serving_since.is_some();
        if let Some(readiness) = &mut one.readiness {
            readiness.said_ready();
        }
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

    pub(super) fn look_at_draining(&mut self, now: Time, batch: &mut Batch) {
        let among = self.generations.values();
        let among = among.filter(|one| one.drain.is_some()).count();
        let among = u32::try_from(among).unwrap_or(u32::MAX);
        for (generation, one) in &mut self.generations {
            let due = |drain: &&mut Drain| drain.deadline().is_some_and(|due| due <= now);
            let Some(drain) = one.drain.as_mut().filter(due) else {
                continue;
            };
            let cpu_time = sys::cpu_time();
            let held = self.listeners.sockets_of(*generation);
            let pids = one.server.processes();
            let readings = drain.look(now, &held, &pids, LookCost { cpu_time, among });
            if self.control.is_waited_for(*generation) {
                let text = record::is_draining(*generation, drain.connections());
                self.control.drains(*generation, &text);
            }
            batch
                .requests
                .extend(readings.into_iter().map(|reading| match reading {
                    DrainEvent::Queue(queue) => Event::Queued(*generation, queue),
                    DrainEvent::Quiet => Event::Quiet(*generation),
                }));
        }
    }
}
