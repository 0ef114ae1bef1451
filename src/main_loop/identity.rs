//! Which program a file is: its path, size, time and a short hash.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::file;
use crate::watch::FileIdentity;
use crate::watch::content_hash::{HashInProgress, HashProgress};

/// Digits of the hash that are shown.
pub(super) const SHORT: usize = 12;

/// Of the year 9999.
const LAST_SECOND: u64 = 253_402_300_799;

/// A program file as it was when a generation was started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ProgramIdentity {
    #[serde(with = "crate::handoff::os_string")]
    pub path: PathBuf,
    pub file: FileStamp,
    pub modified: String,
    pub hash: Option<String>,
    #[serde(skip)]
    pub identity: Option<FileIdentity>,
}

impl ProgramIdentity {
    /// Of the file at this path, and the file itself.
    pub fn of(path: PathBuf) -> Option<(Self, File)> {
        let file = file::open(&path).ok()?;
        let metadata = file.metadata().ok().filter(Metadata::is_file)?;
        let modified = metadata.modified().ok()?;
        let known = Self {
            path: std::path::absolute(&path).unwrap_or(path),
            file: stamp(&metadata),
            modified: written(modified),
            hash: None,
            identity: Some(FileIdentity::of(&metadata)),
        };
        Some((known, file))
    }

    /// The same file, untouched in between, or the same content in another one.
    pub fn is_same(&self, other: &Self) -> bool {
        let are_known = self.identity.is_some() && other.identity.is_some();
        let is_untouched = !are_known || self.identity == other.identity;
        (self.file == other.file && is_untouched) || self.has_content_of(other)
    }

    pub fn has_size_of(&self, other: &Self) -> bool {
        self.file.2 == other.file.2
    }

    pub fn has_content_of(&self, other: &Self) -> bool {
        let is_hash_same = self.hash.is_some() && self.hash == other.hash;
        is_hash_same && self.has_size_of(other)
    }

    /// Whether the file at this path has it, too: it is read if it has the same size.
    pub fn is_content_of(&self, path: PathBuf) -> bool {
        let now = Self::of(path).filter(|(now, _)| now.has_size_of(self));
        now.is_some_and(|(mut now, file)| {
            now.read(file);
            now.has_content_of(self)
        })
    }

    /// Reads the whole file: only where the answer is needed at once.
    pub fn read(&mut self, file: File) {
        let mut hash = HashInProgress::of(file).ok();
        while let Some(unfinished) = hash {
            hash = match unfinished.go_on() {
                HashProgress::More(hash) => Some(hash),
                HashProgress::Done(hash) => {
                    self.hash = Some(short(hash));
                    None
                }
                HashProgress::Lost => None,
            };
        }
    }
}

/// The time of a file, which may be any, as one between the years 1970 and 9999: others cannot be written as users know
/// them.
fn written(time: SystemTime) -> String {
    let seconds = time
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let shown = UNIX_EPOCH + Duration::from_secs(seconds.min(LAST_SECOND));
    humantime::format_rfc3339_seconds(shown).to_string()
}

pub(super) fn short(hash: u64) -> String {
    format!("{hash:016x}")[..SHORT].to_owned()
}

/// Device, inode, size and modification time.
pub(super) type FileStamp = (u64, u64, u64, i64, i64);

pub(super) fn stamp(metadata: &Metadata) -> FileStamp {
    let time = (metadata.mtime(), metadata.mtime_nsec());
    (
        metadata.dev(),
        metadata.ino(),
        metadata.size(),
        time.0,
        time.1,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_may_be_of_any_time() {
        for (since, shown) in [
            (-3_600, "1970-01-01T00:00:00Z"),
            (0, "1970-01-01T00:00:00Z"),
            (1_000_000_000, "2001-09-09T01:46:40Z"),
            (316_516_204_800, "9999-12-31T23:59:59Z"),
        ] {
            let distance = Duration::from_secs(i64::unsigned_abs(since));
            let time = if since < 0 {
                UNIX_EPOCH - distance
            } else {
                UNIX_EPOCH + distance
            };
            assert_eq!(written(time), shown);
        }
    }
}
