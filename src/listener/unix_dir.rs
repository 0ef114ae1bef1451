//! The directory of a unix socket: its name there, mode and owner, the lock, and the names beside it.
//!
//! It works through a descriptor of the directory, so that it stays the same wherever its path leads later.

mod attributes;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirEntryExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::socket::UnixAddr;
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};
use serde::{Deserialize, Serialize};

use super::beside::{beside, numbers_beside};
use crate::handoff;
use crate::proc;
use crate::retry::retry;
use crate::socket::client::unix_client;
use crate::sys;
pub use attributes::Attributes;

/// A file, whatever its names: device and inode.
pub type FileId = (u64, u64);

/// What is at a path instead of the socket that clients are to reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LedTo {
    Nothing,
    Socket,
    File,
}

impl LedTo {
    /// What a swap needs to bind a socket there.
    pub fn first(self) -> &'static str {
        match self {
            Self::Nothing => ", if its directory is there",
            Self::Socket => "",
            Self::File => ", once that file is out of the way",
        }
    }
}

impl fmt::Display for LedTo {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "nothing",
            Self::Socket => "another socket",
            Self::File => "a file that is not a socket",
        })
    }
}

#[derive(Serialize, Deserialize)]
pub struct UnixDir {
    #[serde(with = "handoff::descriptor")]
    directory: OwnedFd,
    #[serde(with = "handoff::os_string")]
    name: OsString,
    #[serde(with = "handoff::os_string")]
    path: PathBuf,
    /// Other names of what is at the path, to which servers have renamed it; found again after an upgrade.
    #[serde(skip)]
    aliases: Vec<OsString>,
    /// How many names the file had when it was last looked for others.
    #[serde(skip)]
    names_seen: usize,
    /// It stays locked across an upgrade, since the lock belongs to the open file.
    #[serde(with = "handoff::optional_descriptor")]
    lock: Option<OwnedFd>,
}

impl UnixDir {
    /// A path to the directory, wherever it is by now.
    pub fn here(&self) -> PathBuf {
        proc::path_of(&self.directory)
    }

    /// Takes the path: no other hotswap has it, nobody answers there, and what a killed hotswap has left beside it is removed.
    ///
    /// # Errors
    /// `EADDRINUSE` if another hotswap has it or somebody answers there, `EEXIST` if it is not a socket.
    pub fn take(path: &Path) -> io::Result<Self> {
        let mut dir = Self::of(path)?;
        dir.lock()?;
        // before anything is removed: another hotswap may have captured the path, without the lock
        dir.check_free()?;
        dir.sweep(|_| false);
        Ok(dir)
    }

    /// The same where a server answers that has lost its hotswap.
    ///
    /// # Errors
    /// `EADDRINUSE` if another hotswap has it.
    pub fn take_over(path: &Path) -> io::Result<Self> {
        let mut dir = Self::of(path)?;
        dir.lock()?;
        dir.sweep(|_| false);
        Ok(dir)
    }

    /// Where a path leads; nothing need be there but the directory.
    pub fn of(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        let (directory, name) = open_parent(&path)?;
        Ok(Self::within(directory, name, path))
    }

    /// The same, by a descriptor of its directory; the path is only shown.
    pub fn within(directory: OwnedFd, name: OsString, path: PathBuf) -> Self {
        Self {
            directory,
            name,
            path,
            aliases: Vec::new(),
            names_seen: 0,
            lock: None,
        }
    }

    /// Goes on in the directory that the path leads to now, if another has taken its place; these names come along as far
    /// as they still exist. Whether it is another one.
    ///
    /// # Errors
    /// If no directory is there, or another hotswap has the path in that one.
    pub fn follow(&mut self, names: &[OsString]) -> io::Result<bool> {
        let (directory, _) = open_parent(&self.path)?;
        self.enter(directory, names)
    }

    /// The same with a directory that a server has found at the path.
    ///
    /// # Errors
    /// If another hotswap has the path there.
    pub fn enter(&mut self, directory: OwnedFd, names: &[OsString]) -> io::Result<bool> {
        if file_id(&fstat(&directory)?) == self.id()? {
            return Ok(false);
        }
        let mut there = Self::within(directory, self.name.clone(), self.path.clone());
        there.aliases.clone_from(&self.aliases);
        if self.lock.is_some() {
            there.lock()?;
        }
        for name in names {
            let (from, to) = (&self.directory, &there.directory);
            let (name, flags) = (name.as_os_str(), AtFlags::empty());
            if linkat(from, name, to, name, flags).is_ok() {
                self.remove(name);
            }
        }
        std::mem::swap(self, &mut there);
        Ok(true)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn name(&self) -> &OsStr {
        &self.name
    }

    /// The name at the path, and those to which servers have renamed what was there.
    pub fn names(&self) -> impl Iterator<Item = &OsStr> {
        let aliases = self.aliases.iter().map(OsString::as_os_str);
        [self.name.as_os_str()].into_iter().chain(aliases)
    }

    /// Looks for other names of this file, which is at the path, or was, and has that name beside it.
    pub fn find_aliases(&mut self, file: FileId, beside: &OsStr) {
        let known = self.names().chain([beside]);
        let known: Vec<_> = known.filter(|name| self.has(name, file)).collect();
        let Some(stat) = known.first().and_then(|name| self.stat(name).ok()?) else {
            return;
        };
        // its type is another on aarch64
        let names = usize::try_from(stat.st_nlink).unwrap_or(usize::MAX);
        if names <= known.len() || names == self.names_seen {
            return;
        }
        let entries = std::fs::read_dir(self.here()).into_iter().flatten();
        let same = entries.flatten().filter(|entry| entry.ino() == file.1);
        let same = same.map(|entry| entry.file_name());
        let new = same.filter(|name| !known.contains(&name.as_os_str()) && self.has(name, file));
        let new: Vec<_> = new.collect();
        self.aliases.extend(new);
        self.names_seen = names;
    }

    /// Whether it is one of its names in that directory.
    pub fn is_at(&self, directory: FileId, name: &OsStr) -> bool {
        self.names().any(|own| own == name) && self.id().is_ok_and(|own| own == directory)
    }

    /// The directory itself.
    pub fn id(&self) -> io::Result<FileId> {
        Ok(file_id(&fstat(&self.directory)?))
    }

    /// The name of that number beside this one, or as that word.
    pub fn beside(&self, which: impl fmt::Display) -> OsString {
        beside(&self.name, which)
    }

    /// The name of that number beside this one, or the next on which nobody answers; what was left there is removed.
    pub fn free_beside(&self, number: u32) -> OsString {
        let is_taken =
            |name: &OsString| self.file(name).is_ok() && !self.is_stale(name).unwrap_or(false);
        let mut names = numbers_beside(number).map(|number| self.beside(number));
        let free = names.find(|name| !is_taken(name));
        let free = free.unwrap_or_else(|| self.beside(number));
        self.remove(&free);
        free
    }

    pub fn path_of(&self, name: &OsStr) -> PathBuf {
        self.path.with_file_name(name)
    }

    fn name_of_lock(&self) -> OsString {
        let mut name = self.name.clone();
        name.push(".lock");
        name
    }

    /// Keeps every other hotswap away from the path for as long as this one lives.
    ///
    /// # Errors
    /// `EADDRINUSE` if another has it.
    fn lock(&mut self) -> io::Result<()> {
        let name = self.name_of_lock();
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        loop {
            let mode = Mode::from_bits_truncate(0o600);
            let file = openat(&self.directory, name.as_os_str(), flags, mode)?;
            let opened = file_id(&retry(|| fstat(&file))?);
            match sys::lock(file.as_fd()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(Errno::EADDRINUSE.into());
                }
                result => result?,
            }
            // the previous holder removed the file when it ended
            if self.stat(&name)?.as_ref().map(file_id) == Some(opened) {
                self.lock = Some(file);
                return Ok(());
            }
        }
    }

    /// Whether the path is free, or nobody answers on the socket there.
    ///
    /// # Errors
    /// `EADDRINUSE` if somebody does, `EEXIST` if it is not a socket.
    fn check_free(&self) -> io::Result<()> {
        match self.stat(&self.name)? {
            None => Ok(()),
            Some(stat) if !is_socket(&stat) => Err(Errno::EEXIST.into()),
            Some(_) if self.is_stale(&self.name)? => Ok(()),
            Some(_) => Err(Errno::EADDRINUSE.into()),
        }
    }

    fn is_stale(&self, name: &OsStr) -> io::Result<bool> {
        match unix_client(&UnixAddr::new(&self.path_of(name))?) {
            Ok(_) => Ok(false),
            Err(error) => match error.raw_os_error() {
                Some(libc::ECONNREFUSED) => Ok(true),
                Some(libc::EAGAIN | libc::EPROTOTYPE) => Ok(false),
                _ => Err(error),
            },
        }
    }

    /// Removes what a killed hotswap has left beside the path, and nobody answers on; the caller has the lock.
    pub fn sweep(&self, is_known: impl Fn(&OsStr) -> bool) {
        let prefix = self.beside("");
        let Ok(entries) = std::fs::read_dir(proc::path_of(&self.directory)) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if name.as_bytes().starts_with(prefix.as_bytes())
                && !is_known(&name)
                && self.is_stale(&name).unwrap_or(false)
            {
                self.remove(&name);
            }
        }
    }

    /// What is there under this name.
    pub fn file(&self, name: &OsStr) -> io::Result<FileId> {
        let stat = self.stat(name)?.filter(is_socket).ok_or(Errno::ENOENT)?;
        Ok(file_id(&stat))
    }

    /// Whether nothing is at the path.
    pub fn is_free(&self) -> bool {
        self.stat(&self.name).is_ok_and(|there| there.is_none())
    }

    /// Whether this file has that name here.
    pub fn has(&self, name: &OsStr, file: FileId) -> bool {
        self.file(name).is_ok_and(|there| there == file)
    }

    /// What the path leads to, if that is not this file.
    pub fn led_to_instead(&self, file: FileId) -> Option<LedTo> {
        match std::fs::symlink_metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) == file => None,
            Ok(found) if found.file_type().is_socket() => Some(LedTo::Socket),
            Ok(_) => Some(LedTo::File),
            Err(_) => Some(LedTo::Nothing),
        }
    }

    /// Puts that file, under a name beside it, at one of its names: atomically, whatever was there.
    pub fn publish(&self, from: &OsStr, at: &OsStr) -> io::Result<()> {
        let passing = self.beside("new");
        self.remove(&passing);
        match self.link(from, &passing) {
            Ok(()) => {}
            // a file system without hard links: then there is no cutting back
            Err(Errno::EPERM | Errno::EOPNOTSUPP | Errno::EMLINK) => {
                return Ok(renameat(&self.directory, from, &self.directory, at)?);
            }
            Err(error) => return Err(error.into()),
        }
        let renamed = renameat(&self.directory, passing.as_os_str(), &self.directory, at);
        // it stays if both were the same file before
        self.remove(&passing);
        Ok(renamed?)
    }

    pub fn link(&self, from: &OsStr, to: &OsStr) -> nix::Result<()> {
        linkat(&self.directory, from, &self.directory, to, AtFlags::empty())
    }

    pub fn remove(&self, name: &OsStr) {
        let _ = retry(|| unlinkat(&self.directory, name, UnlinkatFlags::NoRemoveDir));
    }

    /// The same, if it is still this file.
    pub fn remove_if(&self, name: &OsStr, file: FileId) {
        if self.has(name, file) {
            self.remove(name);
        }
    }

    fn open(&self, name: &OsStr) -> io::Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&self.directory, name, flags, Mode::empty())?;
        if is_socket(&fstat(&file)?) {
            Ok(file)
        } else {
            Err(Errno::ENOTSOCK.into())
        }
    }

    fn stat(&self, name: &OsStr) -> io::Result<Option<FileStat>> {
        match retry(|| fstatat(&self.directory, name, AtFlags::AT_SYMLINK_NOFOLLOW)) {
            Ok(stat) => Ok(Some(stat)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Drop for UnixDir {
    fn drop(&mut self) {
        if self.lock.is_some() && !handoff::may_go_back() {
            // while it is locked, so that nobody's is removed but ours
            self.remove(&self.name_of_lock());
        }
    }
}

/// The directory that a path leads to, and the name there.
fn open_parent(path: &Path) -> io::Result<(OwnedFd, OsString)> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::EISDIR.into());
    };
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let directory = nix::fcntl::open(parent, flags, Mode::empty())?;
    Ok((directory, name.to_owned()))
}

fn is_socket(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFSOCK
}

pub fn file_id(stat: &FileStat) -> FileId {
    (stat.st_dev, stat.st_ino)
}
