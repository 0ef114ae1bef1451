//! What of a tree is left out, and why.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::watch::ignore_files::{Rules, is_ignored};
use crate::watch::symlinks::is_editors_own;

/// Directories that hold what others have built or fetched.
const USUAL: [&str; 3] = ["node_modules", "target", "__pycache__"];

/// Why a file or directory in a tree is not watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IgnoreReason {
    Hidden,
    Usual,
    Temporary,
    RuleFile,
    Option,
    Ending,
    LeadsOut,
}

impl IgnoreReason {
    /// How `status --json` and `-v` call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hidden => "hidden names",
            Self::Usual => "default (node_modules, target, __pycache__)",
            Self::Temporary => "names of temporary files",
            Self::RuleFile => ".gitignore and .ignore",
            Self::Option => "--ignore",
            Self::Ending => "--ext or the glob",
            Self::LeadsOut => "links out of it",
        }
    }
}

/// What the user wants left out of every tree.
#[derive(Clone, Debug, Default)]
pub struct IgnoreOptions {
    /// `--ignore`, as in a .gitignore file.
    pub ignore: Vec<String>,
    /// `--ext`, without their dots; none means all.
    pub endings: Vec<OsString>,
    /// What relative globs are relative to.
    pub base: PathBuf,
}

/// The rules for one tree.
pub struct Filter {
    /// `--ignore`, relative to the base and to the tree.
    ignore: [Gitignore; 2],
    endings: Vec<OsString>,
    /// The only files, if the tree was named by a glob.
    only: Option<Gitignore>,
}

impl Filter {
    /// `root` is the tree, `glob` what is wanted of it.
    pub fn new(wanted: &IgnoreOptions, root: &Path, glob: Option<&str>) -> Self {
        let base = wanted
            .base
            .canonicalize()
            .unwrap_or_else(|_| wanted.base.clone());
        let (mut here, mut there) = (GitignoreBuilder::new(&base), GitignoreBuilder::new(root));
        for line in &wanted.ignore {
            // The command line has checked that each is a glob.
            if let Some(within) = within(line, root) {
                let _ = there.add_line(None, &within);
            } else {
                let _ = here.add_line(None, line.strip_prefix("./").unwrap_or(line));
                let _ = there.add_line(None, line);
            }
        }
        let built =
            |builder: &GitignoreBuilder| builder.build().unwrap_or_else(|_| Gitignore::empty());
        let only = glob.map(|glob| {
            let mut builder = GitignoreBuilder::new(root);
            let _ = builder.add_line(None, &format!("/{glob}"));
            built(&builder)
        });
        Self {
            ignore: [built(&here), built(&there)],
            endings: wanted.endings.clone(),
            only,
        }
    }

    /// `path` is below the canonical root of the tree.
    pub fn reason(&self, rules: &Rules, path: &Path, is_directory: bool) -> Option<IgnoreReason> {
        let name = path.file_name().unwrap_or_default();
        if is_editors_own(name) {
            return Some(IgnoreReason::Temporary);
        }
        let mut asked = self
            .ignore
            .iter()
            .map(|list| list.matched(path, is_directory));
        let asked = asked.find(|found| !found.is_none());
        let is_wanted = asked.as_ref().is_some_and(Match::is_whitelist);
        if !is_wanted {
            if asked.is_some() {
                return Some(IgnoreReason::Option);
            }
            if is_hidden(name, is_directory) {
                return Some(IgnoreReason::Hidden);
            }
            if is_directory && USUAL.iter().any(|usual| name == *usual) {
                return Some(IgnoreReason::Usual);
            }
            // The files of a glob are named, which is stronger.
            if (is_directory || self.only.is_none()) && is_ignored(rules, path, is_directory) {
                return Some(IgnoreReason::RuleFile);
            }
        }
        (!is_directory && !self.has_wanted_name(path, name)).then_some(IgnoreReason::Ending)
    }

    fn has_wanted_name(&self, path: &Path, name: &OsStr) -> bool {
        if let Some(only) = &self.only {
            return only.matched_path_or_any_parents(path, false).is_ignore();
        }
        let name = name.as_encoded_bytes();
        let has = |ending: &OsString| {
            let stem = name.strip_suffix(ending.as_encoded_bytes());
            stem.is_some_and(|stem| stem.ends_with(b"."))
        };
        self.endings.is_empty() || self.endings.iter().any(has)
    }
}

/// An absolute glob that begins with the path of the tree, as a rule in the tree.
fn within(glob: &str, root: &Path) -> Option<String> {
    let rest = glob.strip_prefix(root.to_str()?)?;
    rest.starts_with('/').then(|| rest.to_owned())
}

/// Settings are often in `.env` and `.env.local`, and they matter.
pub fn is_hidden(name: &OsStr, is_directory: bool) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(b".") && (is_directory || !name.starts_with(b".env"))
}

/// The directory where the files of a glob are, and what is wanted of it; `None` for a plain path.
pub fn split_glob(base: &Path, path: &Path) -> Option<(PathBuf, String)> {
    let is_glob = |part: &OsStr| {
        let special = |byte: &u8| b"*?[{".contains(byte);
        part.as_encoded_bytes().iter().any(special)
    };
    if !is_glob(path.as_os_str()) || base.join(path).symlink_metadata().is_ok() {
        return None;
    }
    let parts: Vec<&OsStr> = path.iter().collect();
    let first = parts.iter().position(|part| is_glob(part))?;
    let glob: PathBuf = parts.get(first..)?.iter().collect();
    Some((
        parts.get(..first)?.iter().collect(),
        glob.to_str()?.to_owned(),
    ))
}
