//! Handing the world over to the next version of hotswap, in the same process, and taking it up there.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::fallback::Kept;
use super::{Life, Purpose, World, memory};
use crate::capture::Capture;
use crate::command::Command;
use crate::control::Control;
use crate::drain::Drain;
use crate::listener::{Listeners, Means};
use crate::log as lines;
use crate::news::{Kind, News};
use crate::ready::notify::NotifySocket;
use crate::server::Server;
use crate::supervisor::{Event, Generation, Phase, Supervisor};
use crate::sys;
use crate::upgrade::{Arrival, Luggage, execute, incomprehensible};

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
        match Command::start(
            Purpose::Upgrade.name(),
            command,
            &[],
            None,
            // the answer that it runs well is its status
            Some(Stdio::null()),
            self.recipe.stderr,
            Some(until),
        ) {
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

    /// Returns only if it did not work.
    pub(super) fn upgrade(&mut self, supervisor: &Supervisor) -> Vec<Event> {
        lines::finish();
        let error = execute(&self.own_path, &self.luggage(supervisor));
        self.refuse_upgrade(&error.to_string());
        Vec::new()
    }

    fn luggage(&self, supervisor: &Supervisor) -> Luggage<'_> {
        let mut luggage = Luggage::default();
        let stood_still = memory::nanoseconds(sys::clock::stood_still());
        luggage.pack("clock", (json!(stood_still), Vec::new()));
        luggage.pack("core", (memory::to_json(&supervisor.memory()), Vec::new()));
        luggage.pack("world", (self.own_knowledge(), Vec::new()));
        luggage.pack("listeners", self.listeners.hand_over());
        luggage.pack("control", self.control.hand_over());
        for (generation, server) in &self.servers {
            let number = generation.0;
            luggage.pack(format!("server {number}"), server.hand_over());
            let capture = self.captures.get(generation).map(Capture::hand_over);
            luggage.pack(format!("capture {number}"), capture.unwrap_or_default());
            let notify = self.notify.get(generation).map(NotifySocket::hand_over);
            luggage.pack(format!("notify {number}"), notify.unwrap_or_default());
        }
        for (generation, kept) in &self.programs {
            luggage.pack(
                format!("program {}", generation.0),
                (json!(kept.written), vec![kept.program.as_fd()]),
            );
        }
        luggage
    }

    fn own_knowledge(&self) -> Value {
        let lives: BTreeMap<String, Value> = (self.lives.iter())
            .map(|(generation, life)| (generation.0.to_string(), memory::life_to_json(life)))
            .collect();
        json!({
            "lives": lives,
            "programs": self.programs.keys().map(|generation| generation.0).collect::<Vec<_>>(),
            "accepted_on": memory::listeners_to_json(&self.accepted_on),
            "says_ready": self.says_ready,
            "figures": self.figures.hand_over(),
            "signals": self.signals.surroundings(),
        })
    }

    /// Takes up what [`World::luggage`] packed, into a world that has been opened but for these rooms.
    pub(super) fn take_up(&mut self, mut arrival: Arrival) -> Result<()> {
        let (told, _) = arrival.unpack("world")?;
        let lives = told["lives"].as_object().context("no lives")?;
        for (number, life) in lives {
            let generation = Generation(
                number
                    .parse()
                    .map_err(|_| incomprehensible("generations"))?,
            );
            let life: Life =
                memory::life_from_json(life).ok_or_else(|| incomprehensible("generations"))?;
            self.lives.insert(generation, life);
            let mut unpack = |what: &str| arrival.unpack(&format!("{what} {number}"));
            let (told, descriptors) = unpack("server")?;
            let server = Server::take_over(&told, &mut descriptors.into_iter());
            self.servers.insert(
                generation,
                server.ok_or_else(|| incomprehensible("servers"))?,
            );
            let (told, descriptors) = unpack("capture")?;
            if !told.is_null() {
                let capture = Capture::take_over(&told, &mut descriptors.into_iter());
                let capture = capture.ok_or_else(|| incomprehensible("captured servers"))?;
                self.captures.insert(generation, capture);
            }
            let (told, descriptors) = unpack("notify")?;
            if !told.is_null() {
                let notify = NotifySocket::take_over(&told, descriptors);
                let notify = notify.ok_or_else(|| incomprehensible("notify sockets"))?;
                self.notify.insert(generation, notify);
            }
        }
        for number in told["programs"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(memory::generation)
        {
            let (written, mut descriptors) = arrival.unpack(&format!("program {}", number.0))?;
            if let Some(program) = descriptors.pop() {
                let written = serde_json::from_value(written).unwrap_or_default();
                self.programs.insert(number, Kept { program, written });
            }
        }
        self.accepted_on = memory::listeners_from_json(&told["accepted_on"]);
        self.says_ready = told["says_ready"].as_bool().unwrap_or_default();
        self.figures.take_over(&told["figures"]);
        self.signals.resume(&told["signals"]);
        Ok(())
    }

    /// The first thing the next version does: it looks where the one before looked.
    pub(super) fn go_on(&mut self, supervisor: &Supervisor) {
        let now = sys::now();
        for one in supervisor.draining() {
            let waits = matches!(one.phase, Phase::Emptying { .. } | Phase::Quiescing { .. });
            if !waits {
                continue;
            }
            let mut drain = Drain::new(now);
            if matches!(one.phase, Phase::Quiescing { .. }) {
                drain.count_connections();
            }
            self.drains.insert(one.generation, drain);
        }
        let serving = supervisor
            .serving()
            .and_then(|serving| self.servers.get(&serving.generation));
        if let Some(pid) = serving.map(Server::pid) {
            self.watch.confirm(pid, now);
            self.watch.serves();
        }
        self.tell(&News::new(
            Kind::Upgraded,
            format!("upgraded to {}", env!("CARGO_PKG_VERSION")),
        ));
        self.control.upgraded(Ok(()), now);
        self.manager.follow(supervisor, now);
    }
}

/// Before anything asks what time it is. A hotswap that said nothing of it never stood still.
pub(super) fn clock(arrival: &mut Arrival) {
    let told = arrival.unpack("clock");
    let stood_still = told.ok().and_then(|(told, _)| memory::time(&told));
    sys::clock::resume(stood_still.unwrap_or_default());
}

/// The listeners as they were.
pub(super) fn listeners(arrival: &mut Arrival, means: Means) -> Result<Listeners> {
    let (told, descriptors) = arrival.unpack("listeners")?;
    let listeners = Listeners::take_over(&told, &mut descriptors.into_iter(), means);
    listeners.ok_or_else(|| incomprehensible("listeners"))
}

/// The control socket as it was, and who waits there.
pub(super) fn control(arrival: &mut Arrival) -> Result<Control> {
    let (told, descriptors): (Value, Vec<OwnedFd>) = arrival.unpack("control")?;
    Control::take_over(&told, descriptors).map_err(|_| incomprehensible("control socket"))
}
