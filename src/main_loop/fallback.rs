//! Keeps the programs that have served open, for when a newer one does not start.

use std::os::fd::{AsFd, OwnedFd};

use nix::sys::stat::fstat;
use serde::{Deserialize, Serialize};

use super::World;
use crate::handoff;
use crate::supervisor::Generation;

/// A program that is kept open while another file takes its place.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct HeldProgram {
    #[serde(with = "handoff::descriptor")]
    pub program: OwnedFd,
    pub written: Option<Written>,
}

/// The size and the time of the last change, which show that a file was overwritten in place.
type Written = (i64, i64, i64);

fn written(program: impl AsFd) -> Option<Written> {
    let stat = fstat(program).ok()?;
    Some((stat.st_size, stat.st_mtime, stat.st_mtime_nsec))
}

impl World {
    /// It serves, so its program may have to run again.
    pub(super) fn keep_program(&mut self, generation: Generation) {
        let one = self.generations.get(&generation);
        let program = one.and_then(|one| one.server.program()?.try_clone_to_owned().ok());
        if let Some(program) = program {
            let written = written(&program);
            self.programs
                .insert(generation, HeldProgram { program, written });
        }
    }

    /// The program of a generation that has served, or why it cannot be had.
    pub(super) fn held_program(&self, good: Generation) -> Result<OwnedFd, String> {
        let Some(kept) = self.programs.get(&good) else {
            return Err("it was a script".into());
        };
        if written(&kept.program) != kept.written {
            return Err("its file was overwritten in place".into());
        }
        let program = kept.program.try_clone();
        program.map_err(|error| error.to_string())
    }
}
