//! Turns each transition of the core into a record, for the log, hooks and clients.

use std::time::Duration;

use log::Level;

use super::World;
use super::generation::Spawned;
use super::waivers::Waivers;
use crate::control::{SwapResult, SwapVerdict};
use crate::log as lines;
use crate::record::{self, Record, RecordKind};
use crate::supervisor::{Cause, Exit, Failure, Generation, Reason, Supervisor, Time, Transition};
use crate::sys;

/// A server that exits sooner after its start probably stopped at the end of its stdin.
const AT_ONCE: Duration = Duration::from_secs(5);
/// One that serves reads its stdin by now: if it exits later, there is another reason.
const AT_ONCE_SERVING: Duration = Duration::from_millis(500);

impl World {
    pub(super) fn announce(&mut self, transition: &Transition) {
        let record = match transition {
            Transition::Proving(generation) => {
                let (how, after) = self.shown_ready(*generation);
                Record::proving(*generation, &how, after)
            }
            Transition::Checked(generation) => self.checked(*generation),
            Transition::Serving {
                generation,
                cause,
                draining,
            } => {
                if *cause == Cause::RollBack {
                    self.reject_file();
                }
                self.serving(*generation, *cause, *draining)
            }
            Transition::Failed(failure) => {
                self.listeners.put_links_back();
                self.reject(failure);
                if let Reason::Exited(exit, after) = &failure.reason {
                    self.hint_at_stdin(failure.generation, exit, *after < AT_ONCE);
                }
                let old = failure
                    .keeps_serving
                    .filter(|_| self.args.dev)
                    .and_then(|old| self.generations.get(&old));
                let age = old.map(|old| sys::now().saturating_sub(old.server.started()));
                self.failed(failure, age)
            }
            Transition::Dead {
                generation,
                exit,
                then,
            } => {
                let after = self.since(*generation, |one| one.serving_since);
                self.hint_at_stdin(*generation, exit, after < AT_ONCE_SERVING);
                if *exit == Exit::Background {
                    self.reject_program_of(*generation);
                }
                let record = Record::dead(*generation, exit, after, *then);
                self.status_data.goes_down(*generation, &record.text);
                record
            }
            Transition::Gone { generation, exit } => self.gone(*generation, exit.as_ref()),
            Transition::Unkillable(generation) => {
                let text = "cannot be killed: it is left to the system";
                Record::of(RecordKind::Warning, *generation, text).at(Level::Error)
            }
            Transition::DrainTimeout(generation) => {
                Record::killed(*generation, "it did not end in time")
            }
            Transition::KilledEarly(generation) => {
                Record::killed(*generation, "more are draining than --max-draining allows")
            }
            Transition::FallingBack { to } => self.falling_back(*to),
            Transition::ChangeWaits => Record::notice(
                "the change waits: as many generations are draining as --max-draining allows",
            ),
            Transition::CommandEnded => Record::warning(
                "--before-swap was ended because the server died: it runs again once a generation serves",
            ),
            Transition::Refusing => self.refusing(),
            Transition::WaitingForChange => Record::notice("nothing serves: waiting for a change"),
            Transition::Stopping if self.status_data.terminal_closed => {
                Record::new(RecordKind::Stopping, "stopping: the terminal was closed")
            }
            Transition::Stopping => Record::new(RecordKind::Stopping, "stopping"),
        };
        self.publish(&record);
        if let Transition::Gone { generation, .. } | Transition::Unkillable(generation) = transition
        {
            self.control.gone(*generation, &record.text, sys::now());
        }
    }

    /// To the log, the hooks and the clients.
    pub(super) fn publish(&mut self, record: &Record) {
        self.has_worked = true;
        let record = &self.with_pid(record);
        lines::log_record(record);
        self.publish_to_clients(record);
        self.run_hook(record);
    }

    /// With the main process of its generation.
    fn with_pid(&self, record: &Record) -> Record {
        let generation = record.generation.as_ref();
        let one = generation.and_then(|generation| self.generations.get(generation));
        let pid = one.map(|one| one.server.pid().as_raw());
        Record {
            pid: record.pid.or(pid),
            ..record.clone()
        }
    }

    pub(super) fn warn(&mut self, text: impl Into<String>) {
        self.publish(&Record::warning(text));
    }

    fn serving(
        &mut self,
        generation: Generation,
        cause: Cause,
        draining: Option<Generation>,
    ) -> Record {
        let (how, after) = self.shown_ready(generation);
        let draining = draining.map(|old| (old, self.connections_of(old)));
        let record = Record::serving(generation, &how, after, draining);
        let outcome = Record::serving(generation, &how, after, None).text;
        self.status_data.counters.ready_after(after);
        self.status_data.is_up();
        self.watch.decided(sys::now());
        if matches!(cause, Cause::Asked | Cause::File | Cause::RollBack) {
            self.status_data.counters.swaps += 1;
        }
        self.note_verdict(SwapVerdict {
            outcome,
            ..self.verdict_of(cause, SwapResult::Serving, &record)
        });
        record
    }

    /// Nothing is swapped by a check, but it has a verdict.
    fn checked(&mut self, generation: Generation) -> Record {
        let (how, after) = self.shown_ready(generation);
        let record = Record::checked(generation, &how, after);
        self.note_verdict(self.verdict_of(Cause::Asked, SwapResult::Checked, &record));
        record
    }

    fn failed(&mut self, failure: &Failure, age: Option<Duration>) -> Record {
        let seen = self.not_ready_reason(failure);
        let said = seen.as_ref();
        let said = said.map(|seen| self.with_last_words(failure.generation, seen));
        let mut record = Record::failed(failure, said.as_deref(), age);
        record.text = self.explained(record.text, failure, seen.as_ref());
        match self.generations.get(&failure.generation) {
            // the client that asked for it now waits for the one that takes its place
            Some(one) if failure.reason == Reason::Replaced => {
                let waivers = one.waivers.clone();
                self.waivers.add(waivers);
            }
            Some(_) => {}
            None => self.waivers = Waivers::default(),
        }
        let is_news = !matches!(failure.reason, Reason::Replaced | Reason::Stopping);
        if is_news {
            self.watch.decided(sys::now());
        }
        if failure.keeps_serving.is_none() && is_news {
            self.status_data.goes_down(failure.generation, &record.text);
        }
        let result = if failure.rolled_back {
            self.status_data.counters.roll_backs += 1;
            SwapResult::RolledBack
        } else {
            self.status_data
                .counters
                .aborted(record::cause(&failure.reason));
            SwapResult::Aborted
        };
        let alone = Failure {
            keeps_serving: None,
            ..failure.clone()
        };
        let outcome = Record::failed(&alone, said.as_deref(), None).text;
        let last_lines = if matches!(failure.reason, Reason::BeforeSwap(_)) {
            std::mem::take(&mut self.status_data.command_lines)
        } else {
            let one = self.generations.get(&failure.generation);
            one.map(|one| one.server.last_lines()).unwrap_or_default()
        };
        self.note_verdict(SwapVerdict {
            outcome,
            last_lines,
            ..self.verdict_of(failure.cause, result, &record)
        });
        record
    }

    fn refusing(&self) -> Record {
        let waited = usize::try_from(self.listeners.queued()).unwrap_or_default();
        let who = match waited {
            0 => "clients are refused".to_owned(),
            1 => "1 client waited too long; all clients are refused".to_owned(),
            _ => format!("{waited} clients waited too long; all clients are refused"),
        };
        Record::warning(format!("nothing serves: {who} until a generation serves"))
    }

    /// Clients that wait while nothing serves, each time there are more of them.
    pub(super) fn count_waiting_clients(&mut self, supervisor: &Supervisor) {
        let waiting = if supervisor.lets_clients_wait() {
            self.listeners.queued()
        } else {
            0
        };
        let said = std::mem::replace(&mut self.status_data.waiting, waiting);
        self.status_data.waiting = if waiting == 0 { 0 } else { said.max(waiting) };
        if waiting > said {
            let wait = if waiting == 1 { "waits" } else { "wait" };
            let clients = record::plural(usize::try_from(waiting).unwrap_or_default(), "client");
            let text = format!("{clients} {wait} for the next version");
            self.publish(&Record::notice(text));
        }
    }

    fn falling_back(&self, good: Generation) -> Record {
        let program = format!("the last good program, that of {good},");
        let unwatched = self.args.no_watch && self.args.watch.is_empty();
        let until = if unwatched { "swap" } else { "change" };
        let text = match self.held_program(good) {
            Ok(_) => format!("{program} runs again until the next {until}"),
            Err(why) => format!("{program} cannot be run again: {why}; what is on disk runs"),
        };
        Record::warning(text).at(Level::Error)
    }

    /// As they were counted when it began to drain.
    fn connections_of(&self, generation: Generation) -> Option<usize> {
        let drain = self.generations.get(&generation)?.drain.as_ref()?;
        drain.connections()
    }

    fn gone(&mut self, generation: Generation, exit: Option<&Exit>) -> Record {
        let one = self.generations.get(&generation);
        let served = one.is_some_and(|one| one.serving_since.is_some());
        let was_ended = one.is_some_and(|one| one.drains_since.is_some());
        // a candidate is told by its whole life, others by the time since they were replaced or died
        let after = self.since(generation, |one| {
            if served {
                one.drains_since
            } else {
                Some(one.server.started())
            }
        });
        if served {
            self.status_data.counters.gone_after(after);
        }
        let record = Record::gone(generation, after, exit);
        // That a candidate died by itself has been said.
        if served || was_ended {
            record
        } else {
            record.at(Level::Debug)
        }
    }

    pub(super) fn shown_ready(&self, generation: Generation) -> (String, Duration) {
        let one = self.generations.get(&generation);
        one.and_then(|one| one.ready.clone()).unwrap_or_else(|| {
            let after = self.since(generation, |one| Some(one.server.started()));
            ("ready".into(), after)
        })
    }

    fn since(&self, generation: Generation, moment: impl Fn(&Spawned) -> Option<Time>) -> Duration {
        let now = sys::now();
        now.saturating_sub(
            self.generations
                .get(&generation)
                .and_then(moment)
                .unwrap_or(now),
        )
    }
}
