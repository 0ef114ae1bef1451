//! Turns what the user named into watched files and trees, and warnings about them.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::watch::absence::NamedPath;
use crate::watch::advice;
use crate::watch::changed::escaped;
use crate::watch::completeness::RunsAs;
use crate::watch::file::{FileRole, WatchedFile};
use crate::watch::filter::{IgnoreOptions, split_glob};
use crate::watch::tree::WatchedTree;

/// What to watch.
#[derive(Clone, Debug, Default)]
pub struct WatchTargets {
    /// The program and its arguments, without launchers before it.
    pub command: Vec<OsString>,
    /// Where it starts, if not in the current directory.
    pub directory: Option<PathBuf>,
    /// The program as found in PATH. [`super::Watch::fit`] checks it even if it is not watched.
    pub program: Option<PathBuf>,
    pub runs_as: RunsAs,
    pub watch_program: bool,
    /// Files, trees and globs.
    pub paths: Vec<PathBuf>,
    /// What trees leave out.
    pub wanted: IgnoreOptions,
    pub env_file: Option<PathBuf>,
    /// Watch the script of an interpreter, if nothing else is named.
    pub dev: bool,
}

/// Files, trees, and one line for each warning.
#[derive(Default)]
pub struct WatchedPaths {
    pub files: Vec<WatchedFile>,
    pub trees: Vec<WatchedTree>,
    /// What the user named of these.
    pub paths: Vec<NamedPath>,
    pub warnings: Vec<String>,
}

impl WatchedPaths {
    pub fn of(targets: &WatchTargets, debounce: Duration, poll: Duration) -> Self {
        let mut watched = Self::default();
        let absolute = |path: &Path| targets.wanted.base.join(path);
        let mut named = targets.paths.clone();
        if targets.watch_program {
            named.extend(watched.add_program(targets));
        }
        let mut trees = Vec::new();
        for as_given in named {
            if let Some((above, glob)) = split_glob(&targets.wanted.base, &as_given) {
                let path = absolute(&above);
                watched.warnings.extend(about_absence(&as_given, &path));
                watched
                    .paths
                    .push(NamedPath::new(above.clone(), path.clone()));
                trees.push((above, path, Some(glob)));
                continue;
            }
            let path = absolute(&as_given);
            watched.warnings.extend(about_absence(&as_given, &path));
            let file = WatchedFile::new(FileRole::Named, as_given.clone(), path.clone());
            watched.files.push(file);
            // It may become a directory, and be a file again.
            trees.push((as_given, path, None));
        }
        if let Some(path) = &targets.env_file {
            let file = WatchedFile::new(FileRole::Settings, path.clone(), absolute(path));
            watched.files.push(file);
        }
        let files = watched.files.iter();
        let paths = files.map(|file| NamedPath::new(file.as_given.clone(), file.path().into()));
        watched.paths.extend(paths);
        let paths = watched.files.iter().map(WatchedFile::path);
        watched
            .warnings
            .extend(paths.filter_map(advice::about_mount));
        let paths = watched.files.iter().map(WatchedFile::path);
        let others: HashSet<PathBuf> = paths.map(real_path).collect();
        for (as_given, path, glob) in trees {
            let tree = WatchedTree::new(
                as_given,
                path,
                glob,
                targets.wanted.clone(),
                others.clone(),
                debounce,
                poll,
            );
            watched.trees.push(tree);
        }
        watched
    }

    /// Watches the program, or gives the script that it runs and that is to be watched instead.
    fn add_program(&mut self, targets: &WatchTargets) -> Option<PathBuf> {
        let program = targets.program.as_deref()?;
        let arguments = targets.command.get(1..).unwrap_or_default();
        let directory = targets.directory.as_deref();
        if let Some(name) = advice::interpreter(program) {
            if !targets.paths.is_empty() {
                return None;
            }
            let script = advice::script(arguments, directory);
            let is_watched = targets.dev && script.is_some();
            self.warnings.push(advice::about_interpreter(
                name,
                script.as_deref(),
                is_watched,
            ));
            return script.filter(|_| is_watched);
        }
        if targets.paths.is_empty() {
            self.warnings
                .extend(advice::about_tool(program, arguments, directory));
        }
        let as_given = targets.command.first();
        let as_given = as_given.map_or_else(|| program.into(), PathBuf::from);
        let path = targets.wanted.base.join(program);
        self.files
            .push(WatchedFile::new(FileRole::Program, as_given, path));
        None
    }
}

fn about_absence(as_given: &Path, path: &Path) -> Option<String> {
    (!path.exists()).then(|| format!("{} does not exist yet; waiting for it", escaped(as_given)))
}

/// The path as a walk will find it, even if the file does not exist yet.
fn real_path(path: &Path) -> PathBuf {
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Ok(real), _, _) => real,
        (Err(_), Some(directory), Some(name)) => real_path(directory).join(name),
        (Err(_), _, _) => path.to_owned(),
    }
}
