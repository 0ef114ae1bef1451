//! The listening control socket: claimed under a lock, removed only if it is still ours.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{SockFlag, SockType, UnixAddr, bind, getsockopt};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::Uid;
use serde::{Deserialize, Serialize};

use super::socket_dirs::file_of;
use crate::file;
use crate::retry::{retry, retry_while_blocked};
use crate::socket::client::is_refused;
use crate::socket::unix_socket;
use crate::{handoff, sys};

/// How many clients the kernel keeps for us while we are busy elsewhere.
const BACKLOG: u32 = 128;
/// How many instances may have one name, the first without a number.
const NAMESAKES: u32 = 999;
/// How long to wait for the lock of a directory: another user could hold it without end.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// A control socket of ours.
#[derive(Debug, Serialize, Deserialize)]
pub struct ControlSocket {
    #[serde(with = "handoff::descriptor")]
    listener: UnixListener,
    #[serde(with = "handoff::os_string")]
    path: PathBuf,
    /// Device and inode: the path may lead to another socket later.
    identity: (u64, u64),
}

impl ControlSocket {
    /// A socket at exactly this path.
    ///
    /// # Errors
    /// `AddrInUse` if anybody answers there, or something else is there; else those of bind(2).
    pub fn at(path: &Path) -> io::Result<Self> {
        let directory = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let _lock = wait_for_lock(directory.unwrap_or(Path::new(".")));
        Self::claim(path)
    }

    /// A socket of that name in the directory, with a number behind it if the name is in use; and the name it got. Of the
    /// names that are free, that one comes first under which a killed hotswap has left what the caller may adopt.
    ///
    /// # Errors
    /// Those of bind(2).
    pub fn named(
        directory: &Path,
        name: &str,
        is_own: impl Fn(&Path, &str) -> bool,
    ) -> io::Result<(Self, String)> {
        let _lock = wait_for_lock(directory);
        let names = (1..=NAMESAKES).map(|number| match number {
            1 => name.to_owned(),
            _ => format!("{name}-{number}"),
        });
        let mut names: Vec<_> = names
            .map(|name| (directory.join(file_of(&name)), name))
            .collect();
        // what is not there has left nothing either
        let there = fs::read_dir(directory).into_iter().flatten().flatten();
        let there: Vec<_> = there.map(|entry| entry.path()).collect();
        let has_left = |path: &Path| {
            let path = path.as_os_str().as_bytes();
            let mut there = there.iter().map(|entry| entry.as_os_str().as_bytes());
            there.any(|entry| entry.len() > path.len() && entry.starts_with(path))
        };
        names.sort_by_cached_key(|(path, name)| !(has_left(path) && is_own(path, name)));
        for (path, name) in names {
            match Self::claim(&path) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                claimed => return Ok((claimed?, name)),
            }
        }
        Err(in_use("every number after the name is in use"))
    }

    fn claim(path: &Path) -> io::Result<Self> {
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(in_use("what is there is not a socket"));
            }
            Ok(_) if !is_refused(path) => return Err(in_use("another hotswap answers on it")),
            Ok(_) => fs::remove_file(path)?,
            Err(_) => {}
        }
        let socket = unix_socket(SockType::Stream, SockFlag::SOCK_NONBLOCK)?;
        // bind(2) gives the file the mode of the socket, so that it never has a wider one.
        fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
        bind(
            std::os::fd::AsRawFd::as_raw_fd(&socket),
            &UnixAddr::new(path)?,
        )?;
        let made = sys::listen(socket.as_fd(), BACKLOG)
            .and_then(|()| retry(|| fs::symlink_metadata(path)));
        match made {
            Ok(metadata) => Ok(Self {
                listener: socket.into(),
                path: path.to_owned(),
                identity: identity(&metadata),
            }),
            Err(error) => {
                let _ = retry(|| fs::remove_file(path));
                Err(error)
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is at the path is still this socket.
    pub fn is_there(&self) -> bool {
        let found = retry(|| fs::symlink_metadata(&self.path));
        found.is_ok_and(|found| identity(&found) == self.identity)
    }

    /// Makes it again where somebody has removed it, and its directory if that is hotswap's own and gone too. It waits for
    /// nobody.
    ///
    /// # Errors
    /// `WouldBlock` while another one claims a socket there, those of mkdir(2) and bind(2), and `AddrInUse` if another one
    /// answers there.
    pub fn make_again(&mut self, owns_directory: bool) -> io::Result<()> {
        let directory = self.path.parent().unwrap_or(Path::new("."));
        if owns_directory && !directory.exists() {
            fs::DirBuilder::new().mode(0o700).create(directory)?;
        }
        let _lock = lock(directory)?;
        *self = Self::claim(&self.path)?;
        Ok(())
    }

    /// The next waiting client, if any.
    pub fn accept(&self) -> io::Result<UnixStream> {
        let (stream, _) = self.listener.accept()?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    }

    /// Removes the file, unless it is another one by now.
    pub fn unlink(&self) {
        if self.is_there() {
            let _ = retry(|| fs::remove_file(&self.path));
        }
    }
}

impl AsFd for ControlSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// Who is at the other end: of `SO_PEERCRED`, unix(7).
pub fn peer(stream: &UnixStream) -> io::Result<Uid> {
    Ok(Uid::from_raw(getsockopt(stream, PeerCredentials)?.uid()))
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn in_use(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::AddrInUse, why)
}

/// Two that start at the same time could each take the other's fresh socket for a stale one.
fn lock(directory: &Path) -> io::Result<File> {
    let file = file::open(directory)?;
    sys::lock(file.as_fd())?;
    Ok(file)
}

/// Only at the start, when nobody waits for hotswap.
fn wait_for_lock(directory: &Path) -> Option<File> {
    retry_while_blocked(LOCK_PATIENCE, || lock(directory)).ok()
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    fn named_api(room: &tempfile::TempDir) -> (ControlSocket, String) {
        ControlSocket::named(room.path(), "api", |_, _| false).unwrap()
    }

    #[test]
    fn only_the_owner_may_connect() {
        let room = tempfile::tempdir().unwrap();
        let (socket, name) = named_api(&room);
        assert_eq!(name, "api");
        let mode = fs::metadata(socket.path()).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_name_in_use_gets_a_number() {
        let room = tempfile::tempdir().unwrap();
        let (_first, _) = named_api(&room);
        let (second, name) = named_api(&room);
        assert_eq!(name, "api-2");
        assert!(second.path().ends_with("api-2.sock"));
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_file_is_not() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("api.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert_eq!(named_api(&room).1, "api");
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        assert_eq!(named_api(&room).1, "api-2");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_path_that_was_asked_for_is_not_changed() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("control");
        let _first = ControlSocket::at(&path).unwrap();
        assert_eq!(
            ControlSocket::at(&path).unwrap_err().kind(),
            ErrorKind::AddrInUse
        );
        let nowhere = room.path().join("missing/control");
        assert_eq!(
            ControlSocket::at(&nowhere).unwrap_err().kind(),
            ErrorKind::NotFound
        );
    }

    #[test]
    fn only_our_own_file_is_unlinked() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("control");
        let first = ControlSocket::at(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let second = ControlSocket::at(&path).unwrap();
        first.unlink();
        assert!(path.exists());
        second.unlink();
        assert!(!path.exists());
    }
}
