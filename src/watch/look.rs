//! One look at everything that is watched: what has changed, and whether it counts.

use std::path::PathBuf;

use super::Watch;
use super::brake::Worth;
use super::changed::{Changed, escaped};
use super::differences::{Difference, HowChanged};
use super::events::{Hints, HowArrived};
use super::file::FileRole;
use super::own_writes::Author;
use super::symlinks::PathStep;
use crate::supervisor::Time;

impl Watch {
    pub(super) fn look_at_files(&mut self, now: Time, hints: &Hints) {
        for at in 0..self.files.len() {
            let Some(file) = self.files.get_mut(at) else {
                return;
            };
            if self.held && file.role == FileRole::Program {
                continue;
            }
            let arrival = arrival(hints, file.steps());
            if !file.look(now, arrival, self.debounce, self.usual) {
                continue;
            }
            let path = file.as_given.clone();
            let is_named = file.role == FileRole::Named;
            let difference = Difference {
                changed: file.changed(),
                path: path.clone(),
                how: HowChanged::Named,
            };
            if !is_named || self.counts(&difference, now) {
                let others = Vec::new();
                self.found.push(Changed { path, others });
            }
        }
    }

    pub(super) fn look_at_trees(&mut self, now: Time, hints: &Hints) {
        let mut other_directories = false;
        for at in 0..self.trees.len() {
            let Some(tree) = self.trees.get_mut(at) else {
                return;
            };
            tree.heed(hints);
            let (differences, others) = tree.look(now);
            other_directories |= others;
            let (changed, own): (Vec<_>, Vec<_>) = differences
                .into_iter()
                .partition(|difference| self.counts(difference, now));
            if let Some(tree) = self.trees.get_mut(at) {
                for own in own {
                    tree.distrust(&own.path);
                }
            }
            let mut paths: Vec<PathBuf> = changed.into_iter().map(|changed| changed.path).collect();
            if !paths.is_empty() {
                let others = paths.split_off(1);
                let path = paths.remove(0);
                self.found.push(Changed { path, others });
            }
        }
        if other_directories {
            self.follow();
        }
    }

    /// Whether a change was made by a person or a tool, and not by hotswap's own commands or the server.
    fn counts(&mut self, difference: &Difference, now: Time) -> bool {
        let Difference { path, changed, how } = difference;
        match self.own_writes.author(path, *how, *changed) {
            Author::Command | Author::Unclear => return false,
            Author::CommandFirstSeen => {
                log::info!(
                    "{} is written by a command of hotswap's and no longer counts\ntry: save it again if that was you",
                    escaped(path)
                );
                return false;
            }
            Author::Somebody => {}
        }
        let grew = *how == HowChanged::Grew;
        match self.brake.weigh(path, *changed, grew, now) {
            Worth::Counts => true,
            Worth::KeptBack => false,
            Worth::Braked(why) => {
                let path = escaped(path);
                log::warn!("{path} {why}, and no longer counts\ntry: --ignore {path}");
                false
            }
        }
    }
}

/// How the file at the end of `steps` got there.
fn arrival(hints: &Hints, steps: &[PathStep]) -> HowArrived {
    let Some((file, links)) = steps.split_last() else {
        return HowArrived::Unknown;
    };
    let of = |place: &PathStep| {
        hints
            .arrivals
            .get(&place.path())
            .copied()
            .unwrap_or_default()
    };
    let flipped = links.iter().any(|link| of(link) != HowArrived::Unknown);
    match of(file) {
        HowArrived::Unknown if flipped => HowArrived::Moved,
        arrival => arrival,
    }
}
