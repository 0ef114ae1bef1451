//! The one poll, and the one place that acts.
//!
//! Decide, do, wait: the core says what follows from an event, the rooms do it, and what they find out is the next event.
//! What fails while doing comes back as an event, too; only a poll that is itself broken ends the loop.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::path::PathBuf;

use anyhow::Result;

use crate::capture;
use crate::cli::options::RunArgs;
use crate::command::Command;
use crate::control::Control;
use crate::keeper::Keeper;
use crate::listener::Listeners;
use crate::polled::Alarm;
use crate::ready::ReadyMode;
use crate::server::ServerConfig;
use crate::signals::Signals;
use crate::supervisor::{Action, Event, Generation, Supervisor, Time};
use crate::sys;
use crate::sys::clock::Pulse;
use crate::systemd::ServiceManager;
use crate::watch::Watch;
use build::Build;
use keys::Keys;
use working_directory::WorkingDirectory;

mod act;
mod addresses;
mod adopt;
mod announce;
mod build;
mod candidate;
mod captures;
mod children;
mod clients;
mod commands;
mod drains;
mod fallback;
mod generation;
mod hints;
mod identity;
mod keep;
mod keys;
mod poll;
mod programs;
mod rejected;
mod saved_state;
mod startup;
mod status;
mod store;
mod turns;
mod upgrade;
mod upkeep;
mod wait;
mod waivers;
mod worked;
mod working_directory;

use addresses::CountingAddresses;
use adopt::Heritage;
use generation::Spawned;
use status::StatusData;
use upkeep::Upkeep;
use waivers::{SaidReady, Waivers};
use worked::Worked;

/// Runs the server until hotswap ends; the exit status.
///
/// # Errors
/// What keeps hotswap from starting, or from going on at all.
pub fn run(args: RunArgs) -> Result<u8> {
    let policy = startup::policy(&args);
    let (mut world, saved) = World::open(args)?;
    let status = if let Some(saved) = saved {
        let supervisor = Supervisor::restore(policy, saved);
        world.resume(&supervisor);
        serve(&mut world, supervisor, None)
    } else {
        let adopting = world.adopt(policy.clone())?;
        let captures = world.server_config.capture.is_some();
        world.listeners.adopt_kept(captures);
        let supervisor = adopting.unwrap_or_else(|| Supervisor::new(policy));
        serve(&mut world, supervisor, Some(Event::Launched))
    };
    world.refuse_turns(sys::now());
    world.control.close(sys::now());
    world.leave_kept();
    world.forget();
    status
}

fn serve(world: &mut World, mut supervisor: Supervisor, first: Option<Event>) -> Result<u8> {
    let mut events = VecDeque::from_iter(first);
    loop {
        while let Some(event) = events.pop_front() {
            let by_signal = event == Event::SwapAsked(None);
            let mut results = Vec::new();
            for action in supervisor.step(sys::now(), event) {
                let is_last = events.is_empty() && results.is_empty();
                if matches!(action, Action::Upgrade(_)) && !(is_last && world.nobody_waits()) {
                    // what has been heard is not known to the next version
                    world.upgrade_later();
                } else {
                    results.extend(world.act(action));
                }
            }
            world.report(&supervisor, by_signal);
            // Results of these actions come before older events.
            for result in results.into_iter().rev() {
                events.push_front(result);
            }
        }
        if world.heritage.is_outdated {
            world.remember();
        }
        world.keep_sockets(sys::now());
        if let Some(status) = world.ended_with(sys::now()) {
            return Ok(status);
        }
        events.extend(world.wait(&supervisor)?);
    }
}

/// The state of the main loop: every room, and every generation.
struct World {
    args: RunArgs,
    /// Where the next version of hotswap will be.
    own_path: PathBuf,
    ready_mode: ReadyMode,
    server_config: ServerConfig,
    signals: Signals,
    listeners: Listeners,
    watch: Watch,
    build: Build,
    generations: BTreeMap<Generation, Spawned>,
    /// Programs that may have to be run again, though their paths lead elsewhere by now.
    programs: BTreeMap<Generation, fallback::HeldProgram>,
    commands: Vec<(Purpose, Command)>,
    /// Where the next version must accept.
    counting: CountingAddresses,
    /// What the next swap that is asked for is excused from.
    waivers: Waivers,
    /// A generation has served, be it under the hotswap before an upgrade.
    has_served: bool,
    said_ready: SaidReady,
    /// Where the next version of hotswap says which one it is.
    next_version: Option<File>,
    /// Why the next version could not go on with what it was handed, so that this one was executed again.
    not_upgraded: Option<String>,
    /// What was said once about captured servers.
    hints: Vec<capture::Warning>,
    /// How many restarts in a row have died before they bound anything: up to the number that lets captured sockets go,
    /// and one more once that has happened.
    unbound_restarts: u32,
    /// When the stop began: from then on, connections that have sent nothing hold up a drain for 1s at most.
    stopping_since: Option<Time>,
    /// Those who ask from outside.
    control: Control,
    manager: ServiceManager,
    status_data: StatusData,
    /// The program is being written: when to look again whether it is complete.
    fitness_due: Alarm,
    upkeep: Upkeep,
    /// When the unix paths were last looked at.
    paths_looked: Time,
    /// It has done something since memory was last given back.
    has_worked: bool,
    keys: Keys,
    directory: WorkingDirectory,
    pulse: Pulse,
    /// The limit of descriptors, if it is lower than what is polled; that was said.
    few_descriptors: Option<usize>,
    /// What the last generation that served was started with.
    worked: Option<Worked>,
    heritage: Heritage,
    /// It is started once there is something to keep.
    keeper: Option<Keeper>,
    /// The status to end with, and since when.
    ended: Option<(u8, Time)>,
}

/// What a command of ours is run for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    BeforeSwap,
    OnEvent,
    /// `--ready exec:` of this candidate.
    Ready(Generation),
    /// Whether the next version of hotswap runs.
    Upgrade,
}

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Purpose::BeforeSwap => "before-swap",
            Purpose::OnEvent => "on-event",
            Purpose::Ready(_) => "ready",
            Purpose::Upgrade => "upgrade",
        }
    }
}
