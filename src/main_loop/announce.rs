//! Turns each transition of the core into a record, for the log, hooks and clients.

use std::time::Duration;

use log::Level;

use super::World;
use super::generation::Spawned;
use super::waivers::Waivers;
use crate::capture::START_THERE;
use crate::cli::options::Stdin;
use crate::control::SwapResult;
use crate::escape::divide_hint;
use crate::log as lines;
use crate::ready::NotReadyReason;
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
            Transition::Gone { generation, exit } => {
                let record = self.gone(*generation, exit.as_ref());
                self.publish(&record);
                self.control.gone(*generation, &record.text, sys::now());
                return;
            }
            Transition::Unkillable(generation) => {
                let text = "cannot be killed: it is left to the system";
                let record = Record::of(RecordKind::Warning, *generation, text).at(Level::Error);
                self.publish(&record);
                self.control.gone(*generation, &record.text, sys::now());
                return;
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
                "the command before the swap was ended for the restart: it runs again once a generation serves",
            ),
            Transition::Refusing => self.refusing(),
            Transition::WaitingForChange => Record::notice("nothing serves: waiting for a change"),
            Transition::Stopping if self.status_data.terminal_closed => {
                Record::new(RecordKind::Stopping, "stopping: the terminal was closed")
            }
            Transition::Stopping => Record::new(RecordKind::Stopping, "stopping"),
        };
        self.publish(&record);
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
        self.note_verdict(
            generation,
            cause,
            SwapResult::Serving,
            &record,
            outcome,
            Vec::new(),
        );
        record
    }

    /// Nothing is swapped by a check, but it has a verdict.
    fn checked(&mut self, generation: Generation) -> Record {
        let (how, after) = self.shown_ready(generation);
        let record = Record::checked(generation, &how, after);
        let outcome = record.text.clone();
        let (cause, result) = (Cause::Asked, SwapResult::Checked);
        self.note_verdict(generation, cause, result, &record, outcome, Vec::new());
        record
    }

    fn failed(&mut self, failure: &Failure, age: Option<Duration>) -> Record {
        let seen = self.not_ready_reason(failure);
        let hint = seen.as_ref().and_then(|seen| self.hint_at(failure, seen));
        let seen = seen.map(|seen| self.with_last_words(failure.generation, &seen));
        let mut record = Record::failed(failure, seen.as_deref(), age);
        if let Some(hint) = hint {
            record.text = format!("{}\ntry: {hint}", record.text);
        } else if self.is_in_other_network(failure) {
            record.text = format!("{}\ntry: {START_THERE}", divide_hint(&record.text).0);
        } else if let Some(address) = self.answered_itself(failure) {
            let text = format!("; somebody had asked at {address}, where that one answered");
            record.text = format!(
                "{}\ntry: --listen {address}, for a server that takes its socket from there",
                divide_hint(&record.text).0.to_owned() + &text
            );
        }
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
        let outcome = Record::failed(&alone, seen.as_deref(), None).text;
        let last_lines = if matches!(failure.reason, Reason::BeforeSwap(_)) {
            std::mem::take(&mut self.status_data.command_lines)
        } else {
            let one = self.generations.get(&failure.generation);
            one.map(|one| one.server.last_lines()).unwrap_or_default()
        };
        self.note_verdict(
            failure.generation,
            failure.cause,
            result,
            &record,
            outcome,
            last_lines,
        );
        record
    }

    /// Tools that watch or bundle end with 0 at the end of their stdin, and say nothing.
    fn hint_at_stdin(&mut self, generation: Generation, exit: &Exit, at_once: bool) {
        let at_once = at_once && generation == Generation(1);
        if at_once && *exit == Exit::Status(0) && self.args.stdin == Stdin::Null {
            self.warn(format!(
                "{generation} ended with status 0 at once, and its stdin is /dev/null\ntry: --stdin open, if it ends when its stdin does"
            ));
        }
    }

    /// What was seen of it last.
    fn not_ready_reason(&self, failure: &Failure) -> Option<NotReadyReason> {
        let Reason::NotReady(_) = failure.reason else {
            return None;
        };
        let one = self.generations.get(&failure.generation)?;
        let reason = one.readiness.as_ref()?.not_ready_reason()?;
        Some(reason.named(|listener| self.listeners.address_of(listener)))
    }

    /// In every mode: what it said of itself is often why.
    fn with_last_words(&self, generation: Generation, seen: &NotReadyReason) -> String {
        let one = self.generations.get(&generation);
        match one.and_then(|one| one.notify.last_words()) {
            Some(said) => format!("{seen} ({said})"),
            None => seen.to_string(),
        }
    }

    /// A command that asks the candidate at the address it is told may reach nobody.
    fn hint_at_command(&self) -> Option<String> {
        let way_and_why = match self.listeners.lead_to_one() {
            Some(true) => return None,
            Some(false) => (
                "--ready auto",
                "which cannot lead to a socket that all generations share",
            ),
            None => (
                "--listen ADDR",
                "which leads only to a socket that hotswap has",
            ),
        };
        let (way, why) = way_and_why;
        Some(format!(
            "{way}, if the command asks at HOTSWAP_CANDIDATE, {why}"
        ))
    }

    fn hint_at(&self, failure: &Failure, seen: &NotReadyReason) -> Option<String> {
        if matches!(seen, NotReadyReason::CommandEnded(_)) {
            return self.hint_at_command();
        }
        let hint = seen.hint(failure.keeps_serving.is_none())?;
        let NotReadyReason::DoesNotAccept(missing) = seen else {
            return Some(hint);
        };
        let other = self.listens_instead(failure);
        if other.is_none() && self.took_another_port(failure) {
            let address = missing.first()?;
            return Some(format!(
                "the server's option to fail if its port is in use, instead of taking another, or --listen {address}, \
                 for a server that can inherit a socket"
            ));
        }
        let accepted = self.counting.accepted.iter();
        let mut accepted = accepted.map(|listener| self.listeners.address_of(*listener));
        if other.is_none() && accepted.all(|address| missing.contains(&address)) {
            // without these it would serve nobody
            return None;
        }
        let port = |address: &str| Some(address.rsplit_once(':')?.1.to_owned());
        Some(match (other, missing.as_slice()) {
            (Some(other), [address]) if port(&other) == port(address) => {
                format!("{hint}, if it has moved to {other}")
            }
            (Some(other), [address]) => format!(
                "--listen {address}, if it took {other} because its port was in use and can inherit a socket, or {hint}, \
                 if it has moved there"
            ),
            (None, _) if self.opens_late(failure, missing) => {
                let optional = missing
                    .iter()
                    .map(|address| format!(" --optional {address}"));
                let optional = optional.collect::<String>();
                format!("{hint}, or{optional}, if it opens that only once it serves")
            }
            _ => hint,
        })
    }

    fn refusing(&self) -> Record {
        let waited = usize::try_from(self.listeners.queued()).unwrap_or_default();
        let who = match waited {
            0 => "clients are refused".to_owned(),
            1 => "1 client waited too long and is refused, like all others".to_owned(),
            _ => format!("{waited} clients waited too long and are refused, like all others"),
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
