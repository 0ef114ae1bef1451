//! Which file COMMAND is, and how to keep it open while a newer one takes its place.
//!
//! It does not decide whether the file can run; exec does, or `watch/completeness`.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, access};

use crate::escape::escape;
use crate::file;

/// Where execvp(3) looks if PATH is not set.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// How a compiled program begins.
const ELF: &[u8; 4] = b"\x7fELF";
/// What some editors put before a text, and no kernel looks behind.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// As far as the kernel reads in a script.
const LONGEST_FIRST_LINE: u64 = 256;

/// The file that `command` means, for a process in `directory` with this PATH.
///
/// A command with a slash is that file. One without is the first executable file of that name in PATH.
///
/// # Errors
/// `ENOENT` if PATH has none, `EACCES` if it has only files that may not be executed.
pub fn find(
    command: &OsStr,
    directory: Option<&Path>,
    path: Option<&OsStr>,
) -> io::Result<PathBuf> {
    let here = |path: &Path| directory.map_or(path.to_owned(), |directory| directory.join(path));
    if command.as_bytes().contains(&b'/') {
        return Ok(here(Path::new(command)));
    }
    let mut error = Errno::ENOENT;
    let path = path.unwrap_or(OsStr::new(DEFAULT_PATH));
    for place in path.as_bytes().split(|byte| *byte == b':') {
        // an empty entry means the directory itself
        let place = if place.is_empty() { b"." } else { place };
        let file = here(&Path::new(OsStr::from_bytes(place)).join(command));
        if command.is_empty() || !file.is_file() {
            continue;
        }
        match access(&file, AccessFlags::X_OK) {
            Ok(()) => return Ok(file),
            Err(why) => error = why,
        }
    }
    Err(error.into())
}

/// The same with hotswap's own PATH.
///
/// # Errors
/// As there.
pub fn find_in_own_path(command: &OsStr, directory: Option<&Path>) -> io::Result<PathBuf> {
    find(command, directory, std::env::var_os("PATH").as_deref())
}

/// Keeps the program in the file open, so that it can be executed even after another has taken its place. `None` for a
/// script, whose interpreter opens it by name, and for a file that does not exist.
pub fn hold(path: &Path) -> Option<OwnedFd> {
    let descriptor = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
    let mut start = *ELF;
    let held = file::open(path)
        .ok()
        .filter(|file| is_same(file, &descriptor));
    if let Some(mut file) = held {
        file.read_exact(&mut start).ok()?;
    }
    (&start == ELF).then_some(descriptor)
}

fn is_same(file: &File, descriptor: &OwnedFd) -> bool {
    let held = nix::sys::stat::fstat(descriptor);
    matches!((file.metadata(), held), (Ok(one), Ok(other))
        if (one.dev(), one.ino()) == (other.st_dev, other.st_ino))
}

/// The interpreter that a script names in its first line, or a compiled program in its headers.
pub fn interpreter(path: &OsStr) -> Option<String> {
    let first = beginning(path)?;
    if first.starts_with(ELF) {
        return Some("its loader".to_owned());
    }
    let rest = first.strip_prefix(b"#!")?;
    let line = rest.split(|byte| *byte == b'\n').next()?;
    // a carriage return is part of the name, and hard to spot in an editor
    let text = String::from_utf8_lossy(line);
    let name = text
        .trim_start_matches([' ', '\t'])
        .split([' ', '\t'])
        .next()?;
    Some(format!("its interpreter {}", name.escape_debug()))
}

/// Whether the first line of a script names this interpreter.
pub fn is_run_by(script: &Path, interpreter: &Path) -> bool {
    let first = beginning(script.as_os_str()).unwrap_or_default();
    let line = first.split(|byte| *byte == b'\n').next();
    let (line, name) = (line.unwrap_or_default(), interpreter.file_name());
    let mut words = line.split(|byte| b" \t/".contains(byte));
    first.starts_with(b"#!") && words.any(|word| Some(OsStr::from_bytes(word)) == name)
}

/// Whether the kernel can execute the file by what it begins with: a compiled program or a script.
pub fn begins_as_program(path: &Path) -> bool {
    let first = beginning(path.as_os_str());
    first.is_some_and(|first| is_program(&first))
}

/// Whether the file begins like neither: exec would have sh(1) run it line by line, whatever it is.
pub fn is_no_program(path: &Path) -> bool {
    let first = beginning(path.as_os_str());
    first.is_some_and(|first| !is_program(&first))
}

fn is_program(first: &[u8]) -> bool {
    first.starts_with(ELF) || first.starts_with(b"#!")
}

fn beginning(path: &OsStr) -> Option<Vec<u8>> {
    let mut first = Vec::new();
    let file = file::open(path).ok()?;
    file.take(LONGEST_FIRST_LINE).read_to_end(&mut first).ok()?;
    Some(first)
}

/// Whether a file that the kernel could not execute is a script that the shell can make something of.
pub fn is_for_the_shell(path: &OsStr) -> bool {
    let marked = |first: &Vec<u8>| first.starts_with(ELF) || first.starts_with(BYTE_ORDER_MARK);
    beginning(path).is_some_and(|first| !first.is_empty() && !first.contains(&0) && !marked(&first))
}

/// What a user can do about a file that cannot be executed, on a line of its own.
pub fn advice(path: &OsStr) -> Option<String> {
    let shown = escape(&path.to_string_lossy());
    let file = std::fs::metadata(path).ok();
    if file.as_ref().is_some_and(std::fs::Metadata::is_dir) {
        return Some(format!("\ntry: a program in {shown}, which is a directory"));
    }
    let mode = file.filter(std::fs::Metadata::is_file);
    if mode.is_some_and(|file| file.mode() & 0o111 == 0) {
        return Some(format!("\ntry: chmod +x {shown}"));
    }
    let first = beginning(path)?;
    let line = first.split(|byte| *byte == b'\n').next()?;
    if first.starts_with(BYTE_ORDER_MARK) {
        return Some(format!("\ntry: save {shown} without a byte order mark"));
    }
    let windows = line.starts_with(b"#!") && line.ends_with(b"\r");
    windows.then(|| format!("\ntry: save {shown} with line ends of Unix, which dos2unix(1) makes"))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn place_with(file: &str, mode: u32) -> tempfile::TempDir {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join(file);
        fs::write(&path, "#!/no/such -x\n").expect("written");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("allowed");
        place
    }

    #[test]
    fn the_interpreter_of_a_script_is_in_its_first_line() {
        let place = tempfile::tempdir().expect("a directory");
        let script = place.path().join("serve");
        let is_run_by = |text: &str, name: &str| {
            fs::write(&script, text).expect("written");
            is_run_by(&script, Path::new(name))
        };
        assert!(is_run_by("#!/usr/bin/env bb -x\n", "/opt/bin/bb"));
        assert!(is_run_by("#! /opt/own/vm\n", "/opt/own/vm"));
        assert!(!is_run_by("#!/bin/sh\nexec bb\n", "/opt/bin/bb"));
        assert!(!is_run_by("\x7fELF bb", "/opt/bin/bb"));
    }

    #[test]
    fn a_command_without_a_slash_is_looked_up_in_path() {
        let place = place_with("api", 0o755);
        let path = format!("/no/such:{}", place.path().display());
        let found = find(OsStr::new("api"), None, Some(OsStr::new(&path)));
        assert_eq!(found.expect("found"), place.path().join("api"));
    }

    #[test]
    fn an_empty_place_in_path_is_the_servers_directory() {
        let place = place_with("api", 0o755);
        let found = find(
            OsStr::new("api"),
            Some(place.path()),
            Some(OsStr::new("/no:")),
        );
        assert_eq!(found.expect("found"), place.path().join("./api"));
    }

    #[test]
    fn a_command_with_a_slash_is_taken_from_the_servers_directory() {
        let found = find(OsStr::new("./api"), Some(Path::new("/srv")), None);
        assert_eq!(found.expect("not looked at"), Path::new("/srv/./api"));
    }

    #[test]
    fn what_may_not_be_executed_is_told_from_what_is_not_there() {
        let place = place_with("api", 0o644);
        let path = Some(place.path().as_os_str());
        let errno = |name| find(OsStr::new(name), None, path).map_err(|error| error.raw_os_error());
        assert_eq!(errno("api"), Err(Some(libc::EACCES)));
        assert_eq!(errno("app"), Err(Some(libc::ENOENT)));
        assert_eq!(errno(""), Err(Some(libc::ENOENT)));
    }

    #[test]
    fn what_can_be_done_about_a_script_is_said() {
        let advice_for = |content: &str, mode| {
            let place = place_with("api", mode);
            let path = place.path().join("api");
            fs::write(&path, content).expect("written");
            advice(path.as_os_str()).unwrap_or_default()
        };
        assert!(advice_for("#!/bin/sh\n", 0o644).starts_with("\ntry: chmod +x /"));
        assert!(advice_for("\u{feff}#!/bin/sh\n", 0o755).contains("byte order mark"));
        assert!(advice_for("#!/bin/sh\r\n", 0o755).contains("line ends of Unix"));
        assert_eq!(advice_for("#!/bin/sh\n", 0o755), "");
        let place = place_with("api", 0o755);
        let advice = advice(place.path().as_os_str()).unwrap_or_default();
        assert!(advice.ends_with(", which is a directory"), "{advice}");
    }

    #[test]
    fn a_script_names_its_interpreter_and_cannot_be_held() {
        let place = place_with("api", 0o755);
        let path = place.path().join("api");
        assert_eq!(
            interpreter(path.as_os_str()).as_deref(),
            Some("its interpreter /no/such")
        );
        assert!(hold(&path).is_none());
        fs::write(&path, "echo hello\n").expect("written");
        assert!(hold(&path).is_none());
        assert!(is_for_the_shell(path.as_os_str()));
        assert!(hold(Path::new("/proc/self/exe")).is_some());
    }
}
