//! Which program each generation runs: its path, size, time and a short hash, read piece by piece between other work.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::World;
use crate::polled::Polled;
use crate::program;
use crate::supervisor::{Generation, ProgramChoice, Time};
use crate::watch::content_hash::{HashInProgress, HashProgress};
use crate::watch::{FileIdentity, advice};

/// Digits of the hash that are shown.
const SHORT: usize = 12;

/// A program file as it was when a generation was started.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct ProgramIdentity {
    #[serde(with = "crate::handoff::os_string")]
    path: PathBuf,
    file: FileStamp,
    modified: String,
    hash: Option<String>,
    #[serde(skip)]
    identity: Option<FileIdentity>,
}

/// Device, inode, size and modification time.
type FileStamp = (u64, u64, u64, i64, i64);

fn stamp(metadata: &Metadata) -> FileStamp {
    let time = (metadata.mtime(), metadata.mtime_nsec());
    (
        metadata.dev(),
        metadata.ino(),
        metadata.size(),
        time.0,
        time.1,
    )
}

/// The programs of the generations that live or can be had back.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Programs {
    known: BTreeMap<Generation, ProgramIdentity>,
    #[serde(skip)]
    hashing: Vec<(Generation, HashInProgress)>,
}

impl Programs {
    /// Reads one more piece.
    pub fn hash_on(&mut self) {
        let Some((generation, hash)) = self.hashing.pop() else {
            return;
        };
        match hash.go_on() {
            HashProgress::More(hash) => self.hashing.push((generation, hash)),
            HashProgress::Done(hash) => {
                if let Some(known) = self.known.get_mut(&generation) {
                    known.hash = Some(format!("{hash:016x}")[..SHORT].to_owned());
                }
            }
            HashProgress::Lost => {}
        }
    }

    pub fn retain(&mut self, is_wanted: impl Fn(Generation) -> bool) {
        self.known.retain(|generation, _| is_wanted(*generation));
        self.hashing
            .retain(|(generation, _)| is_wanted(*generation));
    }

    /// Whether both are known to run the same content: the same file, untouched in between, or two of the same hash.
    pub fn are_same(&self, one: Generation, other: Generation) -> bool {
        let (Some(one), Some(other)) = (self.known.get(&one), self.known.get(&other)) else {
            return false;
        };
        let is_hash_same = one.hash.is_some() && one.hash == other.hash;
        one.file == other.file || (is_hash_same && one.file.2 == other.file.2)
    }

    /// `differs`: the file at the path is another one by now.
    pub fn shown(&self, generation: Generation) -> Option<Value> {
        let known = self.known.get(&generation)?;
        let now = fs::metadata(&known.path).ok();
        Some(json!({
            "path": known.path.to_string_lossy(),
            "size": known.file.2,
            "modified": known.modified,
            "hash": known.hash,
            "differs": now.is_none_or(|now| stamp(&now) != known.file),
        }))
    }

    fn add(&mut self, generation: Generation, path: PathBuf) {
        let Ok(file) = File::open(&path) else {
            return;
        };
        let Some((metadata, modified)) = file
            .metadata()
            .ok()
            .filter(Metadata::is_file)
            .and_then(|metadata| Some((metadata.clone(), metadata.modified().ok()?)))
        else {
            return;
        };
        let known = ProgramIdentity {
            path: std::path::absolute(&path).unwrap_or(path),
            file: stamp(&metadata),
            modified: humantime::format_rfc3339_seconds(modified).to_string(),
            hash: None,
            identity: Some(FileIdentity::of(&metadata)),
        };
        // a file that has not been touched since is not read again
        let same = self.known.values().find(|other| {
            let is_same = other.identity == known.identity;
            is_same && other.hash.is_some()
        });
        let hash = same.and_then(|same| same.hash.clone());
        if hash.is_none() {
            let hash = HashInProgress::of(file).ok();
            self.hashing.extend(hash.map(|hash| (generation, hash)));
        }
        self.known
            .insert(generation, ProgramIdentity { hash, ..known });
    }
}

impl Polled for Programs {
    /// At once, while something is left to be read.
    fn deadline(&self) -> Option<Time> {
        (!self.hashing.is_empty()).then_some(Time::ZERO)
    }
}

impl World {
    /// Notes what a new generation is about to run.
    pub(super) fn identify(&mut self, generation: Generation, choice: ProgramChoice) {
        let programs = &mut self.status_data.programs;
        if let ProgramChoice::Of(good) = choice
            && let Some(known) = programs.known.get(&good).cloned()
        {
            programs.known.insert(generation, known);
            return;
        }
        let Some((command, arguments)) = self.args.command.split_first() else {
            return;
        };
        let path = std::env::var_os("PATH");
        let chdir = self.args.chdir.as_deref();
        let Ok(program) = program::find(command, chdir, path.as_deref()) else {
            return;
        };
        // what an interpreter runs is what changes from one version to the next
        let script = advice::interpreter(&program).and_then(|_| advice::script(arguments, chdir));
        programs.add(generation, script.unwrap_or(program));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
