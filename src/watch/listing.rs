//! One directory of a tree as it was last seen, and the paths in it as they are now.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::watch::completeness::FileIdentity;
use crate::watch::filter::IgnoreReason;
use crate::watch::ignore_files::{Rules, Stamps};
use crate::watch::symlinks::{Directory, PathStep, linked_since};

/// A path of the tree, as it is now.
pub struct Sighting {
    /// Below the root, through the links that lead there.
    pub shown: PathBuf,
    /// Where to look at it again.
    pub directory: PathBuf,
    /// When it came, was changed or went, by ctime.
    pub since: (i64, i64),
    pub what: What,
}

pub enum What {
    Gone,
    /// To be compared by identity alone: a link.
    Link(FileIdentity),
    /// At this path without links.
    File(PathBuf, Metadata),
}

/// One directory as it was last seen.
pub struct Listing {
    pub directory: Directory,
    /// Its path below the root.
    pub shown: PathBuf,
    pub above: Rules,
    pub rules: Rules,
    pub stamps: Stamps,
    pub times: Option<[(i64, i64); 2]>,
    /// When it came to be here: files in a directory that is moved keep their own ctime.
    pub arrived: (i64, i64),
    /// Its times were old enough to trust them.
    pub settled: bool,
    pub files: BTreeMap<OsString, EntryKind>,
    pub below: Vec<PathBuf>,
    pub left_out: BTreeMap<IgnoreReason, usize>,
    /// Each hop of each link in it.
    pub hops: Vec<PathStep>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    File,
    /// To a file at this path.
    Link(PathBuf),
    /// To a directory in the tree, or to nothing that is watched.
    OtherLink,
}

impl Listing {
    /// Of a directory that is to be looked at for the first time.
    pub fn unseen(path: PathBuf, shown: PathBuf, above: Rules, arrived: (i64, i64)) -> Self {
        Self {
            directory: Directory {
                path,
                ..Directory::default()
            },
            shown,
            rules: above.clone(),
            above,
            stamps: Stamps::default(),
            times: None,
            arrived,
            settled: false,
            files: BTreeMap::new(),
            below: Vec::new(),
            left_out: BTreeMap::new(),
            hops: Vec::new(),
        }
    }

    pub fn is_of(&self, metadata: &Metadata) -> bool {
        let directory = &self.directory;
        directory.ino == metadata.ino() && directory.dev == metadata.dev()
    }

    /// A file of it that has gone.
    pub fn gone(&self, name: &OsStr, since: (i64, i64)) -> Sighting {
        Sighting {
            shown: self.shown.join(name),
            directory: self.directory.path.clone(),
            since,
            what: What::Gone,
        }
    }

    /// Its files as they are now, and those that `was` has and that went at `since`.
    pub fn sightings(
        &self,
        was: &BTreeMap<OsString, EntryKind>,
        since: (i64, i64),
    ) -> Vec<Sighting> {
        let gone = was.keys().filter(|name| !self.files.contains_key(*name));
        let gone = gone.map(|name| self.gone(name, since));
        let here = self.files.iter();
        let here = here.map(|(name, kind)| self.sighting(name, kind, since));
        gone.chain(here).collect()
    }

    fn sighting(&self, name: &OsStr, kind: &EntryKind, gone_since: (i64, i64)) -> Sighting {
        let path = self.directory.path.join(name);
        let (found, since) = match kind {
            EntryKind::File | EntryKind::OtherLink => (fs::symlink_metadata(&path), (0, 0)),
            EntryKind::Link(target) => (fs::metadata(target), linked_since(&path)),
        };
        let Ok(found) = found else {
            return self.gone(name, gone_since);
        };
        let since = changed(&found).max(self.arrived).max(since);
        let what = match kind {
            EntryKind::File => What::File(path, found),
            EntryKind::Link(target) => What::File(target.clone(), found),
            // Where it leads is what matters, not when it was made.
            EntryKind::OtherLink => What::Link(FileIdentity::of_link(&path, &found)),
        };
        Sighting {
            shown: self.shown.join(name),
            directory: self.directory.path.clone(),
            since,
            what,
        }
    }
}

/// ctime: no tool can set it.
pub fn changed(metadata: &Metadata) -> (i64, i64) {
    (metadata.ctime(), metadata.ctime_nsec())
}
