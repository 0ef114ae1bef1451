//! Looks at the candidate, and at the generations that drain.

use std::time::Duration;

use nix::unistd::Pid;

use super::wait::Batch;
use super::{Purpose, World};
use crate::capture::Capture;
use crate::drain::{Effort, Reading};
use crate::news;
use crate::ready::notify::Notice;
use crate::ready::{View, Wish};
use crate::server::Server;
use crate::supervisor::{Event, Generation, Time};
use crate::sys;

/// How long after it began to serve a generation may still say by a signal that it is ready.
const LATE_WORD: Duration = Duration::from_secs(1);

impl World {
    /// Looks even if the deadline has not come: an event may have changed something.
    pub(super) fn look_at_candidate(&mut self, now: Time, batch: &mut Batch) {
        let Some((candidate, readiness)) = &mut self.readiness else {
            return;
        };
        let candidate = *candidate;
        // A look would slow down its exec, whose end is reported by a descriptor.
        let Some(server) = self.servers.get(&candidate).filter(|server| server.runs()) else {
            return;
        };
        let spent = sys::spent();
        let held = self.listeners.sockets_of(candidate);
        // The first generation must accept on every socket it has.
        let wanted = self.accepted_on.clone();
        let first = wanted.is_empty();
        let captured = self.captures.get(&candidate);
        let captured = captured.is_some_and(Capture::called_bind_or_listen);
        let view = View {
            held: &held,
            wanted: &wanted,
            processes: &|| server.processes(),
            first,
            captured,
            spent,
        };
        let ready = readiness.look(now, &view);
        let wishes = readiness.wishes();
        if let Some(ready) = ready {
            let after = now.saturating_sub(server.started());
            if let Some(life) = self.lives.get_mut(&candidate) {
                life.ready = Some((ready.how.to_string(), after));
                life.accepts = held.iter().map(|held| held.listener).collect();
                life.accepts
                    .retain(|listener| !ready.missing.contains(listener));
                if !first {
                    life.missing.clone_from(&ready.missing);
                }
            }
            self.readiness = None;
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
            batch.readiness.push(Event::Ready(candidate));
            return;
        }
        for wish in wishes {
            self.grant(candidate, wish, now);
        }
    }

    /// Its exec has worked.
    pub(super) fn runs(&self, generation: Generation) -> bool {
        self.servers.get(&generation).is_some_and(Server::runs)
    }

    fn grant(&mut self, candidate: Generation, wish: Wish, now: Time) {
        match wish {
            Wish::Probe(listener) => {
                let connection = self.listeners.probe(candidate, listener);
                if let Some((_, readiness)) = &mut self.readiness {
                    readiness.probed(listener, connection, now);
                }
            }
            Wish::Execute(line) => {
                let pid = self
                    .servers
                    .get(&candidate)
                    .map(|server| server.pid().as_raw());
                let variables = pid.map(|pid| ("HOTSWAP_PID", pid.to_string()));
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
        if let Some((_, readiness)) = self
            .readiness
            .as_mut()
            .filter(|(whose, _)| *whose == candidate)
        {
            readiness.executed(well);
        }
    }

    pub(super) fn hear_notices(&mut self, generation: Generation, now: Time) {
        let Some(notify) = self.notify.get_mut(&generation) else {
            return;
        };
        let Some(server) = self.servers.get(&generation) else {
            return;
        };
        let notices = notify.woken(now, |pid| server.has(pid));
        if !notices.contains(&Notice::Ready) {
            return;
        }
        if let Some(life) = self.lives.get_mut(&generation) {
            life.said_ready = true;
            self.says_ready |= life.serving_since.is_some();
        }
        if let Some((_, readiness)) = self
            .readiness
            .as_mut()
            .filter(|(whose, _)| *whose == generation)
        {
            readiness.said_ready();
        }
    }

    /// A server in the style of endless sends SIGTERM to its old parent, which means that it is ready. The signal may
    /// come just after that was seen.
    pub(super) fn ready_by_signal(&mut self, sender: Pid) -> bool {
        let now = sys::now();
        let mut servers = self.servers.iter();
        // It may be dead or even reaped by now.
        let is_of = |server: &Server| server.pid() == sender || server.has(sender);
        let Some((generation, _)) = servers.find(|(_, server)| is_of(server)) else {
            return false;
        };
        if let Some((_, readiness)) = self
            .readiness
            .as_mut()
            .filter(|(candidate, _)| candidate == generation)
        {
            readiness.said_ready();
            return true;
        }
        let since = self.lives.get(generation).map(|life| life.serving_since);
        since.is_some_and(|since| since.is_none_or(|since| now < since + LATE_WORD))
    }

    pub(super) fn look_at_draining(&mut self, now: Time, batch: &mut Batch) {
        let among = u32::try_from(self.drains.len()).unwrap_or(u32::MAX);
        for (generation, drain) in &mut self.drains {
            if drain.deadline().is_none_or(|due| due > now) {
                continue;
            }
            let Some(server) = self.servers.get(generation) else {
                continue;
            };
            let spent = sys::spent();
            let held = self.listeners.sockets_of(*generation);
            let pids = server.processes();
            let readings = drain.look(now, &held, &pids, Effort { spent, among });
            if self.control.is_waited_for(*generation) {
                let text = news::is_draining(*generation, drain.connections());
                self.control.drains(*generation, &text);
            }
            batch
                .requests
                .extend(readings.into_iter().map(|reading| match reading {
                    Reading::Queue(queue) => Event::Queued(*generation, queue),
                    Reading::Quiet => Event::Quiet(*generation),
                }));
        }
    }
}
