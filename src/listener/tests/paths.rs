use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;

/// A directory, and `unix:` with a path in it.
fn somewhere() -> (TempDir, PathBuf, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    let listen = format!("unix:{}", path.display());
    (directory, path, listen)
}

fn names_in(directory: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(directory.path()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

#[test]
fn clients_never_find_the_path_gone() {
    let (_directory, path, listen) = somewhere();
    let mut fixture = Fixture::listening(&[&listen]);
    let first = fixture.serving(G1);
    let second = fixture.spawn(G2, SocketChoice::Own);
    std::thread::scope(|scope| {
        let clients = scope.spawn(|| {
            for _ in 0..1_000 {
                UnixStream::connect(&path).expect("somebody listens");
            }
        });
        // A full queue makes a client wait, so they are answered as long as one is left.
        while !clients.is_finished() {
            fixture.cut_over(G2);
            fixture.cut_over(G1);
            first.answers();
            second.answers();
        }
    });
}

#[test]
fn nothing_is_left_behind() {
    let (directory, _, listen) = somewhere();
    let mut fixture = Fixture::listening(&[&listen]);
    fixture.serving(G1);
    fixture.serving(G2);
    fixture.leave(G1);
    let names = ["api.sock", "api.sock.hotswap-2", "api.sock.lock"];
    assert_eq!(names_in(&directory), names);
    drop(fixture);
    assert_eq!(names_in(&directory), [""; 0]);
}

#[test]
fn what_is_no_longer_ours_stays() {
    let (directory, path, listen) = somewhere();
    let fixture = Fixture::listening(&[&listen]);
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    drop(fixture);
    assert_eq!(names_in(&directory), ["api.sock"]);
}

#[test]
fn a_path_is_taken_only_if_nobody_answers_there() {
    let (directory, path, listen) = somewhere();
    let fixture = Fixture::listening(&[]);
    let living = UnixListener::bind(&path).unwrap();
    // a candidate of the hotswap that captured the path may be about to listen there
    drop(UnixListener::bind(directory.path().join("api.sock.hotswap-2")).unwrap());
    let said = fixture.refusal(&listen);
    assert_eq!(names_in(&directory), ["api.sock", "api.sock.hotswap-2"]);
    assert!(said.contains("Address already in use"), "{said}");
    assert!(said.contains("another address of this hotswap"), "{said}");
    drop(living);
    drop(Fixture::listening(&[&listen]));
    fs::write(&path, "mine").unwrap();
    let said = fixture.refusal(&listen);
    assert!(said.contains("it is not a socket\ntry: "), "{said}");
    assert_eq!(fs::read(&path).unwrap(), b"mine");
}

#[test]
fn one_hotswap_at_a_time_has_a_path() {
    let (_directory, path, listen) = somewhere();
    let fixture = Fixture::listening(&[&listen]);
    // even when its socket does not answer
    fs::remove_file(&path).unwrap();
    let said = fixture.refusal(&listen);
    assert!(said.contains("Address already in use"), "{said}");
    drop(fixture);
    Fixture::listening(&[&listen]);
}

#[test]
fn leftovers_of_a_killed_hotswap_are_removed() {
    let (directory, path, listen) = somewhere();
    for name in ["api.sock.hotswap-7", "api.sock"] {
        drop(UnixListener::bind(directory.path().join(name)).unwrap());
    }
    fs::write(path.with_extension("sock.lock"), "").unwrap();
    let fixture = Fixture::listening(&[&listen]);
    let names = ["api.sock", "api.sock.hotswap-1", "api.sock.lock"];
    assert_eq!(names_in(&directory), names);
    drop(fixture);
}

#[test]
fn mode_and_owner_hold_for_every_generation() {
    let (_directory, path, listen) = somewhere();
    let group = nix::unistd::getgid();
    let mut fixture = Fixture::with(&[&listen], |options| {
        options.mode = Some(0o600);
        options.owner = Some((None, Some(group)));
    });
    let mode = || fs::metadata(&path).unwrap().mode() & 0o7777;
    fixture.serving(G1);
    assert_eq!(mode(), 0o600);
    fixture.serving(G2);
    assert_eq!(mode(), 0o600);
    // as somebody has made it meanwhile
    fs::set_permissions(&path, fs::Permissions::from_mode(0o622)).unwrap();
    fixture.serving(G3);
    assert_eq!(mode(), 0o622);
}

#[test]
fn a_path_that_was_unlinked_is_put_back_when_its_unlinker_is_gone() {
    let (_directory, path, listen) = somewhere();
    let mut fixture = Fixture::listening(&[&listen]);
    fixture.serving(G1);
    let second = fixture.serving(G2);
    // as servers do that clean up after themselves
    fs::remove_file(&path).unwrap();
    fixture.leave(G1);
    let _client = fixture.client();
    assert_eq!(second.answers(), 1);
}

#[test]
fn a_restart_finds_clients_though_the_path_is_gone_altogether() {
    let (directory, _, listen) = somewhere();
    let mut fixture = Fixture::listening(&[&listen]);
    fixture.serving(G1);
    for name in ["api.sock", "api.sock.hotswap-1"] {
        fs::remove_file(directory.path().join(name)).unwrap();
    }
    fixture.leave(G1);
    let second = fixture.spawn(G2, SocketChoice::Target);
    let _client = fixture.client();
    assert_eq!(second.answers(), 1);
}

#[test]
fn cutting_back_needs_no_name_that_a_server_has_unlinked() {
    let (directory, _, listen) = somewhere();
    let mut fixture = Fixture::listening(&[&listen]);
    let first = fixture.serving(G1);
    fs::remove_file(directory.path().join("api.sock.hotswap-1")).unwrap();
    fixture.serving(G2);
    fixture.cut_over(G1);
    let _client = fixture.client();
    assert_eq!(first.answers(), 1);
}

#[test]
fn clients_of_a_socket_that_was_shut_down_wait_for_the_next_generation() {
    let (_directory, _, listen) = somewhere();
    let mut fixture = Fixture::listening(&[&listen]);
    let first = fixture.serving(G1);
    first.shuts_down();
    fixture.wake();
    let _client = fixture.client();
    let next = fixture.spawn(G2, SocketChoice::Own);
    assert_eq!(next.answers(), 1);
    fixture.cut_over(G2);
    fixture.leave(G1);
    let _client = fixture.client();
    assert_eq!(next.answers(), 1);
}

#[test]
fn a_path_too_long_for_a_name_beside_it_is_shared() {
    let directory = tempfile::tempdir().unwrap();
    let length = 105 - directory.path().as_os_str().len();
    let path = directory.path().join("x".repeat(length));
    let options = Fixture::listening(&[]).listeners.context.options.clone();
    let listens = [format!("unix:{}", path.display()).parse().unwrap()];
    let (mut listeners, warnings) = Listeners::open(
        &listens,
        ListenerContext::new(options).unwrap(),
        Vec::new(),
        None,
    )
    .unwrap();
    assert!(warnings[0].contains("too long"), "{warnings:?}");
    listeners.inherited_sockets(G1, SocketChoice::Own).unwrap();
    assert!(!listeners.sockets_of(G1)[0].steered);
    UnixStream::connect(path).unwrap();
}

#[test]
fn a_directory_that_was_replaced_is_followed_by_the_next_generation() {
    let (directory, path, _) = somewhere();
    let run = directory.path().join("run");
    fs::create_dir(&run).unwrap();
    let path = run.join(path.file_name().unwrap());
    let mut fixture = Fixture::listening(&[&format!("unix:{}", path.display())]);
    let first = fixture.serving(G1);
    // moved away: what serves has a name that can come along
    fs::rename(&run, directory.path().join("run.old")).unwrap();
    fs::create_dir(&run).unwrap();
    let second = fixture.spawn(G2, SocketChoice::Own);
    let _early = fixture.clients(2);
    assert_eq!((first.answers(), second.answers()), (2, 0));
    fixture.cut_over(G2);
    let _late = fixture.clients(2);
    assert_eq!(second.answers(), 2);
    // removed altogether
    fs::remove_dir_all(&run).unwrap();
    fs::create_dir(&run).unwrap();
    let third = fixture.serving(G3);
    let _last = fixture.clients(2);
    assert_eq!(third.answers(), 2);
    fs::remove_dir_all(&run).unwrap();
    let error = fixture
        .listeners
        .inherited_sockets(Generation(4), SocketChoice::Own)
        .unwrap_err();
    assert!(
        error.to_string().starts_with(path.to_str().unwrap()),
        "{error}"
    );
}
