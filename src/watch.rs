//! Watches files and trees, and reports each new content of one exactly once.
//!
//! A file event is only a hint to look. The gates decide whether a change counts, and an occasional stat(2) finds what
//! the events missed. Nothing here starts a swap, and nothing blocks.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;

use nix::poll::PollFlags;
use nix::unistd::Pid;

use crate::polled::Polled;
use crate::proc::process;
use crate::record::Record;
use crate::supervisor::Time;
use crate::sys;

mod absence;
pub mod advice;
mod brake;
mod changed;
mod completeness;
pub mod content_hash;
mod differences;
mod elf;
mod events;
mod file;
mod filter;
mod followed;
mod git;
mod ignore_files;
pub mod launcher;
mod listing;
mod look;
mod new_content;
mod new_files;
mod notifier;
mod own_writes;
mod pace;
mod repeats;
mod report;
mod rules_above;
pub mod runs_others;
mod server_writes;
mod symlinks;
mod targets;
#[cfg(test)]
mod tests;
mod touched;
mod tree;
mod walk;
mod writers;

use absence::NamedPath;
use brake::Brake;
pub use changed::Changed;
use changed::escaped;
use completeness::HowRun;
pub use completeness::{FileIdentity, Fitness, RunsAs};
use events::Events;
use file::{FileRole, WatchedFile};
pub use filter::{IgnoreOptions, split_glob};
use look::hint_at_unfit;
use new_files::NewFiles;
pub use own_writes::HookKind;
use own_writes::OwnWrites;
use pace::Pace;
use repeats::Repeats;
use server_writes::ServerWrites;
pub use targets::WatchTargets;
use targets::WatchedPaths;
use touched::Judging;
use tree::WatchedTree;
use writers::Writers;

/// The least time between two looks.
const BREATH: Duration = Duration::from_millis(5);
/// The time between two looks at files in a directory that is too noisy to listen to.
const NOISY_POLL: Duration = Duration::from_millis(20);
/// Longer than any wait, and small enough to add to a time.
const LONGEST: Duration = Duration::from_secs(1_000_000_000);

pub struct Watch {
    events: Events,
    files: Vec<WatchedFile>,
    trees: Vec<WatchedTree>,
    /// What the user named of these.
    paths: Vec<NamedPath>,
    program: Option<PathBuf>,
    /// The program as the user spelled it.
    as_given: PathBuf,
    debounce: Duration,
    poll: Duration,
    /// A command is running that may be making the program.
    held: bool,
    /// It has ended, and nothing was looked at since.
    build_is_unseen: bool,
    own_writes: OwnWrites,
    writers: Writers,
    server_writes: ServerWrites,
    brake: Brake,
    new_files: NewFiles,
    repeats: Repeats,
    pace: Pace,
    /// As the last program was that execve(2) accepted.
    how_run: HowRun,
    /// When to look because a file was touched or another look is due.
    hinted: Option<Time>,
    looked: Time,
    judging: Judging,
    /// Changes that wait for others, and since when.
    found: Vec<Changed>,
    found_at: Time,
    /// What is watched has not been said yet.
    is_unsaid: bool,
    /// Lines about changed programs that cannot be run.
    unfit: Vec<String>,
    /// What else the user is to know.
    news: Vec<Record>,
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
        let WatchedPaths {
            files,
            trees,
            paths,
            mut warnings,
        } = WatchedPaths::of(&targets, debounce, poll);
        let is_idle = files.is_empty() && trees.is_empty();
        let mut watch = Self {
            events: if is_idle {
                Events::none()
            } else {
                Events::new()
            }?,
            files,
            trees,
            paths,
            debounce,
            poll,
            held: false,
            build_is_unseen: false,
            own_writes: OwnWrites::default(),
            writers: Writers::default(),
            server_writes: ServerWrites::default(),
            brake: Brake::default(),
            new_files: NewFiles::default(),
            repeats: Repeats::default(),
            pace: Pace::default(),
            how_run: HowRun {
                usual: targets
                    .program
                    .as_deref()
                    .and_then(completeness::exec_format_at),
                runs_as: targets.runs_as,
            },
            program: targets.program.map(|path| targets.wanted.base.join(path)),
            as_given: targets
                .command
                .first()
                .map(PathBuf::from)
                .unwrap_or_default(),
            hinted: (!is_idle).then_some(now),
            looked: now,
            judging: Judging::default(),
            found: Vec::new(),
            found_at: now,
            is_unsaid: !is_idle,
            unfit: Vec::new(),
            news: Vec::new(),
        };
        watch.follow();
        warnings.extend(watch.complaint());
        Ok((watch, warnings))
    }

    /// The descriptor is readable: a file event has arrived.
    pub fn woken(&mut self, now: Time) {
        self.events.drain();
        self.writers.woken();
        self.hinted.get_or_insert(now.max(self.looked + BREATH));
    }

    /// To be called when woken and before each look: who wrote is found out at once, or not at all. `servers` gives the
    /// processes of all generations.
    pub fn note_writers(&mut self, servers: &dyn Fn() -> Vec<Pid>) {
        self.writers.note(servers);
    }

    /// A program is not judged while it may be being built.
    fn is_judged(&self, file: &WatchedFile) -> bool {
        !self.held || file.role != FileRole::Program
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

    /// A command starts. One before a swap builds from what is there now.
    pub fn command_begins(&mut self, command: HookKind) {
        self.own_writes.begins(command, sys::file_time());
        if command == HookKind::BeforeSwap {
            self.held = true;
            self.found.clear();
            self.take_files_as_tried(|role| role != FileRole::Program);
            self.trees.iter_mut().for_each(WatchedTree::take_as_tried);
        }
    }

    /// It has ended, well or not: what it did to the program is no change if it failed.
    pub fn command_ends(&mut self, command: HookKind, now: Time) {
        self.own_writes.ends(command, sys::wall_time());
        if command == HookKind::BeforeSwap {
            self.held = false;
            self.build_is_unseen = true;
            self.trees.iter_mut().for_each(WatchedTree::look_at_all);
            self.take_files_as_tried(|role| role == FileRole::Program);
            self.hinted = Some(now);
        }
    }

    /// Whether everything has been looked at and judged since a command before a swap ended.
    pub fn has_seen_build(&self) -> bool {
        let looked = !self.build_is_unseen && self.found.is_empty() && !self.is_settling();
        looked && self.trees.iter().all(WatchedTree::is_judged)
    }

    /// What changed while the command before a swap ran, and may be a person's edit: to be asked once it has ended.
    pub fn judge_build(&mut self) -> Option<Changed> {
        let verdict = self.own_writes.judge();
        if let Some(path) = verdict.new_each_time.as_deref().map(escaped) {
            self.news.push(Record::notice(format!(
                "--before-swap created {path}, and other new files in earlier runs: new files no longer count while it runs\ntry: --ignore {path}"
            )));
        }
        let mut paths = verdict.count.into_iter();
        let path = paths.next()?;
        let others = paths.collect();
        Some(Changed { path, others })
    }

    /// A generation starts, from what is there now; `built` if a command built it from what was there when that began.
    pub fn starts(&mut self, built: bool, now: Time) {
        self.brake.starts(now, sys::file_time());
        self.server_writes.starts();
        self.writers.starts();
        if built {
            self.take_files_as_tried(|role| role == FileRole::Program);
            return;
        }
        self.found.clear();
        self.take_files_as_tried(|_| true);
        self.trees.iter_mut().for_each(WatchedTree::take_as_tried);
    }

    fn take_files_as_tried(&mut self, is_wanted: impl Fn(FileRole) -> bool) {
        let files = self.files.iter_mut();
        files
            .filter(|file| is_wanted(file.role))
            .for_each(WatchedFile::take_as_tried);
    }

    /// Somebody asked for a swap: what was left out counts again.
    pub fn asked(&mut self) {
        self.brake.release_all();
        self.new_files.release_all();
        self.repeats.end();
        self.pace.end();
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
        let usual = self
            .program
            .as_deref()
            .and_then(completeness::exec_format_at);
        self.how_run.usual = usual.or(self.how_run.usual);
        self.hinted = Some(now);
    }

    /// There is a verdict on the last candidate.
    pub fn decided(&mut self, now: Time) {
        self.pace.decided();
        if !self.found.is_empty() {
            self.hinted = Some(now);
        }
    }

    /// The last candidate serves: a file that returns to its content has not changed.
    pub fn serves(&mut self) {
        self.files.iter_mut().for_each(WatchedFile::serves);
    }

    /// Nothing serves: any content other than the last one tried is a change.
    pub fn nothing_serves(&mut self) {
        self.files.iter_mut().for_each(WatchedFile::nothing_serves);
    }

    /// Why a program that has changed is not run, once for each content.
    pub fn take_unfit(&mut self) -> Vec<String> {
        std::mem::take(&mut self.unfit)
    }

    /// What has been found out since the last time that is no change: paths that are gone, files that stop counting.
    pub fn take_news(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.news)
    }

    /// Whether a requested swap may run the program as it is now.
    pub fn fit(&self) -> Fitness {
        let Some(program) = &self.program else {
            return Fitness::Fit;
        };
        match completeness::fitness(program, self.how_run) {
            Fitness::Unfit(why) => {
                let path = escaped(&self.as_given);
                let hint = hint_at_unfit(&path, &why);
                Fitness::Unfit(format!("{path} {why}\ntry: {hint}"))
            }
            fitness => fitness,
        }
    }
}

impl Polled for Watch {
    fn polled(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let is_idle = self.files.is_empty() && self.trees.is_empty();
        let descriptor = (!is_idle).then(|| (self.events.descriptor(), PollFlags::POLLIN));
        descriptor.into_iter().collect()
    }

    /// When to look again; `None` if nothing is watched.
    fn deadline(&self) -> Option<Time> {
        let files = self.files.iter().filter(|file| self.is_judged(file));
        let files = files.filter_map(WatchedFile::deadline);
        let trees = self.trees.iter().filter_map(WatchedTree::deadline);
        let poll = self.poll_interval().map(|interval| self.looked + interval);
        let paths = self.paths.iter().filter_map(NamedPath::deadline);
        let found = (!self.found.is_empty()).then(|| {
            let company = self.found_at + self.company();
            self.pace.due().map_or(company, |due| due.max(company))
        });
        let ours = [poll, self.hinted, found, self.brake.deadline()];
        files
            .chain(trees)
            .chain(paths)
            .chain(ours.into_iter().flatten())
            .min()
    }
}
