//! The instances of other users, which a client may know of and not talk to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User};

use super::socket_dirs::{ENDING, SocketDirs};
use crate::connections::unix;
use crate::record::plural;

/// What others run, in words, if they run any.
pub fn in_words(dirs: &SocketDirs) -> Option<String> {
    let all = running(dirs).into_iter().map(|(uid, names)| {
        let count = plural(names.len(), "instance");
        format!("user {} runs {count}: {}", user_name(uid), names.join(", "))
    });
    let all: Vec<String> = all.collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// Another user who has an instance of that name.
pub fn owner_of(dirs: &SocketDirs, name: &str) -> Option<String> {
    let mut all = running(dirs).into_iter();
    let found = all.find(|(_, names)| names.iter().any(|one| one == name));
    found.map(|(uid, _)| user_name(uid))
}

fn running(dirs: &SocketDirs) -> BTreeMap<u32, Vec<String>> {
    let listening = unix::listening().unwrap_or_default();
    of_others(dirs, listening.into_iter().map(|(_, path)| path))
}

/// The names of these sockets, by their users.
fn of_others(
    dirs: &SocketDirs,
    listening: impl Iterator<Item = PathBuf>,
) -> BTreeMap<u32, Vec<String>> {
    let mut found: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for path in listening {
        let of_hotswap = path.extension().is_some_and(|ending| ending == ENDING);
        let user = path.parent().and_then(|directory| user_of(dirs, directory));
        if let (true, Some(uid), Some(name)) = (of_hotswap, user, path.file_stem())
            && uid != dirs.uid.as_raw()
        {
            let names = found.entry(uid).or_default();
            names.push(name.to_string_lossy().into_owned());
        }
    }
    for names in found.values_mut() {
        names.sort();
    }
    found
}

/// Whose instances have their sockets in this directory.
fn user_of(dirs: &SocketDirs, directory: &Path) -> Option<u32> {
    if directory == dirs.run.join("hotswap") {
        return Some(0);
    }
    let (above, name) = (directory.parent()?, directory.file_name()?.to_str()?);
    if above == dirs.tmp || above == dirs.shm {
        return name.strip_prefix("hotswap-")?.parse().ok();
    }
    let user = above.strip_prefix(dirs.run.join("user")).ok()?;
    let is_it = name == "hotswap";
    user.to_str()?.parse().ok().filter(|_| is_it)
}

fn user_name(uid: u32) -> String {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    user.map_or_else(|| format!("uid {uid}"), |user| user.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_other_users_run_is_known_by_the_directories_of_their_sockets() {
        let dirs = SocketDirs {
            runtime_directory: None,
            xdg_runtime_dir: None,
            around_us: None,
            run: "/run".into(),
            tmp: "/tmp".into(),
            shm: "/dev/shm".into(),
            uid: Uid::from_raw(7),
        };
        let paths = [
            "/run/hotswap/web.sock",
            "/run/hotswap/api.sock",
            "/run/hotswap/api.sock.state",
            "/run/dbus/bus.sock",
            "/tmp/hotswap-8/api.sock",
            "/tmp/hotswap-7/mine.sock",
            "/run/user/9/hotswap/dev.sock",
            "/run/user/9/pulse/native.sock",
        ];
        let found = of_others(&dirs, paths.iter().map(PathBuf::from));
        let names = |uid: u32| found.get(&uid).map(|names| names.join(" "));
        assert_eq!(names(0).as_deref(), Some("api web"));
        assert_eq!(names(8).as_deref(), Some("api"));
        assert_eq!(names(9).as_deref(), Some("dev"));
        assert_eq!(found.len(), 3);
    }
}
