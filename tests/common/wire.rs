//! What goes over one connection: how it is opened, and what an answer is.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, UnixAddr, connect, setsockopt, socket,
    sockopt,
};

use super::place::Target;
use super::tally::Failure;

pub struct Answer {
    pub status: u16,
    pub body: String,
    pub closes: bool,
}

impl Answer {
    /// Nothing while a part is still to come.
    pub fn whole(bytes: &[u8]) -> Option<Answer> {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n")?;
        let head = head.to_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length?.trim().parse().ok()?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let closes = head.contains("connection: close");
        (body.len() >= length).then(|| Answer {
            status,
            body: body.to_owned(),
            closes,
        })
    }
}

/// Begins to connect, without waiting for it.
pub fn open(target: &Target) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let stream = |family| socket(family, SockType::Stream, flags, None);
    let begun = |result: nix::Result<()>| match result {
        Err(Errno::EINPROGRESS) => Ok(()),
        other => other,
    };
    match target {
        Target::Tcp(address) | Target::Udp(address) => {
            let family = if address.is_ipv4() {
                AddressFamily::Inet
            } else {
                AddressFamily::Inet6
            };
            let socket = stream(family)?;
            // A reset when we are done leaves no TIME_WAIT: at a thousand a second there would soon be no port left.
            setsockopt(
                &socket,
                sockopt::Linger,
                &libc::linger {
                    l_onoff: 1,
                    l_linger: 0,
                },
            )?;
            setsockopt(&socket, sockopt::TcpNoDelay, &true)?;
            begun(connect(
                socket.as_raw_fd(),
                &SockaddrStorage::from(*address),
            ))?;
            Ok(socket)
        }
        Target::Unix(path) => {
            let socket = stream(AddressFamily::Unix)?;
            connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
            Ok(socket)
        }
        Target::Abstract(name) => {
            let socket = stream(AddressFamily::Unix)?;
            connect(
                socket.as_raw_fd(),
                &UnixAddr::new_abstract(name.as_bytes())?,
            )?;
            Ok(socket)
        }
    }
}

pub fn failure(errno: Errno) -> Failure {
    match errno {
        Errno::ECONNREFUSED | Errno::ENOENT => Failure::Refused,
        Errno::ECONNRESET | Errno::EPIPE => Failure::Reset,
        Errno::ETIMEDOUT => Failure::TimedOut,
        other => Failure::Other(other as i32),
    }
}
