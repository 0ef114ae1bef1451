//! File events as hints to look: which names were touched, and whether a file arrived complete or was written in place.
//!
//! Nothing is decided here. A directory with thousands of events a second is not listened to for a while, and polled
//! instead.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

use crate::supervisor::Time;
use crate::watch::filter::is_hidden;
use crate::watch::ignore_files::is_rule_file;
use crate::watch::symlinks::{Directory, is_editors_own};

/// More events than this in one window are noise.
const NOISE: u32 = 400;
const NOISE_WINDOW: Duration = Duration::from_millis(100);
/// How long a noisy directory is not listened to.
const NOISE_PAUSE: Duration = Duration::from_secs(1);
/// How many batches of events are read in one go.
const MOST_READS: usize = 64;
/// What takes a name away, or the directory itself.
const GOES_AWAY: AddWatchFlags = AddWatchFlags::IN_DELETE
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_MOVE_SELF);
/// Reading a file is no hint: hotswap does that itself.
const LISTENED_FOR: AddWatchFlags = GOES_AWAY
    .union(AddWatchFlags::IN_CREATE)
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_MODIFY)
    .union(AddWatchFlags::IN_CLOSE_WRITE)
    .union(AddWatchFlags::IN_ATTRIB);

/// How the file at a name got there, as far as events tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HowArrived {
    #[default]
    Unknown,
    /// A new name: a hard link, or a file that is about to be written.
    Created,
    /// By rename(2).
    Moved,
    /// Changed in place, by a writer that may go on.
    Written,
    /// A writer has closed it.
    Closed,
}

/// What has happened since the last look.
#[derive(Debug, Default)]
pub struct Hints {
    /// Names that were touched.
    pub arrivals: HashMap<PathBuf, HowArrived>,
    /// Names that were touched since they were last looked at in a hurry.
    pub touched: HashSet<PathBuf>,
    /// Directories of watched trees in which something was touched.
    pub directories: HashSet<PathBuf>,
    /// Anything may have been touched: events were lost.
    pub everything: bool,
    /// Something was touched, and nobody has asked since what it was.
    are_new: bool,
}

#[derive(Default)]
struct EventRate {
    since: Option<Instant>,
    events: u32,
    /// The directory of the event that exceeded the limit.
    directory: Option<PathBuf>,
}

/// The directories that are listened to.
#[derive(Default)]
pub struct Events {
    /// `None` where inotify(7) is unavailable.
    inotify: Option<Inotify>,
    held: HashMap<WatchDescriptor, Directory>,
    names: HashSet<PathBuf>,
    trees: HashSet<PathBuf>,
    hints: Hints,
    /// A watched directory went away, or events were lost: every watch must be made again.
    broken: bool,
    noise: EventRate,
    paused: HashMap<PathBuf, Time>,
    /// Directories that cannot be watched; they are not tried again.
    refused: HashSet<Directory>,
    /// Some wanted directory is not watched.
    behind: bool,
    complaint: Option<String>,
    complained: bool,
}

impl Events {
    /// Missing inotify is not an error, see [`Events::complaint`].
    pub fn new() -> Self {
        let mut events = Self::default();
        match Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC) {
            Ok(inotify) => events.inotify = Some(inotify),
            Err(error) => events.complaint = Some(reason(error)),
        }
        events
    }

    /// Where events come; none while what has come is still to be asked for.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        let inotify = self.inotify.as_ref().filter(|_| !self.hints.are_new);
        inotify.map(Inotify::as_fd)
    }

    /// Reads what has come. Returns whether the main loop should look.
    pub fn read(&mut self) -> bool {
        for _ in 0..MOST_READS {
            let Some(Ok(events)) = self.inotify.as_ref().map(Inotify::read_events) else {
                break;
            };
            for event in events {
                self.hints.are_new |= self.note(&event);
            }
        }
        self.hints.are_new
    }

    /// Why some directories give no events; returned once.
    pub fn complaint(&mut self) -> Option<String> {
        let complaint = self.complaint.take().filter(|_| !self.complained);
        self.complained |= complaint.is_some();
        complaint
    }

    /// Whether a noisy directory is not listened to, and must be polled often.
    pub fn is_paused(&self) -> bool {
        !self.paused.is_empty()
    }

    /// Whether [`Events::follow`] must be called although the wanted directories are the same.
    pub fn is_behind(&self) -> bool {
        self.behind
    }

    /// The names that were touched since the last call or the last [`Events::take`].
    pub fn take_touched(&mut self) -> HashSet<PathBuf> {
        self.hints.are_new = false;
        mem::take(&mut self.hints.touched)
    }

    /// What has happened since the last call.
    pub fn take(&mut self, now: Time) -> Hints {
        self.read();
        let mut hints = mem::take(&mut self.hints);
        hints.directories.extend(self.paused.keys().cloned());
        let paused = self.paused.len();
        self.paused.retain(|_, until| *until > now);
        let is_broken = mem::take(&mut self.broken);
        self.behind |= is_broken || self.paused.len() < paused;
        if let Some(noisy) = self.noise.directory.take() {
            self.let_go(|held| held.path == noisy);
            self.paused.insert(noisy, now + NOISE_PAUSE);
        }
        if is_broken {
            self.refused.clear();
            self.let_go(|_| true);
        }
        hints
    }

    /// Watches these directories and no others: for these names, and for every name in these trees. A new watch is itself a
    /// hint, because what happened before it was made may have been missed; returns whether there is one.
    pub fn follow(
        &mut self,
        directories: &HashSet<Directory>,
        names: HashSet<PathBuf>,
        trees: HashSet<PathBuf>,
    ) -> bool {
        self.names = names;
        self.trees = trees;
        self.let_go(|held| !directories.contains(held));
        self.behind = false;
        let held: HashSet<Directory> = self.held.values().cloned().collect();
        let left_out = |directory: &&Directory| {
            held.contains(directory)
                || self.paused.contains_key(&directory.path)
                || self.refused.contains(directory)
        };
        let new: Vec<&Directory> = directories.iter().filter(|one| !left_out(one)).collect();
        for directory in new {
            self.hold(directory);
        }
        self.hints.are_new
    }

    fn hold(&mut self, directory: &Directory) {
        let Some(inotify) = &self.inotify else {
            return;
        };
        self.hints.are_new = true;
        self.hints.directories.insert(directory.path.clone());
        match inotify.add_watch(&directory.path, LISTENED_FOR) {
            Ok(watch) => drop(self.held.insert(watch, directory.clone())),
            // It was just removed; the next look finds another way.
            Err(Errno::ENOENT) => {}
            Err(error) => {
                let path = directory.path.display();
                self.complaint = Some(format!("{path}: {}", reason(error)));
                self.refused.insert(directory.clone());
            }
        }
    }

    fn let_go(&mut self, is_unwanted: impl Fn(&Directory) -> bool) {
        let unwanted = self.held.extract_if(|_, directory| is_unwanted(directory));
        for (watch, _) in unwanted {
            // It fails for a removed directory, which the kernel has let go by itself.
            let _ = self.inotify.as_ref().map(|inotify| inotify.rm_watch(watch));
        }
    }

    /// Whether the main loop should look.
    fn note(&mut self, event: &InotifyEvent) -> bool {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            self.broken = true;
            self.hints.everything = true;
            return true;
        }
        let Some(Directory { path, .. }) = self.held.get(&event.wd) else {
            return false;
        };
        let mut matters = self.noise.count(path);
        let name = event.name.as_ref();
        let path = name.map_or_else(|| path.clone(), |name| path.join(name));
        let goes_away = event.mask.intersects(GOES_AWAY);
        if self.names.contains(&path) {
            matters = true;
            let known = self.hints.arrivals.entry(path.clone()).or_default();
            *known = HowArrived::of(event.mask).after(*known);
            self.hints.touched.insert(path.clone());
        }
        if self.trees.contains(&path) {
            self.broken |= goes_away;
            self.hints.directories.insert(path.clone());
            matters = true;
        }
        let parent = path.parent().filter(|parent| self.trees.contains(*parent));
        if let Some(parent) = parent
            && path.file_name().is_some_and(matters_in_tree)
        {
            self.hints.directories.insert(parent.to_owned());
            self.hints.touched.insert(path.clone());
            matters = true;
        }
        let leads_on = |name: &PathBuf| name.starts_with(&path) && *name != path;
        if goes_away && self.names.iter().any(leads_on) {
            self.broken = true;
            matters = true;
        }
        matters
    }
}

impl EventRate {
    /// Returns true once a window has too many events, of which the last was in this directory.
    fn count(&mut self, directory: &Path) -> bool {
        self.events += 1;
        if self.events <= NOISE {
            return false;
        }
        let now = Instant::now();
        let begun = self.since.replace(now);
        self.events = 0;
        let too_many = begun.is_some_and(|begun| now.duration_since(begun) < NOISE_WINDOW);
        if too_many {
            self.directory = Some(directory.to_owned());
        }
        too_many
    }
}

fn matters_in_tree(name: &OsStr) -> bool {
    is_rule_file(name) || !is_hidden(name, false) && !is_editors_own(name)
}

impl HowArrived {
    fn of(event: AddWatchFlags) -> Self {
        match event {
            AddWatchFlags::IN_CREATE => Self::Created,
            AddWatchFlags::IN_MODIFY => Self::Written,
            AddWatchFlags::IN_CLOSE_WRITE => Self::Closed,
            _ if event.contains(AddWatchFlags::IN_MOVED_TO) => Self::Moved,
            // a directory, too
            _ => Self::Unknown,
        }
    }

    fn after(self, before: Self) -> Self {
        match self {
            // A changed mode or a removal says nothing about how the next file arrives.
            Self::Unknown => before,
            Self::Created | Self::Moved | Self::Written | Self::Closed => self,
        }
    }
}

/// The error in words, naming the limit that was reached.
fn reason(error: Errno) -> String {
    match error {
        Errno::ENOSPC => "the limit fs.inotify.max_user_watches is reached".into(),
        // the kernel says the same for both
        Errno::EMFILE if File::open("/dev/null").is_ok() => {
            "the limit fs.inotify.max_user_instances is reached".into()
        }
        Errno::EMFILE => "too many open files; raise the limit with ulimit -n".into(),
        error => std::io::Error::from(error).to_string(),
    }
}
