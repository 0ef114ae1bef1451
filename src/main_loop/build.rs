//! What was saved since the last build: it is always built, however the save and the build overlap.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use super::commands::one_line;
use super::wait::Batch;
use super::{Purpose, World};
use crate::log as lines;
use crate::record::{Record, RecordKind, format_duration};
use crate::supervisor::{Event, Generation, Time};
use crate::watch::Changed;

/// HOTSWAP_CHANGED is no longer than this: the kernel bounds a variable at 128 KiB.
const LONGEST: usize = 32 << 10;
/// How long a build that has ended waits until it is known what changed meanwhile.
const LONGEST_JUDGMENT: Duration = Duration::from_secs(3);
/// How many builds in a row are ended because something changed meanwhile; the next one runs to its end.
const MOST_ENDED_EARLY: u32 = 2;

/// A build that runs twice as long as the longest before it, and this long, may hang. The first one may take its time.
const LATE: Duration = Duration::from_secs(10);
const LATE_AT_FIRST: Duration = Duration::from_secs(60);

/// Well, or why not, with the last lines of the output.
type BuildResult = Result<(), (String, Vec<String>)>;

#[derive(Default)]
pub(super) struct Build {
    /// What has changed since the last command before a swap began, or the last generation started.
    changed: Vec<PathBuf>,
    /// The line about it, for a terminal that is cleared.
    reason: Option<Record>,
    /// For which generation the command runs.
    pub running_for: Option<Generation>,
    begun: Time,
    /// How long the longest took that ended by itself.
    longest: Duration,
    /// When it takes long, until that was said.
    late_at: Option<Time>,
    /// A file has changed while it ran.
    outdated: bool,
    /// It is to be begun again, once it has ended.
    begins_again: bool,
    /// How many in a row were told to end for that.
    ended_early: u32,
    /// It has ended by itself then, and what changed meanwhile is not judged yet.
    ended: Option<(BuildResult, Time)>,
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

    pub fn begins(&mut self, generation: Generation, now: Time) {
        self.running_for = Some(generation);
        self.begun = now;
        self.late_at = Some(now + self.usual());
        self.changed.clear();
        self.outdated = false;
        self.is_done = false;
        self.ended = None;
    }

    pub fn awaits_judgment(&mut self, result: BuildResult, now: Time) {
        self.longest = self.longest.max(now.saturating_sub(self.begun));
        self.ended = Some((result, now));
    }

    pub fn deadline(&self) -> Option<Time> {
        let ended = self.ended.as_ref();
        let judged = ended.map(|(_, ended)| *ended + LONGEST_JUDGMENT);
        judged.or(self.late_at.filter(|_| self.runs()))
    }

    /// How long one may take that does not hang.
    fn usual(&self) -> Duration {
        match self.longest {
            Duration::ZERO => LATE_AT_FIRST,
            longest => LATE.max(longest * 2),
        }
    }

    fn runs(&self) -> bool {
        self.running_for.is_some() && self.ended.is_none()
    }

    fn may_hang(&self, now: Time) -> bool {
        self.runs() && now >= self.begun + self.usual()
    }

    /// The generation to run it for again, if it is outdated.
    pub fn ends(&mut self, well: bool) -> Option<Generation> {
        let generation = self.running_for.take();
        self.is_done = well;
        generation.filter(|_| std::mem::take(&mut self.begins_again))
    }

    /// It is no longer wanted.
    pub fn is_given_up(&mut self) {
        self.begins_again = false;
        self.running_for = None;
        self.ended = None;
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
        for news in self.watch.take_news() {
            self.publish(&news);
        }
        for one in changed {
            let running = self.build.running_for.is_some();
            let then = match (running, self.args.dev) {
                (false, _) => "",
                (true, true) => " during the build; building again",
                (true, false) => " while --before-swap was running; one more swap follows",
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
        self.build.begins_again = self.args.dev;
        let may_be_ended = self.build.ended_early < MOST_ENDED_EARLY || self.build.may_hang(now);
        if self.args.dev && may_be_ended {
            self.end_build(now);
        }
        None
    }

    fn end_build(&mut self, now: Time) {
        let commands = self.commands.iter_mut();
        for (_, command) in commands.filter(|(purpose, _)| *purpose == Purpose::BeforeSwap) {
            command.end(now);
            self.build.ended_early += 1;
        }
    }

    /// Somebody at the keys asks for a swap: a build that runs, and may hang, is ended and begun again.
    pub(super) fn build_again(&mut self, now: Time) {
        if self.build.runs() {
            self.publish(&Record::notice("the build is ended; building again"));
            self.build.begins_again = true;
            self.end_build(now);
        }
    }

    /// Says once of a build that it takes long, and what can be done.
    fn say_that_it_is_late(&mut self, now: Time) {
        let Some(generation) = self.build.running_for else {
            return;
        };
        if !self.build.runs() || self.build.late_at.take_if(|late| *late <= now).is_none() {
            return;
        }
        let command = self.args.before_swap.as_deref().map(one_line);
        let after = format_duration(now.saturating_sub(self.build.begun));
        let still = format!(
            "is still waiting for: {} ({after} so far)",
            command.unwrap_or_default()
        );
        let hint = if self.keys.are_read() {
            "\ntry: r and Enter to end it and run it again"
        } else {
            ""
        };
        let text = format!("{still}{hint}");
        self.publish(&Record::of(RecordKind::Notice, generation, text));
    }

    /// The command has ended by itself: once all that changed meanwhile is known, it runs again, or its swap goes on.
    pub(super) fn conclude_build(&mut self, now: Time) -> Vec<Event> {
        self.say_that_it_is_late(now);
        let is_seen = self.watch.has_seen_build();
        let is_due = |ended: Time| is_seen || now >= ended + LONGEST_JUDGMENT;
        let ended = self.build.ended.take_if(|(_, ended)| is_due(*ended));
        let Some((result, _)) = ended else {
            return Vec::new();
        };
        let unclear = self.watch.judge_build();
        self.files_changed(unclear.as_slice(), now);
        if !self.build.begins_again {
            self.build.ended_early = 0;
        }
        if let Some(generation) = self.build.ends(result.is_ok()) {
            return self.run_before_swap(generation).into_iter().collect();
        }
        match result {
            Ok(()) => vec![Event::BeforeSwapEnded(Ok(()))],
            Err((why, last_lines)) => {
                self.status_data.command_lines = last_lines;
                let outdated = self.build.takes_outdated();
                let mut events = vec![Event::BeforeSwapEnded(Err(why))];
                events.extend(outdated.then_some(Event::FileChanged));
                events
            }
        }
    }

    /// The command has ended because it was told to. What told it has said why.
    pub(super) fn build_was_ended(&mut self) -> Option<Event> {
        if self.commands_for(Purpose::BeforeSwap).next().is_some() {
            return None;
        }
        if let Some(generation) = self.build.ends(false) {
            return self.run_before_swap(generation);
        }
        let outdated = self.watch.judge_build().is_some() | self.build.takes_outdated();
        outdated.then_some(Event::FileChanged)
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
    fn a_build_may_hang_once_it_takes_twice_as_long_as_any() {
        let at = Time::from_secs;
        let mut build = Build::default();
        let runs = |build: &mut Build, from: u64| build.begins(Generation(1), at(from));
        runs(&mut build, 100);
        assert_eq!(build.deadline(), Some(at(160)));
        build.awaits_judgment(Ok(()), at(120));
        build.ended = None;
        build.ends(true);
        assert_eq!(build.deadline(), None);
        runs(&mut build, 200);
        assert!(!build.may_hang(at(239)) && build.may_hang(at(240)));
        build.late_at = None;
        assert_eq!(build.deadline(), None, "that is said once");
    }

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
