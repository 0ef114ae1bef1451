//! Copies what a server has set on its socket before bind(2) to the socket that replaces it.

use std::os::fd::BorrowedFd;

use crate::sys;

/// What servers set on a listening socket, and what the connections that come by it inherit from it.
const OPTIONS: [(i32, i32); 28] = [
    (libc::SOL_SOCKET, libc::SO_REUSEADDR),
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    (libc::SOL_SOCKET, libc::SO_OOBINLINE),
    (libc::SOL_SOCKET, libc::SO_PRIORITY),
    (libc::SOL_SOCKET, libc::SO_MARK),
    (libc::SOL_SOCKET, libc::SO_BUSY_POLL),
    (libc::SOL_SOCKET, libc::SO_DONTROUTE),
    (libc::SOL_SOCKET, libc::SO_LINGER),
    (libc::SOL_SOCKET, libc::SO_RCVLOWAT),
    (libc::SOL_SOCKET, libc::SO_RCVTIMEO),
    (libc::SOL_SOCKET, libc::SO_SNDTIMEO),
    (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY),
    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
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
    (libc::IPPROTO_TCP, libc::TCP_CONGESTION),
    (libc::IPPROTO_TCP, libc::TCP_LINGER2),
    (libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT),
    (libc::IPPROTO_TCP, libc::TCP_SYNCNT),
];
/// The kernel returns twice the size that was set.
const BUFFERS: [i32; 2] = [libc::SO_RCVBUF, libc::SO_SNDBUF];

/// Copies what differs. Options that a socket lacks or that may not be set are skipped.
pub fn copy(from: BorrowedFd, to: BorrowedFd) {
    for (level, name) in OPTIONS {
        if let Some(wanted) = differs(from, to, level, name) {
            let _ = sys::set_socket_option_bytes(to, level, name, &wanted);
        }
    }
    for name in BUFFERS {
        if differs(from, to, libc::SOL_SOCKET, name).is_some()
            && let Ok(wanted) = sys::socket_option(from, libc::SOL_SOCKET, name)
        {
            let _ = sys::set_socket_option(to, libc::SOL_SOCKET, name, wanted / 2);
        }
    }
}

fn differs(from: BorrowedFd, to: BorrowedFd, level: i32, name: i32) -> Option<Vec<u8>> {
    let [wanted, there] = [from, to].map(|socket| sys::socket_option_bytes(socket, level, name));
    wanted
        .ok()
        .filter(|wanted| there.is_ok_and(|there| there != *wanted))
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt};
    use nix::sys::time::{TimeVal, TimeValLike};

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
        setsockopt(&one, sockopt::TcpCongestion, &"reno".into()).unwrap();
        let linger = libc::linger {
            l_onoff: 1,
            l_linger: 7,
        };
        setsockopt(&one, sockopt::Linger, &linger).unwrap();
        setsockopt(&one, sockopt::ReceiveTimeout, &TimeVal::seconds(3)).unwrap();
        copy(one.as_fd(), other.as_fd());
        for (level, name) in [
            (libc::IPPROTO_TCP, libc::TCP_CONGESTION),
            (libc::SOL_SOCKET, libc::SO_LINGER),
            (libc::SOL_SOCKET, libc::SO_RCVTIMEO),
            (libc::IPPROTO_TCP, libc::TCP_NODELAY),
            (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY),
            (libc::SOL_SOCKET, libc::SO_RCVBUF),
        ] {
            let value = |fd: &OwnedFd| sys::socket_option_bytes(fd.as_fd(), level, name).unwrap();
            assert_eq!(value(&one), value(&other));
        }
    }
}
