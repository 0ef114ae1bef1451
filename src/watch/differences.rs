//! What of a tree differs from the known files, and has not been reported yet.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::Uid;

use crate::supervisor::Time;
use crate::watch::completeness::FileIdentity;
use crate::watch::content_hash;

/// One file at some moment; it has a hash if it is small enough to be read.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub identity: FileIdentity,
    pub hash: Option<u64>,
    /// It was read so soon after a change that its times may hide another one.
    pub young: bool,
}

impl Entry {
    pub fn is_as(&self, other: &Self) -> bool {
        match (self.hash, other.hash) {
            (Some(one), Some(other)) => one == other,
            _ => self.identity == other.identity,
        }
    }
}

/// Differences that have not been reported yet.
#[derive(Default)]
pub struct Differences {
    pub paths: BTreeMap<PathBuf, Differs>,
    /// When the first and the last of them was seen.
    pub first: Time,
    pub since: Time,
    /// One of the files belongs to another user.
    pub is_foreign: bool,
}

pub struct Differs {
    /// What is there now; `None` if it is gone.
    pub entry: Option<Entry>,
    pub changed: (i64, i64),
    pub how: HowChanged,
    /// Where to look at it again.
    pub directory: PathBuf,
}

/// A file that has changed.
pub struct Difference {
    pub path: PathBuf,
    /// Where it is, without links.
    pub directory: PathBuf,
    /// `None` if it is gone.
    pub identity: Option<FileIdentity>,
    /// By ctime, or by that of the directory it has gone from.
    pub changed: (i64, i64),
    pub how: HowChanged,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HowChanged {
    Appeared,
    /// Something was added to its end, and nothing else was done to it.
    Grew,
    Rewritten,
    /// In whatever way: it is watched by its own name.
    Named,
    /// What is gone was last changed then.
    Gone((i64, i64)),
}

/// Whether it begins with what it was.
pub fn has_grown(known: &Entry, entry: &Entry, path: &Path) -> bool {
    let (was, is) = (&known.identity, &entry.identity);
    let may_have = was.ino == is.ino && was.dev == is.dev && was.size < is.size;
    let beginning = known.hash.filter(|_| may_have && entry.hash.is_some());
    beginning.is_some_and(|hash| {
        content_hash::hash_of_first(path, was.size).is_ok_and(|now| now == hash)
    })
}

/// The kernel tells root, and the owner, who writes a file.
pub fn is_ours(metadata: &Metadata) -> bool {
    let user = Uid::effective();
    user.is_root() || user.as_raw() == metadata.uid()
}

pub fn is_same(one: Option<&Entry>, other: Option<&Entry>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.is_as(other),
        (None, None) => true,
        _ => false,
    }
}
