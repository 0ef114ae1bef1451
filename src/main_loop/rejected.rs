//! Which programs did not get to serve, so that a restart does not run them again.
//!
//! What is on disk is compared with them before the core decides what to restart, so that a program which was installed
//! later, and never tried, is run.

use serde::{Deserialize, Serialize};

use super::World;
use super::identity::ProgramIdentity;
use crate::supervisor::{Event, Failure, Generation, Reason, Supervisor};
use crate::watch::Fitness;

/// More are not told apart.
const MOST: usize = 16;

#[derive(Default, Serialize, Deserialize)]
pub(super) struct RejectedPrograms {
    /// The oldest first.
    files: Vec<ProgramIdentity>,
    /// The file at the path could not even be started.
    unfit: bool,
}

impl RejectedPrograms {
    pub fn files(&self) -> impl Iterator<Item = &ProgramIdentity> {
        self.files.iter()
    }

    pub fn files_mut(&mut self) -> impl Iterator<Item = &mut ProgramIdentity> {
        self.files.iter_mut()
    }

    fn is_empty(&self) -> bool {
        self.files.is_empty() && !self.unfit
    }

    fn add(&mut self, program: ProgramIdentity) {
        self.accept(&program);
        if self.files.len() == MOST {
            self.files.remove(0);
        }
        self.files.push(program);
    }

    fn accept(&mut self, program: &ProgramIdentity) {
        self.files.retain(|one| !one.is_same(program));
    }

    fn has(&self, program: &ProgramIdentity) -> bool {
        self.files.iter().any(|one| one.is_same(program))
    }

    fn have_size_of(&self, program: &ProgramIdentity) -> bool {
        self.files.iter().any(|one| one.has_size_of(program))
    }
}

impl World {
    /// That one did not get to serve.
    pub(super) fn reject(&mut self, failure: &Failure) {
        let programs = &mut self.status_data.programs;
        if let Reason::NotFit(_) = failure.reason {
            programs.rejected.unfit = true;
        } else if failure.reason.is_of_the_program() {
            self.reject_program_of(failure.generation);
        }
    }

    pub(super) fn reject_program_of(&mut self, generation: Generation) {
        let programs = &mut self.status_data.programs;
        if let Some(program) = programs.get(generation).cloned() {
            programs.rejected.add(program);
        }
    }

    /// What is on disk was left on purpose.
    pub(super) fn reject_file(&mut self) {
        let path = self.path_of_program();
        let programs = &mut self.status_data.programs;
        if let Some(program) = path.and_then(|path| programs.identify(path)) {
            programs.rejected.add(program);
        }
    }

    /// Somebody has asked for this generation.
    pub(super) fn asked_for(&mut self, generation: Generation) {
        self.status_data.programs.rejected.unfit = false;
        self.accept_program_of(generation);
    }

    /// Another chance, or a proof.
    pub(super) fn accept_program_of(&mut self, generation: Generation) {
        let programs = &mut self.status_data.programs;
        if let Some(program) = programs.get(generation).cloned() {
            programs.rejected.accept(&program);
        }
    }

    /// An older hotswap has only noted that there is one.
    pub(super) fn reject_as_before(&mut self, supervisor: &Supervisor) {
        if supervisor.avoids_file() && self.status_data.programs.rejected.is_empty() {
            self.reject_file();
        }
    }

    /// Before a restart: whether the program on disk is a rejected one, if that is news to the core.
    pub(super) fn judge_file(&mut self, supervisor: &Supervisor) -> Option<Event> {
        let is_rejected =
            !self.status_data.programs.rejected.is_empty() && self.has_rejected_file();
        (is_rejected != supervisor.avoids_file()).then_some(Event::FileRejected(is_rejected))
    }

    fn has_rejected_file(&mut self) -> bool {
        if self.watch.fit() != Fitness::Fit {
            return true;
        }
        let Some((mut program, file)) = self.path_of_program().and_then(ProgramIdentity::of) else {
            return true;
        };
        let programs = &mut self.status_data.programs;
        if programs.rejected.has(&program) {
            return true;
        }
        if !programs.rejected.have_size_of(&program) {
            return false;
        }
        programs.finish_rejected(&program);
        program.read(file);
        programs.rejected.has(&program)
    }
}
