//! One file that alone causes many swaps in a row: the server may write it unseen.
//!
//! If the server was writing enough at each of these changes, the file is a suspect: a change of it counts only when it has
//! been at rest for a while, which grows from change to change. What a person saves there is late then, and never lost.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::supervisor::Time;
use crate::watch::changed::Changed;

/// How many swaps in a row make a suspect, how soon each must follow the one before, and how long a suspect must be at rest
/// before it counts.
const SUSPICIOUS: u32 = 5;
const SOON: Duration = Duration::from_secs(10);
const FIRST_REST: Duration = Duration::from_secs(2);
const LONGEST_REST: Duration = Duration::from_secs(30);

#[derive(Default)]
pub struct Repeats {
    path: PathBuf,
    count: u32,
    last: Time,
    /// The server may have made all of these changes, and may have made the last one.
    by_server: bool,
    last_by_server: bool,
    /// How long each of them must be at rest.
    suspects: HashMap<PathBuf, Duration>,
}

impl Repeats {
    pub fn suspects(&self, path: &Path) -> bool {
        self.suspects.contains_key(path)
    }

    /// This file has changed, and perhaps it was the server. Returns how long it must be at rest before it counts, and
    /// whether that is news.
    pub fn weigh(&mut self, path: &Path, by_server: bool, now: Time) -> Option<(Duration, bool)> {
        self.last_by_server = by_server;
        if !by_server {
            self.suspects.remove(path);
            return None;
        }
        if let Some(rest) = self.suspects.get_mut(path) {
            let now_and_later = *rest;
            *rest = (now_and_later * 2).min(LONGEST_REST);
            return Some((now_and_later, false));
        }
        let in_a_row = self.path == path && self.count >= SUSPICIOUS && now < self.last + SOON;
        if !in_a_row || !self.by_server {
            return None;
        }
        self.suspects.insert(path.to_owned(), FIRST_REST * 2);
        Some((FIRST_REST, true))
    }

    /// These changes cause a swap.
    pub fn note(&mut self, changed: &[Changed], now: Time) {
        let [Changed { path, others }] = changed else {
            self.count = 0;
            return;
        };
        let follows = others.is_empty() && *path == self.path && now < self.last + SOON;
        self.count = if follows { self.count + 1 } else { 1 };
        self.by_server = self.last_by_server && (self.by_server || !follows);
        self.path.clone_from(path);
        self.last = now;
    }

    /// Somebody asked for a swap.
    pub fn end(&mut self) {
        self.count = 0;
        self.suspects.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Repeats {
        fn swap(&mut self, path: &str, second: u64) {
            self.note(&[Changed::of(path.into())], Time::from_secs(second));
        }

        /// A swap, which the server may have caused.
        fn repeat(&mut self, path: &str, second: u64) -> Option<(Duration, bool)> {
            let weighed = self.weigh(Path::new(path), true, Time::from_secs(second));
            self.swap(path, second);
            weighed
        }
    }

    #[test]
    fn what_changes_whenever_the_server_writes_must_come_to_rest() {
        let mut repeats = Repeats::default();
        let path = Path::new("src/data.json");
        let at = Time::from_secs;
        for second in 0..5 {
            assert_eq!(repeats.weigh(path, true, at(second)), None);
            repeats.swap("src/data.json", second);
        }
        let rest = |seconds, is_news| Some((at(seconds), is_news));
        assert_eq!(repeats.weigh(path, true, at(5)), rest(2, true));
        assert_eq!(repeats.weigh(path, true, at(9)), rest(4, false));
        assert_eq!(repeats.weigh(path, false, at(20)), None, "the server slept");
        assert_eq!(repeats.weigh(path, true, at(21)), None);
    }

    #[test]
    fn one_change_without_the_server_is_enough_to_trust() {
        let mut repeats = Repeats::default();
        for second in 0..20 {
            let by_server = second % 5 != 0;
            let weighed = repeats.weigh(Path::new("a"), by_server, Time::from_secs(second));
            assert_eq!(weighed, None);
            repeats.swap("a", second);
            if !by_server {
                repeats.count = 0;
            }
        }
    }

    #[test]
    fn another_file_or_a_pause_or_a_request_between_is_no_repeat() {
        let mut repeats = Repeats::default();
        for second in 0..20 {
            let path = if second % 5 == 0 { "a" } else { "b" };
            assert_eq!(repeats.repeat(path, second), None);
            assert_eq!(repeats.repeat("c", 1000 + second * 10), None);
        }
        for second in 0..20 {
            assert_eq!(repeats.repeat("d", 9000 + second), None);
            repeats.end();
        }
    }
}
