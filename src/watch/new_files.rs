//! New files of which nobody knows who made them: a cache whose names are never the same.
//!
//! When new files below one directory, and nothing else, have caused three swaps in a row while the server was writing, what
//! appears there no longer counts, and neither does what becomes of it. What was there before still counts, and so does
//! everything that changes while the server writes nothing. If that directory is the tree itself, only files with the same
//! endings that are directly in it are left out.

use std::collections::HashSet;
use std::ffi::OsString;
use std::mem;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::changed::escaped;
use super::differences::{Difference, HowChanged};
use crate::supervisor::Time;

/// How many swaps in a row, and how soon each must follow the one before.
const MOST: u32 = 3;
const SOON: Duration = Duration::from_secs(10);

/// What no longer counts, if it came while the server was writing.
#[derive(Default)]
struct LeftOut {
    directory: PathBuf,
    /// Only files with these endings, directly in it.
    endings: Option<HashSet<OsString>>,
}

/// Swaps in a row that new files alone have caused.
#[derive(Default)]
struct SwapsInARow {
    count: u32,
    last: Time,
    /// The directory that the files have in common.
    directory: PathBuf,
    endings: HashSet<OsString>,
}

#[derive(Default)]
pub struct NewFiles {
    /// Files that came while the server was writing.
    came: HashSet<PathBuf>,
    /// Those of them that have changed since the last call of [`NewFiles::note`].
    changed: HashSet<PathBuf>,
    row: SwapsInARow,
    left_out: Vec<LeftOut>,
}

impl NewFiles {
    /// A file has changed while the server was writing. Returns whether it is left out.
    pub fn weigh(&mut self, path: &Path, how: HowChanged) -> bool {
        let came = match how {
            HowChanged::Appeared => {
                self.came.insert(path.to_owned());
                true
            }
            HowChanged::Gone(_) => self.came.remove(path),
            HowChanged::Grew | HowChanged::Rewritten => self.came.contains(path),
            HowChanged::Named => false,
        };
        if came {
            self.changed.insert(path.to_owned());
        }
        came && self.left_out.iter().any(|one| one.has(path))
    }

    /// Somebody else has changed it.
    pub fn changed_by_others(&mut self, path: &Path) {
        self.came.remove(path);
    }

    /// These files of one tree cause a swap. Returns a line if the like of them are left out from now on.
    pub fn note(&mut self, tree: &Path, changed: &[Difference], now: Time) -> Option<String> {
        let came = mem::take(&mut self.changed);
        let first = changed.first()?;
        let is_new = |one: &Difference| one.how == HowChanged::Appeared;
        let are_new = changed.iter().all(|one| came.contains(&one.path));
        if !are_new || !changed.iter().any(is_new) {
            self.row = SwapsInARow::default();
            return None;
        }
        let mut directory = first.path.parent()?;
        for one in changed {
            directory = common_ancestor(&one.path, directory);
        }
        let mut row = mem::take(&mut self.row);
        if row.count > 0 && now < row.last + SOON {
            directory = common_ancestor(&row.directory, directory);
        } else {
            row = SwapsInARow::default();
        }
        row.count += 1;
        row.last = now;
        directory.clone_into(&mut row.directory);
        row.endings
            .extend(changed.iter().map(|one| ending(&one.path)));
        let is_outside = !row.directory.starts_with(tree);
        if is_outside || row.count < MOST {
            self.row = row;
            return None;
        }
        let is_tree = row.directory == tree;
        let directory = escaped(&row.directory);
        self.left_out.push(LeftOut {
            directory: row.directory,
            endings: is_tree.then_some(row.endings),
        });
        let new = format!(
            "new files in {directory} have caused {MOST} swaps in a row, and no longer count"
        );
        Some(if is_tree {
            let example = escaped(&first.path);
            format!("{new} if they are like {example}\ntry: --ignore, and a glob for their names")
        } else {
            format!("{new}\ntry: --ignore {directory}/")
        })
    }

    /// The directories whose new files are left out.
    pub fn left_out(&self) -> impl Iterator<Item = &Path> {
        self.left_out.iter().map(|one| one.directory.as_path())
    }

    pub fn leaves_out(&self, path: &Path) -> bool {
        self.came.contains(path) && self.left_out.iter().any(|one| one.has(path))
    }

    /// Somebody asked for a swap: everything counts again.
    pub fn release_all(&mut self) {
        self.row = SwapsInARow::default();
        self.left_out.clear();
    }
}

impl LeftOut {
    fn has(&self, path: &Path) -> bool {
        match &self.endings {
            None => path.starts_with(&self.directory),
            Some(endings) => {
                path.parent() == Some(&self.directory) && endings.contains(&ending(path))
            }
        }
    }
}

fn ending(path: &Path) -> OsString {
    path.extension().unwrap_or_default().to_owned()
}

fn common_ancestor<'a>(one: &Path, other: &'a Path) -> &'a Path {
    let mut ancestors = other.ancestors();
    ancestors
        .find(|ancestor| one.starts_with(ancestor))
        .unwrap_or(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl NewFiles {
        /// These files change while the server is writing; those that count cause a swap.
        fn change(&mut self, files: &[(&str, HowChanged)], second: u64) -> Option<String> {
            let mut changed = Vec::new();
            for (path, how) in files {
                if !self.weigh(path.as_ref(), *how) {
                    changed.push(Difference {
                        path: path.into(),
                        directory: PathBuf::new(),
                        identity: None,
                        changed: (0, 0),
                        how: *how,
                    });
                }
            }
            self.note(Path::new("src"), &changed, Time::from_secs(second))
        }

        fn appears(&mut self, path: &str, second: u64) -> Option<String> {
            self.change(&[(path, HowChanged::Appeared)], second)
        }

        fn with_a_cache() -> Self {
            let mut new = Self::default();
            assert_eq!(new.appears("src/cache/ab/12/x.json", 0), None);
            assert_eq!(new.appears("src/cache/cd/34/y.json", 3), None);
            let line = new.appears("src/cache/ef/56/z", 6).unwrap();
            assert!(line.starts_with("new files in src/cache have"), "{line}");
            new
        }
    }

    #[test]
    fn what_appears_where_new_files_alone_caused_three_swaps_no_longer_counts() {
        let mut new = NewFiles::with_a_cache();
        for how in [
            HowChanged::Appeared,
            HowChanged::Rewritten,
            HowChanged::Gone((0, 0)),
        ] {
            assert!(new.weigh("src/cache/01/a".as_ref(), how), "{how:?}");
        }
        assert!(!new.weigh("src/cache/listed".as_ref(), HowChanged::Rewritten));
        assert!(!new.weigh("src/page.py".as_ref(), HowChanged::Appeared));
        new.release_all();
        assert!(!new.weigh("src/cache/01/b".as_ref(), HowChanged::Appeared));
    }

    #[test]
    fn a_manifest_may_be_written_again_with_each_new_file() {
        let mut new = NewFiles::default();
        let manifest = "src/out/manifest";
        new.change(
            &[
                ("src/out/1.js", HowChanged::Appeared),
                (manifest, HowChanged::Appeared),
            ],
            0,
        );
        new.change(
            &[
                ("src/out/2.js", HowChanged::Appeared),
                (manifest, HowChanged::Rewritten),
            ],
            1,
        );
        let third = [
            ("src/out/3.js", HowChanged::Appeared),
            (manifest, HowChanged::Rewritten),
        ];
        assert!(new.change(&third, 2).is_some());
        assert!(new.weigh(manifest.as_ref(), HowChanged::Rewritten));
    }

    #[test]
    fn an_edit_between_or_a_pause_begins_anew() {
        let mut new = NewFiles::default();
        for second in 0..10 {
            assert_eq!(new.appears(&format!("src/a/{second}"), second * 10), None);
        }
        for second in 0..10 {
            assert_eq!(new.appears(&format!("src/b/{second}"), 100 + second), None);
            let edit = [("src/main.py", HowChanged::Rewritten)];
            assert_eq!(new.change(&edit, 100 + second), None);
        }
    }

    #[test]
    fn in_the_tree_itself_only_files_of_the_same_ending_are_left_out() {
        let mut new = NewFiles::default();
        assert_eq!(new.appears("src/1.csv", 0), None);
        assert_eq!(new.appears("src/2.csv", 1), None);
        assert!(new.appears("src/3.csv", 2).is_some());
        assert!(new.weigh("src/4.csv".as_ref(), HowChanged::Appeared));
        for path in ["src/new.py", "src/sub/5.csv"] {
            assert!(!new.weigh(path.as_ref(), HowChanged::Appeared), "{path}");
        }
    }
}
