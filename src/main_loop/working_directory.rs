//! hotswap's own directory, by the path it was started with: where that leads elsewhere by now, it is followed.
//!
//! A deployment flips a link or moves a directory, and means the new one. getcwd(3) and an inherited directory would stay
//! with the old.

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

#[derive(Clone, Debug)]
pub(super) struct WorkingDirectory(PathBuf);

impl WorkingDirectory {
    /// `$PWD`, as the shell wrote it, if that is where we are; else getcwd(3).
    pub fn at_start() -> Self {
        let written = env::var_os("PWD").map(PathBuf::from);
        let written = written.filter(|path| path.is_absolute() && is_here(path));
        Self(written.unwrap_or_else(|| env::current_dir().unwrap_or_else(|_| "/".into())))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Goes where the path leads now. Where it leads nowhere, hotswap stays where it is.
    pub fn follow(&self) {
        if is_here(&self.0) || !self.0.is_dir() {
            return;
        }
        let path = self.0.display();
        match env::set_current_dir(&self.0) {
            Ok(()) => log::info!("{path} now leads to another directory; changing to it"),
            Err(error) => log::warn!("cannot change to {path}: {error}"),
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
