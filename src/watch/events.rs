//! File events as hints to look: which names were touched, and whether a file arrived complete or was written in place.
//!
//! Nothing is decided here. `notify` calls back on its own thread, which notes the hint and writes to an eventfd. A
//! directory with thousands of events a second is not listened to for a while, and polled instead.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};
use notify::ErrorKind;
use notify::event::{AccessKind, AccessMode, CreateKind, EventKind, ModifyKind, RenameMode};

use crate::supervisor::Time;
use crate::watch::filter::is_hidden;
use crate::watch::ignore_files::is_rule_file;
use crate::watch::notifier::{Notifier, reason};
use crate::watch::symlinks::{Directory, is_editors_own};

/// More events than this in one window are noise.
const NOISE: u32 = 400;
const NOISE_WINDOW: Duration = Duration::from_millis(100);
/// How long a noisy directory is not listened to.
const NOISE_PAUSE: Duration = Duration::from_secs(1);

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
}

/// What the main loop shares with the thread of `notify`.
struct NotifyShared {
    wake: EventFd,
    state: Mutex<NotifyState>,
}

#[derive(Default)]
struct NotifyState {
    names: HashSet<PathBuf>,
    trees: HashSet<PathBuf>,
    hints: Hints,
    /// A watched directory went away, or events were lost: every watch must be made again.
    broken: bool,
    noise: EventRate,
    /// The main loop was woken and has not looked yet.
    woken: bool,
    /// Directories that cannot be watched, with the error.
    refused: Vec<(Directory, notify::Error)>,
}

#[derive(Default)]
struct EventRate {
    since: Option<Instant>,
    events: u32,
    /// The directory of the event that exceeded the limit.
    directory: Option<PathBuf>,
}

/// The watches that `notify` holds for us.
pub struct Events {
    /// `None` where inotify is unavailable.
    notifier: Option<Notifier>,
    shared: Arc<NotifyShared>,
    held: HashMap<PathBuf, Directory>,
    paused: HashMap<PathBuf, Time>,
    /// Directories that cannot be watched; they are not tried again.
    refused: HashSet<Directory>,
    /// Some wanted directory is not watched.
    behind: bool,
    complaint: Option<String>,
    complained: bool,
}

impl Events {
    /// # Errors
    /// Those of eventfd(2). Missing inotify is not an error, see [`Events::complaint`].
    pub fn new() -> std::io::Result<Self> {
        let mut events = Self::none()?;
        let (noting, answered) = (Arc::clone(&events.shared), Arc::clone(&events.shared));
        match Notifier::start(
            move |event| noting.note(event),
            move |directory, held| answered.answer(directory, held),
        ) {
            Ok(notifier) => events.notifier = Some(notifier),
            Err(why) => events.complaint = Some(why),
        }
        Ok(events)
    }

    /// Without a thread and without inotify, for when nothing is watched.
    ///
    /// # Errors
    /// Those of eventfd(2).
    pub fn none() -> std::io::Result<Self> {
        let wake =
            EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        let shared = Arc::new(NotifyShared {
            wake,
            state: Mutex::default(),
        });
        Ok(Self {
            notifier: None,
            shared,
            held: HashMap::new(),
            paused: HashMap::new(),
            refused: HashSet::new(),
            behind: false,
            complaint: None,
            complained: false,
        })
    }

    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.shared.wake.as_fd()
    }

    pub fn drain(&self) {
        // EAGAIN means that it is empty already.
        let _ = self.shared.wake.read();
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

    /// The names that were touched since the last call or the last [`Events::take`]; the next one wakes the main loop anew.
    pub fn take_touched(&mut self) -> HashSet<PathBuf> {
        let mut state = self.shared.lock();
        state.woken = false;
        mem::take(&mut state.hints.touched)
    }

    /// What has happened since the last call.
    pub fn take(&mut self, now: Time) -> Hints {
        let mut state = self.shared.lock();
        state.woken = false;
        let broken = mem::take(&mut state.broken);
        let noisy = state.noise.directory.take();
        let mut hints = mem::take(&mut state.hints);
        let refused = mem::take(&mut state.refused);
        drop(state);
        for (directory, error) in refused {
            self.note_refusal(directory, &error);
        }
        hints.directories.extend(self.paused.keys().cloned());
        let paused = self.paused.len();
        self.paused.retain(|_, until| *until > now);
        self.behind |= broken || self.paused.len() < paused;
        if let Some(noisy) = noisy.filter(|noisy| self.held.contains_key(noisy)) {
            self.let_go(&noisy);
            self.paused.insert(noisy, now + NOISE_PAUSE);
        }
        if broken {
            self.refused.clear();
            let held: Vec<PathBuf> = self.held.keys().cloned().collect();
            for path in held {
                self.let_go(&path);
            }
        }
        hints
    }

    /// Watches these directories and no others, soon: for these names, and for every name in these trees. A new watch
    /// is itself a hint, because what happened before it was made may have been missed.
    pub fn follow(
        &mut self,
        directories: &HashSet<Directory>,
        names: HashSet<PathBuf>,
        trees: HashSet<PathBuf>,
    ) {
        let mut state = self.shared.lock();
        state.names = names;
        state.trees = trees;
        drop(state);
        let unwanted: Vec<PathBuf> = self
            .held
            .values()
            .filter(|held| !directories.contains(held))
            .map(|held| held.path.clone())
            .collect();
        for path in unwanted {
            self.let_go(&path);
        }
        self.behind = false;
        for directory in directories {
            let left_out = self.held.contains_key(&directory.path)
                || self.paused.contains_key(&directory.path)
                || self.refused.contains(directory);
            if let (false, Some(notifier)) = (left_out, &self.notifier) {
                notifier.hold(directory.clone());
                self.held.insert(directory.path.clone(), directory.clone());
            }
        }
    }

    fn let_go(&mut self, path: &Path) {
        if let (Some(_), Some(notifier)) = (self.held.remove(path), &self.notifier) {
            notifier.let_go(path);
        }
    }

    fn note_refusal(&mut self, directory: Directory, error: &notify::Error) {
        if self.held.get(&directory.path) == Some(&directory) {
            self.held.remove(&directory.path);
        }
        // It was just removed; the next look finds another way.
        if !matches!(error.kind, ErrorKind::PathNotFound) {
            self.complaint = Some(format!("{}: {}", directory.path.display(), reason(error)));
            self.refused.insert(directory);
        }
    }
}

impl NotifyShared {
    fn lock(&self) -> MutexGuard<'_, NotifyState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, event: notify::Result<notify::Event>) {
        let mut state = self.lock();
        let matters = if let Ok(event) = event {
            state.note(&event)
        } else {
            state.broken = true;
            state.hints.everything = true;
            true
        };
        if matters {
            self.wake(state);
        }
    }

    fn answer(&self, directory: Directory, held: notify::Result<()>) {
        let mut state = self.lock();
        state.hints.directories.insert(directory.path.clone());
        state
            .refused
            .extend(held.err().map(|error| (directory, error)));
        self.wake(state);
    }

    fn wake(&self, mut state: MutexGuard<NotifyState>) {
        if !state.woken {
            state.woken = true;
            // A counter of 1 cannot overflow.
            let _ = self.wake.write(1);
        }
    }
}

impl NotifyState {
    /// Whether the main loop should look.
    fn note(&mut self, event: &notify::Event) -> bool {
        // Our own walk opens every directory.
        let is_own_walk =
            event.kind.is_access() && event.paths.iter().any(|path| self.trees.contains(path));
        let noisy = !is_own_walk && self.noise.count(event);
        if event.need_rescan() {
            self.broken = true;
            self.hints.everything = true;
            return true;
        }
        let Some(arrival) = arrival(event.kind) else {
            return noisy;
        };
        let mut matters = noisy;
        for path in &event.paths {
            if self.names.contains(path) {
                matters = true;
                let known = self.hints.arrivals.entry(path.clone()).or_default();
                *known = arrival.after(*known);
                self.hints.touched.insert(path.clone());
            }
            if self.trees.contains(path) {
                self.broken |= goes_away(event.kind);
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
            if goes_away(event.kind)
                && self
                    .names
                    .iter()
                    .any(|name| name.starts_with(path) && name != path)
            {
                self.broken = true;
                matters = true;
            }
        }
        matters
    }
}

impl EventRate {
    /// Returns true once a window has too many events.
    fn count(&mut self, event: &notify::Event) -> bool {
        self.events += 1;
        if self.events <= NOISE {
            return false;
        }
        let now = Instant::now();
        let begun = self.since.replace(now);
        self.events = 0;
        let too_many = begun.is_some_and(|begun| now.duration_since(begun) < NOISE_WINDOW);
        if too_many {
            let path = event.paths.first();
            self.directory = path.and_then(|path| path.parent()).map(Path::to_owned);
        }
        too_many
    }
}

fn matters_in_tree(name: &OsStr) -> bool {
    is_rule_file(name) || !is_hidden(name, false) && !is_editors_own(name)
}

fn goes_away(kind: EventKind) -> bool {
    matches!(
        kind,
        EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From))
    )
}

/// `None` for events that leave the file as it is: our own look must not be a hint.
fn arrival(kind: EventKind) -> Option<HowArrived> {
    match kind {
        EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Some(HowArrived::Moved),
        EventKind::Create(CreateKind::File) => Some(HowArrived::Created),
        EventKind::Modify(ModifyKind::Data(_)) => Some(HowArrived::Written),
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(HowArrived::Closed),
        EventKind::Access(_) => None,
        _ => Some(HowArrived::Unknown),
    }
}

impl HowArrived {
    fn after(self, before: Self) -> Self {
        match self {
            // A changed mode or a removal says nothing about how the next file arrives.
            Self::Unknown => before,
            Self::Created | Self::Moved | Self::Written | Self::Closed => self,
        }
    }
}
