//! Runs commands: before a swap, after an event, to check a candidate.

use std::ffi::{OsStr, OsString};
use std::process::ExitStatus;
use std::time::Duration;

use super::wait::Batch;
use super::{Purpose, World};
use crate::command::{Command, shell};
use crate::record::{Record, RecordKind};
use crate::supervisor::{Event, Exit, Generation, Time};
use crate::sys;
use crate::watch;

/// How long one command after an event may take.
const HOOK: Duration = Duration::from_secs(60);
/// How many of them run at one time; further ones are left out, and that is said.
const HOOKS: usize = 16;

/// How long it may still take once hotswap is about to exit: a service manager would not wait longer, either.
const HOOK_AT_THE_END: Duration = Duration::from_secs(5);
/// How long after that point hotswap exits even if a command is still running.
const LATEST_END: Duration = Duration::from_secs(10);

/// A command as it is shown.
pub(super) fn one_line(command: &str) -> String {
    command.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl World {
    /// Nothing is left to be swapped: commands for that are killed, and those after an event are to end soon.
    pub(super) fn end_commands(&mut self, now: Time) {
        for (purpose, command) in &mut self.commands {
            if *purpose == Purpose::OnEvent {
                command.hurry(now + HOOK_AT_THE_END);
            } else {
                command.kill();
            }
        }
        self.commands
            .retain(|(purpose, _)| *purpose == Purpose::OnEvent);
    }

    /// The status to end with, once that has come.
    pub(super) fn ended_with(&self, now: Time) -> Option<u8> {
        let (status, since) = self.ended?;
        (self.commands.is_empty() || now >= since + LATEST_END).then_some(status)
    }

    pub(super) fn run_before_swap(&mut self, generation: Generation) -> Option<Event> {
        let line = self.args.before_swap.clone()?;
        self.clear_screen();
        let state = [
            ("HOTSWAP_GENERATION", generation.0.to_string().into()),
            ("HOTSWAP_CHANGED", self.build.changed()),
        ];
        self.watch.command_begins(watch::HookKind::BeforeSwap);
        match self.run(Purpose::BeforeSwap, &line, &state, None) {
            Ok(()) => {
                self.build.begins(generation, sys::now());
                let text = format!("waits for: {}", one_line(&line));
                self.publish(&Record::of(RecordKind::Notice, generation, text));
                None
            }
            Err(why) => {
                self.watch
                    .command_ends(watch::HookKind::BeforeSwap, sys::now());
                Some(Event::BeforeSwapEnded(Err(why)))
            }
        }
    }

    pub(super) fn end_before_swap(&mut self) {
        let now = sys::now();
        self.build.is_given_up();
        self.commands_for(Purpose::BeforeSwap)
            .for_each(|command| command.end(now));
    }

    /// Those that run.
    pub(super) fn commands_for(&mut self, wanted: Purpose) -> impl Iterator<Item = &mut Command> {
        let all = self.commands.iter_mut();
        all.filter_map(move |(purpose, command)| (*purpose == wanted).then_some(command))
    }

    pub(super) fn run_hook(&mut self, record: &Record) {
        let line = self.args.on_event.clone();
        let Some(line) = line.filter(|_| record.kind.is_hooked()) else {
            return;
        };
        if self.commands_for(Purpose::OnEvent).count() >= HOOKS {
            self.warn(format!(
                "the command for {:?} is skipped: {HOOKS} are still running",
                record.kind.name()
            ));
            return;
        }
        let generation = record.generation.map(|one| one.0.to_string());
        let variables = [
            ("HOTSWAP_EVENT", Some(record.kind.name())),
            ("HOTSWAP_GENERATION", generation),
            ("HOTSWAP_PID", record.pid.map(|pid| pid.to_string())),
            ("HOTSWAP_REASON", record.reason.clone()),
            ("HOTSWAP_MESSAGE", Some(record.text.clone())),
        ];
        let known = |(name, value)| Some((name, value?));
        let variables: Vec<(&str, String)> = variables.into_iter().filter_map(known).collect();
        let now = sys::now();
        self.watch.command_begins(watch::HookKind::OnEvent);
        if let Err(why) = self.run(Purpose::OnEvent, &line, &variables, Some(now + HOOK)) {
            self.watch.command_ends(watch::HookKind::OnEvent, now);
            self.warn(why);
        }
    }

    pub(super) fn run(
        &mut self,
        purpose: Purpose,
        line: &str,
        variables: &[(&str, impl AsRef<OsStr>)],
        deadline: Option<Time>,
    ) -> Result<(), String> {
        let mut state = vec![("HOTSWAP_INSTANCE", OsString::from(&self.server_config.name))];
        state.extend(
            variables
                .iter()
                .map(|(name, value)| (*name, value.as_ref().to_owned())),
        );
        self.follow_directory();
        let (env_file, stderr) = (self.args.env_file.as_deref(), self.server_config.stderr);
        let command = Command::start(
            purpose.name(),
            shell(line),
            &state,
            env_file,
            None,
            stderr,
            deadline,
        )
        .map_err(|error| format!("cannot run {line:?}: {error}"))?;
        self.commands.push((purpose, command));
        Ok(())
    }

    pub(super) fn command_ended(&mut self, place: usize, status: ExitStatus, batch: &mut Batch) {
        let now = batch.now;
        let (purpose, command) = self.commands.remove(place);
        let was_asked_to_end = command.was_asked_to_end();
        let ended = command.died(status);
        let well = ended.exit == Exit::Status(0);
        match purpose {
            Purpose::BeforeSwap => {
                self.watch.command_ends(watch::HookKind::BeforeSwap, now);
                let result = if well {
                    Ok(())
                } else {
                    let why = format!("--before-swap {}", ended.exit);
                    Err((why, ended.last_lines))
                };
                if was_asked_to_end {
                    batch.requests.extend(self.build_was_ended());
                } else {
                    self.build.awaits_judgment(result, now);
                }
            }
            Purpose::Upgrade => {
                let asked = self.version_said(&ended.exit, !was_asked_to_end);
                batch.requests.extend(asked);
            }
            Purpose::Ready(generation) => self.ready_command_ended(generation, ended.exit),
            Purpose::OnEvent => {
                self.watch.command_ends(watch::HookKind::OnEvent, now);
                if !well {
                    let text = format!("--on-event {}", ended.exit);
                    self.publish(&Record::new(RecordKind::Warning, text));
                }
            }
        }
    }
}
