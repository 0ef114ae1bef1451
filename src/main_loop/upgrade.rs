//! Hands the state of all rooms over to the next version of hotswap, and restores it there.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::generation::Spawned;
use super::{Purpose, World, saved_state};
use crate::capture::Capture;
use crate::command::Command;
use crate::drain::Drain;
use crate::handoff::{Incoming, Outgoing};
use crate::listener::{ListenerContext, Listeners};
use crate::log as lines;
use crate::record::{Record, RecordKind};
use crate::server::environment;
use crate::supervisor::{Event, Generation, Phase, SavedState, Supervisor};
use crate::sys;
use crate::upgrade::execute;

/// How long the new file may take to say its version.
const PATIENCE: Duration = Duration::from_secs(10);

impl World {
    /// Asks the new file for its version first: what does not run is not executed.
    pub(super) fn check_upgrade(&mut self) {
        if self
            .commands
            .iter()
            .any(|(purpose, _)| *purpose == Purpose::Upgrade)
        {
            return;
        }
        let command = vec![self.own_path.clone().into_os_string(), "--version".into()];
        let until = sys::now() + PATIENCE;
        // the answer that it runs well is its status
        let nowhere = File::options().write(true).open("/dev/null");
        let started = nowhere.and_then(|nowhere| {
            Command::start(
                Purpose::Upgrade.name(),
                command,
                &[],
                None,
                Some(nowhere.as_fd()),
                self.server_config.stderr,
                Some(until),
            )
        });
        match started {
            Ok(command) => self.commands.push((Purpose::Upgrade, command)),
            Err(error) => self.refuse_upgrade(&error.to_string()),
        }
    }

    pub(super) fn refuse_upgrade(&mut self, why: &str) {
        self.warn(format!(
            "cannot upgrade to {}: {why}",
            self.own_path.display()
        ));
        self.control.upgraded(Err(why), sys::now());
    }

    /// Returns only on failure.
    pub(super) fn upgrade(&mut self, memory: &SavedState) -> Vec<Event> {
        lines::finish();
        self.captures().for_each(Capture::pause);
        let error = match self.outgoing(memory) {
            Ok(outgoing) => execute(&self.own_path, &outgoing),
            Err(error) => error,
        };
        self.captures().for_each(Capture::resume);
        self.refuse_upgrade(&error.to_string());
        Vec::new()
    }

    fn captures(&mut self) -> impl Iterator<Item = &mut Capture> {
        let generations = self.generations.values_mut();
        generations.filter_map(|one| one.capture.as_mut())
    }

    fn outgoing(&self, memory: &SavedState) -> io::Result<Outgoing> {
        let mut outgoing = Outgoing::default();
        outgoing.put("clock", &sys::clock::stood_still())?;
        outgoing.put("core", &saved_state::to_json(memory))?;
        outgoing.put("world", &self.own_state())?;
        outgoing.put("figures", &self.status_data)?;
        outgoing.put("signals", self.signals.surroundings())?;
        outgoing.put("control", &self.control)?;
        outgoing.put("listeners", &self.listeners.state())?;
        for (generation, one) in &self.generations {
            let number = generation.0;
            outgoing.put(format!("server {number}"), &one.server)?;
            outgoing.put(format!("capture {number}"), &one.capture)?;
            outgoing.put(format!("notify {number}"), &one.notify)?;
        }
        outgoing.put("programs", &self.programs)?;
        outgoing.put("hints", &self.hints)?;
        outgoing.put("keeper", &self.keeper)?;
        outgoing.put("store", self.manager.store())?;
        outgoing.put("memory", &self.heritage.memory())?;
        Ok(outgoing)
    }

    fn own_state(&self) -> Value {
        let generations: BTreeMap<String, Value> = (self.generations.iter())
            .map(|(generation, one)| (generation.0.to_string(), saved_state::info_to_json(one)))
            .collect();
        json!({
            "lives": generations,
            "accepted_on": saved_state::listeners_to_json(&self.counting.accepted),
            "says_ready": self.says_ready,
        })
    }

    /// Takes up what [`World::outgoing`] put, in a world that has been opened but for these rooms.
    pub(super) fn restore(&mut self, mut incoming: Incoming) -> Result<()> {
        let state: Value = incoming.take("world")?;
        let generations = state["lives"]
            .as_object()
            .context("no generations in the saved state")?;
        for (number, info) in generations {
            let generation = Generation(number.parse()?);
            let server = incoming.take(&format!("server {number}"))?;
            let notify = incoming.take(&format!("notify {number}"))?;
            let mut one = Spawned::new(server, notify);
            saved_state::info_from_json(info, &mut one).context("cannot read generations")?;
            one.capture = incoming.take(&format!("capture {number}"))?;
            self.generations.insert(generation, one);
        }
        self.programs = incoming.take("programs")?;
        self.has_served = true;
        self.counting.accepted = saved_state::listeners_from_json(&state["accepted_on"]);
        self.hints = incoming.take("hints")?;
        self.keeper = incoming.take("keeper")?;
        if let Some(store) = incoming.take("store")? {
            *self.manager.store_mut() = store;
        }
        self.says_ready = state["says_ready"].as_bool().unwrap_or_default();
        self.status_data = incoming.take("figures")?;
        if let Ok(variables) = environment::inherited_by(&self.server_config) {
            self.remember_worked(variables);
        }
        self.signals.resume(incoming.take("signals")?);
        Ok(())
    }

    /// The first thing the next version does: it looks where the one before looked.
    pub(super) fn resume(&mut self, supervisor: &Supervisor) {
        let now = sys::now();
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
            one.server.ask_next();
        }
        let serving = supervisor
            .serving()
            .and_then(|serving| self.generations.get(&serving.generation));
        if let Some(pid) = serving.map(|one| one.server.pid()) {
            self.watch.confirm(pid, now);
            self.watch.serves();
        }
        self.publish(&Record::new(
            RecordKind::Upgraded,
            format!("upgraded to {}", env!("CARGO_PKG_VERSION")),
        ));
        self.control.upgraded(Ok(()), now);
        let failed = self.status_data.failed_swap();
        self.manager.follow(supervisor, failed, now);
    }
}

/// The listeners as they were.
pub(super) fn listeners(incoming: &mut Incoming, context: ListenerContext) -> Result<Listeners> {
    Ok(Listeners::resume(incoming.take("listeners")?, context)?)
}
