//! Gives the keeper what it keeps, and replaces one that has ended.

use super::World;
use crate::capture::Capture;
use crate::keeper::Keeper;
use crate::supervisor::{Generation, Time};

/// A keeper takes nothing while it sleeps: after this many generations another one gets what those have that live. To the
/// kernel the descriptors are on their way, and of those a user may have no more than a process may have open.
const GENERATIONS_KEPT: u32 = 16;

impl World {
    /// It may write to hotswap.
    pub(super) fn keep_stderr_of(&mut self, generation: Generation) {
        if generation.0.is_multiple_of(GENERATIONS_KEPT) && self.keeper.is_some() {
            return self.start_keeper(0);
        }
        let one = self.generations.get(&generation);
        let pipe = one.and_then(|one| one.server.stderr());
        let give = |keeper: &Keeper| pipe.is_none_or(|pipe| keeper.keep_stderr(pipe).is_ok());
        if pipe.is_some() && !self.keeper.as_ref().is_some_and(give) {
            self.start_keeper(0);
        }
    }

    /// A server is captured.
    pub(super) fn keep_calls_of(&mut self, generation: Generation) {
        let one = self.generations.get(&generation);
        let calls = one.and_then(|one| one.capture.as_ref().map(Capture::notifications));
        let give = |keeper: &Keeper| calls.is_none_or(|calls| keeper.keep_calls(calls).is_ok());
        if calls.is_some() && !self.keeper.as_ref().is_some_and(give) {
            self.start_keeper(0);
        }
    }

    /// Somebody has killed it.
    pub(super) fn keeper_ended(&mut self, now: Time) {
        let failed = self.keeper.take().and_then(|keeper| keeper.failed(now));
        if let Some(failed) = failed {
            self.start_keeper(failed);
        }
    }

    /// A new one gets all that there is.
    fn start_keeper(&mut self, failed: u32) {
        self.keeper = None;
        if self.args.no_keeper {
            return;
        }
        let started = Keeper::start(failed).and_then(|keeper| {
            for one in self.generations.values() {
                if let Some(pipe) = one.server.stderr() {
                    keeper.keep_stderr(pipe)?;
                }
                if let Some(capture) = &one.capture {
                    keeper.keep_calls(capture.notifications())?;
                }
            }
            Ok(keeper)
        });
        match started {
            Ok(keeper) => self.keeper = Some(keeper),
            Err(error) => log::debug!("cannot start a keeper: {error}"),
        }
    }
}
