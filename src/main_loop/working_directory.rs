//! hotswap's own directory, by the path it was started with: where that leads elsewhere by now, it is followed.
//!
//! A deployment flips a link or moves a directory, and means the new one. getcwd(3) and an inherited directory would stay
//! with the old.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::World;
use crate::record::Record;

/// As readlink(2) tells it, also of a directory that is gone.
const CURRENT: &str = "/proc/self/cwd";

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct WorkingDirectory(OsString);

impl WorkingDirectory {
    /// `$PWD`, as the shell wrote it, if that is where we are; else getcwd(3). In a directory that is gone, `$PWD` is
    /// where the user means to be.
    pub fn at_start() -> Self {
        let written = env::var_os("PWD").map(PathBuf::from);
        let written = written.filter(|path| path.is_absolute());
        let path = match env::current_dir() {
            Ok(path) => written.filter(|path| is_here(path)).unwrap_or(path),
            Err(_) => {
                written.unwrap_or_else(|| fs::read_link(CURRENT).unwrap_or_else(|_| "/".into()))
            }
        };
        Self(path.into())
    }

    pub fn path(&self) -> &Path {
        Path::new(&self.0)
    }

    /// Goes where the path leads now, and says so. Where it leads nowhere, hotswap stays where it is.
    pub fn follow(&self) -> Option<Record> {
        let path = self.path();
        if is_here(path) || !path.is_dir() {
            return None;
        }
        let (to, path) = (path, path.display());
        Some(match env::set_current_dir(to) {
            Ok(()) => Record::notice(format!(
                "{path} now leads to another directory; changing to it"
            )),
            Err(error) => Record::warning(format!("cannot change to {path}: {error}")),
        })
    }
}

impl World {
    pub(super) fn follow_directory(&mut self) {
        if let Some(news) = self.directory.follow() {
            self.publish(&news);
        }
    }
}

fn is_here(path: &Path) -> bool {
    let identity = |path: &Path| {
        let found = fs::metadata(path).ok()?;
        Some((found.dev(), found.ino()))
    };
    identity(path).is_some() && identity(path) == identity(Path::new("."))
}
