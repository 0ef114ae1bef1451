//! Requests of clients, their answers, and reports to the service manager.

use std::os::fd::RawFd;
use std::time::SystemTime;

use log::Level;
use nix::poll::PollFlags;
use serde_json::Value;

use super::World;
use super::wait::Batch;
use crate::control::{self, RequestKind};
use crate::record::Record;
use crate::supervisor::{ClientId, Event, Failure, Generation, Reason, Supervisor, Time, Verdict};
use crate::sys;

impl World {
    pub(super) fn handle_clients(
        &mut self,
        fd: RawFd,
        flags: PollFlags,
        now: Time,
        batch: &mut Batch,
    ) {
        for request in self.control.woken(fd, flags, now) {
            let client = request.client;
            match request.what {
                RequestKind::Swap { .. } => batch.requests.push(Event::SwapAsked(Some(client))),
                RequestKind::Stop => batch.requests.push(Event::StopAsked(Some(client))),
                RequestKind::Status => self.status_data.status_clients.push(client),
                // It is told from now on.
                RequestKind::Events => {}
                RequestKind::Upgrade => self.check_upgrade(),
            }
        }
    }

    /// Answers those who want to know how it is.
    pub(super) fn answer_status_requests(&mut self, supervisor: &Supervisor, now: Time) {
        let status_clients = std::mem::take(&mut self.status_data.status_clients);
        if status_clients.is_empty() {
            return;
        }
        let state = self.state(supervisor, now);
        for client in status_clients {
            self.control.status(client, state.clone(), now);
        }
    }

    pub(super) fn answer(&mut self, clients: &[ClientId], verdict: &Verdict) {
        let (verdict, replaced) = match verdict {
            Verdict::Serving {
                generation,
                replaced,
            } => (self.success(*generation), *replaced),
            Verdict::Failed(failure) => (self.failure(failure), None),
            // Who asked for that is answered once the socket is gone.
            Verdict::Stopped => return,
        };
        let replaced = replaced.filter(|old| self.generations.contains_key(old));
        self.control
            .verdict(clients, &verdict, replaced, sys::now());
    }

    fn success(&self, generation: Generation) -> control::SwapVerdict {
        control::SwapVerdict {
            serving: true,
            text: self.status_data.verdict_on(generation).unwrap_or_default(),
            last_lines: Vec::new(),
        }
    }

    fn failure(&mut self, failure: &Failure) -> control::SwapVerdict {
        let said = self.status_data.verdict_on(failure.generation);
        let one = self.generations.get(&failure.generation);
        let last_lines = if matches!(failure.reason, Reason::BeforeSwap(_)) {
            std::mem::take(&mut self.status_data.command_lines)
        } else {
            one.map(|one| one.server.last_lines()).unwrap_or_default()
        };
        control::SwapVerdict {
            serving: false,
            text: said.unwrap_or_else(|| Record::failed(failure, None).text),
            last_lines,
        }
    }

    /// Those who follow, and those who wait for a swap.
    pub(super) fn publish_to_clients(&mut self, record: &Record) {
        if record.level > Level::Info {
            return;
        }
        let mut event = record.fields();
        let time = humantime::format_rfc3339_millis(SystemTime::now());
        event.insert("time".into(), time.to_string().into());
        self.control.publish(&Value::Object(event));
    }

    /// What the service manager has to know after a step.
    pub(super) fn report(&mut self, supervisor: &Supervisor, by_signal: bool) {
        let now = sys::now();
        if by_signal {
            self.manager.asked(supervisor, now);
        }
        let failed = self.status_data.failed_swap();
        self.manager.follow(supervisor, failed, now);
        self.programs
            .retain(|old, _| supervisor.remembered().any(|wanted| wanted == *old));
        self.status_data.changed();
    }
}
