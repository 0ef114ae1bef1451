//! Which program each generation runs: hashed piece by piece between other work.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::World;
use super::identity::{FileStamp, ProgramIdentity, short, stamp};
use super::rejected::RejectedPrograms;
use crate::polled::Polled;
use crate::program;
use crate::supervisor::{Generation, Time};
use crate::watch::advice;
use crate::watch::content_hash::{HashInProgress, HashProgress};

/// The programs of the generations that live or can be had back, and those that were rejected.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Programs {
    known: BTreeMap<Generation, ProgramIdentity>,
    #[serde(default)]
    pub rejected: RejectedPrograms,
    #[serde(skip)]
    hashing: Vec<(FileStamp, HashInProgress)>,
}

impl Programs {
    /// Reads one more piece.
    pub fn hash_on(&mut self) {
        let Some((file, hash)) = self.hashing.pop() else {
            return;
        };
        match hash.go_on() {
            HashProgress::More(hash) => self.hashing.push((file, hash)),
            HashProgress::Done(hash) => {
                let all = self.known.values_mut().chain(self.rejected.files_mut());
                for one in all.filter(|one| one.file == file && one.hash.is_none()) {
                    one.hash = Some(short(hash));
                }
            }
            HashProgress::Lost => {}
        }
    }

    pub fn get(&self, generation: Generation) -> Option<&ProgramIdentity> {
        self.known.get(&generation)
    }

    /// Whether only the content tells this one from a rejected program, or from that of the serving generation.
    pub fn may_be_known(&self, program: &ProgramIdentity, serving: Option<Generation>) -> bool {
        let serving = serving.and_then(|one| self.known.get(&one));
        let mut all = self.rejected.files().chain(serving);
        all.any(|one| one.has_size_of(program) && !one.is_same(program))
    }

    /// Reads what is left of the programs that are as long as this one.
    pub fn finish_like(&mut self, like: &ProgramIdentity) {
        while self.hashing.iter().any(|(file, _)| file.2 == like.file.2) {
            self.hash_on();
        }
    }

    /// Those that are still read are kept for the verdicts on them.
    pub fn retain(&mut self, is_wanted: impl Fn(Generation) -> bool) {
        let hashing = &self.hashing;
        let is_read = |one: &ProgramIdentity| hashing.iter().any(|(file, _)| *file == one.file);
        self.known
            .retain(|generation, one| is_wanted(*generation) || is_read(one));
        let (known, rejected) = (&self.known, &self.rejected);
        self.hashing.retain(|(file, _)| {
            let mut wanted = known.values().chain(rejected.files());
            wanted.any(|one| one.file == *file)
        });
    }

    /// Whether both are known to run the same content: the same file, untouched in between, or two of the same hash.
    pub fn are_same(&self, one: Generation, other: Generation) -> bool {
        let (Some(one), Some(other)) = (self.known.get(&one), self.known.get(&other)) else {
            return false;
        };
        one.file == other.file || one.has_content_of(other)
    }

    /// `differs`: the file at the path is another one by now.
    pub fn shown(&self, generation: Generation) -> Option<Value> {
        let known = self.known.get(&generation)?;
        let now = fs::metadata(&known.path);
        let is_untouched = now.is_ok_and(|now| stamp(&now) == known.file);
        Some(json!({
            "path": known.path.to_string_lossy(),
            "size": known.file.2,
            "modified": known.modified,
            "hash": known.hash,
            "differs": !is_untouched && !known.is_content_of(known.path.clone()),
        }))
    }

    fn add(&mut self, generation: Generation, path: PathBuf) {
        let known = self.identify(path);
        self.known.extend(known.map(|known| (generation, known)));
    }

    /// The file at this path, which is read from now on.
    pub fn identify(&mut self, path: PathBuf) -> Option<ProgramIdentity> {
        let (known, file) = ProgramIdentity::of(path)?;
        // a file that has not been touched since is not read again
        let same = self.known.values().find(|other| {
            let is_same = other.identity == known.identity;
            is_same && other.hash.is_some()
        });
        let hash = same.and_then(|same| same.hash.clone());
        if hash.is_none() {
            let hash = HashInProgress::of(file).ok();
            self.hashing.extend(hash.map(|hash| (known.file, hash)));
        }
        Some(ProgramIdentity { hash, ..known })
    }
}

impl Polled for Programs {
    /// At once, while something is left to be read.
    fn deadline(&self) -> Option<Time> {
        (!self.hashing.is_empty()).then_some(Time::ZERO)
    }
}

impl World {
    /// Notes what a new generation is about to run: what an earlier one ran, or what is on disk.
    pub(super) fn identify(&mut self, generation: Generation, earlier: Option<Generation>) {
        let known = &mut self.status_data.programs.known;
        if let Some(program) = earlier.and_then(|earlier| known.get(&earlier).cloned()) {
            known.insert(generation, program);
        } else if let Some(path) = self.path_of_program() {
            self.status_data.programs.add(generation, path);
        }
    }

    /// The file that changes from one version to the next: the program, or the script that an interpreter runs.
    pub(super) fn path_of_program(&self) -> Option<PathBuf> {
        let (command, arguments) = self.args.command.split_first()?;
        let chdir = self.args.chdir.as_deref();
        let program = program::find_in_own_path(command, chdir).ok()?;
        let script = advice::interpreter(&program).and_then(|_| advice::script(arguments, chdir));
        Some(script.unwrap_or(program))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::main_loop::identity::SHORT;

    #[test]
    fn a_program_is_hashed_piece_by_piece_and_told_from_its_successor() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("server");
        let size = 9 + (9 << 20);
        fs::write(&path, vec![7; size]).unwrap();
        let mut programs = Programs::default();
        programs.add(Generation(1), path.clone());
        let mut pieces = 0;
        while programs.deadline().is_some() {
            programs.hash_on();
            pieces += 1;
        }
        assert_eq!(pieces, 10);
        let shown = programs.shown(Generation(1)).unwrap();
        assert_eq!(shown["size"], size);
        assert_eq!(shown["hash"].as_str().map(str::len), Some(SHORT));
        assert_eq!(shown["differs"], false);
        fs::write(room.path().join("new"), "new").unwrap();
        fs::rename(room.path().join("new"), &path).unwrap();
        assert_eq!(programs.shown(Generation(1)).unwrap()["differs"], true);
        assert!(programs.shown(Generation(2)).is_none());
    }
}
