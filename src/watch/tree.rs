//! One watched tree: which of its files differ from the known ones, once all of it has stopped changing.
//!
//! Hidden files, ignored files and editors' temporary files are not part of it. It is walked a piece at a time, and the
//! larger it is the less often.

use std::collections::{HashMap, HashSet};
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ignore::{DirEntry, Walk, WalkBuilder};

use crate::escape::escape;
use crate::supervisor::Time;
use crate::watch::completeness::{self, FileIdentity, Writer};
use crate::watch::content_hash::{HashInProgress, HashProgress};
use crate::watch::ignore_files;
use crate::watch::symlinks::{Directory, PathStep, is_editors_own, steps};

/// Entries in one go: about 2 ms.
const PIECE: usize = 500;
/// Larger files are compared by identity alone.
const BIGGEST_READ: u64 = 1 << 20;
/// Bytes read in one go at most, not counting the last file.
const BYTES: u64 = 4 << 20;
/// The time between two walks for each entry, about twenty times as long as the walk.
const REST: Duration = Duration::from_micros(200);
/// The least time between two walks.
const LEAST_REST: Duration = Duration::from_millis(20);
/// The time between two walks for each entry of a quiet tree, if that exceeds the poll interval; and where there are no
/// file events.
const POLL_REST: Duration = Duration::from_millis(2);
const DEAF_POLL_REST: Duration = Duration::from_micros(500);
/// A tree that never stops changing is taken as it is after this many debounce times, or this long if that is more.
const LONGEST: u32 = 20;
const LONGEST_AT_LEAST: Duration = Duration::from_secs(2);

/// One file at some moment; it has a hash if it is small enough to be read.
#[derive(Clone, Copy, Debug)]
struct Entry {
    identity: FileIdentity,
    hash: Option<u64>,
    /// ctime: no tool can set it.
    changed: (i64, i64),
}

impl Entry {
    fn is_as(&self, other: &Self) -> bool {
        self.identity == other.identity || (self.hash.is_some() && self.hash == other.hash)
    }
}

/// The files of the tree, by their path below its root.
type Files = HashMap<PathBuf, Entry>;

/// A walk that has not finished.
struct Scan {
    walk: Walk,
    root: PathBuf,
    files: Files,
    directories: Vec<Directory>,
}

/// A difference that has not been reported yet.
struct PendingChange {
    first: Time,
    since: Time,
    files: Files,
}

pub struct WatchedTree {
    /// As the user wrote it.
    pub as_given: PathBuf,
    path: PathBuf,
    steps: Vec<PathStep>,
    /// Files that are watched on their own.
    others: HashSet<PathBuf>,
    debounce: Duration,
    poll: Duration,
    /// `None` until the first walk has finished.
    known: Option<Files>,
    directories: Vec<Directory>,
    scan: Option<Scan>,
    pending: Option<PendingChange>,
    /// Something was touched since the last walk began.
    changed_since_walk: bool,
    /// What the next walk finds counts as known, unless it changed after this.
    absorb: Option<(i64, i64)>,
    /// What it finds is mentioned in the log.
    aloud: bool,
    deaf: bool,
    walked: Time,
    /// Files and directories.
    size: u32,
}

impl WatchedTree {
    /// `path` is absolute; a `poll` of zero means no polling.
    pub fn new(
        as_given: PathBuf,
        path: PathBuf,
        others: HashSet<PathBuf>,
        debounce: Duration,
        poll: Duration,
    ) -> Self {
        Self {
            as_given,
            steps: steps(&path),
            path,
            others,
            debounce,
            poll,
            known: None,
            directories: Vec::new(),
            scan: None,
            pending: None,
            changed_since_walk: true,
            absorb: None,
            aloud: false,
            deaf: false,
            walked: Time::ZERO,
            size: 0,
        }
    }

    pub fn steps(&self) -> &[PathStep] {
        &self.steps
    }

    /// Every directory in it.
    pub fn directories(&self) -> &[Directory] {
        &self.directories
    }

    /// Some of it gives no events: it is walked this often, or as often as its size allows.
    pub fn poll_every(&mut self, poll: Duration) {
        self.poll = poll;
        self.deaf = true;
    }

    /// Walks it again as soon as its size allows.
    pub fn mark_changed(&mut self) {
        self.changed_since_walk = true;
    }

    /// Takes what is there now as what the next candidate starts from. `aloud` if a command was running: what changed
    /// during that may have come too late for the command, so the user is told.
    pub fn take_as_tried(&mut self, aloud: bool) {
        self.aloud |= aloud;
        self.pending = None;
        self.scan = None;
        self.changed_since_walk = true;
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        self.absorb = Some((seconds, now.subsec_nanos().into()));
    }

    /// Undoes [`WatchedTree::take_as_tried`].
    pub fn tell_all(&mut self) {
        self.absorb = None;
        self.aloud = false;
    }

    /// A difference was found, and it only has to stay unchanged.
    pub fn is_settling(&self) -> bool {
        self.pending.is_some()
    }

    pub fn deadline(&self) -> Option<Time> {
        if self.scan.is_some() {
            return Some(Time::ZERO);
        }
        let rested = self.walked + LEAST_REST.max(REST * self.size);
        let changed_since_walk = self.changed_since_walk.then_some(rested);
        let pending = self.pending.as_ref();
        let quiet = pending.map(|pending| rested.max(pending.since + self.debounce));
        let rest = if self.deaf { DEAF_POLL_REST } else { POLL_REST };
        let pause = self.poll.max(rest * self.size);
        let poll = (!self.poll.is_zero()).then_some(self.walked + pause);
        [changed_since_walk, quiet, poll]
            .into_iter()
            .flatten()
            .min()
    }

    /// Returns true if the way to its root has changed.
    pub fn find_steps(&mut self) -> bool {
        let steps = steps(&self.path);
        let differs = steps != self.steps;
        self.changed_since_walk |= differs;
        self.steps = steps;
        differs
    }

    /// Does one piece of work. Returns the path of a changed file once the whole tree has stopped changing, and whether
    /// its set of directories has changed.
    pub fn look(&mut self, now: Time) -> (Option<PathBuf>, bool) {
        if self.deadline().is_none_or(|deadline| deadline > now) {
            return (None, false);
        }
        let Some(mut scan) = self.scan.take().or_else(|| self.begin(now)) else {
            return (None, false);
        };
        if !self.go_on(&mut scan) {
            self.scan = Some(scan);
            return (None, false);
        }
        self.walked = now;
        self.size = u32::try_from(scan.files.len() + scan.directories.len()).unwrap_or(u32::MAX);
        let others = scan.directories != self.directories;
        self.directories = scan.directories;
        (self.conclude(now, scan.files), others)
    }

    /// Walks nothing while the root is missing: it may come back.
    fn begin(&mut self, now: Time) -> Option<Scan> {
        self.changed_since_walk = false;
        self.walked = now;
        let root = fs::canonicalize(&self.path).ok()?;
        let above = root.ancestors().skip(1).all(ignore_files::are_readable);
        let here = ignore_files::are_readable(&root);
        let walk = WalkBuilder::new(&root)
            .require_git(false)
            .parents(above)
            .git_ignore(here)
            .git_exclude(here)
            .ignore(here)
            .filter_entry(|entry| entry.depth() == 0 || is_part(entry))
            .build();
        Some(Scan {
            walk,
            root,
            files: Files::new(),
            directories: Vec::new(),
        })
    }

    /// Returns true once the walk has finished.
    fn go_on(&self, scan: &mut Scan) -> bool {
        let mut bytes = 0;
        for _ in 0..PIECE {
            if bytes > BYTES {
                return false;
            }
            let Some(entry) = scan.walk.next() else {
                return true;
            };
            let Some((path, metadata)) = entry
                .ok()
                .and_then(|entry| Some((entry.path().to_owned(), entry.metadata().ok()?)))
            else {
                continue;
            };
            if metadata.is_dir() {
                let (dev, ino) = (metadata.dev(), metadata.ino());
                scan.directories.push(Directory { path, dev, ino });
            } else if (metadata.is_file() || metadata.is_symlink()) && !self.others.contains(&path)
            {
                bytes += self.note(scan, &path, &metadata);
            }
        }
        false
    }

    /// Adds one file, and returns the number of bytes read for it.
    fn note(&self, scan: &mut Scan, path: &Path, metadata: &Metadata) -> u64 {
        let Ok(name) = path.strip_prefix(&scan.root) else {
            return 0;
        };
        let mut entry = Entry {
            identity: FileIdentity::of(metadata),
            hash: None,
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        };
        let known = self.known.as_ref().and_then(|files| files.get(name));
        let pending = self.pending.as_ref();
        let seen = pending.and_then(|pending| pending.files.get(name));
        let mut before = [known, seen].into_iter().flatten();
        let mut bytes = 0;
        if let Some(same) = before.find(|before| before.identity == entry.identity) {
            entry.hash = same.hash;
        } else if let Some(Ok(file)) = metadata.is_file().then(|| completeness::open(path)) {
            // A log that its server keeps open is never finished, so it counts as it was. Closing it is an event.
            if self.known.is_some() && completeness::writer(&file) == Writer::Somebody {
                if let Some(known) = known {
                    scan.files.insert(name.to_owned(), *known);
                }
                return 0;
            }
            if entry.identity.size <= BIGGEST_READ {
                bytes = entry.identity.size;
                if let HashProgress::Done(hash) = HashInProgress::new(file, entry.identity).go_on()
                {
                    entry.hash = Some(hash);
                }
            }
        }
        scan.files.insert(name.to_owned(), entry);
        bytes
    }

    fn conclude(&mut self, now: Time, mut files: Files) -> Option<PathBuf> {
        let absorb_until = self.absorb.take();
        let Some(known) = &mut self.known else {
            self.known = Some(files);
            return None;
        };
        let aloud = std::mem::take(&mut self.aloud);
        if let Some(moment) = absorb_until {
            let absorbed = absorb(known, &mut files, moment);
            if let Some(path) = absorbed.into_iter().min().filter(|_| aloud) {
                let path = escape(&self.as_given.join(path).to_string_lossy());
                log::info!(
                    "{path} changed while --before-swap ran; try: save it again if that was you, else name it in .gitignore"
                );
            }
        }
        let Some(path) = difference(known, &files) else {
            self.pending = None;
            self.known = Some(files);
            return None;
        };
        let path = self.as_given.join(path);
        let (first, since) = match self.pending.take() {
            Some(before) if difference(&before.files, &files).is_none() => {
                (before.first, before.since)
            }
            Some(before) => (before.first, now),
            None => (now, now),
        };
        let longest = LONGEST_AT_LEAST.max(self.debounce * LONGEST);
        if now >= since + self.debounce || now >= first + longest {
            self.known = Some(files);
            return Some(path);
        }
        self.pending = Some(PendingChange {
            first,
            since,
            files,
        });
        None
    }
}

/// Takes what changed or was removed up to `moment` as known, but without the content: if the user saves a file once
/// more, unsure whether the first save was in time, that still counts.
fn absorb(known: &mut Files, files: &mut Files, moment: (i64, i64)) -> Vec<PathBuf> {
    known.retain(|path, _| files.contains_key(path));
    let mut absorbed = Vec::new();
    for (path, entry) in files {
        let is_other = known.get(path).is_none_or(|known| !known.is_as(entry));
        if is_other && entry.changed <= moment {
            entry.hash = None;
            known.insert(path.clone(), *entry);
            absorbed.push(path.clone());
        }
    }
    absorbed
}

/// The first file that differs between the two.
fn difference<'a>(known: &'a Files, files: &'a Files) -> Option<&'a Path> {
    let differs = |(path, entry): &(&PathBuf, &Entry)| {
        !known.get(*path).is_some_and(|known| known.is_as(entry))
    };
    let changed = files.iter().filter(differs).map(|(path, _)| path);
    let gone = known.keys().filter(|path| !files.contains_key(*path));
    changed.chain(gone).min().map(PathBuf::as_path)
}

fn is_part(entry: &DirEntry) -> bool {
    let is_directory = entry.file_type().is_some_and(|sort| sort.is_dir());
    !is_editors_own(entry.file_name())
        && (!is_directory || ignore_files::are_readable(entry.path()))
}
