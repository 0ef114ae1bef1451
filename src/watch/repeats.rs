//! Says when one file alone has caused many swaps: the server may write it unseen.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::supervisor::Time;
use crate::watch::changed::{Changed, escaped};

/// How many swaps in a row are reported, and how soon each must follow the one before.
const MANY: u32 = 6;
const SOON: Duration = Duration::from_secs(10);

#[derive(Default)]
pub struct Repeats {
    /// The file, or the directory that all new files were in.
    path: PathBuf,
    are_new: bool,
    count: u32,
    last: Time,
    /// What was said before.
    said: HashSet<PathBuf>,
}

impl Repeats {
    /// These changes cause a swap. Returns a line about it, once for each path.
    pub fn note(&mut self, changed: &[Changed], now: Time) -> Option<String> {
        let [one] = changed else {
            *self = Self {
                said: std::mem::take(&mut self.said),
                ..Self::default()
            };
            return None;
        };
        let mut path = one.path.as_path();
        if one.are_new {
            path = path.parent().unwrap_or(path);
        }
        let follows = self.are_new == one.are_new && now < self.last + SOON;
        let path = if follows && one.are_new && self.count > 0 {
            common_ancestor(&self.path, path)
        } else {
            path
        };
        let follows = follows && (path == self.path || one.are_new && self.count > 0);
        self.count = if follows { self.count + 1 } else { 1 };
        self.path = path.to_owned();
        (self.are_new, self.last) = (one.are_new, now);
        let is_news = self.count == MANY && self.said.insert(self.path.clone());
        is_news.then(|| {
            let path = escaped(&self.path);
            if self.are_new {
                format!("new files in {path} have caused {MANY} swaps in a row\ntry: --ignore {path}/, if the server writes them")
            } else {
                format!("{path} alone has caused {MANY} swaps in a row\ntry: --ignore {path}, if the server writes it")
            }
        })
    }

    /// Somebody asked for a swap.
    pub fn end(&mut self) {
        self.count = 0;
    }
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

    impl Repeats {
        fn swap(&mut self, path: &str, are_new: bool, second: u64) -> Option<String> {
            let changed = Changed {
                path: path.into(),
                others: Vec::new(),
                are_new,
            };
            self.note(&[changed], Time::from_secs(second))
        }
    }

    #[test]
    fn a_file_that_alone_causes_many_swaps_is_named_once() {
        let mut repeats = Repeats::default();
        for second in 0..5 {
            assert_eq!(repeats.swap("src/data.json", false, second), None);
        }
        let line = repeats.swap("src/data.json", false, 6).unwrap();
        assert!(line.contains("try: --ignore src/data.json, "), "{line}");
        for second in 7..20 {
            assert_eq!(repeats.swap("src/data.json", false, second), None);
        }
    }

    #[test]
    fn another_file_or_a_pause_or_a_request_between_is_no_repeat() {
        let mut repeats = Repeats::default();
        for second in 0..20 {
            let path = if second % 5 == 0 { "a" } else { "b" };
            assert_eq!(repeats.swap(path, false, second), None);
            assert_eq!(repeats.swap("c", false, 1000 + second * 10), None);
        }
        for second in 0..20 {
            assert_eq!(repeats.swap("d", false, 9000 + second), None);
            repeats.end();
        }
    }

    #[test]
    fn many_new_files_are_named_by_the_directory_they_have_in_common() {
        let mut repeats = Repeats::default();
        for second in 0..5 {
            let path = format!("src/cache/{second}/file");
            assert_eq!(repeats.swap(&path, true, second), None);
        }
        let line = repeats.swap("src/cache/9/deep/file", true, 6).unwrap();
        assert!(line.contains("new files in src/cache have"), "{line}");
    }
}
