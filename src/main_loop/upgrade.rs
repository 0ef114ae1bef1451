//! Hands the state of all rooms over to the next version of hotswap, and restores it there.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use serde::{Deserialize, Serialize};

use super::waivers::SaidReady;
use super::{Purpose, World, saved_state};
use crate::capture::Capture;
use crate::command::Command;
use crate::drain::Drain;
use crate::handoff::{Incoming, Outgoing};
use crate::listener::{Habits, ListenerContext, ListenerId, Listeners};
use crate::log as lines;
use crate::record::{Record, RecordKind};
use crate::supervisor::{Event, Exit, Phase, Refusal, SavedState, Supervisor};
use crate::upgrade::execute;
use crate::{program, sys};

/// How much is read of what the new file says of its version.
const VERSION: usize = 80;
/// How long the new file may take to say its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);

/// What the loop itself knows, beside its rooms and generations.
#[derive(Serialize, Deserialize)]
struct WorldState {
    /// Of the addresses that count.
    accepted_on: Vec<ListenerId>,
    #[serde(default)]
    late: Vec<ListenerId>,
    #[serde(default)]
    ever_accepted: bool,
    #[serde(flatten)]
    said_ready: SaidReady,
    has_served: bool,
    #[serde(default)]
    unbound_restarts: u32,
}

impl World {
    /// Asks the new file for its version first: what does not run is not executed.
    pub(super) fn check_upgrade(&mut self) {
        if self.commands_for(Purpose::Upgrade).next().is_some() {
            return;
        }
        if program::is_no_program(&self.own_path) {
            return self.refuse_upgrade("it is neither an ELF program nor a script with #!");
        }
        let command = vec![self.own_path.clone().into_os_string(), "--version".into()];
        let until = sys::now() + VERSION_TIMEOUT;
        let started = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(io::Error::from);
        let started = started.and_then(|(version, theirs)| {
            self.next_version = Some(version.into());
            Command::start(
                Purpose::Upgrade.name(),
                command,
                &[],
                None,
                Some(theirs.as_fd()),
                self.server_config.stderr,
                Some(until),
            )
        });
        match started {
            Ok(command) => self.commands.push((Purpose::Upgrade, command)),
            Err(error) => self.refuse_upgrade(&error.to_string()),
        }
    }

    /// The new file has said its version, or has not.
    pub(super) fn version_said(&mut self, exit: &Exit, in_time: bool) -> Option<Event> {
        let mut said = [0; VERSION];
        let version = self.next_version.take();
        let bytes = version.and_then(|mut version| version.read(&mut said).ok());
        let said = String::from_utf8_lossy(&said[..bytes.unwrap_or(0)]);
        let line = said.lines().next().unwrap_or_default();
        let why = if !in_time {
            let limit = VERSION_TIMEOUT.as_secs();
            format!("its --version did not end within {limit}s")
        } else if *exit != Exit::Status(0) {
            exit.to_string()
        } else if line.starts_with("hotswap ") {
            return Some(Event::UpgradeAsked);
        } else {
            format!("it is another program, whose --version says {line:?}")
        };
        self.refuse_upgrade(&why);
        None
    }

    pub(super) fn refuse_upgrade(&mut self, why: &str) {
        self.warn(format!(
            "cannot upgrade to {}: {why}",
            self.own_path.display()
        ));
        self.control.upgraded(Err(why), sys::now());
    }

    /// Returns only on failure.
    pub(super) fn upgrade(&mut self, saved: &SavedState) {
        lines::finish();
        self.listeners.unmute();
        self.captures().for_each(Capture::pause);
        let error = match self.outgoing(saved) {
            Ok(outgoing) => execute(&self.own_path, &outgoing),
            Err(error) => error,
        };
        self.captures().for_each(Capture::resume);
        self.refuse_upgrade(&error.to_string());
    }

    fn captures(&mut self) -> impl Iterator<Item = &mut Capture> {
        let generations = self.generations.values_mut();
        generations.filter_map(|one| one.capture.as_mut())
    }

    fn outgoing(&self, saved: &SavedState) -> io::Result<Outgoing> {
        let mut outgoing = Outgoing::default();
        outgoing.put("clock", &sys::clock::stood_still())?;
        outgoing.put("core", &saved_state::to_json(saved))?;
        outgoing.put("world", &self.own_state())?;
        outgoing.put("figures", &self.status_data)?;
        outgoing.put("signals", self.signals.surroundings())?;
        outgoing.put("control", &self.control)?;
        outgoing.put("listeners", &self.listeners.state())?;
        outgoing.put("habits", self.listeners.habits())?;
        outgoing.put("generations", &self.generations)?;
        outgoing.put("programs", &self.programs)?;
        outgoing.put("directory", &self.directory)?;
        outgoing.put("worked", &self.worked)?;
        outgoing.put("hints", &self.hints)?;
        outgoing.put("keeper", &self.keeper)?;
        outgoing.put("store", self.manager.store())?;
        outgoing.put("memory", &self.heritage.memory())?;
        Ok(outgoing)
    }

    fn own_state(&self) -> WorldState {
        WorldState {
            accepted_on: self.counting.accepted.clone(),
            late: self.counting.late.clone(),
            ever_accepted: self.counting.ever,
            said_ready: self.said_ready,
            has_served: self.has_served,
            unbound_restarts: self.unbound_restarts,
        }
    }

    /// Takes up what [`World::outgoing`] put, in a world that has been opened but for these rooms.
    /// What the core remembers it leaves to the caller.
    pub(super) fn restore(&mut self, incoming: &mut Incoming) -> Result<SavedState> {
        let saved = saved_state::from_json(&incoming.take("core")?);
        let saved = saved.context("cannot read the state of its core")?;
        let state: WorldState = incoming.take("world")?;
        self.generations = incoming.take("generations")?;
        self.programs = incoming.take("programs")?;
        self.counting.accepted = state.accepted_on;
        self.counting.late = state.late;
        self.counting.ever = state.ever_accepted;
        self.said_ready = state.said_ready;
        self.has_served = state.has_served;
        self.unbound_restarts = state.unbound_restarts;
        let habits: Option<Habits> = incoming.take("habits")?;
        self.listeners.resume_habits(habits.unwrap_or_default());
        self.hints = incoming.take("hints")?;
        self.keeper = incoming.take("keeper")?;
        if let Some(store) = incoming.take("store")? {
            *self.manager.store_mut() = store;
        }
        self.status_data = incoming.take("figures")?;
        self.worked = incoming.take("worked")?;
        self.signals.resume(incoming.take("signals")?);
        Ok(saved)
    }

    /// The first thing the next version does: it looks where the one before looked.
    pub(super) fn resume(&mut self, supervisor: &Supervisor) {
        let now = sys::now();
        self.reject_as_before(supervisor);
        self.captures().for_each(Capture::resume);
        for one in supervisor.draining() {
            let waits = matches!(one.phase, Phase::Emptying { .. } | Phase::Quiescing { .. });
            if !waits {
                continue;
            }
            let mut drain = Drain::new(now, None);
            if matches!(one.phase, Phase::Quiescing { .. }) {
                drain.count_connections();
            }
            if let Some(spawned) = self.generations.get_mut(&one.generation) {
                spawned.drain = Some(drain);
            }
        }
        for one in self.generations.values_mut() {
            one.server.resume();
        }
        let serving = supervisor
            .serving()
            .and_then(|serving| self.generations.get(&serving.generation));
        if let Some(pid) = serving.map(|one| one.server.pid()) {
            self.watch.confirm(pid, now);
            self.watch.serves();
        }
        if supervisor.refuses_clients() {
            self.turn_away(Refusal::NothingServes);
        }
        if let Some(why) = self.not_upgraded.take() {
            self.refuse_upgrade(&why);
        } else {
            let text = format!("upgraded to {}", env!("CARGO_PKG_VERSION"));
            self.publish(&Record::new(RecordKind::Upgraded, text));
            self.control.upgraded(Ok(()), now);
        }
        let failed = self.status_data.failed_swap();
        self.manager.follow(supervisor, failed, now);
    }
}

/// The listeners as they were.
pub(super) fn listeners(incoming: &mut Incoming, context: ListenerContext) -> Result<Listeners> {
    Ok(Listeners::resume(incoming.take("listeners")?, context)?)
}
