//! Says when one file alone has caused many swaps: the server may write it unseen.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use crate::supervisor::Time;
use crate::watch::changed::{Changed, escaped};

/// How many swaps in a row are reported, and how soon each must follow the one before.
const MANY: u32 = 6;
const SOON: Duration = Duration::from_secs(10);

#[derive(Default)]
pub struct Repeats {
    path: PathBuf,
    count: u32,
    last: Time,
    /// What was said before.
    said: HashSet<PathBuf>,
}

impl Repeats {
    /// These changes cause a swap. Returns a line about it, once for each path.
    pub fn note(&mut self, changed: &[Changed], now: Time) -> Option<String> {
        let [Changed { path, others }] = changed else {
            self.count = 0;
            return None;
        };
        let follows = others.is_empty() && *path == self.path && now < self.last + SOON;
        self.count = if follows { self.count + 1 } else { 1 };
        self.path.clone_from(path);
        self.last = now;
        let is_news = self.count == MANY && self.said.insert(path.clone());
        is_news.then(|| {
            let path = escaped(path);
            format!("{path} alone has caused {MANY} swaps in a row\ntry: --ignore {path}, if the server writes it")
        })
    }

    /// Somebody asked for a swap.
    pub fn end(&mut self) {
        self.count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Repeats {
        fn swap(&mut self, path: &str, second: u64) -> Option<String> {
            self.note(&[Changed::of(path.into())], Time::from_secs(second))
        }
    }

    #[test]
    fn a_file_that_alone_causes_many_swaps_is_named_once() {
        let mut repeats = Repeats::default();
        for second in 0..5 {
            assert_eq!(repeats.swap("src/data.json", second), None);
        }
        let line = repeats.swap("src/data.json", 6).unwrap();
        assert!(line.contains("try: --ignore src/data.json, "), "{line}");
        for second in 7..20 {
            assert_eq!(repeats.swap("src/data.json", second), None);
        }
    }

    #[test]
    fn another_file_or_a_pause_or_a_request_between_is_no_repeat() {
        let mut repeats = Repeats::default();
        for second in 0..20 {
            let path = if second % 5 == 0 { "a" } else { "b" };
            assert_eq!(repeats.swap(path, second), None);
            assert_eq!(repeats.swap("c", 1000 + second * 10), None);
        }
        for second in 0..20 {
            assert_eq!(repeats.swap("d", 9000 + second), None);
            repeats.end();
        }
    }
}
