//! Files that hotswap's own commands write: when these change, nobody has edited anything.
//!
//! The kernel does not say who wrote a file. But what a command writes, it writes each time it runs, and nobody else does;
//! what a person edits has also changed while no command ran. So a file that has only ever changed during two runs in a
//! row is the command's own, and a person's save is never taken for one.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};

/// Seconds and nanoseconds by the clock of file times.
pub type FileTime = (i64, i64);

/// As many runs are remembered.
const RUNS: usize = 32;
/// A command after an event that is done so soon, in nanoseconds, that hardly anybody saves a file meanwhile: one run is
/// enough.
const SHORT: i64 = 250_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookKind {
    BeforeSwap,
    OnEvent,
}

struct Run {
    kind: HookKind,
    /// How many of this kind came before.
    number: u32,
    begun: FileTime,
    ended: Option<FileTime>,
}

/// Whose a change is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Author {
    Somebody,
    Command,
    /// The same, seen for the first time.
    CommandFirstSeen,
}

#[derive(Default)]
pub struct OwnWrites {
    runs: VecDeque<Run>,
    counts: [u32; 2],
    /// Files that have changed while no command ran.
    edited: HashSet<PathBuf>,
    /// Others, and the last run in which they changed; true if they are the command's own.
    suspects: HashMap<PathBuf, (HookKind, u32, bool)>,
}

impl OwnWrites {
    pub fn begins(&mut self, kind: HookKind, now: FileTime) {
        let count = &mut self.counts[kind as usize];
        *count += 1;
        self.runs.push_back(Run {
            kind,
            number: *count,
            begun: now,
            ended: None,
        });
        if self.runs.len() > RUNS {
            self.runs.pop_front();
        }
    }

    /// The first of them that has not ended.
    pub fn ends(&mut self, kind: HookKind, now: FileTime) {
        let mut runs = self.runs.iter_mut();
        if let Some(run) = runs.find(|run| run.kind == kind && run.ended.is_none()) {
            run.ended = Some(now);
        }
    }

    /// Whether it is known as a command's own.
    pub fn has(&self, path: &Path) -> bool {
        let suspect = self.suspects.get(path);
        suspect.is_some_and(|(_, _, own)| *own)
    }

    /// Who changed this file at that moment.
    pub fn author(&mut self, path: &Path, changed: FileTime) -> Author {
        let during =
            |run: &&Run| run.begun <= changed && run.ended.is_none_or(|ended| changed <= ended);
        let Some(run) = self.runs.iter().rev().find(during) else {
            self.edited.insert(path.to_owned());
            self.suspects.remove(path);
            return Author::Somebody;
        };
        if self.edited.contains(path) {
            return Author::Somebody;
        }
        let (kind, number) = (run.kind, run.number);
        let took = run.ended.map(|ended| nanoseconds(run.begun, ended));
        let is_short = kind == HookKind::OnEvent && took.is_some_and(|took| took < SHORT);
        let before = self.suspects.get(path).copied();
        let again = before.is_some_and(|(before, at, _)| before == kind && at + 1 == number);
        let was_own = before.is_some_and(|(_, _, own)| own);
        let is_own = was_own || again || is_short;
        self.suspects
            .insert(path.to_owned(), (kind, number, is_own));
        match (is_own, was_own) {
            (false, _) => Author::Somebody,
            (true, true) => Author::Command,
            (true, false) => Author::CommandFirstSeen,
        }
    }
}

fn nanoseconds(begun: FileTime, ended: FileTime) -> i64 {
    let seconds = ended.0.saturating_sub(begun.0);
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(ended.1 - begun.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUT: &str = "src/built";

    impl OwnWrites {
        /// A run from second `begun` to `ended`, in which `path` changes.
        fn run(&mut self, kind: HookKind, begun: i64, ended: i64, path: &str) -> Author {
            self.begins(kind, (begun, 0));
            self.ends(kind, (ended, 900));
            self.author(Path::new(path), (begun, 500))
        }
    }

    #[test]
    fn what_changes_in_two_runs_in_a_row_is_the_commands_own() {
        let mut writes = OwnWrites::default();
        let seen: Vec<Author> = (0..3)
            .map(|turn| writes.run(HookKind::BeforeSwap, turn * 10, turn * 10 + 5, OUT))
            .collect();
        let expected = [Author::Somebody, Author::CommandFirstSeen, Author::Command];
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_a_person_has_edited_is_never_the_commands_own() {
        let mut writes = OwnWrites::default();
        let path = Path::new("src/main.rs");
        assert_eq!(writes.author(path, (1, 0)), Author::Somebody);
        for turn in 1..5 {
            let author = writes.run(
                HookKind::BeforeSwap,
                turn * 10,
                turn * 10 + 5,
                "src/main.rs",
            );
            assert_eq!(author, Author::Somebody);
        }
    }

    #[test]
    fn an_edit_between_two_runs_makes_the_file_a_persons() {
        let mut writes = OwnWrites::default();
        writes.run(HookKind::BeforeSwap, 10, 15, OUT);
        writes.run(HookKind::BeforeSwap, 20, 25, OUT);
        assert_eq!(writes.author(Path::new(OUT), (30, 0)), Author::Somebody);
        let author = writes.run(HookKind::BeforeSwap, 40, 45, OUT);
        assert_eq!(author, Author::Somebody);
    }

    #[test]
    fn a_short_command_after_an_event_owns_what_changes_at_once() {
        let mut writes = OwnWrites::default();
        let author = writes.run(HookKind::OnEvent, 10, 10, "src/events.log");
        assert_eq!(author, Author::CommandFirstSeen);
        let author = writes.run(HookKind::OnEvent, 20, 25, "src/other.log");
        assert_eq!(author, Author::Somebody, "it took 5s");
    }
}
