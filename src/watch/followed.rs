//! Which directories are listened to, and what is done where there are no file events.

use std::collections::HashSet;
use std::time::Duration;

use super::symlinks::{Directory, PathStep};
use super::{Watch, WatchedFile, WatchedTree};

/// The poll interval where there are no file events, if the user has turned polling off.
const POLL_INSTEAD: Duration = Duration::from_secs(1);

impl Watch {
    pub(super) fn find_steps(&mut self) {
        let mut others = self.events.is_behind();
        for file in &mut self.files {
            others |= file.find_steps();
        }
        for tree in &mut self.trees {
            others |= tree.find_steps();
        }
        if others {
            self.follow();
        }
    }

    /// Listens to every directory on the way to a watched path.
    pub(super) fn follow(&mut self) {
        let ways = self
            .files
            .iter()
            .map(WatchedFile::steps)
            .chain(self.trees.iter().map(WatchedTree::steps));
        let hops = self.trees.iter().flat_map(WatchedTree::hops);
        let places: Vec<&PathStep> = ways.flatten().chain(hops).collect();
        let within = || self.trees.iter().flat_map(WatchedTree::directories);
        let directories: HashSet<Directory> = places
            .iter()
            .map(|place| &place.directory)
            .chain(within())
            .cloned()
            .collect();
        let names = places.iter().map(|place| place.path()).collect();
        let trees = within().map(|directory| directory.path.clone()).collect();
        self.events.follow(&directories, names, trees);
    }

    /// Says once why there are no file events, and polls from then on.
    pub(super) fn complaint(&mut self) -> Option<String> {
        let why = self.events.complaint()?;
        if self.poll.is_zero() {
            self.poll = POLL_INSTEAD;
        }
        for tree in &mut self.trees {
            tree.poll_every(self.poll);
        }
        let interval = humantime::format_duration(self.poll);
        Some(format!(
            "cannot use file events: {why}; checking every {interval} instead"
        ))
    }
}
