//! Files that hotswap's own commands write: when these change, nobody has edited anything.
//!
//! The kernel does not say who wrote a file. But what a command writes, it writes when it runs, and what a person edits has
//! also changed while no command ran. So a file that has only ever changed while one ran, in two runs in a row or in three at
//! all, is the command's own. Before that it is unclear who changed it: it is judged when the command has ended, because
//! what comes and goes meanwhile is nobody's edit, and a build that is ended for its own output leaves half of it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::mem;
use std::path::{Path, PathBuf};

use super::differences::HowChanged;

/// Seconds and nanoseconds by the clock of file times.
pub type FileTime = (i64, i64);

/// As many runs are remembered.
const RUNS: usize = 32;
/// A command after an event that is done so soon, in nanoseconds, that hardly anybody saves a file meanwhile: one run is
/// enough.
const SHORT: i64 = 250_000_000;
/// How many runs, not in a row, must write a file before it is the command's own.
const USUAL: u32 = 3;
/// How many runs in a row may change a file that was edited once; after that the command writes it as well.
const MOST: u32 = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookKind {
    BeforeSwap,
    OnEvent,
}

#[derive(Clone, Copy)]
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
    /// It is judged when the command has ended.
    Unclear,
    Command,
    /// The same, seen for the first time.
    CommandFirstSeen,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Owner {
    /// It has changed while no command ran.
    Person,
    #[default]
    Unclear,
    Command,
}

/// A file that has changed, and the last run in which it did.
#[derive(Default)]
struct WrittenFile {
    owner: Owner,
    run: Option<(HookKind, u32)>,
    /// In how many runs, and in how many of them in a row.
    runs: u32,
    in_a_row: u32,
}

/// What is left of the unclear changes when the command has ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct LeftByBuild {
    /// Perhaps a person's: they are built once more.
    pub count: Vec<PathBuf>,
    /// New files, as they have come in earlier runs: they are the command's own. One of them, if that is news.
    pub new_each_time: Option<PathBuf>,
}

#[derive(Default)]
pub struct OwnWrites {
    runs: VecDeque<Run>,
    counts: [u32; 2],
    files: HashMap<PathBuf, WrittenFile>,
    /// A command before a swap runs, or what it did has not been judged.
    is_building: bool,
    /// What has changed meanwhile; true if the file was not there before.
    unclear: BTreeMap<PathBuf, bool>,
    /// The runs that have left new files behind.
    left_new: u32,
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
        if kind == HookKind::BeforeSwap {
            self.is_building = true;
            self.unclear.clear();
        }
    }

    /// The first of them that has not ended.
    pub fn ends(&mut self, kind: HookKind, now: FileTime) {
        let mut runs = self.runs.iter_mut();
        if let Some(run) = runs.find(|run| run.kind == kind && run.ended.is_none()) {
            run.ended = Some(now);
        }
    }

    /// A command before a swap has ended, and everything was looked at since.
    pub fn judge(&mut self) -> LeftByBuild {
        self.is_building = false;
        let unclear = mem::take(&mut self.unclear);
        self.left_new += u32::from(unclear.values().any(|is_new| *is_new));
        let new_is_usual = self.left_new >= USUAL;
        let mut verdict = LeftByBuild::default();
        for (path, is_new) in unclear {
            if !is_new || !new_is_usual {
                verdict.count.push(path);
            } else if self.left_new == USUAL {
                verdict.new_each_time.get_or_insert(path);
            }
        }
        verdict
    }

    /// Whether it is known as a command's own.
    pub fn has(&self, path: &Path) -> bool {
        let written = self.files.get(path);
        written.is_some_and(|written| written.owner == Owner::Command)
    }

    /// Who changed this file at that moment.
    pub fn author(&mut self, path: &Path, how: HowChanged, changed: FileTime) -> Author {
        let Some(run) = self.run_at(how, changed) else {
            return self.changed_outside(path);
        };
        let (kind, number) = (run.kind, run.number);
        let took = run.ended.map(|ended| nanoseconds(run.begun, ended));
        let is_short = kind == HookKind::OnEvent && took.is_some_and(|took| took < SHORT);
        let written = self.files.entry(path.to_owned()).or_default();
        if written.run != Some((kind, number)) {
            let follows = written.run == Some((kind, number - 1));
            written.in_a_row = if follows { written.in_a_row + 1 } else { 1 };
            written.runs += 1;
            written.run = Some((kind, number));
        }
        let is_gone = matches!(how, HowChanged::Gone(_));
        let was_own = written.owner == Owner::Command;
        let is_own = match written.owner {
            Owner::Command => true,
            Owner::Person => written.in_a_row >= MOST,
            // A command removes what it has made.
            Owner::Unclear if is_gone && written.runs > 1 => true,
            Owner::Unclear => written.in_a_row > 1 || written.runs >= USUAL || is_short,
        };
        if is_own {
            written.owner = Owner::Command;
            return if was_own || is_gone {
                Author::Command
            } else {
                Author::CommandFirstSeen
            };
        }
        let is_named = how == HowChanged::Named;
        let is_judged_now = is_named || kind == HookKind::OnEvent || !self.is_building;
        if written.owner == Owner::Person || is_judged_now {
            return Author::Somebody;
        }
        let was_new = self.unclear.get(path).copied();
        let came_and_went = match how {
            HowChanged::Gone(last) => was_new.unwrap_or(last >= run.begun),
            HowChanged::Appeared | HowChanged::Grew | HowChanged::Rewritten | HowChanged::Named => {
                false
            }
        };
        if came_and_went {
            self.unclear.remove(path);
        } else {
            let is_new = was_new.unwrap_or(how == HowChanged::Appeared);
            self.unclear.insert(path.to_owned(), is_new);
        }
        Author::Unclear
    }

    /// What was a command's own is unclear again, everything else is a person's.
    fn changed_outside(&mut self, path: &Path) -> Author {
        if self.has(path) {
            self.files.remove(path);
        } else {
            let written = WrittenFile {
                owner: Owner::Person,
                ..WrittenFile::default()
            };
            self.files.insert(path.to_owned(), written);
        }
        Author::Somebody
    }

    /// The run in which a file changed. When a file went is not known, only that it has gone since the
    /// last look.
    fn run_at(&self, how: HowChanged, changed: FileTime) -> Option<Run> {
        let is_building = self.is_building && matches!(how, HowChanged::Gone(_));
        let during = |run: &&Run| {
            run.begun <= changed && run.ended.is_none_or(|ended| changed <= ended)
                || is_building && run.kind == HookKind::BeforeSwap
        };
        self.runs.iter().rev().find(during).copied()
    }
}

pub fn nanoseconds(begun: FileTime, ended: FileTime) -> i64 {
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
        fn change(&mut self, path: &str, how: HowChanged, at: i64) -> Author {
            self.author(Path::new(path), how, (at, 500))
        }

        /// A run from second `begun` to `ended`, in which `path` changes.
        fn run(&mut self, kind: HookKind, begun: i64, ended: i64, path: &str) -> Author {
            self.begins(kind, (begun, 0));
            self.ends(kind, (ended, 900));
            self.change(path, HowChanged::Rewritten, begun)
        }

        fn build(&mut self, begun: i64, path: &str) -> Author {
            self.run(HookKind::BeforeSwap, begun, begun + 5, path)
        }

        /// A run that leaves a new file behind.
        fn build_new(&mut self, begun: i64, path: &str) -> LeftByBuild {
            self.begins(HookKind::BeforeSwap, (begun, 0));
            let author = self.change(path, HowChanged::Appeared, begun);
            assert_eq!(author, Author::Unclear);
            self.judge()
        }
    }

    #[test]
    fn what_changes_in_two_runs_in_a_row_is_the_commands_own() {
        let mut writes = OwnWrites::default();
        let seen = [0, 10, 20].map(|second| writes.build(second, OUT));
        let expected = [Author::Unclear, Author::CommandFirstSeen, Author::Command];
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_changes_in_three_runs_and_never_between_is_the_commands_own() {
        let mut writes = OwnWrites::default();
        let mut seen = Vec::new();
        for second in [0, 20, 40] {
            seen.push(writes.build(second, OUT));
            writes.build(second + 10, "src/other");
        }
        let expected = [Author::Unclear, Author::Unclear, Author::CommandFirstSeen];
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_a_person_has_edited_is_not_the_commands_own() {
        let mut writes = OwnWrites::default();
        let author = writes.change("src/main.rs", HowChanged::Rewritten, 1);
        assert_eq!(author, Author::Somebody);
        for turn in 1..i64::from(MOST) {
            assert_eq!(writes.build(turn * 10, "src/main.rs"), Author::Somebody);
        }
        let author = writes.build(200, "src/main.rs");
        assert_eq!(
            author,
            Author::CommandFirstSeen,
            "nothing builds without end"
        );
    }

    #[test]
    fn an_edit_between_two_runs_makes_it_unclear_again() {
        let mut writes = OwnWrites::default();
        writes.build(10, OUT);
        writes.build(20, OUT);
        let author = writes.change(OUT, HowChanged::Rewritten, 30);
        assert_eq!(author, Author::Somebody);
        assert_eq!(writes.build(40, OUT), Author::Unclear);
        assert_eq!(writes.judge().count, [PathBuf::from(OUT)]);
    }

    #[test]
    fn what_comes_and_goes_during_a_run_is_no_change() {
        let mut writes = OwnWrites::default();
        writes.begins(HookKind::BeforeSwap, (10, 0));
        writes.change("src/rustc1/a", HowChanged::Appeared, 11);
        writes.ends(HookKind::BeforeSwap, (12, 0));
        let author = writes.change("src/rustc1/a", HowChanged::Gone((11, 500)), 13);
        assert_eq!(author, Author::Unclear, "it may have gone before the end");
        assert_eq!(writes.judge(), LeftByBuild::default());
    }

    #[test]
    fn what_a_command_has_made_in_one_run_and_removes_in_another_is_its_own() {
        let mut writes = OwnWrites::default();
        writes.build_new(10, "app.1.js");
        writes.build(20, OUT);
        writes.begins(HookKind::BeforeSwap, (30, 0));
        let author = writes.change("app.1.js", HowChanged::Gone((10, 500)), 31);
        assert_eq!(author, Author::Command);
    }

    #[test]
    fn new_files_with_new_names_count_in_two_runs_alone() {
        let mut writes = OwnWrites::default();
        assert_eq!(writes.build_new(10, "1.js").count.len(), 1);
        assert_eq!(writes.build_new(20, "2.js").count.len(), 1);
        let verdict = writes.build_new(30, "3.js");
        assert_eq!(verdict.new_each_time, Some(PathBuf::from("3.js")));
        assert_eq!(writes.build_new(40, "4.js"), LeftByBuild::default());
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
