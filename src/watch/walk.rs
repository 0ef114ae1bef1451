//! The directories of one tree: what is part of it, and what is left out.
//!
//! One step looks at one directory. What it saw is for the tree to judge; nothing here knows what a change is.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::sys;
use crate::watch::filter::{Filter, IgnoreReason};
use crate::watch::ignore_files::{self, Rules, Stamps};
use crate::watch::listing::{EntryKind, Listing, Sighting, changed};
use crate::watch::rules_above::RulesAbove;
use crate::watch::symlinks::{Directory, PathStep, linked_since, steps};

/// The age at which a directory's times prove that nothing was added since. Some file systems count whole seconds.
const SETTLED: i64 = 2;

mod extent;

pub use extent::Extent;

pub struct Walk {
    root: PathBuf,
    filter: Filter,
    rules_above: RulesAbove,
    /// Files that are watched on their own.
    others: HashSet<PathBuf>,
    listings: BTreeMap<PathBuf, Listing>,
    queue: VecDeque<PathBuf>,
    /// Links to directories that may turn out to be part of the tree anyway: where, to what, and shown as what.
    links: Vec<(PathBuf, PathBuf, PathBuf)>,
    /// Every directory is looked at, not only those that were touched.
    is_full: bool,
    /// Directories that are left out and still to be counted.
    uncounted: Vec<(PathBuf, IgnoreReason)>,
    counted: BTreeMap<IgnoreReason, usize>,
    /// The set of directories or links has changed.
    others_to_follow: bool,
    /// Everything has been looked at once.
    pub is_seen: bool,
}

impl Walk {
    /// `root` is canonical.
    pub fn new(root: PathBuf, filter: Filter, others: HashSet<PathBuf>) -> Self {
        Self {
            root,
            filter,
            rules_above: RulesAbove::default(),
            others,
            listings: BTreeMap::new(),
            queue: VecDeque::new(),
            links: Vec::new(),
            is_full: false,
            uncounted: Vec::new(),
            counted: BTreeMap::new(),
            others_to_follow: false,
            is_seen: false,
        }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn directories(&self) -> impl Iterator<Item = &Directory> {
        self.listings.values().map(|listing| &listing.directory)
    }

    pub fn hops(&self) -> impl Iterator<Item = &PathStep> {
        let within = self.listings.values().flat_map(|listing| &listing.hops);
        within.chain(self.rules_above.steps())
    }

    /// Whether the directories to listen to are others than at the last call.
    pub fn takes_others(&mut self) -> bool {
        std::mem::take(&mut self.others_to_follow)
    }

    pub fn look_at_all(&mut self) {
        self.is_full = true;
        let root = self.root.clone();
        let are_new = self.rules_above.read(&root);
        self.others_to_follow |= are_new;
        let rules = self.rules_above.rules.clone();
        match self.listings.get_mut(&root) {
            Some(listing) if are_new => {
                listing.above = rules;
                listing.times = None;
            }
            Some(_) => {}
            None => self.expect(&root, PathBuf::new(), rules, sys::wall_time()),
        }
        self.queue = VecDeque::from([root]);
    }

    /// Something in this directory was touched; it need not be part of the tree.
    pub fn look_at(&mut self, directory: &Path) {
        if self.listings.contains_key(directory) {
            self.queue.push_back(directory.to_owned());
        }
    }

    /// A link, or what it leads to, was touched, or a file with rules above the tree.
    pub fn look_at_link(&mut self, hop: &Path) {
        if self.rules_above.has(hop) {
            self.look_at_all();
            return;
        }
        let has = |listing: &&Listing| listing.hops.iter().any(|place| place.path() == hop);
        let touched: Vec<PathBuf> = self
            .listings
            .values()
            .filter(has)
            .map(|listing| listing.directory.path.clone())
            .collect();
        for directory in touched {
            self.look_at(&directory);
        }
    }

    /// Its path below the root as users see it, if a file of this name would be part of the tree.
    pub fn counting_file(&self, path: &Path) -> Option<PathBuf> {
        let listing = self.listings.get(path.parent()?)?;
        let shown = listing.shown.join(path.file_name()?);
        let at = self.root.join(&shown);
        let counts = self.filter.reason(&listing.rules, &at, false).is_none();
        (counts && !self.others.contains(path)).then_some(shown)
    }

    /// Whether something is left to be looked at.
    pub fn is_behind(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Which of these files are no part of the tree by the last look.
    pub fn missing<'a>(&self, files: impl Iterator<Item = &'a PathBuf>) -> Vec<PathBuf> {
        let by_shown: HashMap<&Path, &Listing> = self
            .listings
            .values()
            .map(|listing| (listing.shown.as_path(), listing))
            .collect();
        let has = |path: &Path| {
            let listing = path.parent().and_then(|parent| by_shown.get(parent));
            let name = path.file_name().unwrap_or_default();
            listing.is_some_and(|listing| listing.files.contains_key(name))
        };
        files.filter(|path| !has(path)).cloned().collect()
    }

    /// Looks at one directory; `None` when nothing is left to be looked at.
    pub fn step(&mut self) -> Option<Vec<Sighting>> {
        if let Some(path) = self.queue.pop_front() {
            return Some(self.look_in(&path));
        }
        if let Some((holder, target, shown)) = self.links.pop() {
            self.follow_link(&holder, &target, shown);
            return Some(Vec::new());
        }
        if let Some((path, reason)) = self.uncounted.pop() {
            self.count(&path, reason);
            return Some(Vec::new());
        }
        self.is_full = false;
        None
    }

    /// A directory that is to be looked at for the first time.
    fn expect(&mut self, path: &Path, shown: PathBuf, above: Rules, arrived: (i64, i64)) {
        let listing = Listing::unseen(path.to_owned(), shown, above, arrived);
        self.listings.insert(path.to_owned(), listing);
        self.queue.push_back(path.to_owned());
    }

    fn look_in(&mut self, path: &Path) -> Vec<Sighting> {
        let Ok(metadata) = fs::symlink_metadata(path) else {
            return self.forget(path);
        };
        if !metadata.is_dir() {
            return self.forget(path);
        }
        let stamps = ignore_files::stamps(path);
        let times = Some([
            (metadata.mtime(), metadata.mtime_nsec()),
            changed(&metadata),
        ]);
        let Some(listing) = self.listings.get(path) else {
            return Vec::new();
        };
        let is_same =
            listing.is_of(&metadata) && listing.times == times && listing.stamps == stamps;
        // What a link leads to may be another file although its directory is the same.
        if is_same && listing.settled && listing.hops.is_empty() {
            if self.is_full {
                self.queue.extend(listing.below.iter().cloned());
            }
            return listing.sightings(&BTreeMap::new(), changed(&metadata));
        }
        self.list(path, &metadata, stamps, times)
    }

    fn list(
        &mut self,
        path: &Path,
        metadata: &Metadata,
        stamps: Stamps,
        times: Option<[(i64, i64); 2]>,
    ) -> Vec<Sighting> {
        let Ok(entries) = fs::read_dir(path) else {
            // It cannot be read now; what was known of it stays.
            return Vec::new();
        };
        let entries: Vec<fs::DirEntry> = entries.flatten().collect();
        let Some(mut old) = self.listings.remove(path) else {
            return Vec::new();
        };
        let at = self.root.join(&old.shown);
        let rules = if old.times.is_some() && old.stamps == stamps {
            old.rules.clone()
        } else {
            ignore_files::rules_in(path, &at, &old.above)
        };
        let is_other_rules = !same(&rules, &old.rules) || old.times.is_none();
        let was_below = std::mem::take(&mut old.below);
        let was = std::mem::take(&mut old.files);
        let is_first = old.directory.ino == 0;
        let is_other = !old.is_of(metadata);
        old.hops.clear();
        old.left_out.clear();
        old.rules = rules;
        old.stamps = stamps;
        old.times = times;
        old.settled = metadata.ctime() + SETTLED < sys::wall_time().0;
        let directory = Directory {
            path: path.to_owned(),
            dev: metadata.dev(),
            ino: metadata.ino(),
        };
        if old.directory != directory {
            self.others_to_follow = true;
            old.arrived = old.arrived.max(changed(metadata));
            if path == self.root && !is_first {
                // A directory above it may have been moved.
                old.arrived = sys::wall_time();
            }
        }
        old.directory = directory;
        let mut new = Vec::new();
        for entry in entries {
            self.add(&mut old, &entry, is_first, &mut new);
        }
        self.others_to_follow |= !old.hops.is_empty();
        for child in &old.below {
            let rules = old.rules.clone();
            match self.listings.get_mut(child) {
                Some(listing) if is_other_rules || is_other => {
                    listing.above = rules;
                    listing.times = None;
                    listing.arrived = listing.arrived.max(old.arrived);
                }
                Some(_) if self.is_full => {}
                Some(_) | None => continue,
            }
            self.queue.push_back(child.clone());
        }
        let shown = old.shown.clone();
        let (rules, arrived) = (old.rules.clone(), old.arrived.max(changed(metadata)));
        let below: HashSet<PathBuf> = old.below.iter().cloned().collect();
        self.listings.insert(path.to_owned(), old);
        for (child, name) in new {
            self.expect(&child, shown.join(name), rules.clone(), arrived);
        }
        let gone = was_below.into_iter().filter(|child| !below.contains(child));
        let mut sightings = Vec::new();
        for child in gone {
            sightings.extend(self.forget(&child));
        }
        if let Some(listing) = self.listings.get(path) {
            sightings.extend(listing.sightings(&was, changed(metadata)));
        }
        sightings
    }

    /// Sorts one entry of a directory.
    fn add(
        &mut self,
        listing: &mut Listing,
        entry: &fs::DirEntry,
        is_first: bool,
        new: &mut Vec<(PathBuf, OsString)>,
    ) {
        let Ok(kind) = entry.file_type() else {
            return;
        };
        let (name, path) = (entry.file_name(), entry.path());
        let shown = self.root.join(&listing.shown).join(&name);
        let target = kind
            .is_symlink()
            .then(|| path.canonicalize().ok())
            .flatten();
        let leads_to_directory = target.as_ref().is_some_and(|target| target.is_dir());
        let is_directory = kind.is_dir() || leads_to_directory;
        if let Some(reason) = self.filter.reason(&listing.rules, &shown, is_directory) {
            if kind.is_dir() && is_first && reason != IgnoreReason::Hidden {
                self.uncounted.push((path, reason));
            } else {
                *listing.left_out.entry(reason).or_default() += 1;
            }
        } else if kind.is_dir() {
            if !self.listings.contains_key(&path) {
                new.push((path.clone(), name));
            }
            listing.below.push(path);
        } else if kind.is_symlink() {
            listing.hops.extend(steps(&path));
            let inside = target.filter(|target| target.starts_with(&self.root));
            let kind = match inside {
                Some(target) if leads_to_directory => {
                    let shown = listing.shown.join(&name);
                    let is_known = self.listings.get(&target);
                    if is_known.is_some_and(|listing| listing.shown == shown) {
                        listing.below.push(target);
                    } else {
                        self.links
                            .push((listing.directory.path.clone(), target, shown));
                    }
                    EntryKind::OtherLink
                }
                Some(target) if self.others.contains(&target) => return,
                Some(target) if target.is_file() => EntryKind::Link(target),
                Some(_) => return,
                None => {
                    if path.exists() {
                        *listing.left_out.entry(IgnoreReason::LeadsOut).or_default() += 1;
                    }
                    EntryKind::OtherLink
                }
            };
            listing.files.insert(name, kind);
        } else if kind.is_file() && !self.others.contains(&path) {
            listing.files.insert(name, EntryKind::File);
        }
    }

    /// A directory behind a link is walked by that way if it is not part of the tree by another: links in a circle end.
    fn follow_link(&mut self, holder: &Path, target: &Path, shown: PathBuf) {
        if self.listings.contains_key(target) {
            return;
        }
        let Some(listing) = self.listings.get_mut(holder) else {
            return;
        };
        let rules = listing.rules.clone();
        listing.below.push(target.to_owned());
        let arrived = linked_since(&self.root.join(&shown));
        self.expect(target, shown, rules, arrived);
    }

    /// A directory is no longer part of the tree, with all that is below.
    fn forget(&mut self, path: &Path) -> Vec<Sighting> {
        let mut left = vec![path.to_owned()];
        let mut gone = Vec::new();
        // Whatever took it away changed the directory it was in.
        let above = path.ancestors().skip(1);
        let above = above.flat_map(fs::symlink_metadata).next();
        let since = above.map_or_else(sys::wall_time, |above| changed(&above));
        while let Some(path) = left.pop() {
            let Some(listing) = self.listings.remove(&path) else {
                continue;
            };
            self.others_to_follow = true;
            let names = listing.files.keys();
            gone.extend(names.map(|name| listing.gone(name, since)));
            left.extend(listing.below);
        }
        self.queue.retain(|path| self.listings.contains_key(path));
        gone
    }
}

fn same(one: &Rules, other: &Rules) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}
