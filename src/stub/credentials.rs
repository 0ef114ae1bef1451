//! The user and group that the server runs as.

use std::ffi::{CString, OsString};
use std::io;
use std::os::unix::ffi::OsStringExt;

use nix::unistd::{
    Gid, Group, Uid, User, getegid, geteuid, getgid, getuid, initgroups, setgid, setgroups, setuid,
};

/// A user, a group, or both, as the system knows them.
#[derive(Debug)]
pub struct Credentials {
    user: Option<Uid>,
    /// Unless it is a number that the user database does not know.
    known: Option<User>,
    group: Gid,
    /// As given, for the error.
    as_given: String,
}

impl Credentials {
    /// By name or number. `None` if the server runs as hotswap does.
    pub fn find(user: Option<&str>, group: Option<&str>) -> Result<Option<Self>, String> {
        let Some(as_given) = user.or(group) else {
            return Ok(None);
        };
        let (user, known) = user.map(find_user).transpose()?.unzip();
        let known = known.flatten();
        let named = group.map(find_group).transpose()?;
        let group = named
            .or(known.as_ref().map(|user| user.gid))
            .ok_or_else(|| format!("cannot run as {as_given}: no such user, so it has no group"))?;
        Ok(Some(Self {
            user,
            known,
            group,
            as_given: as_given.to_owned(),
        }))
    }

    /// The user, if another one than hotswap's is named.
    pub fn uid(&self) -> Option<Uid> {
        self.user
    }

    /// Takes on this identity, for good.
    pub fn take(&self) -> Result<(), String> {
        self.change()
            .map_err(|error| format!("cannot run as {}: {error}", self.as_given))
    }

    fn change(&self) -> io::Result<()> {
        if self.is_ours() {
            return Ok(());
        }
        match &self.known {
            Some(user) => initgroups(&CString::new(user.name.as_bytes())?, self.group)?,
            None => setgroups(&[self.group])?,
        }
        setgid(self.group)?;
        if let Some(user) = self.user {
            setuid(user)?;
        }
        Ok(())
    }

    /// No privilege is needed to keep the current identity.
    fn is_ours(&self) -> bool {
        let uid = self.user.unwrap_or_else(getuid);
        !geteuid().is_root()
            && [getuid(), geteuid()] == [uid; 2]
            && [getgid(), getegid()] == [self.group; 2]
    }

    /// Adds HOME, USER and LOGNAME of that user, unless they are set.
    pub fn in_environment(
        &self,
        mut environment: Vec<(OsString, OsString)>,
    ) -> Vec<(OsString, OsString)> {
        if let Some(user) = &self.known {
            let name = OsString::from(&user.name);
            let home = OsString::from_vec(user.dir.as_os_str().to_owned().into_vec());
            for (variable, value) in [("HOME", home), ("USER", name.clone()), ("LOGNAME", name)] {
                if environment.iter().all(|(known, _)| known != variable) {
                    environment.push((variable.into(), value));
                }
            }
        }
        environment
    }
}

fn find_user(user: &str) -> Result<(Uid, Option<User>), String> {
    let cannot = |why: &dyn std::fmt::Display| format!("cannot run as {user}: {why}");
    if let Some(found) = User::from_name(user).map_err(|error| cannot(&io::Error::from(error)))? {
        return Ok((found.uid, Some(found)));
    }
    let uid = user.parse().map_err(|_| cannot(&"no such user"))?;
    let uid = Uid::from_raw(uid);
    Ok((uid, User::from_uid(uid).ok().flatten()))
}

fn find_group(group: &str) -> Result<Gid, String> {
    let cannot = |why: &dyn std::fmt::Display| format!("cannot run as group {group}: {why}");
    if let Some(found) = Group::from_name(group).map_err(|error| cannot(&io::Error::from(error)))? {
        return Ok(found.gid);
    }
    let gid = group.parse().map_err(|_| cannot(&"no such group"))?;
    Ok(Gid::from_raw(gid))
}
