//! The directories of control sockets: where a new one is made, and where clients look.
//!
//! It connects to nothing, and trusts no name: callers also check the peer.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::Uid;

pub const ENDING: &str = "sock";

/// What determines the directories; the real one is [`SocketDirs::ours`].
#[derive(Clone, Debug)]
pub struct SocketDirs {
    /// `$RUNTIME_DIRECTORY`: what systemd made for the service, separated by colons.
    pub runtime_directory: Option<OsString>,
    pub xdg_runtime_dir: Option<OsString>,
    /// `$HOTSWAP_INSTANCE` and `$HOTSWAP_SOCKET`: what runs us, if we are a server's child.
    pub around_us: Option<(OsString, PathBuf)>,
    pub run: PathBuf,
    pub tmp: PathBuf,
    /// Where /tmp cannot be written.
    pub shm: PathBuf,
    pub uid: Uid,
}

/// A control socket that was found, and the name of its instance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FoundSocket {
    pub name: String,
    pub path: PathBuf,
    /// It belongs to the user who looks.
    pub own: bool,
}

impl SocketDirs {
    pub fn ours() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            runtime_directory: variable("RUNTIME_DIRECTORY"),
            xdg_runtime_dir: variable("XDG_RUNTIME_DIR"),
            around_us: variable("HOTSWAP_INSTANCE")
                .zip(variable("HOTSWAP_SOCKET").map(PathBuf::from)),
            run: "/run".into(),
            tmp: "/tmp".into(),
            shm: "/dev/shm".into(),
            uid: Uid::effective(),
        }
    }

    /// The directory for our own socket, which is made if necessary.
    ///
    /// # Errors
    /// If the last of them belongs to another user or can be replaced by other users, and those of mkdir(2).
    pub fn own_directory(&self) -> io::Result<PathBuf> {
        if let Some(first) = self.runtime_directories().next() {
            return Ok(first);
        }
        // another user's, as su(1) leaves it, would let that user replace what is in it
        let user = self.xdg_runtime_dir();
        if let Some(user) = user.filter(|user| is_owned(user, self.uid.as_raw()))
            && let Ok(own) = self.private(user.join("hotswap"))
        {
            return Ok(own);
        }
        if self.uid.is_root()
            && let Ok(own) = make(self.run.join("hotswap"))
        {
            return Ok(own);
        }
        let name = format!("hotswap-{}", self.uid);
        let made = self.private(self.tmp.join(&name));
        made.or_else(|error| self.private(self.shm.join(&name)).map_err(|_| error))
    }

    /// Every socket of that name that we may use, our own first.
    pub fn named(&self, name: &str) -> Vec<FoundSocket> {
        let around_us = self
            .around_us
            .iter()
            .filter(|(instance, _)| instance == name)
            .filter_map(|(_, path)| self.usable(path, name));
        let file = file_of(name);
        let listed = self.directories().into_iter();
        let mut found: Vec<FoundSocket> = around_us
            .chain(listed.filter_map(|directory| self.usable(&directory.join(&file), name)))
            .collect();
        sort(&mut found);
        found
    }

    /// Every socket in every directory that we may use.
    pub fn all(&self) -> Vec<FoundSocket> {
        let mut found: Vec<FoundSocket> = self
            .directories()
            .iter()
            .flat_map(|directory| entries(directory))
            .filter(|path| path.extension() == Some(OsStr::new(ENDING)))
            .filter_map(|path| self.usable(&path, path.file_stem()?.to_str()?))
            .collect();
        sort(&mut found);
        found
    }

    /// The socket at a path, if it is one and its owner is ours (root's: anybody).
    pub fn usable(&self, path: &Path, name: &str) -> Option<FoundSocket> {
        let metadata = fs::symlink_metadata(path).ok()?;
        let own = metadata.uid() == self.uid.as_raw();
        let fits = metadata.file_type().is_socket() && (own || self.uid.is_root());
        fits.then(|| FoundSocket {
            name: name.to_owned(),
            path: path.to_owned(),
            own,
        })
    }

    /// Where clients look, in words.
    pub fn places(&self) -> String {
        let fixed = [&self.run, &self.tmp, &self.shm].map(PathBuf::clone);
        let given = self.runtime_directories().chain(self.xdg_runtime_dir());
        let all: Vec<String> = given
            .chain(fixed)
            .map(|place| place.display().to_string())
            .collect();
        all.join(", ")
    }

    fn directories(&self) -> Vec<PathBuf> {
        let mut directories: Vec<PathBuf> = self.runtime_directories().collect();
        let user = self.run.join("user");
        if self.uid.is_root() {
            directories.extend(entries(&user).iter().flat_map(|user| entries(user)));
        } else {
            directories.extend(entries(&user.join(self.uid.to_string())));
        }
        directories.extend(self.xdg_runtime_dir().iter().flat_map(|user| entries(user)));
        directories.extend(entries(&self.run));
        let whose = |directory: &PathBuf| {
            let name = directory.file_name().and_then(OsStr::to_str)?;
            name.strip_prefix("hotswap-")?.parse().ok()
        };
        let temporary = [&self.tmp, &self.shm]
            .into_iter()
            .flat_map(|place| entries(place));
        directories.extend(temporary.filter(|directory| {
            whose(directory).is_some_and(|uid: u32| {
                (self.uid.is_root() || uid == self.uid.as_raw()) && is_owned(directory, uid)
            })
        }));
        directories
    }

    fn runtime_directories(&self) -> impl Iterator<Item = PathBuf> {
        let all = self.runtime_directory.as_deref();
        all.into_iter()
            .flat_map(|all| std::env::split_paths(all).collect::<Vec<_>>())
            .filter(|directory| directory.is_absolute())
    }

    fn xdg_runtime_dir(&self) -> Option<PathBuf> {
        let directory = self.xdg_runtime_dir.as_ref().map(PathBuf::from);
        directory.filter(|directory| directory.is_absolute())
    }

    /// Whether no other user can write into a directory, or replace it.
    fn private(&self, directory: PathBuf) -> io::Result<PathBuf> {
        let shown = directory.display().to_string();
        let refuse = |why: &str| {
            let why = format!("{shown} {why}");
            Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
        };
        if directory.parent().is_none_or(lets_others_rename) {
            return refuse("can be replaced by other users");
        }
        let directory = make(directory)?;
        let metadata = fs::symlink_metadata(&directory)?;
        if !metadata.is_dir() {
            return refuse("is not a directory");
        }
        if metadata.uid() != self.uid.as_raw() {
            return refuse("belongs to another user");
        }
        if is_open_to_others(&metadata) {
            fs::set_permissions(&directory, fs::Permissions::from_mode(0o700))?;
        }
        Ok(directory)
    }
}

/// The file name of an instance's socket.
pub fn file_of(name: &str) -> String {
    format!("{name}.{ENDING}")
}

fn is_open_to_others(metadata: &Metadata) -> bool {
    metadata.mode() & 0o077 != 0
}

/// Whether others may write there, and it is not sticky.
fn lets_others_rename(directory: &Path) -> bool {
    fs::metadata(directory).is_ok_and(|found| found.mode() & 0o1002 == 0o002)
}

fn is_owned(directory: &Path, uid: u32) -> bool {
    fs::symlink_metadata(directory).is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == uid)
}

fn make(directory: PathBuf) -> io::Result<PathBuf> {
    match DirBuilder::new().mode(0o700).create(&directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(directory),
    }
}

/// The entries of a directory; none if it cannot be read.
fn entries(directory: &Path) -> Vec<PathBuf> {
    let Ok(read) = fs::read_dir(directory) else {
        return Vec::new();
    };
    read.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

/// Our own first; a socket with two paths counts once.
fn sort(found: &mut Vec<FoundSocket>) {
    found.sort_by(|a, b| (!a.own, &a.name, &a.path).cmp(&(!b.own, &b.name, &b.path)));
    found.dedup_by(|a, b| a.path == b.path);
}

#[cfg(test)]
mod tests;
