//! Copies what a server has set on its socket before bind(2) to the socket that replaces it.

use std::os::fd::BorrowedFd;

use crate::sys;

/// Every integer option of socket(7), tcp(7) and ipv6(7) that matters on a listening socket.
const OPTIONS: [(i32, i32); 18] = [
    (libc::SOL_SOCKET, libc::SO_REUSEADDR),
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    (libc::SOL_SOCKET, libc::SO_OOBINLINE),
    (libc::SOL_SOCKET, libc::SO_PRIORITY),
    (libc::SOL_SOCKET, libc::SO_MARK),
    (libc::SOL_SOCKET, libc::SO_BUSY_POLL),
    (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY),
    (libc::IPPROTO_IP, libc::IP_TOS),
    (libc::IPPROTO_IP, libc::IP_FREEBIND),
    (libc::IPPROTO_IP, libc::IP_TRANSPARENT),
    (libc::IPPROTO_TCP, libc::TCP_NODELAY),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
    (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
    (libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
    (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
    (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT),
    (libc::IPPROTO_TCP, libc::TCP_FASTOPEN),
    (libc::IPPROTO_TCP, libc::TCP_MAXSEG),
];
/// The kernel returns twice the size that was set.
const BUFFERS: [i32; 2] = [libc::SO_RCVBUF, libc::SO_SNDBUF];

/// Copies what differs. Options that a socket lacks or that may not be set are skipped.
pub fn copy(from: BorrowedFd, to: BorrowedFd) {
    for (level, name) in OPTIONS {
        copy_one(from, to, level, name, |value| value);
    }
    for name in BUFFERS {
        copy_one(from, to, libc::SOL_SOCKET, name, |value| value / 2);
    }
}

fn copy_one(from: BorrowedFd, to: BorrowedFd, level: i32, name: i32, as_set: fn(i32) -> i32) {
    if let Ok(wanted) = sys::socket_option(from, level, name)
        && sys::socket_option(to, level, name).is_ok_and(|value| value != wanted)
    {
        let _ = sys::set_socket_option(to, level, name, as_set(wanted));
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt};

    use super::*;

    #[test]
    fn what_was_set_on_one_holds_on_the_other() {
        let make = || {
            socket(
                AddressFamily::Inet6,
                SockType::Stream,
                SockFlag::empty(),
                None,
            )
            .unwrap()
        };
        let (one, other) = (make(), make());
        setsockopt(&one, sockopt::TcpNoDelay, &true).unwrap();
        setsockopt(&one, sockopt::Ipv6V6Only, &true).unwrap();
        setsockopt(&one, sockopt::RcvBuf, &50_000).unwrap();
        copy(one.as_fd(), other.as_fd());
        for (level, name) in [
            (libc::IPPROTO_TCP, libc::TCP_NODELAY),
            (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY),
            (libc::SOL_SOCKET, libc::SO_RCVBUF),
        ] {
            let value =
                |fd: &std::os::fd::OwnedFd| sys::socket_option(fd.as_fd(), level, name).unwrap();
            assert_eq!(value(&one), value(&other));
        }
    }
}
