//! Mode and owner of a socket in the file system.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};

use nix::errno::Errno;
use nix::sys::stat::FileStat;
use nix::unistd::{Gid, Uid};
use serde::{Deserialize, Serialize};

use super::UnixDir;
use crate::proc;

/// The mode and owner of a file, and when they or its names changed last: chmod(2) to the mode that it has is seen, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    mode: u32,
    user: u32,
    group: u32,
    #[serde(default)]
    changed: (i64, i64),
}

impl Attributes {
    fn of(stat: &FileStat) -> Self {
        Self {
            mode: stat.st_mode & 0o7777,
            user: stat.st_uid,
            group: stat.st_gid,
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    /// The same mode and owner, at the time of the other change.
    pub fn changed_with(self, other: Self) -> Self {
        Self {
            changed: other.changed,
            ..self
        }
    }
}

impl UnixDir {
    /// Gives what is under this name, a socket, to somebody, and a mode.
    pub fn set_mode_and_owner(
        &self,
        name: &OsStr,
        owner: Option<(Option<Uid>, Option<Gid>)>,
        mode: Option<u32>,
    ) -> io::Result<()> {
        // by a descriptor of the file itself: a name could lead elsewhere by the next call
        let file = self.open(name)?;
        let file = proc::path_of(&file);
        if let Some((user, group)) = owner {
            chown(&file, user.map(Uid::as_raw), group.map(Gid::as_raw))?;
        }
        if let Some(mode) = mode {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode))?;
        }
        Ok(())
    }

    pub fn attributes(&self, name: &OsStr) -> io::Result<Attributes> {
        let stat = self.stat(name)?.ok_or(Errno::ENOENT)?;
        Ok(Attributes::of(&stat))
    }

    pub fn set_attributes(&self, name: &OsStr, wanted: Attributes) -> io::Result<()> {
        let found = self.attributes(name)?;
        let owner = ((wanted.user, wanted.group) != (found.user, found.group)).then_some((
            Some(Uid::from_raw(wanted.user)),
            Some(Gid::from_raw(wanted.group)),
        ));
        let mode = (wanted.mode != found.mode).then_some(wanted.mode);
        if owner.is_none() && mode.is_none() {
            return Ok(());
        }
        self.set_mode_and_owner(name, owner, mode)
    }
}
