//! Which programs did not get to serve, so that a restart does not run them again.
//!
//! What is on disk is compared with them before the core decides what to restart, so that a program which was installed
//! later, and never tried, is run.

use serde::{Deserialize, Serialize};

use super::World;
use super::identity::ProgramIdentity;
use crate::supervisor::{Event, Failure, Generation, OnDisk, Supervisor};
use crate::watch::Fitness;

/// More are not told apart.
const MOST: usize = 16;

#[derive(Default, Serialize, Deserialize)]
pub(super) struct RejectedPrograms {
    /// The oldest first.
    files: Vec<ProgramIdentity>,
}

impl RejectedPrograms {
    pub fn files(&self) -> impl Iterator<Item = &ProgramIdentity> {
        self.files.iter()
    }

    pub fn files_mut(&mut self) -> impl Iterator<Item = &mut ProgramIdentity> {
        self.files.iter_mut()
    }

    fn is_empty(&self) -> bool {
        self.files.is_empty()
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
}

impl World {
    /// That one did not get to serve.
    pub(super) fn reject(&mut self, failure: &Failure) {
        if failure.reason.is_of_the_program() {
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

    /// Somebody has asked for it, or it serves.
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

    /// Before a restart: what is on disk, if that is news to the core.
    pub(super) fn judge_file(&mut self, supervisor: &Supervisor) -> Option<Event> {
        let serving = supervisor.serving().map(|serving| serving.generation);
        let found = self.found_on_disk(serving);
        let avoids = found == OnDisk::Rejected;
        let is_news = found != supervisor.on_disk() || (!avoids && supervisor.avoids_file());
        is_news.then_some(Event::OnDisk(found))
    }

    fn found_on_disk(&mut self, serving: Option<Generation>) -> OnDisk {
        let file = self.path_of_program().and_then(ProgramIdentity::of);
        let Some((mut program, file)) = file.filter(|_| self.watch.fit() == Fitness::Fit) else {
            return OnDisk::Rejected;
        };
        let programs = &mut self.status_data.programs;
        let served = serving.and_then(|one| programs.get(one));
        program.hash = served
            .filter(|served| served.is_same(&program))
            .and_then(|served| served.hash.clone());
        if program.hash.is_none() && programs.may_be_known(&program, serving) {
            programs.finish_like(&program);
            program.read(file);
        }
        let is_it = |one: &ProgramIdentity| one.is_same(&program);
        // a swap to what serves fails for another reason than its program
        if serving.and_then(|one| programs.get(one)).is_some_and(is_it) {
            OnDisk::Same
        } else if programs.rejected.has(&program) {
            OnDisk::Rejected
        } else {
            let is_held = serving.is_some_and(|one| self.held_program(one).is_ok());
            OnDisk::Another { is_held }
        }
    }
}
