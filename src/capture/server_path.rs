//! Unix paths as the server sees them: resolves and binds them for it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{UnixAddr, bind};
use nix::sys::stat::fstat;

use super::caller::Caller;
use super::impersonate::as_caller;
use crate::address::LONGEST_PATH;
use crate::listener::{self, BoundPath, PathEntry, numbers_beside};
use crate::proc::{descriptor, open_directory, path_of};
use crate::socket::client::is_refused;
use crate::supervisor::Generation;

/// Where the path leads for the caller, relative to its descriptor `from`; `None` if it leads nowhere, which the kernel will
/// report.
///
/// # Errors
/// `EPERM` if the caller's view is not accessible, `ETIMEDOUT`.
pub fn find(caller: &Caller, from: RawFd, path: &Path) -> io::Result<Option<PathEntry>> {
    let mut path = seen_from_here(caller, path);
    let mut as_given = path.clone();
    if path.is_relative() {
        if from == libc::AT_FDCWD {
            let directory = fs::read_link(format!("/proc/{}/cwd", caller.thread));
            as_given = directory.unwrap_or_default().join(&path);
        } else {
            path = descriptor::path(caller.thread, from).join(path);
            as_given.clone_from(&path);
        }
    }
    let found = as_caller(caller, move |stand| {
        let path = stand.reach(&path);
        let found = directory_of(&path);
        Ok(found
            .ok()
            .map(|(directory, name)| (directory, name.to_owned())))
    })?;
    // seen from here: the caller may have another root
    found
        .map(|(directory, name)| entry(&directory, name, &as_given))
        .transpose()
}

/// Binds the socket to the path, or to the generation's name beside it if another generation has the path.
///
/// # Errors
/// Those of bind(2), `EPERM`, `ETIMEDOUT`.
pub fn bind_to(
    caller: &Caller,
    path: &Path,
    beside: Option<Generation>,
    socket: OwnedFd,
) -> io::Result<(OwnedFd, BoundPath)> {
    let path = seen_from_here(caller, path);
    as_caller(caller, move |stand| {
        let path = stand.reach(&path);
        let (directory, name) = directory_of(&path)?;
        let bind_as = |name: &OsStr| -> io::Result<PathBuf> {
            let mut path = path.with_file_name(name);
            if path.as_os_str().len() > LONGEST_PATH {
                path = stand.shorten(&directory, name)?;
            }
            if beside.is_some() {
                remove_stale(&path);
            }
            bind(socket.as_raw_fd(), &UnixAddr::new(&path)?)?;
            Ok(path)
        };
        let names = match beside {
            None => vec![name.to_owned()],
            Some(generation) => numbers_beside(generation.0)
                .map(|number| listener::beside(name, number))
                .collect(),
        };
        let bound = names.into_iter().find_map(|name| match bind_as(&name) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => None,
            bound => Some(bound.map(|path| (name, path))),
        });
        let (name, path) = bound.unwrap_or(Err(Errno::EADDRINUSE.into()))?;
        stand.settle(&path)?;
        Ok((socket, there(directory, name, &path)?))
    })
}

/// The path that the caller has bound by itself.
///
/// # Errors
/// Those of stat(2), `EPERM`, `ETIMEDOUT`.
pub fn bound_at(caller: &Caller, path: &Path) -> io::Result<BoundPath> {
    let path = seen_from_here(caller, path);
    as_caller(caller, move |stand| {
        let path = stand.reach(&path);
        let (directory, name) = directory_of(&path)?;
        there(directory, name.to_owned(), &path)
    })
}

fn there(directory: OwnedFd, name: OsString, path: &Path) -> io::Result<BoundPath> {
    let file = fs::symlink_metadata(path)?;
    Ok(BoundPath {
        directory,
        name,
        file: (file.dev(), file.ino()),
    })
}

/// The same path, where the kernel would take the asking process for the caller: `/proc/self/fd/7/api.sock`.
fn seen_from_here(caller: &Caller, path: &Path) -> PathBuf {
    let process = PathBuf::from(format!("/proc/{}", caller.process()));
    let own = [
        ("/proc/self", process.clone()),
        (
            "/proc/thread-self",
            process.join(format!("task/{}", caller.thread)),
        ),
        ("/dev/fd", process.join("fd")),
    ];
    let behind = |(name, there): &(&str, PathBuf)| Some(there.join(path.strip_prefix(name).ok()?));
    own.iter()
        .find_map(behind)
        .unwrap_or_else(|| path.to_owned())
}

fn directory_of(path: &Path) -> io::Result<(OwnedFd, &OsStr)> {
    let name = path.file_name().ok_or(Errno::EISDIR)?;
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let directory = open_directory(parent.unwrap_or(Path::new(".")))?;
    Ok((directory.into(), name))
}

fn entry(directory: &OwnedFd, name: OsString, as_given: &Path) -> io::Result<PathEntry> {
    let found = fstat(directory)?;
    let found = (found.st_dev, found.st_ino);
    let parent = as_given
        .parent()
        .and_then(|parent| fs::metadata(parent).ok());
    let leads_there = parent.is_some_and(|parent| (parent.dev(), parent.ino()) == found);
    let path = if leads_there && as_given.is_absolute() && !as_given.starts_with("/proc") {
        as_given.components().collect()
    } else {
        fs::read_link(path_of(directory))?.join(&name)
    };
    Ok(PathEntry {
        directory: found,
        name,
        path,
    })
}

/// Removes the sockets that a killed hotswap has left behind, on which nobody answers.
fn remove_stale(path: &Path) {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket && is_refused(path) {
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use nix::unistd::gettid;

    use super::*;
    use crate::socket::unix_stream;

    #[test]
    fn a_path_that_fills_its_address_without_a_nul_is_bound_too() {
        let directory = tempfile::tempdir().unwrap();
        let length = 108 - directory.path().as_os_str().len() - 1;
        let path = directory.path().join("x".repeat(length));
        assert_eq!(path.as_os_str().len(), 108);
        let caller = Caller::of(gettid()).unwrap();
        let (_, bound) = bind_to(&caller, &path, None, unix_stream().unwrap()).unwrap();
        let found = fs::symlink_metadata(&path).unwrap();
        assert_eq!((found.dev(), found.ino()), bound.file);
    }
}
