//! One watched tree: which of its files differ from the known ones, once all of it has stopped changing.
//!
//! A file event names the directories to look at again; now and then all of them are looked at, because file systems exist
//! that have no events. It is done a piece at a time, and takes no more than a set share of the processor.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs;
use std::mem;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::file;
use crate::supervisor::Time;
use crate::sys;
use crate::watch::completeness::{self, FOREIGN_SETTLE, FileIdentity, Writer};
use crate::watch::differences::{Difference, Differences, Entry};
use crate::watch::events::Hints;
use crate::watch::filter::{Filter, IgnoreOptions};
use crate::watch::git::Repository;
use crate::watch::listing::{Sighting, What};
use crate::watch::symlinks::{Directory, PathStep, steps};
use crate::watch::walk::{Extent, Walk};

/// Paths in one go: about 2 ms.
const PIECE: usize = 500;
/// Bytes read in one go at most, not counting the last file.
const BYTES: u64 = 4 << 20;
/// The least time between two looks.
const LEAST_REST: Duration = Duration::from_millis(20);
/// A look is followed by this many times its own duration without one: after an event, for a tree without events, and for
/// one with events.
const REST: u32 = 4;
const DEAF_POLL_REST: u32 = 9;
const POLL_REST: u32 = 19;
/// Time spent on waiting for a slow file system, or for the processor, counts this much less.
const WAITING: u32 = 8;
/// A tree that never stops changing is taken as it is after this many debounce times, or this long if that is more.
const LONGEST: u32 = 20;
const LONGEST_AT_LEAST: Duration = Duration::from_secs(2);

mod note;

pub struct WatchedTree {
    /// As the user wrote it.
    pub as_given: PathBuf,
    path: PathBuf,
    steps: Vec<PathStep>,
    wanted: IgnoreOptions,
    glob: Option<String>,
    /// Files that are watched on their own.
    others: HashSet<PathBuf>,
    debounce: Duration,
    poll: Duration,
    /// `None` while there is no such directory.
    walk: Option<Walk>,
    /// The repository it is in.
    repository: Option<Repository>,
    /// What it has by the last look, and what the last candidate started from, by their paths below the root.
    known: HashMap<PathBuf, Entry>,
    /// Everything that the first look finds is known.
    is_new: bool,
    sightings: VecDeque<Sighting>,
    differences: Differences,
    /// Whatever changed before this is known.
    known_until: (i64, i64),
    /// A directory was touched since the last look began.
    touched: bool,
    /// All of it is to be looked at, even where nothing was touched.
    wants_all: bool,
    /// How many times its own duration passes between two looks at everything.
    poll_rest: u32,
    /// When the last look at anything began and ended, and what it took; the same for the last look at everything.
    begun: Option<Time>,
    looked: Time,
    took: Duration,
    looked_at_all: Time,
    took_for_all: Duration,
}

impl WatchedTree {
    /// `path` is absolute, and `glob` is what is wanted of it; a `poll` of zero means no polling.
    pub fn new(
        as_given: PathBuf,
        path: PathBuf,
        glob: Option<String>,
        wanted: IgnoreOptions,
        others: HashSet<PathBuf>,
        debounce: Duration,
        poll: Duration,
    ) -> Self {
        let mut tree = Self {
            as_given,
            steps: steps(&path),
            path,
            wanted,
            glob,
            others,
            debounce,
            poll,
            walk: None,
            repository: None,
            known: HashMap::new(),
            is_new: true,
            sightings: VecDeque::new(),
            differences: Differences::default(),
            known_until: (0, 0),
            touched: true,
            wants_all: false,
            poll_rest: POLL_REST,
            begun: None,
            looked: Time::ZERO,
            took: Duration::ZERO,
            looked_at_all: Time::ZERO,
            took_for_all: Duration::ZERO,
        };
        // What comes later into an absent directory is all new.
        tree.is_new = tree.path.is_dir();
        tree
    }

    pub fn steps(&self) -> &[PathStep] {
        &self.steps
    }

    /// As the user wrote it, with its glob.
    pub fn named(&self) -> PathBuf {
        let glob = self.glob.as_deref();
        glob.map_or_else(|| self.as_given.clone(), |glob| self.as_given.join(glob))
    }

    /// Every directory in it.
    pub fn directories(&self) -> impl Iterator<Item = &Directory> {
        self.walk.iter().flat_map(Walk::directories)
    }

    /// Every name on the way through its links.
    pub fn hops(&self) -> impl Iterator<Item = &PathStep> {
        self.walk.iter().flat_map(Walk::hops)
    }

    /// How much of it is watched; `None` until the first look has ended, or while it does not exist.
    pub fn extent(&self) -> Option<Extent> {
        self.walk
            .as_ref()
            .filter(|walk| walk.is_seen)
            .map(Walk::extent)
    }

    /// Whether it has files that are watched on their own.
    pub fn has_others(&self) -> bool {
        let within = |root: &Path| {
            let mut others = self.others.iter();
            others.any(|other| other != root && other.starts_with(root))
        };
        self.walk.as_ref().map(Walk::root).is_some_and(within)
    }

    /// Whether it is not there.
    pub fn is_absent(&self) -> bool {
        self.walk.is_none() && !self.touched
    }

    /// Some of it gives no events: it is looked at this often, or as often as its size allows.
    pub fn poll_every(&mut self, poll: Duration) {
        self.poll = poll;
        self.poll_rest = DEAF_POLL_REST;
    }

    /// Looks soon at what was touched.
    pub fn heed(&mut self, hints: &Hints) {
        let Some(walk) = &mut self.walk else {
            return;
        };
        for directory in &hints.directories {
            walk.look_at(directory);
        }
        for name in hints.arrivals.keys() {
            walk.look_at_link(name);
        }
        if hints.everything {
            walk.look_at_all();
        }
        self.touched |= walk.is_behind();
    }

    /// Takes what is there now as what the next candidate starts from.
    pub fn take_as_tried(&mut self) {
        self.known_until = sys::file_time();
        let differences = mem::take(&mut self.differences);
        for (path, differs) in differences.paths {
            self.learn(path, differs.entry);
        }
        if self.walk.is_none() {
            self.known.clear();
        }
    }

    /// Looks at all of it soon.
    pub fn look_at_all(&mut self) {
        self.wants_all = true;
        self.touched = true;
    }

    /// Whether all of it was looked at since then, and judged.
    pub fn is_judged(&self) -> bool {
        !self.wants_all && self.begun.is_none() && !self.is_settling()
    }

    /// This file does not count as it is, but saved once more it does, even with the same content.
    pub fn distrust(&mut self, path: &Path) {
        let shown = path.strip_prefix(&self.as_given);
        if let Some(entry) = shown.ok().and_then(|shown| self.known.get_mut(shown)) {
            entry.hash = None;
        }
    }

    /// Whether a difference was found that only has to stay unchanged.
    pub fn is_settling(&self) -> bool {
        !self.differences.paths.is_empty()
    }

    /// Whether something in it was touched and has not been looked at.
    pub fn is_behind(&self) -> bool {
        self.touched || self.begun.is_some()
    }

    /// Whether this file, which was touched, is one that counts, is no longer being written, and is another than before: by
    /// its path below the root.
    pub fn changed_file(&self, path: &Path) -> Option<PathBuf> {
        let walk = self.walk.as_ref().filter(|walk| walk.is_seen)?;
        let shown = walk.counting_file(path)?;
        let known = self.known.get(&shown);
        let metadata = fs::symlink_metadata(path).ok();
        let identity = metadata.as_ref().map(FileIdentity::of);
        let is_known = known.map(|known| known.identity) == identity;
        let is_written =
            file::open(path).is_ok_and(|file| completeness::writer(&file) == Writer::Somebody);
        let is_directory = metadata.is_some_and(|metadata| metadata.is_dir());
        (!is_known && !is_written && !is_directory).then_some(shown)
    }

    pub fn deadline(&self) -> Option<Time> {
        if self.begun.is_some() {
            return Some(Time::ZERO);
        }
        let rested = self.looked + LEAST_REST.max(self.took * REST);
        let touched = self.touched.then_some(rested);
        let quiet = self
            .is_settling()
            .then(|| rested.max(self.differences.since + self.settle()));
        let poll = (!self.poll.is_zero()).then_some(self.looked_at_all + self.pause());
        [touched, quiet, poll].into_iter().flatten().min()
    }

    fn settle(&self) -> Duration {
        if self.differences.is_foreign {
            self.debounce.max(FOREIGN_SETTLE)
        } else {
            self.debounce
        }
    }

    /// Returns true if the way to its root has changed.
    pub fn find_steps(&mut self) -> bool {
        let steps = steps(&self.path);
        let differs = steps != self.steps;
        self.touched |= differs;
        self.steps = steps;
        differs
    }

    /// Does one piece of work. Returns the files that have changed, once the whole tree has stopped changing, and whether
    /// its set of directories has changed.
    pub fn look(&mut self, now: Time) -> (Vec<Difference>, bool) {
        if self.deadline().is_none_or(|deadline| deadline > now) {
            return (Vec::new(), false);
        }
        let begun = self.begun.take().unwrap_or_else(|| self.begin(now));
        let is_first = self.walk.as_ref().is_some_and(|walk| !walk.is_seen);
        let (since, spent) = (sys::now(), sys::cpu_time());
        let has_ended = self.go_on(now);
        let waited = sys::now().saturating_sub(since);
        let spent = sys::cpu_time().saturating_sub(spent);
        self.took += spent.max(waited / WAITING);
        if !has_ended {
            self.begun = Some(begun);
            return (Vec::new(), false);
        }
        let others = self.walk.as_mut().is_some_and(Walk::takes_others);
        self.looked = now;
        if self.looked_at_all >= begun {
            // The first look reads every file, which the others do not.
            self.took_for_all = if is_first { Duration::ZERO } else { self.took };
        }
        (self.conclude(now), others)
    }

    fn begin(&mut self, now: Time) -> Time {
        let polls = now >= self.looked_at_all + self.pause() && !self.poll.is_zero();
        let is_due = mem::take(&mut self.wants_all) || polls;
        self.took = Duration::ZERO;
        self.touched = false;
        let root = fs::canonicalize(&self.path).ok();
        let root = root.filter(|root| root.is_dir());
        let is_same = self.walk.as_ref().map(Walk::root) == root.as_deref();
        if !is_same {
            self.move_to(root);
        }
        let Some(walk) = &mut self.walk else {
            self.looked_at_all = now;
            return now;
        };
        if is_due || !is_same {
            self.looked_at_all = now;
            walk.look_at_all();
        }
        // Whether these are still as they were is what has to be seen.
        let directories: HashSet<&PathBuf> = self
            .differences
            .paths
            .values()
            .map(|differs| &differs.directory)
            .collect();
        for directory in directories {
            walk.look_at(directory);
        }
        now
    }

    fn pause(&self) -> Duration {
        self.poll.max(self.took_for_all * self.poll_rest)
    }

    /// The root is another directory now, or none. Nothing has gone while it is away: it may come back.
    fn move_to(&mut self, root: Option<PathBuf>) {
        self.sightings.clear();
        self.walk = root.map(|root| {
            self.repository = Repository::around(&root);
            let filter = Filter::new(&self.wanted, &root, self.glob.as_deref());
            Walk::new(root, filter, self.others.clone())
        });
    }

    /// Returns true once the look has ended.
    fn go_on(&mut self, now: Time) -> bool {
        let (mut paths, mut bytes) = (0, 0);
        while paths < PIECE && bytes < BYTES {
            paths += 1;
            if let Some(sighting) = self.sightings.pop_front() {
                bytes += self.note(now, sighting);
                continue;
            }
            let Some(walk) = &mut self.walk else {
                return true;
            };
            match walk.step() {
                Some(sightings) => self.sightings.extend(sightings),
                None if !walk.is_seen => {
                    walk.is_seen = true;
                    let gone = walk.missing(self.known.keys()).into_iter();
                    let directory = walk.root().to_owned();
                    self.sightings.extend(gone.map(|shown| Sighting {
                        shown,
                        directory: directory.clone(),
                        since: sys::wall_time(),
                        what: What::Gone,
                    }));
                }
                None => return true,
            }
        }
        false
    }

    fn learn(&mut self, path: PathBuf, entry: Option<Entry>) {
        match entry {
            Some(entry) => drop(self.known.insert(path, entry)),
            None => drop(self.known.remove(&path)),
        }
    }

    fn conclude(&mut self, now: Time) -> Vec<Difference> {
        self.is_new &= self.walk.is_none();
        let longest = LONGEST_AT_LEAST.max(self.debounce * LONGEST);
        let is_quiet = now >= self.differences.since + self.settle()
            || now >= self.differences.first + longest;
        let repository = self.repository.as_ref();
        let git_is_at_work = repository.is_some_and(Repository::is_at_work);
        if !self.is_settling() || !is_quiet || git_is_at_work {
            return Vec::new();
        }
        let mut changed = Vec::new();
        for (path, differs) in mem::take(&mut self.differences).paths {
            changed.push(Difference {
                path: self.as_given.join(&path),
                directory: differs.directory,
                identity: differs.entry.map(|entry| entry.identity),
                changed: differs.changed,
                how: differs.how,
            });
            self.learn(path, differs.entry);
        }
        changed
    }
}
