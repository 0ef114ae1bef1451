//! Whether a file that was touched seems to have changed: a first look, long before it has settled.
//!
//! It tells who must not get an old answer from now on. Whether the file has changed is judged by the gates, as always.

use std::path::Path;

use super::{Watch, WatchedFile, WatchedTree};

/// Whether a change is being judged.
#[derive(Default)]
pub struct Judging {
    now: bool,
    /// As it was told last.
    told: bool,
}

impl Watch {
    /// Whether a file seems to have changed and has not been judged yet, if that is news.
    pub fn take_judging(&mut self) -> Option<bool> {
        let Judging { now, told } = &mut self.judging;
        (*now != std::mem::replace(told, *now)).then_some(*now)
    }

    /// Looks at the files of which events have come since the last look.
    pub fn look_at_touched(&mut self) {
        let names = self.events.take_touched();
        self.judging.now |= names.iter().any(|path| self.seems_changed(path));
    }

    /// After a full look: something is `settling`, or is left to be looked at.
    pub(super) fn go_on_judging(&mut self, settling: bool) {
        self.judging.now &= self.trees.iter().any(WatchedTree::is_behind);
        self.judging.now |= settling || !self.found.is_empty() || self.brake.keeps_back();
    }

    fn seems_changed(&self, path: &Path) -> bool {
        let leads_here = |file: &&WatchedFile| file.steps().iter().any(|step| step.path() == path);
        let mut files = self.files.iter().filter(|file| self.is_judged(file));
        let mut trees = self.trees.iter();
        files.any(|file| leads_here(&file) && file.seems_changed(self.how_run))
            || trees.any(|tree| {
                let shown = tree.changed_file(path);
                let shown = shown.map(|shown| tree.as_given.join(shown));
                shown.is_some_and(|shown| {
                    !self.brake.leaves_out(&shown)
                        && !self.own_writes.has(&shown)
                        && !self.server_writes.leaves_out(&shown)
                        && !self.new_files.leaves_out(&shown)
                })
            })
    }
}
