//! Files in a watched tree that the server itself writes: a database, a cache, a session, at a start or on each request.
//!
//! What two generations have written in one directory no longer counts. The first one may be what somebody asked the server
//! for, such as a plugin. Where most writes are missed, one generation is enough. What anybody else writes there still
//! counts: each change is judged by who made it.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::differences::HowChanged;

/// How many generations must have written in a directory before what they write no longer counts.
const MOST: u32 = 2;
/// How many files of one directory are named; then it is.
const NAMED: usize = 4;
/// More than a tree has at any time.
const REMEMBERED: usize = 4096;

/// What a change is worth that the server has made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerChange {
    Counts,
    /// It does not count, and that is not news.
    LeftOut,
    /// The same for the first time.
    FirstLeftOut,
    /// The same, and this directory has had several of them.
    ManyLeftOut(PathBuf),
}

#[derive(Default)]
struct WrittenDirectory {
    /// The last generation that wrote here, and how many have.
    generation: u32,
    count: u32,
    /// What was left out, as far as it is named.
    named: HashSet<PathBuf>,
    is_named: bool,
}

#[derive(Default)]
pub struct ServerWrites {
    generation: u32,
    /// By directory; a file that is watched by its own name is its own place.
    places: HashMap<PathBuf, WrittenDirectory>,
    /// Files that the server wrote last.
    files: HashSet<PathBuf>,
}

impl ServerWrites {
    /// A generation starts.
    pub fn starts(&mut self) {
        self.generation += 1;
    }

    /// Whether the server wrote this file when it was last changed.
    pub fn has(&self, path: &Path) -> bool {
        self.files.contains(path)
    }

    /// The files that are left out, as far as they are named.
    pub fn left_out(&self) -> impl Iterator<Item = &Path> {
        let named = self.places.values().flat_map(|place| &place.named);
        named.map(PathBuf::as_path)
    }

    pub fn leaves_out(&self, path: &Path) -> bool {
        let place = place_of(path, HowChanged::Rewritten);
        let place = self.places.get(place).or_else(|| self.places.get(path));
        place.is_some_and(|place| place.count >= MOST) && self.has(path)
    }

    /// Somebody else has changed this file.
    pub fn changed_by_others(&mut self, path: &Path) {
        self.files.remove(path);
    }

    /// The server has changed this file; `are_guessed` if it may have done so before without being seen.
    pub fn weigh(&mut self, path: &Path, how: HowChanged, are_guessed: bool) -> ServerChange {
        if self.files.len() >= REMEMBERED {
            self.files.clear();
        }
        if matches!(how, HowChanged::Gone(_)) {
            self.files.remove(path);
        } else {
            self.files.insert(path.to_owned());
        }
        let at = place_of(path, how);
        let place = self.places.entry(at.to_owned()).or_default();
        if place.count < MOST && (place.count == 0 || place.generation != self.generation) {
            place.count += 1;
            place.generation = self.generation;
        }
        if are_guessed {
            place.count = MOST;
        }
        if place.count < MOST {
            return ServerChange::Counts;
        }
        if place.named.len() < NAMED && place.named.insert(path.to_owned()) {
            return ServerChange::FirstLeftOut;
        }
        if place.named.contains(path) || std::mem::replace(&mut place.is_named, true) {
            return ServerChange::LeftOut;
        }
        ServerChange::ManyLeftOut(at.to_owned())
    }
}

fn place_of(path: &Path, how: HowChanged) -> &Path {
    let directory = path.parent().filter(|_| how != HowChanged::Named);
    directory.unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl ServerWrites {
        fn change(&mut self, path: &str, how: HowChanged) -> ServerChange {
            self.weigh(Path::new(path), how, false)
        }
    }

    #[test]
    fn what_two_generations_have_written_no_longer_counts() {
        let mut writes = ServerWrites::default();
        for _ in 0..3 {
            let change = writes.change("src/app.db", HowChanged::Rewritten);
            assert_eq!(
                change,
                ServerChange::Counts,
                "one generation may be asked to"
            );
        }
        writes.starts();
        let change = writes.change("src/app.db", HowChanged::Rewritten);
        assert_eq!(change, ServerChange::FirstLeftOut);
        assert!(writes.leaves_out(Path::new("src/app.db")));
        let change = writes.change("src/app.db", HowChanged::Rewritten);
        assert_eq!(change, ServerChange::LeftOut);
        let change = writes.change("other/app.db", HowChanged::Rewritten);
        assert_eq!(change, ServerChange::Counts);
        writes.changed_by_others(Path::new("src/app.db"));
        assert!(!writes.leaves_out(Path::new("src/app.db")));
    }

    #[test]
    fn where_writers_are_missed_one_is_enough() {
        let mut writes = ServerWrites::default();
        let change = writes.weigh(Path::new("src/app.db"), HowChanged::Rewritten, true);
        assert_eq!(change, ServerChange::FirstLeftOut);
    }

    #[test]
    fn new_names_in_one_directory_are_named_until_they_are_many() {
        let mut writes = ServerWrites::default();
        writes.change("cache/0", HowChanged::Appeared);
        writes.starts();
        for name in ["cache/1", "cache/2", "cache/3", "cache/4"] {
            let change = writes.change(name, HowChanged::Appeared);
            assert_eq!(change, ServerChange::FirstLeftOut);
        }
        let change = writes.change("cache/5", HowChanged::Appeared);
        assert_eq!(change, ServerChange::ManyLeftOut("cache".into()));
        let change = writes.change("cache/6", HowChanged::Appeared);
        assert_eq!(change, ServerChange::LeftOut);
    }

    #[test]
    fn a_file_that_is_watched_by_its_own_name_is_judged_alone() {
        let mut writes = ServerWrites::default();
        writes.change("tmp/cache", HowChanged::Rewritten);
        writes.starts();
        let change = writes.change("tmp/restart.txt", HowChanged::Named);
        assert_eq!(change, ServerChange::Counts);
    }
}
