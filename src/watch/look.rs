//! One look at everything that is watched: what has changed, and whether it counts.

use std::path::Path;
use std::time::Duration;

use super::Watch;
use super::brake::Worth;
use super::changed::{Changed, escaped};
use super::differences::{Difference, HowChanged};
use super::events::{Hints, HowArrived};
use super::file::FileRole;
use super::own_writes::Author;
use super::server_writes::ServerChange;
use super::symlinks::PathStep;
use super::tree::WatchedTree;
use super::writers::KnownWriter;
use crate::record::Record;
use crate::supervisor::Time;

/// How long a change waits for others that are still settling, so that all of them become one swap; never less than two
/// debounce times, because a late event makes a file settle anew.
const COMPANY: Duration = Duration::from_millis(200);

impl Watch {
    /// The changes that have passed all gates since the last look.
    pub fn look(&mut self, now: Time) -> Vec<Changed> {
        self.hinted = None;
        self.build_is_unseen = false;
        self.looked = now;
        let hints = self.events.take(now);
        let paths = self.paths.iter_mut();
        self.news.extend(paths.filter_map(|path| path.look(now)));
        self.find_steps();
        if self.found.is_empty() {
            self.found_at = now;
        }
        self.look_at_files(now, &hints);
        self.look_at_trees(now, &hints);
        for path in self.brake.release(now) {
            self.found.push(Changed::of(path));
        }
        if let Some(complaint) = self.complaint() {
            self.warn(complaint);
        }
        self.say_what_is_watched();
        let settling = self.is_settling();
        let others_may_follow = settling || self.trees.iter().any(WatchedTree::is_behind);
        if !others_may_follow {
            self.writers.forget();
        }
        let awaits_others = others_may_follow && now < self.found_at + self.company();
        let waits = awaits_others || !self.found.is_empty() && self.pace.holds(now);
        let found = if waits {
            Vec::new()
        } else {
            std::mem::take(&mut self.found)
        };
        self.note_pace(&found, now);
        self.go_on_judging(settling);
        found
    }

    /// These changes start a generation, if there are any.
    fn note_pace(&mut self, found: &[Changed], now: Time) {
        if found.is_empty() {
            return;
        }
        if self.pace.starts(now) {
            let text = "files change faster than the server starts: changes wait for its verdict";
            self.news.push(Record::notice(text));
        }
        // a program may be built as often as its author likes
        let is_program = found.iter().any(|one| one.path == self.as_given);
        if !is_program || self.pace.is_slowed() {
            self.repeats.note(found, now);
        }
    }

    pub(super) fn is_settling(&self) -> bool {
        let mut files = self.files.iter();
        let files = files.any(|file| self.is_judged(file) && file.is_settling());
        files || self.trees.iter().any(WatchedTree::is_settling)
    }

    pub(super) fn company(&self) -> Duration {
        COMPANY.max(self.debounce * 2)
    }

    fn look_at_files(&mut self, now: Time, hints: &Hints) {
        for at in 0..self.files.len() {
            let Some(file) = self.files.get_mut(at) else {
                return;
            };
            if self.held && file.role == FileRole::Program {
                continue;
            }
            let arrival = arrival(hints, file.steps());
            let is_new = file.look(now, arrival, self.debounce, self.how_run);
            if let Some(why) = file.unfit.take() {
                let path = escaped(&file.as_given);
                let hint = hint_at_unfit(&path, &why);
                let line = format!("{path} has changed, but {why}; waiting\ntry: {hint}");
                self.unfit.push(line);
            }
            if std::mem::take(&mut file.is_held_open) {
                let path = escaped(&file.as_given);
                let text =
                    format!("{path} has changed, and counts once it is no longer open for writing");
                self.news.push(Record::notice(text));
            }
            if !is_new {
                continue;
            }
            let path = file.as_given.clone();
            let is_named = file.role == FileRole::Named;
            let identity = file.identity();
            let difference = Difference {
                path: path.clone(),
                directory: file.directory(),
                identity,
                changed: identity.map_or((0, 0), |identity| identity.changed),
                how: HowChanged::Named,
            };
            if !is_named || self.counts(&difference, now) {
                self.found.push(Changed::of(path));
            }
        }
    }

    fn look_at_trees(&mut self, now: Time, hints: &Hints) {
        let mut other_directories = false;
        for at in 0..self.trees.len() {
            let Some(tree) = self.trees.get_mut(at) else {
                return;
            };
            tree.heed(hints);
            let (differences, others) = tree.look(now);
            other_directories |= others;
            let (changed, own): (Vec<_>, Vec<_>) = differences
                .into_iter()
                .partition(|difference| self.counts(difference, now));
            if let Some(tree) = self.trees.get_mut(at) {
                for own in own {
                    tree.distrust(&own.path);
                }
                if let Some(line) = self.new_files.note(&tree.as_given, &changed, now) {
                    self.warn(line);
                }
            }
            let mut paths = changed.into_iter().map(|changed| changed.path);
            if let Some(path) = paths.next() {
                let others = paths.collect();
                self.found.push(Changed { path, others });
            }
        }
        if other_directories {
            self.follow();
        }
    }

    /// Whether a change was made by a person or a tool, and not by hotswap's own commands or the server.
    fn counts(&mut self, difference: &Difference, now: Time) -> bool {
        let Difference {
            path, changed, how, ..
        } = difference;
        match self.own_writes.author(path, *how, *changed) {
            Author::Command | Author::Unclear => return false,
            Author::CommandFirstSeen => {
                self.news.push(Record::notice(format!(
                    "{} is written by --before-swap or --on-event, and no longer counts\ntry: save it again if you edited it",
                    escaped(path)
                )));
                return false;
            }
            Author::Somebody => {}
        }
        let writer = self.writer(difference);
        let may_be_server = match writer {
            KnownWriter::Server => true,
            KnownWriter::Unknown => self.may_be_server(difference, 0),
            KnownWriter::SomebodyElse => false,
        };
        if !may_be_server {
            self.new_files.changed_by_others(path);
        } else if self.new_files.weigh(path, *how) {
            return false;
        }
        if writer == KnownWriter::Server {
            return self.server_change_counts(path, *how, now);
        }
        self.server_writes.changed_by_others(path);
        if self.is_suspect(difference, writer, now) {
            return false;
        }
        let grew = *how == HowChanged::Grew;
        // what the server did not write has nothing to do with its start
        let at = Some(*changed).filter(|_| writer == KnownWriter::Unknown);
        let counts = match self.brake.weigh(path, at, grew, now) {
            Worth::Counts => true,
            Worth::KeptBack => false,
            Worth::Braked(why) => {
                let path = escaped(path);
                self.warn(format!(
                    "{path} {why}, and no longer counts\ntry: --ignore {path}"
                ));
                false
            }
        };
        // From the next change on it is known who made it.
        self.writers.ask_about(&difference.directory);
        counts
    }

    /// Whether a file that has changed very often, each time while the server was writing, must come to rest first.
    fn is_suspect(&mut self, difference: &Difference, writer: KnownWriter, now: Time) -> bool {
        let size = difference.identity.map_or(0, |identity| identity.size);
        let by_server = writer == KnownWriter::Unknown
            && difference.how != HowChanged::Grew
            && self.may_be_server(difference, size);
        let path = &difference.path;
        let was_suspect = self.repeats.suspects(path);
        let Some((rest, is_news)) = self.repeats.weigh(path, by_server, now) else {
            if was_suspect {
                self.brake.trust(path);
            }
            return false;
        };
        self.brake.keep_back(path, rest, now);
        if is_news {
            let path = escaped(path);
            self.warn(format!(
                "{path} changes whenever the server writes, and counts only when it has not changed for a while\n\
                 try: --ignore {path}, if the server writes it"
            ));
        }
        true
    }

    fn may_be_server(&self, difference: &Difference, size: u64) -> bool {
        let (moment, directory) = (difference.changed, &difference.directory);
        self.writers.may_be_server(moment, directory, size)
    }

    fn writer(&mut self, difference: &Difference) -> KnownWriter {
        match &difference.identity {
            Some(identity) => self.writers.take(identity),
            None if self.server_writes.has(&difference.path) => KnownWriter::Server,
            None => KnownWriter::Unknown,
        }
    }

    fn server_change_counts(&mut self, path: &Path, how: HowChanged, now: Time) -> bool {
        let path_in_words = escaped(path);
        let are_guessed = self.writers.are_guessed();
        let change = self.server_writes.weigh(path, how, are_guessed);
        if are_guessed && change != ServerChange::Counts {
            // the next time it may not be seen
            self.brake.leave_out(path, now);
        }
        match change {
            ServerChange::Counts => return true,
            ServerChange::LeftOut => {}
            ServerChange::FirstLeftOut => self.warn(format!(
                "{path_in_words} is written by the server, and no longer counts\ntry: --ignore {path_in_words}"
            )),
            ServerChange::ManyLeftOut(directory) => self.warn(format!(
                "more files in {} are written by the server, and no longer count",
                escaped(&directory)
            )),
        }
        false
    }

    pub(super) fn warn(&mut self, text: String) {
        self.news.push(Record::warning(text));
    }
}

/// What makes a program one that can be run.
pub(super) fn hint_at_unfit(path: &str, why: &str) -> String {
    match why {
        "is not executable" => format!("chmod +x {path}"),
        // install(1) would put the program into it
        "is a directory" => format!("mv {path} {path}.old; install -m 755 PROGRAM {path}"),
        _ => format!("install -m 755 PROGRAM {path}"),
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
