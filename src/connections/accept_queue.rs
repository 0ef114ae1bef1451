//! What has not been accepted yet on the sockets that only this generation has.

use std::io;

use super::half_open::{self, IDLE};
use super::listening::listening;
use super::{inet, unix};
use crate::socket::generation_socket::{GenerationSocket, SocketKind};
use crate::socket::inet::Family;
use crate::sys;

/// What one look at the listeners found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptQueue {
    /// Connections that wait to be accepted.
    pub queued: u32,
    /// Handshakes that are not complete; `None` where the kernel does not tell.
    pub handshakes: Option<bool>,
}

impl AcceptQueue {
    pub const NONE: Self = Self {
        queued: 0,
        handshakes: Some(false),
    };

    pub fn is_none(self) -> bool {
        self == Self::NONE
    }

    /// Looks at those of these sockets that only their generation has: what waits on a shared one waits for all.
    pub fn of(held: &[GenerationSocket]) -> Self {
        let mut queue = Self::NONE;
        for one in held.iter().filter(|one| one.steered) {
            match accept_queue(one) {
                Ok(length) => queue.queued += length.unwrap_or(0),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(_) => queue.handshakes = None,
            }
        }
        for family in Family::ALL {
            let is_tcp = |one: &&GenerationSocket| one.steered && one.kind.tcp_port().is_some();
            let own = held
                .iter()
                .filter(|one| is_tcp(one) && one.family == Some(family));
            let inodes: Vec<u64> = own.map(|one| one.inode).collect();
            // A queue is reason enough to wait: the rest need not be read.
            if !inodes.is_empty() && queue.queued == 0 && queue.handshakes == Some(false) {
                queue.handshakes = handshakes(family, &inodes);
            }
        }
        queue
    }
}

/// How many connections wait to be accepted; `None` if it has no such queue.
///
/// # Errors
/// Those of getsockopt(2) and of the sock_diag(7) answer.
pub fn accept_queue(held: &GenerationSocket) -> io::Result<Option<u32>> {
    Ok(match held.kind {
        SocketKind::Tcp { port } => match (held.fd, held.family) {
            (Some(fd), _) => Some(sys::tcp_info(fd)?.tcpi_unacked),
            (None, Some(family)) => {
                let there = listening(family, port)?;
                let own = there.iter().find(|there| there.inode == held.inode);
                Some(own.ok_or(io::ErrorKind::NotFound)?.queue)
            }
            (None, None) => None,
        },
        SocketKind::Unix | SocketKind::Abstract => Some(unix::accept_queue(held.inode)?),
        SocketKind::Udp { .. } | SocketKind::Other => None,
    })
}

/// The same, without those whose client has left: a probe of hotswap's is no client.
///
/// # Errors
/// Those of [`accept_queue`].
pub fn waiting_clients(held: &GenerationSocket) -> io::Result<Option<u32>> {
    let queued = accept_queue(held)?;
    if queued.is_none_or(|queued| queued == 0) {
        return Ok(queued);
    }
    let there = match (held.kind, held.family) {
        (SocketKind::Tcp { port }, Some(family)) => inet::unaccepted(family, port).ok(),
        (SocketKind::Unix | SocketKind::Abstract, _) => unix::unaccepted(held.inode),
        (SocketKind::Tcp { .. } | SocketKind::Udp { .. } | SocketKind::Other, _) => None,
    };
    Ok(queued.min(there.or(queued)))
}

/// Whether any handshake is open on these listeners, if that is known.
fn handshakes(family: Family, inodes: &[u64]) -> Option<bool> {
    if !half_open::can_be_seen() {
        return None;
    }
    let references = half_open::references(family, inodes).ok()?;
    // A socket that is not in the table does not listen: its server has shut it down.
    Some(references.values().any(|count| *count > IDLE))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    use nix::sys::socket::{Shutdown, shutdown};

    use super::*;
    use crate::socket::generation_socket::held;
    use crate::socket::reset;

    const QUEUED: AcceptQueue = AcceptQueue {
        queued: 1,
        handshakes: Some(false),
    };

    #[test]
    fn a_tcp_queue_is_seen_until_it_is_accepted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let port = address.port();
        let one = held(&listener, SocketKind::Tcp { port });
        assert_eq!(AcceptQueue::of(&[one]), AcceptQueue::NONE);
        let client = TcpStream::connect(address).unwrap();
        assert_eq!(AcceptQueue::of(&[one]), QUEUED);
        let orphan = GenerationSocket { fd: None, ..one };
        assert_eq!(AcceptQueue::of(&[orphan]), QUEUED);
        // What waits on a shared socket waits for all.
        let shared = GenerationSocket {
            steered: false,
            ..one
        };
        assert_eq!(AcceptQueue::of(&[shared]), AcceptQueue::NONE);
        let served = listener.accept().unwrap();
        assert_eq!(AcceptQueue::of(&[one]), AcceptQueue::NONE);
        drop((client, served));
    }

    #[test]
    fn who_has_left_the_queue_does_not_wait() {
        let directory = tempfile::tempdir().unwrap();
        let (tcp, path) = (
            TcpListener::bind("127.0.0.1:0").unwrap(),
            directory.path().join("listener"),
        );
        let (address, unix) = (
            tcp.local_addr().unwrap(),
            UnixListener::bind(&path).unwrap(),
        );
        let tcp = held(
            &tcp,
            SocketKind::Tcp {
                port: address.port(),
            },
        );
        let unix = held(&unix, SocketKind::Unix);
        let waiting = || [tcp, unix].map(|one| waiting_clients(&one).unwrap().unwrap());
        assert_eq!(waiting(), [0, 0]);
        let leaving = (
            TcpStream::connect(address).unwrap(),
            UnixStream::connect(&path).unwrap(),
        );
        let _staying = (
            TcpStream::connect(address).unwrap(),
            UnixStream::connect(&path).unwrap(),
        );
        assert_eq!(waiting(), [2, 2]);
        reset(&leaving.0);
        drop(leaving);
        assert_eq!(waiting(), [1, 1]);
    }

    #[test]
    fn a_listener_that_its_server_has_shut_down_holds_nobody_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let port = address.port();
        shutdown(listener.as_raw_fd(), Shutdown::Both).unwrap();
        let one = held(&listener, SocketKind::Tcp { port });
        assert_eq!(AcceptQueue::of(&[one]), AcceptQueue::NONE);
    }

    #[test]
    fn a_unix_queue_is_seen_until_it_is_accepted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("listener");
        let listener = UnixListener::bind(&path).unwrap();
        let one = held(&listener, SocketKind::Unix);
        assert_eq!(AcceptQueue::of(&[one]), AcceptQueue::NONE);
        let client = UnixStream::connect(&path).unwrap();
        assert_eq!(AcceptQueue::of(&[one]), QUEUED);
        let served = listener.accept().unwrap();
        assert_eq!(AcceptQueue::of(&[one]), AcceptQueue::NONE);
        drop((client, served));
    }
}
