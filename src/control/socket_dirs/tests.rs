use std::os::unix::net::UnixListener;

use tempfile::TempDir;

use super::*;

fn dirs() -> (TempDir, SocketDirs) {
    let room = tempfile::tempdir().unwrap();
    for directory in ["run", "tmp", "run/user", "run/user/7"] {
        fs::create_dir(room.path().join(directory)).unwrap();
    }
    let dirs = SocketDirs {
        runtime_directory: None,
        xdg_runtime_dir: None,
        around_us: None,
        run: room.path().join("run"),
        tmp: room.path().join("tmp"),
        shm: room.path().join("shm"),
        uid: Uid::effective(),
    };
    (room, dirs)
}

fn socket(directory: &Path, name: &str) -> PathBuf {
    fs::create_dir_all(directory).unwrap();
    let path = directory.join(file_of(name));
    drop(UnixListener::bind(&path).unwrap());
    path
}

fn paths(found: &[FoundSocket]) -> Vec<&Path> {
    found.iter().map(|found| found.path.as_path()).collect()
}

#[test]
fn a_service_uses_the_first_of_its_runtime_directories() {
    let (_room, mut dirs) = dirs();
    dirs.runtime_directory = Some("/run/api:/run/more".into());
    dirs.xdg_runtime_dir = Some("/run/user/0".into());
    assert_eq!(dirs.own_directory().unwrap(), Path::new("/run/api"));
}

#[test]
fn without_a_service_manager_the_users_own_directory_is_made() {
    let (room, mut dirs) = dirs();
    let user = room.path().join("run/user/7");
    dirs.xdg_runtime_dir = Some(user.clone().into());
    let made = dirs.own_directory().unwrap();
    assert_eq!(made, user.join("hotswap"));
    assert_eq!(fs::metadata(made).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn root_without_a_run_directory_has_its_sockets_in_tmp() {
    let (room, mut dirs) = dirs();
    if !dirs.uid.is_root() {
        return; // others have them there anyway
    }
    dirs.run = room.path().join("missing");
    let made = dirs.own_directory().unwrap();
    assert_eq!(made, room.path().join("tmp/hotswap-0"));
    let path = socket(&made, "api");
    assert_eq!(paths(&dirs.named("api")), [path.as_path()]);
}

#[test]
fn a_runtime_directory_of_another_user_is_not_used() {
    let (room, mut dirs) = dirs();
    dirs.xdg_runtime_dir = Some(room.path().join("run/user/7").into());
    dirs.uid = Uid::from_raw(dirs.uid.as_raw() + 1);
    let error = dirs.own_directory().unwrap_err();
    assert!(!error.to_string().contains("run/user/7"), "{error}");
}

#[test]
fn the_next_directory_is_used_where_others_can_exchange_one_or_it_is_a_link() {
    let (room, mut dirs) = dirs();
    let open = room.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    dirs.run = room.path().join("missing");
    dirs.xdg_runtime_dir = Some(open.clone().into());
    let next = room.path().join(format!("tmp/hotswap-{}", dirs.uid));
    assert_eq!(dirs.own_directory().unwrap(), next);
    assert!(entries(&open).is_empty(), "nothing is left in it");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o1777)).unwrap();
    std::os::unix::fs::symlink(room.path().join("run"), open.join("hotswap")).unwrap();
    assert_eq!(dirs.own_directory().unwrap(), next);
}

#[test]
fn a_directory_in_tmp_that_another_made_is_not_used() {
    let (room, mut dirs) = dirs();
    let foreign = room.path().join("tmp/hotswap-12345");
    fs::create_dir(&foreign).unwrap();
    dirs.uid = Uid::from_raw(12345);
    let error = dirs.own_directory().unwrap_err();
    assert!(error.to_string().contains("belongs to another user"));
    socket(&foreign, "api");
    assert_eq!(dirs.named("api"), []);
}

#[test]
fn a_directory_that_is_open_to_others_into_is_closed_to_them() {
    let (room, mut dirs) = dirs();
    dirs.xdg_runtime_dir = Some(room.path().into());
    let open = room.path().join("hotswap");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    dirs.own_directory().unwrap();
    assert_eq!(fs::metadata(open).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn clients_find_an_instance_wherever_it_may_be() {
    let (room, mut dirs) = dirs();
    let uid = dirs.uid;
    dirs.xdg_runtime_dir = Some(room.path().join("run/user/7").into());
    let places = ["run/api", "run/user/7/hotswap", "run/hotswap"];
    let in_tmp = format!("tmp/hotswap-{uid}");
    let made: Vec<PathBuf> = places
        .iter()
        .copied()
        .chain([in_tmp.as_str()])
        .map(|place| socket(&room.path().join(place), "api"))
        .collect();
    let found = dirs.named("api");
    assert_eq!(found.len(), 4);
    for path in &made {
        assert!(paths(&found).contains(&path.as_path()), "{path:?}");
    }
    assert_eq!(dirs.all(), found);
    assert_eq!(dirs.named("ap"), []);
}

#[test]
fn what_belongs_to_others_or_is_no_socket_is_passed_over() {
    let (room, mut dirs) = dirs();
    let place = room.path().join("run/api");
    socket(&place, "api");
    fs::write(place.join("file.sock"), "").unwrap();
    dirs.uid = Uid::from_raw(12345);
    assert_eq!(dirs.named("api"), []);
    dirs.uid = Uid::effective();
    assert_eq!(dirs.named("file"), []);
}

#[test]
fn a_servers_own_child_finds_the_socket_it_was_told_of() {
    let (room, mut dirs) = dirs();
    let path = socket(&room.path().join("elsewhere"), "control");
    dirs.around_us = Some(("api".into(), path.clone()));
    assert_eq!(paths(&dirs.named("api")), [path.as_path()]);
    assert_eq!(dirs.named("other"), []);
}
