//! Keeps the programs that have served open, for when a newer one does not start.

use std::cell::Cell;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use nix::sys::stat::fstat;
use serde::{Deserialize, Serialize};

use super::World;
use super::generation::Spawned;
use crate::proc::process;
use crate::supervisor::{Event, Generation};
use crate::watch::runs_others::runs_others;
use crate::{handoff, proc, program};

/// A program that is kept open while another file takes its place.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct HeldProgram {
    #[serde(with = "handoff::descriptor")]
    pub program: OwnedFd,
    pub written: Cell<Option<Written>>,
    /// By the time it served, it had said READY=1.
    #[serde(default)]
    pub said_ready: bool,
    /// By the time it served, another file ran in its process.
    #[serde(default)]
    pub started_another: bool,
}

/// The size and the time of the last change, which show that a file was overwritten in place.
type Written = (i64, i64, i64);

fn written(program: impl AsFd) -> Option<Written> {
    let stat = fstat(program).ok()?;
    Some((stat.st_size, stat.st_mtime, stat.st_mtime_nsec))
}

/// A launcher has become what it started, or a child of it serves.
fn has_started_another(one: &Spawned, program: impl AsFd) -> bool {
    let held = fstat(program).ok().map(|stat| (stat.st_dev, stat.st_ino));
    let processes = [Some(one.server.pid()), one.binder()];
    let run = processes.into_iter().flatten().flat_map(process::image);
    let mut run = run.map(|image| (image.dev(), image.ino()));
    run.any(|run| Some(run) != held)
}

impl World {
    /// It serves, so its program may have to run again.
    pub(super) fn keep_program(&mut self, generation: Generation) {
        let one = self.generations.get(&generation);
        let program = one.and_then(|one| one.server.program()?.try_clone_to_owned().ok());
        if let Some(program) = program {
            let held = HeldProgram {
                written: Cell::new(written(&program)),
                said_ready: one.is_some_and(|one| one.said_ready),
                started_another: one.is_some_and(|one| has_started_another(one, &program)),
                program,
            };
            self.programs.insert(generation, held);
        }
    }

    /// What a generation ran that a later one runs as well need not be had back from it.
    pub(super) fn programs_that_serve_again(&self) -> Vec<Event> {
        let known = &self.status_data.programs;
        let is_again = |one: &&Generation| {
            let mut later = self.programs.keys().filter(|later| later > one);
            later.any(|later| known.are_same(**one, *later))
        };
        let again = self.programs.keys().filter(is_again);
        // a launcher is the same program each time, and what it runs is not held
        let again = again.filter(|one| self.held_program(**one).is_ok());
        again.map(|one| Event::SameProgram(*one)).collect()
    }

    /// The program of a generation that has served, or why it cannot be had.
    pub(super) fn held_program(&self, good: Generation) -> Result<OwnedFd, String> {
        let Some(kept) = self.programs.get(&good) else {
            return Err("it was a script, which cannot be kept open".into());
        };
        if let Some(why) = self.runs_others() {
            return Err(why);
        }
        if kept.started_another {
            return Err("it started another program, which cannot be kept open".into());
        }
        let now = written(&kept.program);
        if now != kept.written.get() {
            if !self.has_content_of_before(good, &kept.program) {
                return Err("its file was overwritten in place".into());
            }
            kept.written.set(now);
        }
        let program = kept.program.try_clone();
        program.map_err(|error| error.to_string())
    }

    /// It was only touched, as by a build that had nothing to do.
    fn has_content_of_before(&self, good: Generation, program: &OwnedFd) -> bool {
        let known = self.status_data.programs.get(good);
        known.is_some_and(|known| known.is_content_of(proc::path_of(program)))
    }

    /// Why COMMAND's program is not what changes.
    fn runs_others(&self) -> Option<String> {
        let (command, arguments) = self.args.command.split_first()?;
        let chdir = self.args.chdir.as_deref();
        let program = program::find_in_own_path(command, chdir);
        // a file that is gone may still be known by its name
        let program = program.unwrap_or_else(|_| command.into());
        runs_others(&program, arguments, chdir)
    }
}
