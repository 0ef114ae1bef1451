//! Files that have changed, in words.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::escape::escape;

/// One or more files that are new, complete, and no longer being written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// As the user spelled it; for a tree, one of the files in it.
    pub path: PathBuf,
    /// The other files of the same tree that changed with it.
    pub others: Vec<PathBuf>,
}

impl Changed {
    /// One file alone.
    pub fn of(path: PathBuf) -> Self {
        let others = Vec::new();
        Self { path, others }
    }
}

impl fmt::Display for Changed {
    /// Escaped: anyone who may write into a watched tree chooses the file names in it.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&escaped(&self.path))?;
        match self.others.len() {
            0 => Ok(()),
            1 => f.write_str(" and 1 other file"),
            count => write!(f, " and {count} other files"),
        }
    }
}

pub fn escaped(path: &Path) -> String {
    escape(&path.to_string_lossy())
}
