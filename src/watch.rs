//! Watches files and trees, and reports each new content of one exactly once.
//!
//! A file event is only a hint to look. The gates decide whether a change counts, and an occasional stat(2) finds what
//! the events missed. Nothing here starts a swap, and nothing blocks.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;

use nix::poll::PollFlags;
use nix::unistd::Pid;

use crate::escape::escape;
use crate::proc::process;
use crate::supervisor::Time;

mod advice;
mod completeness;
mod content_hash;
mod elf;
mod events;
mod file;
mod ignore_files;
mod notifier;
mod symlinks;
mod targets;
#[cfg(test)]
mod tests;
mod tree;

use completeness::FileIdentity;
pub use completeness::Fitness;
use elf::ExecFormat;
use events::{Events, Hints, HowArrived};
use file::{FileRole, WatchedFile};
use symlinks::{Directory, PathStep};
pub use targets::WatchTargets;
use tree::WatchedTree;

/// The least time between two looks.
const BREATH: Duration = Duration::from_millis(5);
/// The time between two looks at files in a directory that is too noisy to listen to.
const NOISY_POLL: Duration = Duration::from_millis(20);
/// How long a change waits for others that are still settling, so that all of them become one swap; never more than two
/// debounce times.
const COMPANY: Duration = Duration::from_millis(200);
/// Longer than any wait, and small enough to add to a time.
const LONGEST: Duration = Duration::from_secs(1_000_000_000);
/// The poll interval where there are no file events, if the user has turned polling off.
const POLL_INSTEAD: Duration = Duration::from_secs(1);

/// A file that is new, complete, and no longer being written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// As the user spelled it; for a tree, one of the files in it.
    pub path: PathBuf,
}

impl fmt::Display for Changed {
    /// Escaped: anyone who may write into a watched tree chooses the file names in it.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&escape(&self.path.to_string_lossy()))
    }
}

pub struct Watch {
    events: Events,
    files: Vec<WatchedFile>,
    trees: Vec<WatchedTree>,
    program: Option<PathBuf>,
    /// The program as the user spelled it.
    as_given: PathBuf,
    debounce: Duration,
    poll: Duration,
    /// A command that hotswap runs may be changing the files.
    held: bool,
    /// The last command failed, and what changed in a tree while it ran has been reported.
    told_of_failure: bool,
    /// The form of the last program that execve(2) accepted.
    usual: Option<ExecFormat>,
    /// When to look because a file was touched or another look is due.
    hinted: Option<Time>,
    looked: Time,
    /// Changes that wait for others, and since when.
    found: Vec<Changed>,
    found_at: Time,
}

impl Watch {
    /// A `poll` of zero means no polling. Also returns warnings for the user, one line each.
    ///
    /// # Errors
    /// Those of eventfd(2).
    pub fn new(
        targets: WatchTargets,
        debounce: Duration,
        poll: Duration,
        now: Time,
    ) -> io::Result<(Self, Vec<String>)> {
        let (debounce, poll) = (debounce.min(LONGEST), poll.min(LONGEST));
        let (files, trees, mut warnings) = targets::targets(&targets, debounce, poll);
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
            usual: targets.program.as_deref().and_then(completeness::form_at),
            program: targets.program,
            as_given: targets
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

    /// The descriptor is readable: a file event has arrived.
    pub fn woken(&mut self, now: Time) {
        self.events.drain();
        self.hinted.get_or_insert(now.max(self.looked + BREATH));
    }

    /// When to look again; `None` if nothing is watched, or while [`Watch::hold`] is in force.
    pub fn deadline(&self) -> Option<Time> {
        if self.held {
            return None;
        }
        let files = self.files.iter().filter_map(WatchedFile::deadline);
        let trees = self.trees.iter().filter_map(WatchedTree::deadline);
        let poll = self.poll_interval().map(|interval| self.looked + interval);
        let found = (!self.found.is_empty()).then(|| self.found_at + self.company());
        let ours = poll.into_iter().chain(self.hinted).chain(found);
        files.chain(trees).chain(ours).min()
    }

    fn poll_interval(&self) -> Option<Duration> {
        if self.events.is_paused() {
            Some(NOISY_POLL)
        } else if self.files.is_empty() {
            // Each tree has its own interval, which depends on its size.
            None
        } else {
            Some(self.poll).filter(|poll| !poll.is_zero())
        }
    }

    /// The changes that have passed all gates since the last look.
    pub fn look(&mut self, now: Time) -> Vec<Changed> {
        if self.held {
            return Vec::new();
        }
        self.hinted = None;
        self.looked = now;
        let hints = self.events.take(now);
        if hints.trees || self.events.is_paused() {
            self.trees.iter_mut().for_each(WatchedTree::mark_changed);
        }
        self.find_steps();
        if self.found.is_empty() {
            self.found_at = now;
        }
        for file in &mut self.files {
            let arrival = arrival(&hints, file.steps());
            if file.look(now, arrival, self.debounce, self.usual) {
                self.found.push(Changed {
                    path: file.as_given.clone(),
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
        let others = self.files.iter().any(WatchedFile::is_settling)
            || self.trees.iter().any(WatchedTree::is_settling);
        if others && now < self.found_at + self.company() {
            return Vec::new();
        }
        std::mem::take(&mut self.found)
    }

    fn company(&self) -> Duration {
        COMPANY.min(self.debounce * 2)
    }

    /// Stops judging until [`Watch::baseline`]: a command that hotswap runs may write anything.
    pub fn hold(&mut self) {
        self.held = true;
    }

    /// Takes what is there now as what the next candidate starts from.
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

    /// Ends [`Watch::hold`] when no candidate follows. The user may have fixed a tree while the command ran, so what
    /// changed in it is still reported; but not after two failures in a row, because a failing command that writes into
    /// the tree would run forever.
    pub fn command_failed(&mut self, now: Time) {
        let again = self.told_of_failure;
        self.baseline();
        if !again {
            self.told_of_failure = true;
            self.trees.iter_mut().for_each(WatchedTree::tell_all);
        }
        self.hinted = Some(now);
    }

    /// execve(2) has succeeded in `pid`: looks again, because the file may have changed since the last look.
    pub fn confirm(&mut self, pid: Pid, now: Time) {
        let image = process::image(pid);
        if let Ok(image) = image.map(|metadata| FileIdentity::of(&metadata)) {
            for file in self
                .files
                .iter_mut()
                .filter(|file| file.role == FileRole::Program)
            {
                file.runs(image);
            }
        }
        let usual = self.program.as_deref().and_then(completeness::form_at);
        self.usual = usual.or(self.usual);
        self.hinted = Some(now);
    }

    /// The last candidate serves: a file that returns to its content has not changed.
    pub fn serves(&mut self) {
        self.files.iter_mut().for_each(WatchedFile::serves);
    }

    /// Nothing serves: any content other than the last one tried is a change.
    pub fn nothing_serves(&mut self) {
        self.files.iter_mut().for_each(WatchedFile::nothing_serves);
    }

    /// Whether a requested swap may run the program as it is now.
    pub fn fit(&self) -> Fitness {
        let Some(program) = &self.program else {
            return Fitness::Fit;
        };
        match completeness::fitness(program, self.usual) {
            Fitness::Unfit(why) => Fitness::Unfit(format!("{} {why}", self.as_given.display())),
            fitness => fitness,
        }
    }

    fn find_steps(&mut self) {
        let mut others = self.events.is_behind();
        for file in &mut self.files {
            others |= file.find_steps();
        }
        for tree in &mut self.trees {
            others |= tree.find_steps();
        }
        if others {
            self.follow();
        }
    }

    /// Listens to every directory on the way to a watched path.
    fn follow(&mut self) {
        let ways = self
            .files
            .iter()
            .map(WatchedFile::steps)
            .chain(self.trees.iter().map(WatchedTree::steps));
        let places: Vec<&PathStep> = ways.flatten().collect();
        let within = || self.trees.iter().flat_map(WatchedTree::directories);
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

    /// Says once why there are no file events, and polls from then on.
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

/// How the file at the end of `steps` got there.
fn arrival(hints: &Hints, steps: &[PathStep]) -> HowArrived {
    let Some((file, links)) = steps.split_last() else {
        return HowArrived::Unknown;
    };
    let of = |place: &PathStep| {
        hints
            .arrivals
            .get(&place.path())
            .copied()
            .unwrap_or_default()
    };
    let flipped = links.iter().any(|link| of(link) != HowArrived::Unknown);
    match of(file) {
        HowArrived::Unknown if flipped => HowArrived::Moved,
        arrival => arrival,
    }
}
