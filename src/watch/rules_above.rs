//! The rules that a tree has from above it, and whether the files they are in have changed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ignore::gitignore::{Gitignore, gitconfig_excludes_path};

use crate::watch::completeness::FileIdentity;
use crate::watch::ignore_files::{self, EXCLUDE, NAMES, RuleFiles, Rules, is_ignored, rules_in};
use crate::watch::symlinks::{PathStep, steps};

/// No user would choose this name.
const ANY_NAME: &str = "hotswap\u{1}any";

/// The files that hold the rules from above one tree, as they were when they were read.
#[derive(Default)]
pub struct RulesAbove {
    pub rules: Rules,
    files: Vec<(PathBuf, Option<FileIdentity>)>,
    steps: Vec<PathStep>,
}

impl RulesAbove {
    /// Reads the rules from above `root`, if they may be others than at the last call; returns true then.
    pub fn read(&mut self, root: &Path) -> bool {
        let (above, is_in_repository) = directories(root);
        let mut files: Vec<PathBuf> = above
            .iter()
            .flat_map(|directory| NAMES.map(|name| directory.join(name)))
            .collect();
        let near = if is_in_repository {
            files.len()
        } else {
            NAMES.len()
        };
        let excludes = above.iter().copied().chain([root]);
        files.extend(excludes.map(|directory| directory.join(EXCLUDE)));
        files.extend(gitconfig_excludes_path());
        let is_same = files.len() == self.files.len()
            && files
                .iter()
                .zip(&self.files)
                .all(|(path, (known, was))| path == known && FileIdentity::at(path) == *was);
        if is_same {
            return false;
        }
        // Farther away there may be a home or /tmp, where something happens all the time.
        self.steps = files
            .iter()
            .take(near)
            .flat_map(|path| steps(path))
            .collect();
        let files = files.into_iter();
        self.files = files
            .map(|path| {
                let identity = FileIdentity::at(&path);
                (path, identity)
            })
            .collect();
        self.rules = rules_above(root, &above);
        true
    }

    /// What is to be listened to for them.
    pub fn steps(&self) -> &[PathStep] {
        &self.steps
    }

    /// Whether one of them may be what has changed.
    pub fn has(&self, path: &Path) -> bool {
        self.steps.iter().any(|step| step.path() == path)
    }
}

/// The directories above `root` whose rules hold in it, the nearest first, and whether it is in a repository: then none above
/// that counts.
fn directories(root: &Path) -> (Vec<&Path>, bool) {
    let mut above: Vec<&Path> = root.ancestors().skip(1).collect();
    let repository = root.ancestors().position(|path| path.join(".git").exists());
    above.truncate(repository.unwrap_or(above.len()));
    (above, repository.is_some())
}

/// No rules if together they would leave out the whole tree: the user named it, which overrides them.
fn rules_above(root: &Path, directories: &[&Path]) -> Rules {
    let top = directories.last();
    let mut rules = global_rules(top.copied().unwrap_or(root));
    for directory in directories.iter().rev() {
        rules = rules_in(directory, directory, &rules);
    }
    let all = is_ignored(&rules, root, true)
        || is_ignored(&rules, &root.join(ANY_NAME), false)
        || is_ignored(&rules, &root.join(ANY_NAME), true);
    rules.filter(|_| !all)
}

/// The user's own list, git's core.excludesFile.
fn global_rules(root: &Path) -> Rules {
    let list = ignore_files::list(root, gitconfig_excludes_path().into_iter());
    let rules = RuleFiles {
        above: None,
        lists: [Gitignore::empty(), list],
        is_repository: false,
    };
    let is_empty = rules.lists.iter().all(Gitignore::is_empty);
    (!is_empty).then(|| Arc::new(rules))
}
