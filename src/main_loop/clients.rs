//! Requests of clients, their answers, and reports to the service manager.

use std::os::fd::RawFd;
use std::time::SystemTime;

use log::Level;
use nix::poll::PollFlags;
use serde_json::Value;

use super::World;
use super::commands::one_line;
use super::status::AskedBy;
use super::turns::{Turn, WaitingRequest};
use super::wait::Batch;
use super::waivers::Waivers;
use crate::cli::options::Order;
use crate::control::RequestKind;
use crate::control::protocol::Reply;
use crate::record::{Record, format_duration};
use crate::supervisor::{ClientId, Event, Generation, Supervisor, Time, Verdict};
use crate::sys;

impl World {
    pub(super) fn handle_clients(&mut self, fd: RawFd, flags: PollFlags, batch: &mut Batch) {
        let now = batch.now;
        self.has_worked = true;
        for request in self.control.woken(fd, flags, now) {
            let client = request.client;
            if let RequestKind::Swap(_) | RequestKind::Rollback = request.what {
                self.status_data.asked_by = AskedBy::User(request.uid);
            }
            match request.what {
                RequestKind::Swap(swap) if swap.check => {
                    if let Some(why) = self.cannot_check() {
                        self.control.answer(client, &Reply::Usage(why.into()), now);
                    } else {
                        let check = Turn::Check(client, Waivers::of(&swap));
                        self.status_data.turns.push(WaitingRequest::new(check));
                    }
                }
                RequestKind::Swap(swap) => {
                    self.waivers.add(Waivers::of(&swap));
                    log::debug!("a client of user {} asks for a swap", request.uid);
                    batch.requests.push(Event::SwapAsked(Some(client)));
                }
                RequestKind::Rollback => {
                    self.status_data
                        .turns
                        .push(WaitingRequest::new(Turn::Rollback(client)));
                }
                RequestKind::Stop => batch.requests.push(Event::StopAsked(Some(client))),
                RequestKind::Status => self.status_data.status_clients.push(client),
                RequestKind::History => self.status_data.history_clients.push(client),
                // It is told from now on.
                RequestKind::Events => {}
                RequestKind::Upgrade => self.check_upgrade(),
            }
        }
    }

    /// Why a candidate cannot be started beside the serving generation, only to be discarded.
    fn cannot_check(&self) -> Option<&'static str> {
        if self.args.order == Order::StopFirst {
            return Some(
                "cannot check under --order stop-first: the old generation would have to stop",
            );
        }
        let shared = self.listeners.summaries().iter().any(|one| !one.steered);
        (self.args.share || shared)
            .then_some("cannot check on a shared socket: the candidate would accept clients")
    }

    /// Says what a request waits for: to its client, or in the log if a key or a signal has asked.
    pub(super) fn postpone(
        &mut self,
        client: Option<ClientId>,
        other: Generation,
        until: Option<Time>,
    ) {
        let one = self.generations.get_mut(&other);
        if let Some(readiness) = one.and_then(|one| one.readiness.as_mut()) {
            readiness.is_waited_for();
        }
        let text = self.what_is_waited_for(other, until);
        match client {
            Some(client) => self.control.progress(client, &text),
            None => self.publish(&Record::notice(text)),
        }
    }

    pub(super) fn what_is_waited_for(&self, other: Generation, until: Option<Time>) -> String {
        let left = until.map(|until| format_duration(until.saturating_sub(sys::now())));
        let at_most = left.map_or(String::new(), |left| format!(", {left} at most"));
        match self.args.before_swap.as_deref().map(one_line) {
            Some(command) if self.build.running_for == Some(other) => {
                format!("{other} waits for: {command}{at_most}")
            }
            _ if self.generations.contains_key(&other) => {
                format!("waiting for the verdict on {other} first{at_most}")
            }
            _ => format!("waiting for {other} to start{at_most}"),
        }
    }

    /// Answers status and history requests.
    pub(super) fn answer_status_requests(&mut self, supervisor: &Supervisor, now: Time) {
        for client in std::mem::take(&mut self.status_data.history_clients) {
            let history = Reply::Status(self.status_data.history());
            self.control.answer(client, &history, now);
        }
        let status_clients = std::mem::take(&mut self.status_data.status_clients);
        if status_clients.is_empty() {
            return;
        }
        let state = Reply::Status(self.state(supervisor, now));
        for client in status_clients {
            self.control.answer(client, &state, now);
        }
    }

    pub(super) fn answer(&mut self, clients: &[ClientId], verdict: &Verdict) {
        let (generation, replaced) = match verdict {
            Verdict::Serving {
                generation,
                replaced,
            } => (*generation, *replaced),
            Verdict::Failed(failure) => (failure.generation, None),
            Verdict::Checked(generation) => (*generation, None),
        };
        let verdict = self.status_data.verdict_on(generation);
        let replaced = replaced.filter(|old| self.generations.contains_key(old));
        self.control
            .verdict(clients, &verdict.unwrap_or_default(), replaced, sys::now());
    }

    /// Those who follow, and those who wait for a swap.
    pub(super) fn publish_to_clients(&mut self, record: &Record) {
        if record.level > Level::Info {
            return;
        }
        let mut event = record.fields();
        let time = humantime::format_rfc3339_millis(SystemTime::now());
        event.insert("time".into(), time.to_string().into());
        let program = record
            .generation
            .and_then(|one| self.status_data.programs.shown(one));
        event.extend(program.map(|program| ("program".to_owned(), program)));
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
        let generations = &self.generations;
        self.status_data.programs.retain(|one| {
            generations.contains_key(&one) || supervisor.remembered().any(|wanted| wanted == one)
        });
        self.status_data.changed();
    }
}
