//! The directory of a unix socket: its name there, mode and owner, the lock, and the names beside it.
//!
//! It works through a descriptor of the directory, so that it stays the same wherever its path leads later.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::socket::UnixAddr;
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, linkat, unlinkat};
use serde::{Deserialize, Serialize};

use crate::handoff;
use crate::proc;
use crate::retry::retry;
use crate::socket::client::unix_client;
use crate::sys;

/// What is appended to a path for the names beside it; the number of the generation follows.
pub const BESIDE: &str = ".hotswap-";

/// A file, whatever its names: device and inode.
pub type FileId = (u64, u64);

#[derive(Serialize, Deserialize)]
pub struct UnixDir {
    #[serde(with = "handoff::descriptor")]
    directory: OwnedFd,
    #[serde(with = "handoff::os_string")]
    name: OsString,
    #[serde(with = "handoff::os_string")]
    path: PathBuf,
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
    /// `EADDRINUSE` if another hotswap has it or somebody answers there, `EEXIST` if it is no socket.
    pub fn take(path: &Path) -> io::Result<Self> {
        let mut dir = Self::of(path)?;
        dir.lock()?;
        dir.check_free()?;
        dir.sweep();
        Ok(dir)
    }

    /// The same where a server answers that has lost its hotswap.
    ///
    /// # Errors
    /// `EADDRINUSE` if another hotswap has it.
    pub fn take_over(path: &Path) -> io::Result<Self> {
        let mut dir = Self::of(path)?;
        dir.lock()?;
        dir.sweep();
        Ok(dir)
    }

    /// Where a path leads; nothing need be there but the directory.
    fn of(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Errno::EISDIR.into());
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = nix::fcntl::open(parent, flags, Mode::empty())?;
        Ok(Self {
            name: name.to_owned(),
            directory,
            path,
            lock: None,
        })
    }

    /// The same, by a descriptor of its directory; the path is only shown.
    pub fn within(directory: OwnedFd, name: OsString, path: PathBuf) -> Self {
        Self {
            directory,
            name,
            path,
            lock: None,
        }
    }

    /// Goes on in the directory that the path leads to now, if another has taken its place; these names come along as far
    /// as they still exist. Whether it is another one.
    ///
    /// # Errors
    /// If no directory is there, or another hotswap has the path in that one.
    pub fn follow(&mut self, names: &[OsString]) -> io::Result<bool> {
        let mut there = Self::of(&self.path)?;
        let (now, before) = (fstat(&there.directory)?, fstat(&self.directory)?);
        if file_id(&now) == file_id(&before) {
            return Ok(false);
        }
        if self.lock.is_some() {
            there.lock()?;
        }
        for name in names {
            let (from, to) = (&self.directory, &there.directory);
            let _ = linkat(
                from,
                name.as_os_str(),
                to,
                name.as_os_str(),
                AtFlags::empty(),
            );
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

    /// Whether it is that name in that directory.
    pub fn is_at(&self, directory: FileId, name: &OsStr) -> bool {
        self.name == name && fstat(&self.directory).is_ok_and(|found| file_id(&found) == directory)
    }

    /// The name of that number beside this one.
    pub fn beside(&self, number: u32) -> OsString {
        beside(&self.name, number)
    }

    pub fn path_of(&self, name: &OsStr) -> PathBuf {
        self.path.with_file_name(name)
    }

    fn with(&self, suffix: &str) -> OsString {
        let mut name = self.name.clone();
        name.push(suffix);
        name
    }

    /// Keeps every other hotswap away from the path for as long as this one lives.
    ///
    /// # Errors
    /// `EADDRINUSE` if another has it.
    fn lock(&mut self) -> io::Result<()> {
        let name = self.with(".lock");
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        loop {
            let file = openat(
                &self.directory,
                name.as_os_str(),
                flags,
                Mode::from_bits_truncate(0o600),
            )?;
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
    /// `EADDRINUSE` if somebody does, `EEXIST` if it is no socket.
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

    /// Removes what a killed hotswap has left beside the path; the caller has the lock.
    fn sweep(&self) {
        let prefix = self.with(BESIDE);
        let Ok(entries) = std::fs::read_dir(proc::path_of(&self.directory)) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if name.as_bytes().starts_with(prefix.as_bytes())
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

    /// Puts that file, under a name beside it, at the path: atomically, whatever was there.
    pub fn publish(&self, from: &OsStr) -> io::Result<()> {
        let passing = self.with(".hotswap-new");
        self.remove(&passing);
        match self.link(from, &passing) {
            Ok(()) => {}
            // a file system without hard links: then there is no cutting back
            Err(Errno::EPERM | Errno::EOPNOTSUPP | Errno::EMLINK) => {
                return Ok(renameat(
                    &self.directory,
                    from,
                    &self.directory,
                    self.name.as_os_str(),
                )?);
            }
            Err(error) => return Err(error.into()),
        }
        let renamed = renameat(
            &self.directory,
            passing.as_os_str(),
            &self.directory,
            self.name.as_os_str(),
        );
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

    /// Removes the path, if it is still this file.
    pub fn remove_if(&self, file: FileId) {
        if self.file(&self.name).is_ok_and(|there| there == file) {
            self.remove(&self.name);
        }
    }

    /// Gives what is under this name, a socket, to somebody, and a mode.
    pub fn set_mode_and_owner(
        &self,
        name: &OsStr,
        owner: Option<(Option<Uid>, Option<Gid>)>,
        mode: Option<u32>,
    ) -> io::Result<()> {
        // by a descriptor of the file itself: a name could lead elsewhere by the next call
        let file = self.open(name)?;
        let file = proc::path_of(&file);
        if let Some((user, group)) = owner {
            chown(&file, user.map(Uid::as_raw), group.map(Gid::as_raw))?;
        }
        if let Some(mode) = mode {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode))?;
        }
        Ok(())
    }

    /// Gives what is under `to` the owner and the mode of what is at the path, which its server may have changed.
    pub fn copy_mode_and_owner(&self, to: &OsStr) -> io::Result<()> {
        let Some(live) = self.stat(&self.name)?.filter(is_socket) else {
            return Ok(());
        };
        let Some(new) = self.stat(to)? else {
            return Err(Errno::ENOENT.into());
        };
        let owner = (live.st_uid, live.st_gid) != (new.st_uid, new.st_gid);
        let owner = owner.then_some((
            Some(Uid::from_raw(live.st_uid)),
            Some(Gid::from_raw(live.st_gid)),
        ));
        let mode = (live.st_mode != new.st_mode).then_some(live.st_mode & 0o7777);
        if owner.is_none() && mode.is_none() {
            return Ok(());
        }
        self.set_mode_and_owner(to, owner, mode)
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
        if self.lock.is_some() {
            // while it is locked, so that nobody's is removed but ours
            self.remove(&self.with(".lock"));
        }
    }
}

/// The name of that number beside a name.
pub fn beside(name: &OsStr, number: u32) -> OsString {
    let mut name = name.to_owned();
    name.push(format!("{BESIDE}{number}"));
    name
}

fn is_socket(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFSOCK
}

pub fn file_id(stat: &FileStat) -> FileId {
    (stat.st_dev, stat.st_ino)
}
