//! Work done in a server's place: with its root, working directory, umask and rights to files.
//!
//! A path that a server names means what it means to the server, and hotswap makes nothing there that the server itself
//! could not.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, chroot, fchdir, getegid, geteuid, getgroups, setfsgid, setfsuid};

use super::caller::Caller;
use super::notification::bounded;
use crate::sys;

/// What setfsuid(2) takes as a question: no such user can be.
const NOBODY: u32 = u32::MAX;

/// Runs `work` in the caller's place.
///
/// # Errors
/// `EPERM` if we cannot put ourselves there, `ETIMEDOUT`, and those of `work`.
pub fn in_place_of<T: Send + 'static>(
    caller: &Caller,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let caller = caller.clone();
    // the thread ends with the work, so nothing has to be put back
    bounded(move || {
        move_to(&caller)?;
        work()
    })
}

fn move_to(caller: &Caller) -> io::Result<()> {
    unshare(CloneFlags::CLONE_FS)?;
    let open = |name: &str| {
        File::options()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(format!("/proc/{}/{name}", caller.thread))
    };
    let (root, directory) = (open("root")?, open("cwd")?);
    let (theirs, ours) = (root.metadata()?, std::fs::metadata("/")?);
    let same_root = (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino());
    if !same_root || !caller.shares_with_us("mnt") {
        fchdir(&root)?;
        chroot(".")?;
    }
    fchdir(&directory)?;
    umask(Mode::from_bits_truncate(caller.umask));
    become_owner(caller)
}

/// Takes the caller's rights to files, and gives up our own (credentials(7)).
fn become_owner(caller: &Caller) -> io::Result<()> {
    let groups = getgroups()?;
    let same_groups = groups.len() == caller.groups.len()
        && groups
            .iter()
            .all(|group| caller.groups.contains(&group.as_raw()));
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    if same_groups && (caller.uid, caller.gid) == (uid, gid) {
        return Ok(());
    }
    sys::set_groups_of_thread(&caller.groups)?;
    setfsgid(Gid::from_raw(caller.gid));
    setfsuid(Uid::from_raw(caller.uid));
    // they report no error, but tell what holds now
    let became = (
        setfsuid(Uid::from_raw(NOBODY)).as_raw(),
        setfsgid(Gid::from_raw(NOBODY)).as_raw(),
    );
    if became == (caller.uid, caller.gid) {
        Ok(())
    } else {
        Err(Errno::EPERM.into())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use nix::unistd::gettid;

    use super::*;

    #[test]
    fn files_get_the_callers_umask_and_not_ours() {
        let directory = tempfile::tempdir().unwrap();
        let mut caller = Caller::of(gettid()).unwrap();
        caller.umask = 0o027;
        let path = directory.path().join("made");
        let there = path.clone();
        in_place_of(&caller, move || {
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
        assert_ne!(ours.umask, 0o027);
    }

    #[test]
    fn root_has_no_more_rights_there_than_the_caller() {
        if !geteuid().is_root() {
            return; // only root could have more
        }
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut caller = Caller::of(gettid()).unwrap();
        (caller.uid, caller.gid, caller.groups) = (65534, 65534, vec![65534]);
        let path = directory.path().join("made");
        let refused = in_place_of(&caller, move || File::create(path).map(drop)).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
        File::create(directory.path().join("ours")).unwrap();
    }
}
