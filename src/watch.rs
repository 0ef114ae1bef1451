//! Files to events: says once for each new content of a watched file or tree that it has changed.
//!
//! An event of the kernel is only a hint to look; the gates decide, and a seldom stat behind the events recovers what they
//! missed. Nothing here starts a swap, and nothing waits.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;

use nix::poll::PollFlags;
use nix::unistd::Pid;

use crate::plain::plain;
use crate::supervisor::Time;

mod advice;
mod events;
mod file;
mod form;
mod gates;
mod ignored;
mod notifier;
mod places;
mod reading;
mod subjects;
#[cfg(test)]
mod tests;
mod tree;

use events::{Arrival, Events, Hints};
use file::{Role, Watched};
use form::Form;
pub use gates::Fitness;
use gates::Identity;
use places::{Directory, Place};
use tree::Tree;

/// The time between two looks, whatever happens meanwhile.
const BREATH: Duration = Duration::from_millis(5);
/// The time between two looks at files in a directory that is too noisy to listen to.
const NOISY_POLL: Duration = Duration::from_millis(20);
/// How long a change waits at most, and at most two debounce times, for others that are about to settle: so that all of
/// them are one swap.
const COMPANY: Duration = Duration::from_millis(200);
/// More than anybody waits, and times can be reckoned with it.
const LONGEST: Duration = Duration::from_secs(1_000_000_000);
/// The poll interval where there are no events, if the user wants none.
const POLL_INSTEAD: Duration = Duration::from_secs(1);

/// What is to be watched.
#[derive(Clone, Debug, Default)]
pub struct Targets {
    /// COMMAND and its ARGS.
    pub command: Vec<OsString>,
    /// Where they start, if not here.
    pub directory: Option<PathBuf>,
    /// COMMAND as found in PATH. The completeness gates of [`Watch::fit`] are its own even if it is not watched.
    pub program: Option<PathBuf>,
    pub watch_program: bool,
    pub paths: Vec<PathBuf>,
    pub env_file: Option<PathBuf>,
}

/// A file that is new, whole and quiet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// As the user spelled it; in a tree one of the files below it.
    pub path: PathBuf,
}

impl fmt::Display for Changed {
    /// Whoever may write into a watched tree chooses the names in it.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&plain(&self.path.to_string_lossy()))
    }
}

pub struct Watch {
    events: Events,
    files: Vec<Watched>,
    trees: Vec<Tree>,
    program: Option<PathBuf>,
    /// The same as the user spelled it.
    spelled: PathBuf,
    debounce: Duration,
    poll: Duration,
    /// A command of ours is at work on the files.
    held: bool,
    /// It failed, and what changed in a tree meanwhile was told.
    told_of_failure: bool,
    /// The form of a program that execve(2) took.
    usual: Option<Form>,
    /// Something was touched, or is due for another reason.
    hinted: Option<Time>,
    looked: Time,
    /// Changes that wait for others, and since when.
    found: Vec<Changed>,
    found_at: Time,
}

impl Watch {
    /// A `poll` of zero is none. Also gives what the user should know, a line each.
    ///
    /// # Errors
    /// Those of eventfd(2).
    pub fn new(
        targets: Targets,
        debounce: Duration,
        poll: Duration,
        now: Time,
    ) -> io::Result<(Self, Vec<String>)> {
        let (debounce, poll) = (debounce.min(LONGEST), poll.min(LONGEST));
        let (files, trees, mut warnings) = subjects::subjects(&targets, debounce, poll);
        let is_idle = files.is_empty() && trees.is_empty();
        let mut watch = Self {
            events: if is_idle {
                Events::none()
            } else {
                Events::new()
            }?,
            files,
            trees,
            debounce,
            poll,
            held: false,
            told_of_failure: false,
            usual: targets.program.as_deref().and_then(gates::form_at),
            program: targets.program,
            spelled: targets
                .command
                .first()
                .map(PathBuf::from)
                .unwrap_or_default(),
            hinted: (!is_idle).then_some(now),
            looked: now,
            found: Vec::new(),
            found_at: now,
        };
        watch.follow();
        warnings.extend(watch.complaint());
        Ok((watch, warnings))
    }

    pub fn polled(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let is_idle = self.files.is_empty() && self.trees.is_empty();
        let descriptor = (!is_idle).then(|| (self.events.descriptor(), PollFlags::POLLIN));
        descriptor.into_iter().collect()
    }

    /// Our one descriptor is ready: there is a hint.
    pub fn woken(&mut self, now: Time) {
        self.events.drain();
        self.hinted.get_or_insert(now.max(self.looked + BREATH));
    }

    /// When to look again; `None` if nothing is watched, or while [`Watch::hold`] is in force.
    pub fn deadline(&self) -> Option<Time> {
        if self.held {
            return None;
        }
        let files = self.files.iter().filter_map(Watched::deadline);
        let trees = self.trees.iter().filter_map(Tree::deadline);
        let poll = self.poll_interval().map(|interval| self.looked + interval);
        let found = (!self.found.is_empty()).then(|| self.found_at + self.company());
        let ours = poll.into_iter().chain(self.hinted).chain(found);
        files.chain(trees).chain(ours).min()
    }

    fn poll_interval(&self) -> Option<Duration> {
        if self.events.is_paused() {
            Some(NOISY_POLL)
        } else if self.files.is_empty() {
            // Trees have their own, by their size.
            None
        } else {
            Some(self.poll).filter(|poll| !poll.is_zero())
        }
    }

    /// What has passed all the gates since the last look.
    pub fn look(&mut self, now: Time) -> Vec<Changed> {
        if self.held {
            return Vec::new();
        }
        self.hinted = None;
        self.looked = now;
        let hints = self.events.take(now);
        if hints.trees || self.events.is_paused() {
            self.trees.iter_mut().for_each(Tree::stir);
        }
        self.find_ways();
        if self.found.is_empty() {
            self.found_at = now;
        }
        for file in &mut self.files {
            let arrival = arrival(&hints, file.way());
            if file.look(now, arrival, self.debounce, self.usual) {
                self.found.push(Changed {
                    path: file.spelled.clone(),
                });
            }
        }
        let mut other_directories = false;
        for tree in &mut self.trees {
            let (path, others) = tree.look(now);
            self.found.extend(path.map(|path| Changed { path }));
            other_directories |= others;
        }
        if other_directories {
            self.follow();
        }
        if let Some(complaint) = self.complaint() {
            log::warn!("{complaint}");
        }
        let others =
            self.files.iter().any(Watched::is_settling) || self.trees.iter().any(Tree::is_settling);
        if others && now < self.found_at + self.company() {
            return Vec::new();
        }
        std::mem::take(&mut self.found)
    }

    fn company(&self) -> Duration {
        COMPANY.min(self.debounce * 2)
    }

    /// Until [`Watch::baseline`]: a command of ours may write whatever it likes.
    pub fn hold(&mut self) {
        self.held = true;
    }

    /// What is there now is what the next candidate is started from.
    pub fn baseline(&mut self) {
        let was_held = std::mem::take(&mut self.held);
        self.told_of_failure = false;
        self.found.clear();
        for file in &mut self.files {
            file.take_as_tried();
        }
        for tree in &mut self.trees {
            tree.take_as_tried(was_held);
        }
    }

    /// Ends [`Watch::hold`] where no candidate follows. A fault in a tree may have been mended while the command ran, so
    /// that is still told; but once in a row, for a command that writes into the tree would fail for ever.
    pub fn command_failed(&mut self, now: Time) {
        let again = self.told_of_failure;
        self.baseline();
        if !again {
            self.told_of_failure = true;
            self.trees.iter_mut().for_each(Tree::tell_all);
        }
        self.hinted = Some(now);
    }

    /// execve(2) has worked in `pid`: look again, for the file may have changed since the last look.
    pub fn confirm(&mut self, pid: Pid, now: Time) {
        let image = std::fs::metadata(format!("/proc/{pid}/exe"));
        if let Ok(image) = image.map(|metadata| Identity::of(&metadata)) {
            for file in self
                .files
                .iter_mut()
                .filter(|file| file.role == Role::Program)
            {
                file.runs(image);
            }
        }
        let usual = self.program.as_deref().and_then(gates::form_at);
        self.usual = usual.or(self.usual);
        self.hinted = Some(now);
    }

    /// The candidate that was last started serves: a file that is back at its content is no news.
    pub fn serves(&mut self) {
        self.files.iter_mut().for_each(Watched::serves);
    }

    /// Nothing serves: any content but the one that was last tried is news.
    pub fn nothing_serves(&mut self) {
        self.files.iter_mut().for_each(Watched::nothing_serves);
    }

    /// Whether a swap that somebody asked for may run the program as it is now.
    pub fn fit(&self) -> Fitness {
        let Some(program) = &self.program else {
            return Fitness::Fit;
        };
        match gates::fitness(program, self.usual) {
            Fitness::Unfit(why) => Fitness::Unfit(format!("{} {why}", self.spelled.display())),
            fitness => fitness,
        }
    }

    fn find_ways(&mut self) {
        let mut others = self.events.is_behind();
        for file in &mut self.files {
            others |= file.find_way();
        }
        for tree in &mut self.trees {
            others |= tree.find_way();
        }
        if others {
            self.follow();
        }
    }

    /// Watches the directories of all ways.
    fn follow(&mut self) {
        let ways = self
            .files
            .iter()
            .map(Watched::way)
            .chain(self.trees.iter().map(Tree::way));
        let places: Vec<&Place> = ways.flatten().collect();
        let within = || self.trees.iter().flat_map(Tree::directories);
        let directories: HashSet<Directory> = places
            .iter()
            .map(|place| &place.directory)
            .chain(within())
            .cloned()
            .collect();
        let names = places.iter().map(|place| place.path()).collect();
        let trees = within().map(|directory| directory.path.clone()).collect();
        self.events.follow(&directories, names, trees);
    }

    /// Why there are no events, once; and from then on there is a poll.
    fn complaint(&mut self) -> Option<String> {
        let why = self.events.complaint()?;
        if self.poll.is_zero() {
            self.poll = POLL_INSTEAD;
        }
        for tree in &mut self.trees {
            tree.poll_every(self.poll);
        }
        let interval = humantime::format_duration(self.poll);
        Some(format!(
            "cannot watch by file events: {why}; looking every {interval} instead"
        ))
    }
}

/// How the file at the end of `way` came there.
fn arrival(hints: &Hints, way: &[Place]) -> Arrival {
    let Some((file, links)) = way.split_last() else {
        return Arrival::Unknown;
    };
    let of = |place: &Place| {
        hints
            .arrivals
            .get(&place.path())
            .copied()
            .unwrap_or_default()
    };
    let flipped = links.iter().any(|link| of(link) != Arrival::Unknown);
    match of(file) {
        Arrival::Unknown if flipped => Arrival::Moved,
        arrival => arrival,
    }
}
