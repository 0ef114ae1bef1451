//! Acts as the server: with its root, working directory, umask and rights to files.
//!
//! A path that a server names is resolved as the server would, and hotswap makes nothing there that the server could not.

use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, chroot, fchdir, getegid, geteuid, getgroups, setfsgid, setfsuid};

use super::caller::Caller;
use super::notification::bounded;
use crate::proc::{path_of, process};
use crate::sys::{self, process::keep_capabilities};

/// An impossible user: setfsuid(2) then only returns the current one.
const NOBODY: u32 = u32::MAX;

/// The surroundings of a thread of ours that acts as the caller.
pub struct Impersonation {
    /// It has its own working directory and umask, set to the caller's; some containers do not allow that.
    is_own: bool,
    directory: File,
    umask: u32,
}

impl Impersonation {
    /// The caller's path, as seen from here.
    pub fn reach(&self, path: &Path) -> PathBuf {
        if self.is_own || path.is_absolute() {
            return path.to_owned();
        }
        path_of(&self.directory).join(path)
    }

    /// The shortest path to a name in a directory, after which no relative one leads where it did.
    pub fn shorten(&self, directory: &OwnedFd, name: &OsStr) -> io::Result<PathBuf> {
        if self.is_own {
            fchdir(directory)?;
            return Ok(name.into());
        }
        Ok(path_of(directory).join(name))
    }

    /// Applies the caller's umask to a file that was made with all rights.
    pub fn settle(&self, path: &Path) -> io::Result<()> {
        if self.is_own {
            return Ok(());
        }
        // by a descriptor of the file itself: a name could lead elsewhere by now
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        let file = File::options().read(true).custom_flags(flags).open(path)?;
        if !file.metadata()?.file_type().is_socket() {
            return Err(Errno::ENOTSOCK.into());
        }
        let mode = Permissions::from_mode(0o777 & !self.umask);
        std::fs::set_permissions(path_of(&file), mode)
    }
}

/// Runs `work` as the caller.
///
/// # Errors
/// `EPERM` if that is not possible, `ETIMEDOUT`, and those of `work`.
pub fn as_caller<T: Send + 'static>(
    caller: &Caller,
    work: impl FnOnce(&Impersonation) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let caller = caller.clone();
    // the thread ends with the work, so nothing must be undone
    bounded(move || work(&move_to(&caller)?))
}

fn move_to(caller: &Caller) -> io::Result<Impersonation> {
    let (root, directory) = (
        process::root(caller.thread)?,
        process::directory(caller.thread)?,
    );
    let (theirs, ours) = (root.metadata()?, std::fs::metadata("/")?);
    let same_root = (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino());
    let elsewhere = !same_root || !caller.shares_with_us("mnt");
    let is_own = match unshare(CloneFlags::CLONE_FS) {
        Ok(()) => true,
        Err(_) if !elsewhere => false,
        Err(error) => return Err(error.into()),
    };
    if elsewhere {
        fchdir(&root)?;
        chroot(".")?;
    }
    if is_own {
        fchdir(&directory)?;
        umask(Mode::from_bits_truncate(caller.status.umask));
    }
    become_owner(caller)?;
    Ok(Impersonation {
        is_own,
        directory,
        umask: caller.status.umask,
    })
}

/// Takes on the caller's rights to files (credentials(7)).
fn become_owner(caller: &Caller) -> io::Result<()> {
    let groups = getgroups()?;
    let same_groups = groups.len() == caller.status.groups.len()
        && groups
            .iter()
            .all(|group| caller.status.groups.contains(&group.as_raw()));
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    if same_groups && (caller.status.uid, caller.status.gid) == (uid, gid) {
        // it may be root without root's capabilities
        return keep_capabilities(caller.status.capabilities);
    }
    sys::set_groups_of_thread(&caller.status.groups)?;
    setfsgid(Gid::from_raw(caller.status.gid));
    setfsuid(Uid::from_raw(caller.status.uid));
    // they report no error, but return the current value
    let became = (
        setfsuid(Uid::from_raw(NOBODY)).as_raw(),
        setfsgid(Gid::from_raw(NOBODY)).as_raw(),
    );
    if became == (caller.status.uid, caller.status.gid) {
        Ok(())
    } else {
        Err(Errno::EPERM.into())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nix::unistd::gettid;

    use super::*;

    #[test]
    fn files_get_the_callers_umask_and_not_ours() {
        let directory = tempfile::tempdir().unwrap();
        let mut caller = Caller::of(gettid()).unwrap();
        caller.status.umask = 0o027;
        let path = directory.path().join("made");
        let there = path.clone();
        as_caller(&caller, move |_| {
            let file = File::options()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o777)
                .open(there)?;
            drop(file);
            Ok(())
        })
        .unwrap();
        assert_eq!(
            fs::metadata(path).unwrap().permissions().mode() & 0o777,
            0o750
        );
        let ours = Caller::of(gettid()).unwrap();
        assert_ne!(ours.status.umask, 0o027);
    }

    #[test]
    fn root_has_no_more_rights_there_than_the_caller() {
        if !geteuid().is_root() {
            return; // only root could have more
        }
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut caller = Caller::of(gettid()).unwrap();
        (caller.status.uid, caller.status.gid, caller.status.groups) = (65534, 65534, vec![65534]);
        let path = directory.path().join("made");
        let refused = as_caller(&caller, move |_| File::create(path).map(drop)).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
        File::create(directory.path().join("ours")).unwrap();
    }

    #[test]
    fn root_has_no_more_rights_there_than_a_root_without_capabilities() {
        if !geteuid().is_root() {
            return; // only root could have more
        }
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(directory.path(), Some(65534), None).unwrap();
        let mut caller = Caller::of(gettid()).unwrap();
        caller.status.capabilities = 0;
        let path = directory.path().join("made");
        let refused = as_caller(&caller, move |_| File::create(path).map(drop)).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
        File::create(directory.path().join("ours")).unwrap();
    }
}
