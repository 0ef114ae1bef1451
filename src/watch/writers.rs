//! Which files the server has written itself, as far as the kernel tells.
//!
//! Only directories in which something has changed before are asked about. Where hotswap may use fanotify(7), the kernel
//! names the process that writes. Elsewhere hotswap looks, as soon as a file event comes, at what the server has open for
//! writing: that sees a writer that takes its time, and misses one that is quicker.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::mem;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::AT_FDCWD;
use nix::sys::fanotify::{EventFFlags, Fanotify, FanotifyEvent, InitFlags, MarkFlags, MaskFlags};
use nix::sys::statfs::{BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, FsType, XFS_SUPER_MAGIC, statfs};
use nix::unistd::{Pid, getpid};

use crate::proc::process::{BytesWritten, Stat};
use crate::proc::{descriptor, status};
use crate::sys;
use crate::watch::completeness::FileIdentity;
use crate::watch::own_writes::{FileTime, nanoseconds};

/// At most this many directories are asked about; in any other, nobody knows who made a change.
const MOST_DIRECTORIES: usize = 256;
/// How many batches of events are read, and how many descriptors of the server are looked at, in one go.
const MOST_READS: usize = 64;
const MOST_DESCRIPTORS: usize = 2000;
/// More than wait to be judged at any time.
const MOST_FILES: usize = 4096;
/// How long after a write, in nanoseconds, the file is renamed into its place at the latest.
const RENAMED_AFTER: i64 = 100_000_000;
/// File systems on which the kernel counts what a process writes to a new file apart from what it writes to sockets.
const DISKS: [FsType; 3] = [EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KnownWriter {
    Server,
    SomebodyElse,
    Unknown,
}

/// Who has written a file since it was last judged.
#[derive(Clone, Copy, Debug, Default)]
struct WrittenBy {
    server: bool,
    others: bool,
}

/// Between these times the server was writing.
struct Writing {
    since: FileTime,
    until: FileTime,
    /// To files on a disk, too.
    to_disk: bool,
    /// How many bytes to anything, by the process that wrote most.
    bytes: u64,
}

#[derive(Default)]
pub struct Writers {
    group: Option<Fanotify>,
    /// Some directory gives no such events.
    is_blind: bool,
    /// The server may have other processes than when they were last asked for.
    is_stale: bool,
    directories: HashSet<PathBuf>,
    /// By device and inode.
    files: HashMap<(u64, u64), WrittenBy>,
    /// The server's processes, and those that it had before: what they wrote may be heard of when they are gone.
    servers: HashSet<Pid>,
    before: HashSet<Pid>,
    /// What each of them had written, and when that was seen; `None` for one that may not be looked into.
    written: HashMap<Pid, Option<BytesWritten>>,
    measured: Option<FileTime>,
    /// When they were writing, since all was judged.
    writing: Vec<Writing>,
}

impl Writers {
    /// From now on it is known who writes in this directory.
    pub fn ask_about(&mut self, directory: &Path) {
        if self.directories.len() >= MOST_DIRECTORIES && !self.directories.contains(directory) {
            return;
        }
        if self.directories.is_empty() {
            self.group = group();
        }
        self.directories.insert(directory.to_owned());
        // once more, too: it may be another directory by now
        let marked = self.group.as_ref().is_some_and(|group| {
            let mask = MaskFlags::FAN_MODIFY | MaskFlags::FAN_CLOSE_WRITE;
            let (add, mask) = (
                MarkFlags::FAN_MARK_ADD,
                mask | MaskFlags::FAN_EVENT_ON_CHILD,
            );
            group.mark(add, mask, AT_FDCWD, Some(directory)).is_ok()
        });
        self.is_blind |= !marked;
        self.is_stale = true;
    }

    /// A generation starts.
    pub fn starts(&mut self) {
        self.is_stale = true;
    }

    /// A file event has come: a writer may be done any moment.
    pub fn woken(&mut self) {
        if self.is_blind {
            self.look_at_descriptors();
        }
        self.is_stale |= !self.directories.is_empty();
    }

    /// Reads who has written since the last call. `servers` gives the processes of all generations.
    pub fn note(&mut self, servers: &dyn Fn() -> Vec<Pid>) {
        if mem::take(&mut self.is_stale) {
            self.refresh(servers);
            if self.is_blind && self.servers != self.before {
                self.look_at_descriptors();
            }
        }
        if !self.directories.is_empty() {
            self.measure();
        }
        for batch in 0..MOST_READS {
            let group = self.group.as_ref();
            let events = group.and_then(|group| group.read_events().ok());
            let Some(events) = events.filter(|events| !events.is_empty()) else {
                return;
            };
            if batch == 0 {
                self.refresh(servers);
            }
            for event in events {
                self.note_event(&event);
            }
        }
    }

    /// Notes whether the server has written since the last call; it may have, if it may not be looked into.
    fn measure(&mut self) {
        let now = sys::file_time();
        let servers = self.servers.iter();
        let written = servers.map(|pid| (*pid, BytesWritten::by(*pid))).collect();
        let before = mem::replace(&mut self.written, written);
        let most = |count: fn(BytesWritten) -> u64| {
            let each = self.written.iter().map(|(pid, written)| {
                let before = before.get(pid).copied().flatten().unwrap_or_default();
                written.map_or(u64::MAX, |now| count(now).saturating_sub(count(before)))
            });
            each.max().unwrap_or(0)
        };
        let to_disk = most(|bytes| bytes.to_disk) > 0;
        let bytes = most(|bytes| bytes.in_all);
        if let Some(since) = self.measured.filter(|_| to_disk || bytes > 0) {
            self.writing.push(Writing {
                since,
                until: now,
                to_disk,
                bytes,
            });
        }
        self.measured = Some(now);
    }

    /// Whether the server was writing at that moment, as far as is known, and may have written that number of bytes
    /// there.
    pub fn may_be_server(&self, moment: FileTime, directory: &Path, size: u64) -> bool {
        let is_disk = statfs(directory).is_ok_and(|found| DISKS.contains(&found.filesystem_type()));
        let may_be = |one: &Writing| {
            let is_then = one.since <= moment && nanoseconds(one.until, moment) <= RENAMED_AFTER;
            is_then && one.bytes >= size && (one.to_disk || !is_disk)
        };
        self.measured.is_none() || self.writing.iter().any(may_be)
    }

    fn refresh(&mut self, servers: &dyn Fn() -> Vec<Pid>) {
        self.before = mem::replace(&mut self.servers, servers().into_iter().collect());
        if self.files.len() > MOST_FILES {
            self.files.clear();
        }
    }

    fn note_event(&mut self, event: &FanotifyEvent) {
        let file = event.fd().and_then(|fd| fd.try_clone_to_owned().ok());
        let Some(metadata) = file.and_then(|file| File::from(file).metadata().ok()) else {
            return;
        };
        let writer = self.writer(Pid::from_raw(event.pid()));
        let file = (metadata.dev(), metadata.ino());
        let written = self.files.entry(file).or_default();
        written.server |= writer == KnownWriter::Server;
        written.others |= writer == KnownWriter::SomebodyElse;
    }

    fn writer(&self, pid: Pid) -> KnownWriter {
        if self.servers.contains(&pid) {
            return KnownWriter::Server;
        }
        match Stat::of(pid) {
            Some(_) => KnownWriter::SomebodyElse,
            None if self.before.contains(&pid) => KnownWriter::Server,
            // It is gone: perhaps a child of the server, perhaps an editor's.
            None => KnownWriter::Unknown,
        }
    }

    fn look_at_descriptors(&mut self) {
        let mut left = MOST_DESCRIPTORS;
        let is_asked_about = |path: &Path| {
            let directory = path.parent();
            directory.is_some_and(|directory| self.directories.contains(directory))
        };
        for pid in &self.servers {
            for found in descriptor::open_for_writing(*pid, &mut left, is_asked_about) {
                let file = (found.dev(), found.ino());
                self.files.entry(file).or_default().server = true;
            }
        }
    }

    /// Whether a writer may be missed.
    pub fn are_guessed(&self) -> bool {
        self.is_blind
    }

    /// Who has written it since the last call.
    pub fn take(&mut self, file: &FileIdentity) -> KnownWriter {
        match self.files.remove(&(file.dev, file.ino)) {
            Some(WrittenBy { others: true, .. }) => KnownWriter::SomebodyElse,
            Some(WrittenBy { server: true, .. }) => KnownWriter::Server,
            Some(_) | None => KnownWriter::Unknown,
        }
    }

    /// All that was written has been judged.
    pub fn forget(&mut self) {
        self.files.clear();
        self.writing.clear();
    }
}

/// `None` where hotswap may not use fanotify(7), or where a filter around it may kill it for the call.
fn group() -> Option<Fanotify> {
    if status::is_filtered(getpid()) {
        return None;
    }
    let flags = InitFlags::FAN_CLASS_NOTIF | InitFlags::FAN_CLOEXEC | InitFlags::FAN_NONBLOCK;
    let event_flags = EventFFlags::O_RDONLY | EventFFlags::O_CLOEXEC;
    Fanotify::init(flags, event_flags).ok()
}
