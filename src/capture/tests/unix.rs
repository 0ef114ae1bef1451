//! Unix paths and abstract names that servers bind by themselves.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::{CapturedServers, G1, G2, inode};
use crate::sys;

/// What servers do: away with the old one, then bind.
fn bind_afresh(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(path)
}

fn hears(server: &UnixListener, path: &Path) {
    let mut client = UnixStream::connect(path).unwrap();
    client.write_all(b"hello").unwrap();
    let mut heard = [0; 5];
    server.accept().unwrap().0.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello");
}

fn names_in(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into())
        .collect();
    names.sort();
    names
}

#[test]
fn a_path_passes_from_one_generation_to_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    let mut captured_servers = CapturedServers::new();
    let there = path.clone();
    let old = captured_servers.serve(G1, move || bind_afresh(&there).unwrap());
    captured_servers.listeners.cut_over(G1, &[]).unwrap();
    hears(&old, &path);
    let there = path.clone();
    let new = captured_servers.serve(G2, move || bind_afresh(&there).unwrap());
    hears(&old, &path);
    captured_servers.listeners.cut_over(G2, &[]).unwrap();
    hears(&new, &path);
    let there = path.clone();
    captured_servers.again(G1, move || {
        drop(old);
        fs::remove_file(there).unwrap();
    });
    captured_servers.leave(G1);
    hears(&new, &path);
    drop(captured_servers);
    assert!(names_in(directory.path()).is_empty());
}

/// As asyncio does at a reload, and workers that all do the same.
#[test]
fn a_server_that_has_unlinked_its_path_binds_it_again_beside_its_first_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    let mut captured_servers = CapturedServers::new();
    for generation in [G1, G2] {
        let there = path.clone();
        let (first, second) = captured_servers.serve(generation, move || {
            let first = bind_afresh(&there).unwrap();
            let taken = UnixListener::bind(&there).map_err(|error| error.kind());
            assert_eq!(taken.unwrap_err(), ErrorKind::AddrInUse);
            (first, bind_afresh(&there).unwrap())
        });
        captured_servers
            .listeners
            .cut_over(generation, &[])
            .unwrap();
        captured_servers.look(generation);
        // that another descriptor has it, too, would only be seen of a process
        drop(first);
        hears(&second, &path);
    }
}

/// Beside a port it is not known yet to be for clients.
#[test]
fn a_path_beside_a_port_is_another_socket_for_each_generation() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    let mut captured_servers = CapturedServers::listening(&["127.0.0.1:0"]);
    let first = {
        let path = path.clone();
        captured_servers.serve(G1, move || bind_afresh(&path).unwrap())
    };
    let now = (sys::now(), sys::now());
    captured_servers.listeners.release_kept(G1, &[], &[], now);
    captured_servers.listeners.cut_over(G1, &[]).unwrap();
    let second = {
        let path = path.clone();
        captured_servers.serve(G2, move || bind_afresh(&path).unwrap())
    };
    assert_ne!(inode(&first), inode(&second));
    captured_servers.listeners.cut_over(G2, &[]).unwrap();
    hears(&second, &path);
}

#[test]
fn what_is_not_ours_is_unlinked_as_ever() {
    let directory = tempfile::tempdir().unwrap();
    let (path, other) = (directory.path().join("a"), directory.path().join("b"));
    let mut captured_servers = CapturedServers::new();
    let (here, there) = (path.clone(), other.clone());
    let _server = captured_servers.serve(G1, move || {
        fs::write(&there, "").unwrap();
        let server = UnixListener::bind(&here).unwrap();
        fs::remove_file(&there).unwrap();
        fs::create_dir(there.with_extension("d")).unwrap();
        fs::remove_dir(there.with_extension("d")).unwrap();
        fs::remove_file(&here).unwrap();
        server
    });
    assert!(path.exists());
    assert!(!other.exists());
}

#[test]
fn a_path_that_is_taken_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, "").unwrap();
    let nowhere = directory.path().join("missing/api.sock");
    let mut captured_servers = CapturedServers::new();
    let (taken, missing) = captured_servers.serve(G1, move || {
        let error = |path| UnixListener::bind(path).unwrap_err().kind();
        (error(path), error(nowhere))
    });
    assert_eq!(taken, ErrorKind::AddrInUse);
    assert_eq!(missing, ErrorKind::NotFound);
}

#[test]
fn a_mode_given_to_the_path_goes_over_to_the_next_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    let mut captured_servers = CapturedServers::new();
    for (generation, mode) in [(G1, 0o600), (G2, 0o660)] {
        let there = path.clone();
        let server = captured_servers.serve(generation, move || {
            let server = bind_afresh(&there).unwrap();
            fs::set_permissions(&there, fs::Permissions::from_mode(mode)).unwrap();
            server
        });
        captured_servers
            .listeners
            .cut_over(generation, &[])
            .unwrap();
        hears(&server, &path);
        let found = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode);
    }
}

#[test]
fn a_path_too_long_for_a_name_beside_it_is_swapped_too() {
    let directory = tempfile::tempdir().unwrap();
    let length = 106 - directory.path().as_os_str().len();
    let path = directory.path().join("x".repeat(length));
    let mut captured_servers = CapturedServers::new();
    for generation in [G1, G2] {
        let there = path.clone();
        let server = captured_servers.serve(generation, move || bind_afresh(&there).unwrap());
        captured_servers
            .listeners
            .cut_over(generation, &[])
            .unwrap();
        hears(&server, &path);
    }
}

#[test]
fn a_restart_gets_the_dead_ones_path_and_who_waits_there() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    let mut captured_servers = CapturedServers::new();
    let there = path.clone();
    drop(captured_servers.serve(G1, move || bind_afresh(&there).unwrap()));
    captured_servers.listeners.cut_over(G1, &[]).unwrap();
    let mut client = UnixStream::connect(&path).unwrap();
    captured_servers.leave(G1);
    let there = path.clone();
    let server = captured_servers.serve(G2, move || bind_afresh(&there).unwrap());
    client.write_all(b"x").unwrap();
    server.accept().unwrap().0.read_exact(&mut [0]).unwrap();
}

#[test]
fn an_abstract_name_is_one_socket_for_all() {
    let mut captured_servers = CapturedServers::new();
    let name = format!("hotswap-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let servers = [G1, G2].map(|generation| {
        let address = address.clone();
        captured_servers.serve(generation, move || {
            UnixListener::bind_addr(&address).unwrap()
        })
    });
    assert_eq!(inode(&servers[0]), inode(&servers[1]));
    assert_eq!(captured_servers.listens()[0], format!("unix:@{name}"));
    drop(UnixStream::connect_addr(&address).unwrap());
    servers[1].accept().unwrap();
}

#[test]
fn a_listened_path_is_given_to_whoever_binds_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    let mut captured_servers = CapturedServers::listening(&[path.to_str().unwrap()]);
    let there = path.clone();
    let server = captured_servers.serve(G1, move || bind_afresh(&there).unwrap());
    assert_eq!(
        captured_servers.listeners.sockets_of(G1)[0].inode,
        inode(&server)
    );
    hears(&server, &path);
}
