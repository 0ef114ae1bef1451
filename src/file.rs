//! Files whose paths come from outside: opening one never waits for anybody else.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Opens for reading. The path may lead to a pipe without a writer, to a terminal, or to a file under a lease, whatever
/// it led to a moment ago.
///
/// # Errors
/// Those of open(2).
pub fn open(path: impl AsRef<Path>) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
}
