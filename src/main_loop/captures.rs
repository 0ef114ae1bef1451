//! Answers captured calls, and handles what follows from them.

use std::io::ErrorKind;

use anyhow::{Result, bail};
use nix::poll::PollFlags;

use super::World;
use super::wait::Batch;
use crate::capture::filter::{self, Stops};
use crate::capture::{self, CallContext, CaptureEvent};
use crate::cli::options::{self, Order, RunArgs};
use crate::record::{Record, RecordKind};
use crate::supervisor::{Event, Generation, Time};

/// Restarts in a row that do not bind what is kept for them; after them the captured addresses are free.
const MOST_UNBOUND_RESTARTS: u32 = 2;
/// They were, and are closed until a restart has bound something.
const LET_GO: u32 = MOST_UNBOUND_RESTARTS + 1;

/// What comes of `--capture` here.
#[derive(Debug, Default)]
pub(super) struct CaptureSetting {
    pub capture: Option<Stops>,
    /// Another hotswap captures us: of its one socket we cannot make a group.
    pub share: bool,
    pub warning: Option<String>,
}

impl CaptureSetting {
    /// # Errors
    /// If servers have to be captured and cannot be.
    pub fn of(args: &RunArgs) -> Result<Self> {
        if args.capture == options::CaptureMode::Never {
            return Ok(Self::default());
        }
        let error = match capture::available() {
            Ok(stops) => {
                return Ok(Self {
                    capture: Some(stops),
                    ..Self::default()
                });
            }
            Err(error) => error,
        };
        let why = filter::why_not(&error);
        if args.capture == options::CaptureMode::Always {
            bail!(
                "cannot capture what the server binds: {why}\n\
                 try: --capture auto, and --listen for a server that takes its sockets from there"
            );
        }
        let nested = error.raw_os_error() == Some(libc::EBUSY)
            && std::env::var_os("HOTSWAP_GENERATION").is_some();
        let shared = if nested {
            ", and all generations share them"
        } else {
            ""
        };
        // a filter of the service is in the way
        let hint = if error.kind() == ErrorKind::PermissionDenied && error.raw_os_error().is_none()
        {
            "\ntry: SystemCallFilter=pidfd_getfd seccomp in the unit"
        } else {
            ""
        };
        Ok(Self {
            capture: None,
            share: nested,
            warning: Some(format!(
                "cannot capture what the server binds: {why}; only the sockets of --listen are kept across a swap{shared}{hint}"
            )),
        })
    }
}

impl World {
    pub(super) fn handle_capture(
        &mut self,
        generation: Generation,
        flags: PollFlags,
        batch: &mut Batch,
    ) {
        let now = batch.now;
        let Some(one) = self.generations.get_mut(&generation) else {
            return;
        };
        let Some(capture) = &mut one.capture else {
            return;
        };
        let processes = || one.server.processes();
        let mut context = CallContext {
            now,
            listeners: &mut self.listeners,
            capture_not: &self.args.capture_not,
            directory: self.directory.path(),
            processes: &processes,
        };
        let events = capture.woken(flags, &mut context);
        one.server.include(capture.binders());
        one.has_bound |= capture.has_listeners();
        one.is_in_other_network |= capture.is_in_other_network();
        self.heritage.is_outdated = true;
        self.note_bound(generation, now);
        for event in events {
            batch.deaths.extend(self.hear_of_capture(generation, event));
        }
    }

    /// That the last process is gone is said only when the capture was woken.
    fn hear_of_capture(&mut self, generation: Generation, event: CaptureEvent) -> Option<Event> {
        match event {
            CaptureEvent::Binds => {
                let one = self.generations.get_mut(&generation)?;
                one.server.listens(one.binder());
            }
            CaptureEvent::Listens(as_given) => self.publish_listening(&as_given),
            CaptureEvent::Warning(text) => self.warn(text),
            CaptureEvent::Hint(hint, text) => self.hint(hint, text),
            CaptureEvent::Gone => {
                let one = self.generations.get_mut(&generation)?;
                one.capture = None;
                return one.is_gone().then_some(Event::Gone(generation));
            }
        }
        None
    }

    /// Names what captured servers have come to listen on, once that has lasted a moment or `ready` is.
    pub(super) fn name_listeners(&mut self, ready: Option<Generation>, now: Time) {
        for generation in self.generations.keys().copied().collect::<Vec<_>>() {
            let Some(one) = self.generations.get_mut(&generation) else {
                continue;
            };
            let Some(capture) = one.capture.as_mut().filter(|capture| capture.has_news()) else {
                continue;
            };
            // what the dead had listened on is not closed: clients wait there for the next one
            if !one.server.main_lives() {
                capture.name_nothing();
                continue;
            }
            let mut context = CallContext {
                now,
                listeners: &mut self.listeners,
                capture_not: &self.args.capture_not,
                directory: self.directory.path(),
                processes: &|| one.server.processes(),
            };
            for event in capture.name_listeners(ready == Some(generation), &mut context) {
                self.hear_of_capture(generation, event);
            }
        }
    }

    fn hint(&mut self, hint: capture::Warning, text: String) {
        if !self.hints.contains(&hint) {
            self.hints.push(hint);
            self.warn(text);
        }
    }

    fn publish_listening(&mut self, as_given: &str) {
        let text = format!("listening on {as_given}");
        self.publish(&Record::new(RecordKind::Listening, text));
    }

    /// Servers that first ask whether their own address answers never bind it while clients wait there. Others listen
    /// elsewhere by now.
    pub(super) fn note_death(&mut self, generation: Generation) {
        let Some(one) = self.generations.get(&generation) else {
            return;
        };
        let accepted = &self.counting.accepted;
        let is_there = accepted.iter().all(|there| one.bound.contains_key(there));
        let takes_over = is_there && one.has_bound;
        let was_alone = one.restarts > 0 || self.args.order == Order::StopFirst;
        if takes_over || one.serving_since.is_some() {
            self.unbound_restarts = 0;
        } else if was_alone && self.unbound_restarts < MOST_UNBOUND_RESTARTS {
            self.unbound_restarts += 1;
            self.counting.bound_by_dead = one.bound.keys().copied().collect();
        }
    }

    /// Before a restart: what those before it did not bind is free for it. Whether anything is, or was for the last.
    pub(super) fn let_captured_go(&mut self) -> bool {
        if self.unbound_restarts < MOST_UNBOUND_RESTARTS {
            return false;
        }
        let kept = self.counting.accepted.iter();
        let kept: Vec<_> = kept.map(|one| self.listeners.address_of(*one)).collect();
        let mut closed = self.listeners.close_unowned(&self.counting.bound_by_dead);
        closed.retain(|address| kept.is_empty() || kept.contains(address));
        let addresses = closed.join(", ");
        if let Some(first) = closed.first() {
            let hint = if first.starts_with('/') {
                format!(
                    "--capture-not {first}, for a server that asks first whether somebody answers"
                )
            } else {
                format!("--listen {first}, for a server that takes its socket from there")
            };
            self.warn(format!(
                "{MOST_UNBOUND_RESTARTS} restarts in a row did not bind {addresses}: clients are refused there until the \
                 next one does\ntry: {hint}"
            ));
        }
        if !closed.is_empty() {
            self.unbound_restarts = LET_GO;
        }
        self.unbound_restarts == LET_GO
    }

    /// Before a candidate is spawned: it need not accept where the serving generation has closed its listener.
    pub(super) fn review_captured(&mut self, now: Time) {
        self.release_closed_listeners(now);
        self.update_counting_addresses(now);
    }

    /// What servers have closed at run time is closed.
    pub(super) fn release_closed_listeners(&mut self, now: Time) {
        for one in self.generations.values_mut() {
            if let Some(capture) = one.capture.as_mut().filter(|_| one.server.main_lives()) {
                capture.sweep(&mut CallContext {
                    now,
                    listeners: &mut self.listeners,
                    capture_not: &self.args.capture_not,
                    directory: self.directory.path(),
                    processes: &|| one.server.processes(),
                });
            }
        }
    }
}
