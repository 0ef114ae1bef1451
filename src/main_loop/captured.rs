//! Servers that bind by themselves: answering them, and what follows from what they do.

use anyhow::{Result, bail};
use nix::poll::PollFlags;
use nix::unistd::Pid;

use super::World;
use super::wait::Batch;
use crate::capture::{self, Capture, Happened};
use crate::cli::options::{self, RunArgs};
use crate::listener::ListenerId;
use crate::news::{Kind, News};
use crate::server::Server;
use crate::supervisor::{Event, Generation, Time};

/// Whether what servers bind is captured, and what to say if it is not.
///
/// # Errors
/// If it has to be and cannot.
pub(super) fn is_possible(args: &RunArgs) -> Result<(bool, Option<String>)> {
    if args.capture == options::Capture::Never {
        return Ok((false, None));
    }
    let Err(why) = capture::available() else {
        return Ok((true, None));
    };
    if args.capture == options::Capture::Always {
        bail!(
            "cannot capture what the server binds: {why}\n\
             try: --capture auto, and --listen for a server that takes its sockets from there"
        );
    }
    let line = format!(
        "cannot capture what the server binds: {why}; only what it is given by --listen is kept over a swap"
    );
    Ok((false, Some(line)))
}

impl World {
    pub(super) fn hear_capture(
        &mut self,
        generation: Generation,
        flags: PollFlags,
        now: Time,
        batch: &mut Batch,
    ) {
        let Some(capture) = self.captures.get_mut(&generation) else {
            return;
        };
        let server = self.servers.get(&generation);
        let processes = || server.map(Server::processes).unwrap_or_default();
        for happened in capture.woken(flags, now, &mut self.listeners, processes) {
            match happened {
                Happened::Listens {
                    listener,
                    spelled,
                    first,
                } => {
                    self.note_listening(generation, listener);
                    if first {
                        self.tell(&News::new(
                            Kind::Listening,
                            format!("listening on {spelled}"),
                        ));
                    }
                }
                Happened::Warning(text) => self.warn(text),
                Happened::Gone => {
                    self.captures.remove(&generation);
                    if self.is_gone(generation) {
                        batch.deaths.push(Event::Gone(generation));
                    }
                }
            }
        }
    }

    /// What the serving generation listens on, the next one must accept on, however late it came.
    fn note_listening(&mut self, generation: Generation, listener: ListenerId) {
        let serves = self
            .lives
            .get(&generation)
            .is_some_and(|life| life.serving_since.is_some() && life.drains_since.is_none());
        if serves && !self.accepted_on.contains(&listener) {
            self.accepted_on.push(listener);
        }
    }

    /// Before a candidate is spawned: what the serving one has closed meanwhile, nobody need accept on.
    pub(super) fn sweep_captured(&mut self, now: Time) {
        for (generation, capture) in &mut self.captures {
            let server = self.servers.get(generation);
            let processes = || server.map(Server::processes).unwrap_or_default();
            capture.sweep(now, &mut self.listeners, processes);
        }
        let listeners = &self.listeners;
        self.accepted_on.retain(|listener| listeners.has(*listener));
    }

    /// Nothing of it is left: no process that belongs to it, and none under its filter.
    pub(super) fn is_gone(&self, generation: Generation) -> bool {
        let server = self.servers.get(&generation);
        server.is_some_and(Server::is_gone) && !self.captures.contains_key(&generation)
    }

    /// Who is asked to end: not a wrapper, which would leave the server behind.
    pub(super) fn binder(&self, generation: Generation) -> Option<Pid> {
        self.captures
            .get(&generation)
            .and_then(Capture::stop_target)
    }
}
