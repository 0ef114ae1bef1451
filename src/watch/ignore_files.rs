//! The rules of .gitignore and .ignore files, one directory at a time.
//!
//! Anyone who may write into a tree, or into a directory above it, can put a FIFO or an endless file in their place, so
//! they are read without blocking and only up to a limit.

use std::ffi::OsStr;
use std::io::Read;
use std::iter;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::file;
use crate::watch::completeness::FileIdentity;

/// The files that hold rules, the stronger one first.
pub const NAMES: [&str; 2] = [".ignore", ".gitignore"];
pub const EXCLUDE: &str = ".git/info/exclude";
/// Larger than any real list of rules.
const LONGEST: u64 = 1 << 20;

/// The rules that hold in a directory; `None` if no file above or in it has any.
pub type Rules = Option<Arc<RuleFiles>>;

/// The rules of one directory, and those of the directories above it.
pub struct RuleFiles {
    pub above: Rules,
    /// From `.ignore`, then from `.gitignore`.
    pub lists: [Gitignore; 2],
    /// What git ignores above a repository is not ignored in it.
    pub is_repository: bool,
}

/// Which rule files a directory has: when these change, so do its rules.
pub type Stamps = [Option<FileIdentity>; 2];

pub fn is_rule_file(name: &OsStr) -> bool {
    NAMES.iter().any(|rule_file| name == *rule_file)
}

pub fn stamps(directory: &Path) -> Stamps {
    NAMES.map(|name| FileIdentity::at(&directory.join(name)))
}

/// The rules in `directory`, whose files are known by the path `shown`.
pub fn rules_in(directory: &Path, shown: &Path, above: &Rules) -> Rules {
    let is_repository = directory.join(".git").exists();
    let [own, git] = NAMES.map(|name| directory.join(name));
    let lists = [
        list(shown, iter::once(own)),
        list(shown, [directory.join(EXCLUDE), git].into_iter()),
    ];
    if lists.iter().all(Gitignore::is_empty) && !(is_repository && above.is_some()) {
        return above.clone();
    }
    Some(Arc::new(RuleFiles {
        above: above.clone(),
        lists,
        is_repository,
    }))
}

/// The deepest rule that matches decides, and `.ignore` before `.gitignore`.
pub fn is_ignored(rules: &Rules, path: &Path, is_directory: bool) -> bool {
    let levels = || iter::successors(rules.as_ref(), |level| level.above.as_ref());
    let own = levels().map(|level| level.lists[0].matched(path, is_directory));
    let mut outside = false;
    let git = levels()
        .take_while(|level| !std::mem::replace(&mut outside, level.is_repository))
        .map(|level| level.lists[1].matched(path, is_directory));
    let decisive = own.chain(git).find(|found| !found.is_none());
    decisive.is_some_and(|found| found.is_ignore())
}

/// Rules that cannot be parsed are skipped, as git does.
pub fn list(root: &Path, paths: impl Iterator<Item = PathBuf>) -> Gitignore {
    let mut builder = GitignoreBuilder::new(root);
    for text in paths.filter_map(|path| text(&path)) {
        for line in text.trim_start_matches('\u{feff}').lines() {
            if let Err(error) = builder.add_line(None, line) {
                log::debug!("cannot use {line:?} as a rule: {error}");
            }
        }
    }
    builder.build().unwrap_or_else(|_| Gitignore::empty())
}

fn text(path: &Path) -> Option<String> {
    let file = file::open(path).ok()?;
    let is_sane = file
        .metadata()
        .is_ok_and(|found| found.is_file() && found.len() <= LONGEST);
    if !is_sane {
        log::debug!("cannot read {}: not a list of rules", path.display());
        return None;
    }
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
