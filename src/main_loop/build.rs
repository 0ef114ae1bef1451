//! What was saved since the last build: it is always built, however the save and the build overlap.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use super::wait::Batch;
use super::{Purpose, World};
use crate::log as lines;
use crate::record::{Record, RecordKind};
use crate::supervisor::{Event, Generation, Time};
use crate::watch::Changed;

/// HOTSWAP_CHANGED is no longer than this: the kernel bounds a variable at 128 KiB.
const LONGEST: usize = 32 << 10;

#[derive(Default)]
pub(super) struct Build {
    /// What has changed since the last command before a swap began, or the last generation started.
    changed: Vec<PathBuf>,
    /// The line about it, for a terminal that is cleared.
    reason: Option<Record>,
    /// For which generation the command runs.
    pub running_for: Option<Generation>,
    /// A file has changed while it ran.
    outdated: bool,
    /// It was told to end, to be begun again.
    begins_again: bool,
    /// It has ended well, and the generation is not started yet.
    is_done: bool,
}

impl Build {
    /// For HOTSWAP_CHANGED: a path a line, `...` if there are more.
    pub fn changed(&self) -> OsString {
        let mut list = Vec::new();
        for path in &self.changed {
            let bytes = path.as_os_str().as_bytes();
            if list.len() + bytes.len() + "\n...".len() > LONGEST {
                list.extend(b"...");
                break;
            }
            list.extend(bytes);
            list.push(b'\n');
        }
        if list.ends_with(b"\n") {
            list.pop();
        }
        OsString::from_vec(list)
    }

    pub fn begins(&mut self, generation: Generation) {
        self.running_for = Some(generation);
        self.changed.clear();
        self.outdated = false;
        self.is_done = false;
    }

    /// The generation to run it for again, if it was told to end for that.
    pub fn ends(&mut self, well: bool) -> Option<Generation> {
        let generation = self.running_for.take();
        self.is_done = well;
        generation.filter(|_| std::mem::take(&mut self.begins_again))
    }

    /// It is no longer wanted.
    pub fn is_given_up(&mut self) {
        self.begins_again = false;
        self.running_for = None;
    }

    /// Whether a file has changed since the command began, and nothing was built from that.
    pub fn takes_outdated(&mut self) -> bool {
        std::mem::take(&mut self.outdated)
    }

    /// A generation starts; whether a command has built it.
    pub fn starts(&mut self) -> bool {
        if !self.outdated {
            self.changed.clear();
        }
        std::mem::take(&mut self.is_done)
    }
}

impl World {
    /// Says what has changed. While a command runs before a swap it is run again: at once under `--dev`, else after it.
    pub(super) fn files_changed(&mut self, changed: &[Changed], now: Time) -> Option<Event> {
        for one in changed {
            let running = self.build.running_for.is_some();
            let then = match (running, self.args.dev) {
                (false, _) => "",
                (true, true) => " during the build; building again",
                (true, false) => " while --before-swap runs; one more swap follows",
            };
            let record = Record::new(RecordKind::Changed, format!("{one} changed{then}"));
            self.publish(&record);
            self.build.reason = Some(record);
            let paths = std::iter::once(&one.path).chain(&one.others);
            self.build.changed.extend(paths.cloned());
        }
        if changed.is_empty() {
            return None;
        }
        if self.build.running_for.is_none() {
            // One swap for all of them: a second request would replace its candidate.
            return Some(Event::FileChanged);
        }
        self.build.outdated = true;
        if self.args.dev {
            self.build.begins_again = true;
            let commands = self.commands.iter_mut();
            for (_, command) in commands.filter(|(purpose, _)| *purpose == Purpose::BeforeSwap) {
                command.end(now);
            }
        }
        None
    }

    /// With `--hold`, the core hears when a change is being judged; true if that has begun.
    pub(super) fn tell_of_judging(&mut self, batch: &mut Batch) -> bool {
        let Some(judging) = self.watch.take_judging().filter(|_| self.args.hold) else {
            return false;
        };
        batch.requests.push(if judging {
            Event::FileTouched
        } else {
            Event::FilesJudged
        });
        judging
    }

    /// A screen for this swap alone, and why it is made.
    pub(super) fn clear_screen(&mut self) {
        if self.args.clear && self.args.dev {
            lines::clear_terminal();
            if let Some(reason) = self.build.reason.take() {
                lines::log_record(&reason);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_a_path_a_line_and_bounded() {
        let mut build = Build::default();
        assert_eq!(build.changed(), "");
        build.changed = ["src/a.rs", "src/b.rs"].map(PathBuf::from).to_vec();
        assert_eq!(build.changed(), "src/a.rs\nsrc/b.rs");
        build.changed = vec![PathBuf::from("x".repeat(100)); 1000];
        let changed = build.changed();
        assert!(changed.len() <= LONGEST, "{}", changed.len());
        assert!(changed.as_bytes().ends_with(b"x\n..."));
    }
}
