//! Turns what the user named into watched files and trees, and warnings about them.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::watch::advice;
use crate::watch::file::{FileRole, WatchedFile};
use crate::watch::tree::WatchedTree;

/// What to watch.
#[derive(Clone, Debug, Default)]
pub struct WatchTargets {
    /// COMMAND and its ARGS.
    pub command: Vec<OsString>,
    /// Where COMMAND starts, if not in the current directory.
    pub directory: Option<PathBuf>,
    /// COMMAND as found in PATH. [`Watch::fit`] checks it even if it is not watched.
    pub program: Option<PathBuf>,
    pub watch_program: bool,
    pub paths: Vec<PathBuf>,
    pub env_file: Option<PathBuf>,
}

/// Files, trees, and one line for each warning.
pub fn targets(
    targets: &WatchTargets,
    debounce: Duration,
    poll: Duration,
) -> (Vec<WatchedFile>, Vec<WatchedTree>, Vec<String>) {
    let mut warnings = Vec::new();
    let mut files = Vec::new();
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    if let Some(program) = targets.program.as_deref().filter(|_| targets.watch_program) {
        if let Some(name) = advice::interpreter(program) {
            if targets.paths.is_empty() {
                let arguments = targets.command.get(1..).unwrap_or_default();
                let directory = targets.directory.as_deref();
                warnings.push(advice::about_interpreter(name, arguments, directory));
            }
        } else {
            let as_given = targets
                .command
                .first()
                .map_or_else(|| program.into(), PathBuf::from);
            files.push(WatchedFile::new(
                FileRole::Program,
                as_given,
                absolute(program),
            ));
        }
    }
    let (directories, plain): (Vec<&PathBuf>, Vec<&PathBuf>) =
        targets.paths.iter().partition(|path| path.is_dir());
    for path in plain.into_iter().chain(&targets.env_file) {
        if !path.exists() {
            warnings.push(format!(
                "{} does not exist yet; it is watched for",
                path.display()
            ));
        }
        files.push(WatchedFile::new(
            FileRole::Plain,
            path.clone(),
            absolute(path),
        ));
    }
    warnings.extend(
        files
            .iter()
            .filter_map(|file| advice::about_mount(file.path())),
    );
    let others: HashSet<PathBuf> = files.iter().map(|file| real(file.path())).collect();
    let tree = |path: &PathBuf| {
        WatchedTree::new(path.clone(), absolute(path), others.clone(), debounce, poll)
    };
    let trees = directories.into_iter().map(tree).collect();
    (files, trees, warnings)
}

/// The path as a walk will find it, even if the file does not exist yet.
fn real(path: &Path) -> PathBuf {
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Ok(real), _, _) => real,
        (Err(_), Some(directory), Some(name)) => real(directory).join(name),
        (Err(_), _, _) => path.to_owned(),
    }
}
