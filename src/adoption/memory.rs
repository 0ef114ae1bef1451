//! The file beside the control socket in which hotswap remembers its generations, for the case that it is killed.
//!
//! It is locked as long as its hotswap lives, be it stopped: only who gets the lock may adopt. Each change is one write of
//! the whole file, so that a kill meanwhile leaves the old content or the new.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{Uid, getpid};
use serde::{Deserialize, Serialize};

use crate::proc;
use crate::proc::process::namespace;
use crate::retry::{retry, retry_while_blocked};
use crate::server::Traces;
use crate::supervisor::Generation;
use crate::{handoff, sys};

/// How long to wait for the lock: one that was killed lets go of its sockets first.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// Who a hotswap is, so that no other takes over what it has left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub name: String,
    /// As given, and the directory as hotswap was started in it.
    pub command: Vec<Vec<u8>>,
    pub directory: Vec<u8>,
    /// Pids mean nothing after a start of the machine, or in another pid namespace.
    machine: Option<String>,
    namespace: Option<PathBuf>,
}

impl Identity {
    pub fn new(name: &str, command: Vec<Vec<u8>>, directory: Vec<u8>) -> Self {
        Self {
            name: name.to_owned(),
            command,
            directory,
            machine: proc::boot(),
            namespace: namespace(getpid(), "pid"),
        }
    }

    /// Whether pids mean the same to both.
    pub fn is_of_this_machine(&self, ours: &Self) -> bool {
        self.machine == ours.machine && self.namespace == ours.namespace
    }
}

/// What is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    pub identity: Identity,
    pub serving: Option<Generation>,
    pub generations: Vec<Traces>,
    /// The addresses of `--listen`.
    pub listening: Vec<String>,
    /// The unix paths that clients come by.
    pub paths: Vec<Vec<u8>>,
    /// The addresses that were hotswap's, all but those paths.
    #[serde(default)]
    pub owned: Option<Vec<String>>,
    /// What others of this name have left, which only a hotswap of their command and directory may adopt.
    #[serde(default)]
    pub others: Vec<Remembered>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Memory {
    #[serde(with = "handoff::descriptor")]
    file: File,
    #[serde(with = "handoff::os_string")]
    path: PathBuf,
    #[serde(skip)]
    written: Option<Remembered>,
    #[serde(default)]
    others: Vec<Remembered>,
    length: usize,
}

/// The file beside a control socket.
fn beside(control: &Path) -> PathBuf {
    let mut path = control.as_os_str().to_owned();
    path.push(".state");
    PathBuf::from(path)
}

/// What is remembered beside this control socket, by a hotswap that may live.
pub fn remembered_beside(control: &Path) -> Vec<Remembered> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(beside(control));
    file.map(|mut file| read(&mut file)).unwrap_or_default()
}

impl Memory {
    /// The file that belongs to this control socket, and what it says, each with its own identity.
    ///
    /// # Errors
    /// `WouldBlock` if a living hotswap has it; those of open(2).
    pub fn open(control: &Path) -> io::Result<(Self, Vec<Remembered>)> {
        let path = beside(control);
        let mut file = retry_while_blocked(LOCK_PATIENCE, || {
            let file = open(&path)?;
            sys::lock(file.as_fd())?;
            // the one before may have removed it just then
            let is_it = is_at(&file, &path);
            is_it.then_some(file).ok_or(ErrorKind::WouldBlock.into())
        })?;
        let remembered = read(&mut file);
        let length = retry(|| file.metadata())?.len();
        let length = usize::try_from(length).unwrap_or(0);
        let memory = Self {
            file,
            path,
            written: None,
            others: Vec::new(),
            length,
        };
        Ok((memory, remembered))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the file again if somebody has removed it: whether it was, and is to be written anew.
    ///
    /// # Errors
    /// `WouldBlock` if another hotswap has one there by now; those of open(2).
    pub fn repair(&mut self) -> io::Result<bool> {
        if is_at(&self.file, &self.path) {
            return Ok(false);
        }
        let file = open(&self.path)?;
        sys::lock(file.as_fd())?;
        self.length = usize::try_from(file.metadata()?.len()).unwrap_or(0);
        self.file = file;
        self.written = None;
        Ok(true)
    }

    /// What is left alone, and written down as long as it lives.
    pub fn keep(&mut self, others: Vec<Remembered>) {
        self.others = others;
    }

    /// Writes it down if it is new.
    ///
    /// # Errors
    /// Those of open(2) and write(2).
    pub fn write(&mut self, mut remembered: Remembered) -> io::Result<()> {
        remembered.others.clone_from(&self.others);
        if self.written.as_ref() == Some(&remembered) {
            return Ok(());
        }
        let mut text = serde_json::to_vec(&remembered)?;
        // what was longer is covered with spaces: a second call could be one too late
        self.length = self.length.max(text.len());
        text.resize(self.length, b' ');
        self.file.write_all_at(&text, 0)?;
        self.written = Some(remembered);
        Ok(())
    }

    /// There is nothing of its own to adopt. What others have left is still written down.
    pub fn end(mut self, lives: impl Fn(&Remembered) -> bool) {
        self.others.retain(lives);
        if let Some(other) = self.others.pop() {
            let _ = self.write(other);
        } else if is_at(&self.file, &self.path) {
            let _ = retry(|| fs::remove_file(&self.path));
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)
}

fn is_at(file: &File, path: &Path) -> bool {
    let identity = |found: fs::Metadata| (found.dev(), found.ino());
    let there = retry(|| fs::symlink_metadata(path)).map(identity);
    there.is_ok() && there.ok() == retry(|| file.metadata()).map(identity).ok()
}

/// Only what hotswap of the same user has written, and could be true here and now.
fn read(file: &mut File) -> Vec<Remembered> {
    let Ok(found) = file.metadata() else {
        return Vec::new();
    };
    let mut text = Vec::new();
    if found.uid() != Uid::effective().as_raw()
        || !found.is_file()
        || file.read_to_end(&mut text).is_err()
    {
        return Vec::new();
    }
    let Ok(mut last) = serde_json::from_slice::<Remembered>(&text) else {
        return Vec::new();
    };
    let mut all = std::mem::take(&mut last.others);
    all.insert(0, last);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn a_file_of_any_content_is_opened_and_written(bytes: Vec<u8>, key in "identity|serving|generations|paths", value in "null|\\[\\]|-?[0-9]{1,20}|\\{\\}") {
            let directory = tempfile::tempdir().unwrap();
            let control = directory.path().join("api.sock");
            for content in [bytes.as_slice(), format!("{{\"{key}\":{value}}}").as_bytes()] {
                fs::write(directory.path().join("api.sock.state"), content).unwrap();
                let (mut memory, remembered) = Memory::open(&control).unwrap();
                proptest::prop_assert_eq!(remembered, Vec::new());
                let new = Remembered {
                    identity: Identity::new("api", Vec::new(), Vec::new()),
                    serving: None,
                    generations: Vec::new(),
                    listening: Vec::new(),
                    paths: Vec::new(),
                    owned: None,
                    others: Vec::new(),
                };
                let other = Remembered { serving: Some(Generation(7)), ..new.clone() };
                memory.keep(vec![other.clone()]);
                memory.write(new.clone()).unwrap();
                drop(memory);
                let (mut memory, remembered) = Memory::open(&control).unwrap();
                proptest::prop_assert_eq!(remembered, vec![new, other.clone()]);
                memory.keep(vec![other.clone()]);
                memory.end(|_| true);
                let (memory, remembered) = Memory::open(&control).unwrap();
                proptest::prop_assert_eq!(remembered, vec![other]);
                memory.end(|_| true);
                proptest::prop_assert!(!directory.path().join("api.sock.state").exists());
            }
        }
    }
}
