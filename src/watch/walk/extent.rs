//! How much of a tree is watched, and how much is left out by what.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::Walk;
use crate::watch::filter::IgnoreReason;

/// How many files in directories that are left out are counted.
const MOST_COUNTED: usize = 20_000;

/// How much of the tree is watched, and how much is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    pub files: usize,
    pub left_out: BTreeMap<IgnoreReason, usize>,
}

impl Walk {
    pub fn extent(&self) -> Extent {
        let mut extent = Extent {
            files: 0,
            left_out: self.counted.clone(),
        };
        for listing in self.listings.values() {
            extent.files += listing.files.len();
            for (reason, count) in &listing.left_out {
                *extent.left_out.entry(*reason).or_default() += count;
            }
        }
        extent
    }

    /// Adds up what is in a directory that is left out.
    pub(super) fn count(&mut self, path: &Path, reason: IgnoreReason) {
        let total: usize = self.counted.values().sum();
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_directory && total < MOST_COUNTED {
                self.uncounted.push((entry.path(), reason));
            } else {
                *self.counted.entry(reason).or_default() += 1;
            }
        }
    }
}
