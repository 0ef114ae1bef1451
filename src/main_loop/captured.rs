//! Servers that bind by themselves: answering them, and what follows from what they do.

use anyhow::{Result, bail};
use nix::poll::PollFlags;
use nix::unistd::Pid;

use super::World;
use super::wait::Batch;
use crate::capture::{self, Capture, Happened, filter};
use crate::cli::options::{self, RunArgs};
use crate::news::{Kind, News};
use crate::server::Server;
use crate::supervisor::{Event, Generation, Time};

/// What comes of `--capture` here.
#[derive(Debug, Default)]
pub(super) struct Prospect {
    pub capture: bool,
    /// Another hotswap captures us: of its one socket we cannot make a group.
    pub share: bool,
    pub warning: Option<String>,
}

impl Prospect {
    /// # Errors
    /// If servers have to be captured and cannot be.
    pub fn of(args: &RunArgs) -> Result<Self> {
        if args.capture == options::Capture::Never {
            return Ok(Self::default());
        }
        let Err(error) = capture::available() else {
            return Ok(Self {
                capture: true,
                ..Self::default()
            });
        };
        let errno = error.raw_os_error().unwrap_or(0);
        let why = filter::why_not(errno);
        if args.capture == options::Capture::Always {
            bail!(
                "cannot capture what the server binds: {why}\n\
                 try: --capture auto, and --listen for a server that takes its sockets from there"
            );
        }
        let nested = errno == libc::EBUSY && std::env::var_os("HOTSWAP_GENERATION").is_some();
        let shared = if nested {
            ", on sockets that all generations share"
        } else {
            ""
        };
        Ok(Self {
            capture: false,
            share: nested,
            warning: Some(format!(
                "cannot capture what the server binds: {why}; only what it is given by --listen is kept over a swap{shared}"
            )),
        })
    }
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
                Happened::Listens { spelled, first, .. } if first => {
                    let text = format!("listening on {spelled}");
                    self.tell(&News::new(Kind::Listening, text));
                }
                Happened::Listens { .. } => {}
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

    /// Before a candidate is spawned: where the serving generation has come to listen since it was ready, the candidate
    /// must accept too; but nobody need where it has closed its listener.
    pub(super) fn review_captured(&mut self, serving: Option<Generation>, now: Time) {
        for (generation, capture) in &mut self.captures {
            let server = self.servers.get(generation);
            let processes = || server.map(Server::processes).unwrap_or_default();
            capture.sweep(now, &mut self.listeners, processes);
        }
        let listeners = &self.listeners;
        self.accepted_on.retain(|listener| listeners.has(*listener));
        if let Some(serving) = serving {
            let held = listeners.sockets_of(serving);
            let late = held.iter().filter(|held| held.captured && held.listens);
            for late in late {
                if !self.accepted_on.contains(&late.listener) {
                    self.accepted_on.push(late.listener);
                }
            }
        }
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
