//! What makes a file safe to run: it is a regular file, executable, complete, and nobody is writing it.
//!
//! Nothing here has memory. Whether the file differs from the running one and has stopped changing is decided
//! elsewhere.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::unistd::{AccessFlags, Uid, eaccess};

use crate::file;
use crate::sys;
use crate::watch::elf::{ExecFormat, exec_format};

/// How long a file must stay unchanged where the kernel cannot say whether anybody is writing it.
pub const BLIND_SETTLE: Duration = Duration::from_millis(100);
/// The same for a file of another user, who may write it slowly.
pub const FOREIGN_SETTLE: Duration = Duration::from_secs(1);

/// Times are counted in ticks of up to 10 ms, in nanoseconds.
const YOUNG: i128 = 20_000_000;

/// A file as stat(2) sees it. ctime is part of it, which no tool can set; that it changes does not yet mean that the
/// content did, for cargo links a program anew even when a build fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileIdentity {
    pub dev: u64,
    pub ino: u64,
    pub size: u64,
    pub modified: (i64, i64),
    pub changed: (i64, i64),
}

impl FileIdentity {
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            dev: metadata.dev(),
            ino: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// `None` where no file is, or none that can be looked at.
    pub fn at(path: &Path) -> Option<Self> {
        Some(Self::of(&path.metadata().ok()?))
    }

    /// A link by where it leads, however often it is made anew.
    pub fn of_link(path: &Path, metadata: &Metadata) -> Self {
        let (dev, ino) = match path.metadata() {
            Ok(target) => (target.dev(), target.ino()),
            Err(_) => (metadata.dev(), metadata.ino()),
        };
        Self {
            dev,
            ino,
            size: 0,
            modified: (0, 0),
            changed: (0, 0),
        }
    }

    /// Whether it was changed so lately that another change could leave the same times.
    pub fn is_young(&self) -> bool {
        let (seconds, nanoseconds) = sys::wall_time();
        let age = i128::from(seconds - self.changed.0) * 1_000_000_000
            + i128::from(nanoseconds - self.changed.1);
        age < YOUNG
    }
}

/// Whether a process has a file open for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    Nobody,
    Somebody,
    /// The file belongs to another user.
    NotOurs,
    /// Its file system has no leases.
    CannotTell,
}

/// Takes a read lease (fcntl(2), `F_SETLEASE`) and releases it at once.
pub fn writer(file: &File) -> Writer {
    match sys::set_lease(file.as_fd(), libc::F_RDLCK) {
        Ok(()) => {
            // If this fails, the lease ends with the descriptor.
            let _ = sys::set_lease(file.as_fd(), libc::F_UNLCK);
            Writer::Nobody
        }
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Writer::Somebody,
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => Writer::NotOurs,
        Err(_) => Writer::CannotTell,
    }
}

/// What the gates say about one file at one moment.
pub enum Completeness {
    Open(CompleteFile),
    /// Somebody is writing it: wait until they are done.
    Written,
    /// Only a change to the file can open the gate. `certain` if it is known that nobody is writing it.
    Shut {
        why: String,
        certain: bool,
    },
}

/// A file that may be run or read.
pub struct CompleteFile {
    pub identity: FileIdentity,
    /// `None` if hotswap may not read it.
    pub file: Option<File>,
    /// Nobody, as far as can be told.
    pub writer: Writer,
}

fn shut(why: &str) -> Completeness {
    Completeness::Shut {
        why: why.into(),
        certain: true,
    }
}

/// The gates of a file that is only read: it is a regular file, and nobody is writing it.
pub fn plain(path: &Path, metadata: &Metadata) -> Completeness {
    if metadata.is_dir() {
        return shut("is a directory");
    }
    if !metadata.is_file() {
        return shut("is not a regular file");
    }
    let file = match file::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let identity = FileIdentity::of(metadata);
            return Completeness::Open(CompleteFile {
                identity,
                file: None,
                writer: Writer::NotOurs,
            });
        }
        Err(error) => return shut(&format!("cannot be read: {error}")),
    };
    let writer = writer(&file);
    match file.metadata() {
        Ok(metadata) if writer != Writer::Somebody => Completeness::Open(CompleteFile {
            identity: FileIdentity::of(&metadata),
            file: Some(file),
            writer,
        }),
        Ok(_) => Completeness::Written,
        Err(error) => shut(&format!("cannot be read: {error}")),
    }
}

/// Who executes a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RunsAs {
    #[default]
    Hotswap,
    User(Uid),
    /// What a launcher makes of it.
    Somebody,
}

/// How a program is executed.
#[derive(Clone, Copy, Debug, Default)]
pub struct HowRun {
    /// The form of the running program: what execve(2) accepted once, it accepts again.
    pub usual: Option<ExecFormat>,
    pub runs_as: RunsAs,
}

impl HowRun {
    /// A user who does not own the file may have a right that only the group or a list shows.
    fn is_allowed(self, path: &Path, metadata: &Metadata) -> bool {
        let right = match self.runs_as {
            RunsAs::Hotswap => return eaccess(path, AccessFlags::X_OK).is_ok(),
            RunsAs::User(user) if user.is_root() => 0o111,
            RunsAs::User(user) if user.as_raw() == metadata.uid() => 0o100,
            RunsAs::User(_) => 0o011,
            RunsAs::Somebody => 0o111,
        };
        metadata.mode() & right != 0
    }
}

/// The gates of a program, which must also be executable and complete.
pub fn program(path: &Path, metadata: &Metadata, how_run: HowRun) -> Completeness {
    if metadata.is_file() && !how_run.is_allowed(path, metadata) {
        return shut("is not executable");
    }
    let gate = plain(path, metadata);
    let Completeness::Open(CompleteFile {
        identity,
        file: Some(file),
        writer,
    }) = &gate
    else {
        return gate;
    };
    let why = match exec_format(file, identity.size) {
        Ok(ExecFormat::Script | ExecFormat::Whole) => return gate,
        Ok(ExecFormat::Torn) => "is not complete".into(),
        Ok(format) if how_run.usual == Some(format) => return gate,
        Ok(ExecFormat::Loadable) => {
            "is not complete: its section headers lie beyond its end".into()
        }
        Ok(ExecFormat::Foreign) => "is neither an ELF program nor a script with #!".into(),
        Err(error) => format!("cannot be read: {error}"),
    };
    Completeness::Shut {
        why,
        certain: *writer == Writer::Nobody,
    }
}

/// The form of the program at `path`, if execve(2) may have accepted it.
pub fn exec_format_at(path: &Path) -> Option<ExecFormat> {
    let file = file::open(path).ok()?;
    let metadata = file.metadata().ok().filter(Metadata::is_file)?;
    let format = exec_format(&file, metadata.len()).ok();
    format.filter(|&format| format != ExecFormat::Torn)
}

/// Whether a requested swap may run the program as it is.
#[derive(Debug, PartialEq, Eq)]
pub enum Fitness {
    Fit,
    /// Ask again soon.
    BeingWritten,
    /// Why it cannot be run.
    Unfit(String),
}

/// Applies the gates without comparing the file to the running one. The reason is a sentence without its subject, the
/// file.
pub fn fitness(path: &Path, how_run: HowRun) -> Fitness {
    let metadata = match path.metadata() {
        Ok(metadata) => metadata,
        Err(error) => return Fitness::Unfit(format!("cannot be run: {error}")),
    };
    match program(path, &metadata, how_run) {
        Completeness::Written => Fitness::BeingWritten,
        Completeness::Open(CompleteFile {
            writer: Writer::NotOurs,
            ..
        }) if !has_been_quiet(&metadata, FOREIGN_SETTLE) => Fitness::BeingWritten,
        Completeness::Open(CompleteFile {
            writer: Writer::CannotTell,
            ..
        })
        | Completeness::Shut { certain: false, .. }
            if !has_been_quiet(&metadata, BLIND_SETTLE) =>
        {
            Fitness::BeingWritten
        }
        Completeness::Open(_) => Fitness::Fit,
        Completeness::Shut { why, .. } => Fitness::Unfit(why),
    }
}

/// Judges by ctime, which no tool can set. If the clock is behind it (a network file system), nothing is known.
fn has_been_quiet(metadata: &Metadata, long_enough: Duration) -> bool {
    let nanoseconds = u32::try_from(metadata.ctime_nsec()).unwrap_or(0);
    let changed = Duration::new(u64::try_from(metadata.ctime()).unwrap_or(0), nanoseconds);
    SystemTime::UNIX_EPOCH.elapsed().is_ok_and(|now| {
        now.checked_sub(changed)
            .is_none_or(|quiet| quiet >= long_enough)
    })
}
