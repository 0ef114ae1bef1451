//! Whether git is at work on the repository that a tree is in.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::file;
use crate::sys;

/// git changes files while this file exists; a crash can leave it behind.
const LOCK: &str = "index.lock";
/// In seconds.
const LOCK_AGE: i64 = 10;

/// A repository's own directory, where git keeps its lock.
pub struct Repository(PathBuf);

impl Repository {
    /// The one that `path` is in.
    pub fn around(path: &Path) -> Option<Self> {
        let mut candidates = path.ancestors().map(|path| path.join(".git"));
        candidates.find_map(git_directory).map(Self)
    }

    pub fn is_at_work(&self) -> bool {
        let lock = fs::symlink_metadata(self.0.join(LOCK));
        lock.is_ok_and(|lock| sys::wall_time().0 - lock.mtime() < LOCK_AGE)
    }
}

/// What `.git` is, or, as a file, says (gitrepository-layout(5)).
fn git_directory(path: PathBuf) -> Option<PathBuf> {
    let found = fs::metadata(&path).ok()?;
    if found.is_dir() {
        return Some(path);
    }
    let text = if found.is_file() && found.len() < 4096 {
        io::read_to_string(file::open(&path).ok()?).ok()?
    } else {
        return None;
    };
    let target = text.strip_prefix("gitdir: ")?.trim_end();
    Some(path.parent()?.join(target))
}
