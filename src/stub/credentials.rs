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
    user: Option<Account>,
    group: Gid,
    /// As given, for the error.
    as_given: String,
}

#[derive(Debug)]
enum Account {
    Known(User),
    /// A number that the user database does not know.
    Number(Uid),
}

impl Account {
    fn uid(&self) -> Uid {
        match self {
            Self::Known(user) => user.uid,
            Self::Number(uid) => *uid,
        }
    }
}

impl Credentials {
    /// By name or number. `None` if the server runs as hotswap does.
    pub fn find(user: Option<&str>, group: Option<&str>) -> Result<Option<Self>, String> {
        let account = user.map(find_user).transpose()?;
        let named = group.map(find_group).transpose()?;
        let (group, as_given) = match (&account, named, user.or(group)) {
            (_, _, None) => return Ok(None),
            (_, Some(gid), Some(as_given)) => (gid, as_given),
            (Some(Account::Known(user)), None, Some(as_given)) => (user.gid, as_given),
            (_, None, Some(as_given)) => {
                return Err(format!(
                    "cannot run as {as_given}: no such user, so it has no group"
                ));
            }
        };
        let as_given = as_given.to_owned();
        Ok(Some(Self {
            user: account,
            group,
            as_given,
        }))
    }

    /// The user, if another one than hotswap's is named.
    pub fn uid(&self) -> Option<Uid> {
        self.user.as_ref().map(Account::uid)
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
        match &self.user {
            Some(Account::Known(user)) => {
                initgroups(&CString::new(user.name.as_bytes())?, self.group)?;
            }
            Some(Account::Number(_)) | None => setgroups(&[self.group])?,
        }
        setgid(self.group)?;
        if let Some(user) = &self.user {
            setuid(user.uid())?;
        }
        Ok(())
    }

    /// No privilege is needed to keep the current identity.
    fn is_ours(&self) -> bool {
        let uid = self.user.as_ref().map_or(getuid(), Account::uid);
        !geteuid().is_root()
            && [getuid(), geteuid()] == [uid; 2]
            && [getgid(), getegid()] == [self.group; 2]
    }

    /// Adds HOME, USER and LOGNAME of that user, unless they are set.
    pub fn in_environment(
        &self,
        mut environment: Vec<(OsString, OsString)>,
    ) -> Vec<(OsString, OsString)> {
        if let Some(Account::Known(user)) = &self.user {
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

fn find_user(user: &str) -> Result<Account, String> {
    let cannot = |why: &dyn std::fmt::Display| format!("cannot run as {user}: {why}");
    if let Some(found) = User::from_name(user).map_err(|error| cannot(&io::Error::from(error)))? {
        return Ok(Account::Known(found));
    }
    let uid = user.parse().map_err(|_| cannot(&"no such user"))?;
    let found = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    Ok(found.map_or(Account::Number(Uid::from_raw(uid)), Account::Known))
}

fn find_group(group: &str) -> Result<Gid, String> {
    let cannot = |why: &dyn std::fmt::Display| format!("cannot run as group {group}: {why}");
    if let Some(found) = Group::from_name(group).map_err(|error| cannot(&io::Error::from(error)))? {
        return Ok(found.gid);
    }
    let gid = group.parse().map_err(|_| cannot(&"no such group"))?;
    Ok(Gid::from_raw(gid))
}
