//! Adopts what a hotswap that was killed has left, and remembers what the next one would have to adopt.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result};

use super::World;
use super::generation::Spawned;
use super::store::Passed;
use crate::adoption::memory::{self, Identity, Memory, Remembered};
use crate::adoption::{self, Adoption, Orphan};
use crate::cli::options::RunArgs;
use crate::control::Control;
use crate::control::socket_dirs::SocketDirs;
use crate::handoff::Incoming;
use crate::listener::{KeptSockets, ListenerContext, ListenerId, Listeners, Orphans};
use crate::program;
use crate::ready::notify::NotifySocket;
use crate::record::{Record, RecordKind};
use crate::server::{Launch, Loss, Server, Traces};
use crate::supervisor::{Event, Exit, Generation, Policy, Supervisor, Time};
use crate::sys;

/// What only one instance of a name has.
pub(super) struct Claimed {
    pub control: Control,
    pub heritage: Heritage,
    pub listeners: Listeners,
    pub warnings: Vec<String>,
}

impl Claimed {
    /// The name first: who has it may join what another one has left listening.
    pub fn at_start(
        args: &RunArgs,
        mut context: ListenerContext,
        passed: Passed,
        directory: &OsStr,
    ) -> Result<Self> {
        let (name, asked_for) = (args.instance(), args.name.is_some());
        let is_own = |control: &Path, name: &str| {
            let identity = identity(args, name, directory);
            let left = memory::remembered_beside(control);
            left.iter()
                .any(|one| one.identity == identity && is_left(one))
        };
        let control = args.control.as_deref();
        let dirs = SocketDirs::ours();
        let (mut control, warning) = Control::open(&dirs, control, &name, asked_for, is_own)?;
        let heritage = Heritage::of(args, &control, directory);
        let orphans = heritage.listening();
        let Passed {
            inherited, kept, ..
        } = passed;
        context.kept = KeptSockets(kept);
        let opened = Listeners::open(&args.listen, context, inherited, orphans.as_ref());
        drop(orphans);
        match opened {
            Ok((listeners, mut warnings)) => {
                warnings.extend(warning);
                warnings.extend(heritage.warning.clone());
                Ok(Self {
                    control,
                    heritage,
                    listeners,
                    warnings,
                })
            }
            Err(error) => {
                control.close(sys::now());
                heritage.give_up();
                Err(error)
            }
        }
    }

    /// As the hotswap before an upgrade had it.
    pub fn handed_over(incoming: &mut Incoming, context: ListenerContext) -> Result<Self> {
        Ok(Self {
            control: incoming.take("control")?,
            heritage: Heritage {
                memory: incoming.take("memory")?,
                ..Heritage::default()
            },
            listeners: super::upgrade::listeners(incoming, context)?,
            warnings: Vec::new(),
        })
    }
}

/// What is remembered of this hotswap, and what one before it has left.
#[derive(Default)]
pub(super) struct Heritage {
    memory: Option<Memory>,
    adoption: Option<Adoption>,
    /// A generation that is about to be started.
    expected: Option<Traces>,
    /// Something may have changed that is to be remembered.
    pub is_outdated: bool,
    /// It was said that nothing can be remembered.
    cannot_write: bool,
    warning: Option<String>,
}

impl Heritage {
    /// Only who has the name of an instance may adopt what it has left.
    fn of(args: &RunArgs, control: &Control, directory: &OsStr) -> Self {
        let Some(path) = control.path() else {
            return Self::default();
        };
        let (mut memory, remembered) = match Memory::open(path) {
            Ok(opened) => opened,
            Err(error) => {
                let path = path.display();
                let warning = format!(
                    "cannot open {path}.state: {error}; if hotswap is killed, the next one adopts nothing"
                );
                return Self {
                    warning: Some(warning),
                    ..Self::default()
                };
            }
        };
        let identity = identity(args, control.name(), directory);
        let (mut ours, mut others): (Vec<_>, Vec<_>) = remembered
            .into_iter()
            .partition(|one| one.identity == identity);
        let adoption = ours.first().cloned().and_then(Adoption::of);
        if adoption.is_none() {
            others.append(&mut ours);
        }
        others.retain(|one| one.identity.is_of_this_machine(&identity) && is_left(one));
        let pids = others.iter().flat_map(adoption::living);
        let pids: Vec<_> = pids.map(|pid| pid.to_string()).collect();
        let warning = (!pids.is_empty()).then(|| {
            let pids = pids.join(" ");
            format!(
                "processes of an earlier hotswap of this name are still running; they were started by another command \
                 or in another directory or network, and are left alone: pid {pids}\ntry: kill {pids}"
            )
        });
        memory.keep(others);
        Self {
            memory: Some(memory),
            adoption,
            warning,
            ..Self::default()
        }
    }

    fn listening(&self) -> Option<Orphans<'_>> {
        self.adoption.as_ref().map(Adoption::listening)
    }

    /// This hotswap does not come to be: what it has found is left for the next one.
    fn give_up(self) {
        if let Some(memory) = self.memory.filter(|_| self.adoption.is_none()) {
            memory.end(is_left);
        }
    }

    pub fn memory(&self) -> Option<&Memory> {
        self.memory.as_ref()
    }
}

/// Whether a generation lives that is remembered there.
fn is_left(remembered: &Remembered) -> bool {
    !adoption::living(remembered).is_empty()
}

fn identity(args: &RunArgs, name: &str, directory: &OsStr) -> Identity {
    let command = args.command.iter().map(|word| word.as_bytes().to_vec());
    let directory = directory.as_bytes().to_vec();
    Identity::new(name, command.collect(), directory)
}

impl World {
    /// Takes over the orphans that were found; the core that begins beside them, or `None` if there are none.
    pub(super) fn adopt(&mut self, policy: Policy) -> Result<Option<Supervisor>> {
        let Some(adoption) = self.heritage.adoption.take() else {
            return Ok(None);
        };
        let now = sys::now();
        let orphans = adoption.listening();
        let captures = self.server_config.capture.is_some();
        self.listeners.adopt(&orphans, captures);
        let mut elsewhere: BTreeMap<Generation, Vec<String>> = BTreeMap::new();
        for (generation, address) in self.listeners.not_adopted(&orphans, captures) {
            elsewhere.entry(generation).or_default().push(address);
        }
        drop(orphans);
        let serving = adoption.serving;
        let others: Vec<_> = (adoption.orphans.keys().copied())
            .filter(|generation| *generation != serving)
            .collect();
        for (generation, orphan) in adoption.orphans {
            let elsewhere = elsewhere.remove(&generation).unwrap_or_default();
            self.adopt_one(orphan, generation == serving, elsewhere, now)?;
        }
        Ok(Some(Supervisor::adopting(policy, now, serving, others)))
    }

    fn adopt_one(
        &mut self,
        orphan: Orphan,
        is_serving: bool,
        elsewhere: Vec<String>,
        now: Time,
    ) -> Result<()> {
        let generation = orphan.traces.generation;
        let pid = orphan.pid;
        let held = self.listeners.sockets_of(generation);
        let sockets: Vec<_> = held.iter().map(|held| held.inode).collect();
        let binder = orphan.binder(&sockets);
        let command = self.server_config.command.first();
        let command = command.and_then(|command| {
            program::find_in_own_path(command, self.args.chdir.as_deref()).ok()
        });
        let command = command.and_then(|command| std::path::absolute(command).ok());
        let program = command.and_then(|command| orphan.program(&command));
        let mut server = Server::adopt(orphan.traces, program, now);
        if let Some(binder) = binder {
            server.bound_by(binder);
        }
        self.listeners.unmute_left(generation, &server.processes());
        let notify = NotifySocket::new().context("cannot make a notify socket")?;
        let started = server.started();
        let mut one = Spawned::new(server, notify);
        one.ready = Some(("adopted".into(), Time::ZERO));
        one.serving_since = Some(started);
        one.drains_since = (!is_serving).then_some(now);
        one.elsewhere = elsewhere;
        self.generations.insert(generation, one);
        self.note_bound(generation, started);
        self.keep_program(generation);
        self.publish(&Record {
            generation: Some(generation),
            pid: Some(pid.as_raw()),
            ..Record::new(
                RecordKind::Adopting,
                format!("adopting {generation}, pid {pid}, of a hotswap that is gone"),
            )
        });
        Ok(())
    }

    /// New connections go to another generation now, except on these listeners: orphans that have one of them to
    /// themselves are left alone.
    pub(super) fn leave_orphans_alone(&mut self, except: &[ListenerId]) -> Vec<Event> {
        let mut left = Vec::new();
        for (generation, one) in &self.generations {
            if !one.server.is_adopted() || one.drain.is_some() {
                continue;
            }
            let mut kept = self.listeners.kept_by_orphan(*generation, except);
            kept.extend(one.elsewhere.iter().cloned());
            if !kept.is_empty() {
                left.push((*generation, one.server.pid(), kept.join(", ")));
            }
        }
        let events = left.iter().map(|left| Event::LeftAlone(left.0)).collect();
        for (generation, pid, kept) in left {
            self.warn(format!(
                "{generation}, pid {pid}, still serves {kept}, and is left alone\ntry: kill {pid}"
            ));
        }
        events
    }

    /// Processes of an adopted generation have died.
    pub(super) fn orphan_lost(&mut self, generation: Generation, loss: Loss) -> Vec<Event> {
        let is_gone = self.generations.get(&generation).map(Spawned::is_gone);
        let mut events = Vec::new();
        if loss == Loss::Main || is_gone == Some(true) {
            self.listeners.died(generation);
            events.push(Event::Died(generation, Exit::Unknown));
        }
        events.extend((is_gone == Some(true)).then_some(Event::Gone(generation)));
        events
    }

    /// Starts a server, which is left behind for the next hotswap whenever this one is killed.
    pub(super) fn spawn_remembered(&mut self, launch: Launch, now: Time) -> io::Result<Server> {
        let expected = Traces::expected(&self.server_config, launch.generation);
        self.heritage.expected = Some(expected);
        self.remember();
        let spawned = Server::spawn(&self.server_config, launch, now);
        self.heritage.expected = None;
        spawned
    }

    /// Writes down what the next hotswap has to adopt if this one is killed now.
    pub(super) fn remember(&mut self) {
        self.heritage.is_outdated = false;
        let directory = self.directory.path().as_os_str();
        let remembered = Remembered {
            identity: identity(&self.args, self.control.name(), directory),
            serving: self.listeners.serving(),
            generations: self
                .generations
                .values()
                .map(|one| one.server.traces())
                .chain(self.heritage.expected.clone())
                .collect(),
            listening: self.listeners.as_given(),
            paths: self.listeners.paths(),
            owned: Some(self.listeners.owned()),
            others: Vec::new(),
        };
        let Some(memory) = &mut self.heritage.memory else {
            return;
        };
        let written = memory.write(remembered);
        let is_new = written.is_err() && !self.heritage.cannot_write;
        self.heritage.cannot_write = written.is_err();
        if let Err(error) = written.map_err(|error| error.to_string())
            && is_new
        {
            self.warn(format!(
                "cannot write the state file: {error}; if hotswap is killed, the next one may not adopt its servers"
            ));
        }
    }

    /// A cleaner of /tmp or of /run may have removed the file.
    pub(super) fn repair_memory(&mut self) {
        let memory = self.heritage.memory.as_mut();
        match memory.map_or(Ok(false), Memory::repair) {
            Ok(true) => self.remember(),
            Ok(false) => {}
            Err(error) => log::debug!("cannot recreate the state file: {error}"),
        }
    }

    /// hotswap ends. What it leaves running was there before it.
    pub(super) fn forget(&mut self) {
        if self.generations.values().any(|one| one.server.is_adopted()) {
            self.remember();
        } else if let Some(memory) = self.heritage.memory.take() {
            memory.end(is_left);
        }
    }
}
