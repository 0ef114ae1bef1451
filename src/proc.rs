//! Reads /proc: processes, their descriptors and memory, and the sockets of the machine.
//!
//! Only this room reads /proc, and it knows nothing of generations or listeners. Everything is bytes: the name, arguments
//! and variables of a program need not be UTF-8.

pub mod descriptor;
pub mod memory;
pub mod net;
pub mod process;
pub mod status;

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::OnceLock;

use nix::unistd::Pid;

/// Most files in /proc fit, and take one read and an empty one; their length is not known in advance.
const USUAL_SIZE: usize = 4096;

/// A path to what a descriptor of ours is open on.
pub fn path_of(file: &impl AsRawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// A directory, to be named by [`path_of`] or relative to its descriptor.
///
/// # Errors
/// Those of open(2).
pub fn open_directory(path: impl AsRef<Path>) -> io::Result<File> {
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    File::options().read(true).custom_flags(flags).open(path)
}

/// The file that a process runs.
pub fn executable(process: Pid) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{process}/exe")).ok()
}

/// The name of the file that a process runs, lossily as text.
pub fn program(process: Pid) -> Option<String> {
    let path = executable(process)?;
    Some(path.file_name()?.to_string_lossy().into_owned())
}

/// Which start of the machine this is.
pub fn boot() -> Option<String> {
    static BOOT: OnceLock<Option<String>> = OnceLock::new();
    let look = || {
        let boot = read("/proc/sys/kernel/random/boot_id").ok()?;
        Some(String::from_utf8_lossy(boot.trim_ascii()).into_owned())
    };
    BOOT.get_or_init(look).clone()
}

/// The process or the file in /proc that an error came from has ended.
pub fn is_gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let mut content = Vec::with_capacity(USUAL_SIZE);
    // with a limit it is not asked for its length, which no file in /proc tells
    File::open(path)?.take(u64::MAX).read_to_end(&mut content)?;
    Ok(content)
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n')
}

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let words = line.split(u8::is_ascii_whitespace);
    words.filter(|word| !word.is_empty())
}

/// The rest of the first line that begins with this.
fn after<'a>(text: &'a [u8], start: &str) -> Option<&'a [u8]> {
    lines(text).find_map(|line| line.strip_prefix(start.as_bytes()))
}

fn number<T: FromStr>(word: &[u8]) -> Option<T> {
    std::str::from_utf8(word.trim_ascii()).ok()?.parse().ok()
}

fn in_base(word: &[u8], base: u32) -> Option<u64> {
    let word = std::str::from_utf8(word.trim_ascii()).ok()?;
    u64::from_str_radix(word, base).ok()
}
