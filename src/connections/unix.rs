//! The queues and the connections of unix stream listeners.
//!
//! An accepted socket has the name of its listener, so a private path shows whose connection it is.
//! The layouts are those of linux/unix_diag.h.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use nix::errno::Errno;

use super::sock_diag::{self, Scope, attributes, number};

const UNIX_DIAG_NAME: u16 = 0;
const UNIX_DIAG_PEER: u16 = 2;
const UNIX_DIAG_ICONS: u16 = 3;
const UNIX_DIAG_RQLEN: u16 = 4;
const SHOW_NAME: u32 = 1;
const SHOW_PEER: u32 = 4;
const SHOW_ICONS: u32 = 8;
const SHOW_RQLEN: u32 = 16;
const ESTABLISHED: u8 = 1;
const LISTEN: u8 = 10;
const MESSAGE: usize = 16;

/// One unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
struct UnixSocket {
    state: u8,
    /// 0 until it is accepted.
    inode: u64,
    name: Vec<u8>,
    /// The inode of the other end: 0 before that is accepted, and once it is closed.
    peer: Option<u64>,
    /// Of a listener: the length of its accept queue.
    queue: u32,
}

/// How many connections wait to be accepted by the listener with this inode.
///
/// # Errors
/// `ENOENT` if there is no such socket; those of the sock_diag(7) answer.
pub fn accept_queue(inode: u64) -> io::Result<u32> {
    Ok(one(inode, SHOW_RQLEN)?.ok_or(Errno::EBADMSG)?.queue)
}

/// How many clients wait to be accepted by the listener with this inode, and are still there; `None` if they are too many
/// for one answer.
pub fn unaccepted(inode: u64) -> Option<u32> {
    let mut count = None;
    let request = request(inode, u32::MAX, SHOW_ICONS);
    let asked = sock_diag::ask(&request, Scope::One, |message| {
        let all = message.get(MESSAGE..).into_iter().flat_map(attributes);
        let clients = all.filter(|(kind, _)| *kind == UNIX_DIAG_ICONS);
        // the inode of each, or 0 if no process has it any more
        let clients = clients.flat_map(|(_, value)| value.chunks_exact(4));
        let there = clients.filter(|client| **client != [0; 4]).count();
        count = u32::try_from(there).ok();
    });
    asked.ok().and(count)
}

/// The connections of the listener with this inode that have both their ends, by the inode of the server's, which is 0
/// until accepted, and that of the client's.
///
/// # Errors
/// Those of the sock_diag(7) answer.
pub fn connections(listener: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut sockets = Vec::new();
    let states = 1 << ESTABLISHED | 1 << LISTEN;
    let request = request(0, states, SHOW_NAME | SHOW_PEER);
    sock_diag::ask(&request, Scope::All, |message| {
        sockets.extend(parse(message).filter(|socket| !socket.name.is_empty()));
    })?;
    Ok(connections_of(listener, &sockets))
}

fn connections_of(listener: u64, sockets: &[UnixSocket]) -> Vec<(u64, u64)> {
    let is_listener = |one: &&UnixSocket| one.state == LISTEN && one.inode == listener;
    let listener = sockets.iter().find(is_listener);
    let open = sockets.iter().filter(|one| one.state == ESTABLISHED);
    open.filter(|socket| listener.is_some_and(|listener| listener.name == socket.name))
        .filter_map(|socket| Some((socket.inode, socket.peer.filter(|peer| *peer != 0)?)))
        .collect()
}

/// Every listener that was bound to a path, and that path.
///
/// # Errors
/// Those of the sock_diag(7) answer.
pub fn listening() -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    sock_diag::ask(&request(0, 1 << LISTEN, SHOW_NAME), Scope::All, |message| {
        let listener = parse(message).filter(|socket| socket.state == LISTEN);
        let named = listener.filter(|socket| !socket.name.is_empty() && socket.name[0] != 0);
        found.extend(named.map(|mut socket| {
            socket.name.retain(|byte| *byte != 0);
            (socket.inode, OsString::from_vec(socket.name).into())
        }));
    })?;
    Ok(found)
}

/// Whether a process has the other end of the connection whose end has this inode.
///
/// # Errors
/// Those of the sock_diag(7) answer.
pub fn has_owned_peer(inode: u64) -> io::Result<bool> {
    let peer = one(inode, SHOW_PEER)?.and_then(|socket| socket.peer);
    Ok(peer.is_some_and(|peer| peer != 0))
}

fn one(inode: u64, show: u32) -> io::Result<Option<UnixSocket>> {
    let mut found = None;
    sock_diag::ask(&request(inode, u32::MAX, show), Scope::One, |message| {
        found = parse(message);
    })?;
    Ok(found)
}

fn request(inode: u64, states: u32, show: u32) -> Vec<u8> {
    let family = u8::try_from(libc::AF_UNIX).unwrap_or_default();
    let mut bytes = vec![family, 0, 0, 0];
    bytes.extend(states.to_ne_bytes());
    bytes.extend(u32::try_from(inode).unwrap_or_default().to_ne_bytes());
    bytes.extend(show.to_ne_bytes());
    bytes.extend([0xff; 8]);
    bytes
}

/// One answer; `None` if it is too short.
fn parse(message: &[u8]) -> Option<UnixSocket> {
    let mut socket = UnixSocket {
        state: *message.get(2)?,
        inode: u64::from(number(message, 4)?),
        name: Vec::new(),
        peer: None,
        queue: 0,
    };
    for (kind, value) in attributes(message.get(MESSAGE..)?) {
        match kind {
            UNIX_DIAG_NAME => socket.name = value.to_vec(),
            UNIX_DIAG_PEER => socket.peer = number(value, 0).map(u64::from),
            UNIX_DIAG_RQLEN => socket.queue = number(value, 0).unwrap_or_default(),
            _ => (),
        }
    }
    Some(socket)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;
    use crate::socket::inode_of;

    fn socket(state: u8, inode: u64, name: &str, peer: Option<u64>) -> UnixSocket {
        let name = name.as_bytes().to_vec();
        UnixSocket {
            state,
            inode,
            name,
            peer,
            queue: 0,
        }
    }

    #[test]
    fn a_connection_belongs_to_the_listener_whose_name_it_bears() {
        let sockets = [
            socket(LISTEN, 1, "/run/a.hotswap-1", None),
            socket(LISTEN, 2, "/run/a.hotswap-2", None),
            socket(ESTABLISHED, 11, "/run/a.hotswap-1", Some(9)),
            socket(ESTABLISHED, 0, "/run/a.hotswap-1", Some(9)),
            socket(ESTABLISHED, 12, "/run/a.hotswap-1", None),
            socket(ESTABLISHED, 13, "/run/a.hotswap-2", Some(9)),
        ];
        assert_eq!(connections_of(1, &sockets), [(11, 9), (0, 9)]);
        assert_eq!(connections_of(2, &sockets), [(13, 9)]);
        assert!(connections_of(3, &sockets).is_empty());
    }

    #[test]
    fn bytes_too_few_to_tell_are_no_socket() {
        assert_eq!(parse(&[0; 7]), None);
        assert_eq!(parse(&[0; MESSAGE]), Some(socket(0, 0, "", None)));
    }

    #[test]
    fn the_kernel_tells_the_queue_and_the_connections() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("listener");
        let listener = UnixListener::bind(&path).unwrap();
        let inode = inode_of(listener.as_fd()).unwrap();
        assert_eq!(accept_queue(inode).unwrap(), 0);
        let clients = [
            UnixStream::connect(&path).unwrap(),
            UnixStream::connect(&path).unwrap(),
        ];
        assert_eq!(accept_queue(inode).unwrap(), 2);
        let client = inode_of(clients[0].as_fd()).unwrap();
        assert!(!has_owned_peer(client).unwrap());
        let served = [listener.accept().unwrap(), listener.accept().unwrap()];
        assert_eq!(accept_queue(inode).unwrap(), 0);
        assert!(has_owned_peer(client).unwrap());
        // The name stays with the sockets when the path is renamed, as at a cut-over.
        std::fs::rename(&path, directory.path().join("renamed")).unwrap();
        assert_eq!(connections(inode).unwrap().len(), 2);
        drop(clients);
        assert!(connections(inode).unwrap().is_empty());
        drop(served);
        drop(listener);
        assert_eq!(
            accept_queue(inode).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_is_read_is_trusted(bytes: Vec<u8>) {
            parse(&bytes);
        }
    }
}
