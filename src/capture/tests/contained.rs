//! Servers whose sockets may not be duplicated: what they set is learned, and set on another socket in their place.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::{SockaddrIn6, bind, setsockopt, sockopt};

use super::{CapturedServers, G1, G2, bind_to, free_address, inode, says_hello, stream, stream_v6};
use crate::sys;

/// One of several, as nginx makes one for each worker with `reuseport`.
fn one_of_many(address: SocketAddr) -> OwnedFd {
    let socket = stream();
    setsockopt(&socket, sockopt::ReusePort, &true).unwrap();
    bind_to(&socket, address).unwrap();
    socket
}

#[test]
fn several_sockets_at_one_address_are_one_listener() {
    let (mut servers, address) = (CapturedServers::contained(), free_address());
    for generation in [G1, G2] {
        let sockets = servers.serve(generation, move || {
            let sockets = [(); 3].map(|()| one_of_many(address));
            for socket in &sockets {
                sys::listen(socket.as_fd(), 5).unwrap();
            }
            sockets
        });
        assert_eq!(inode(&sockets[0]), inode(&sockets[2]));
        servers.listeners.cut_over(generation, &[]).unwrap();
        let server = TcpListener::from(sockets.into_iter().next().unwrap());
        says_hello(&server, &mut TcpStream::connect(address).unwrap());
    }
    assert_eq!(servers.warnings(), [""; 0]);
}

#[test]
fn a_second_socket_without_reuseport_is_refused_as_ever() {
    let (mut servers, address) = (CapturedServers::contained(), free_address());
    let (_first, second) = servers.serve(G1, move || {
        let first = TcpListener::bind(address).unwrap();
        (first, TcpListener::bind(address).unwrap_err())
    });
    assert_eq!(second.kind(), std::io::ErrorKind::AddrInUse);
}

/// IPv6 first, which a dual-stack socket in its place would take both families with.
#[test]
fn an_ipv6_wildcard_leaves_ipv4_to_another_socket() {
    let (mut servers, port) = (CapturedServers::contained(), free_address().port());
    for generation in [G1, G2] {
        let pair = servers.serve(generation, move || {
            let v6 = stream_v6();
            setsockopt(&v6, sockopt::Ipv6V6Only, &true).unwrap();
            let any = SockaddrIn6::from(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0));
            bind(v6.as_raw_fd(), &any).unwrap();
            sys::listen(v6.as_fd(), 5).unwrap();
            [
                TcpListener::from(v6),
                TcpListener::bind(("0.0.0.0", port)).unwrap(),
            ]
        });
        servers.listeners.cut_over(generation, &[]).unwrap();
        for (server, host) in pair.iter().zip(["::1", "127.0.0.1"]) {
            let host: IpAddr = host.parse().unwrap();
            says_hello(server, &mut TcpStream::connect((host, port)).unwrap());
        }
    }
}

#[test]
fn what_was_set_before_the_bind_holds_on_what_takes_its_place() {
    let (mut servers, address) = (CapturedServers::contained(), free_address());
    let options = [
        (libc::SOL_SOCKET, libc::SO_REUSEADDR, 1),
        (libc::IPPROTO_IP, libc::IP_FREEBIND, 1),
        (libc::IPPROTO_TCP, libc::TCP_FASTOPEN, 5),
    ];
    let socket = servers.serve(G1, move || {
        let socket = stream();
        for (level, name, value) in options {
            sys::set_socket_option(socket.as_fd(), level, name, value).unwrap();
        }
        let device = sys::set_socket_option_bytes(
            socket.as_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            b"lo",
        );
        device.unwrap();
        let before = inode(&socket);
        bind_to(&socket, address).unwrap();
        sys::listen(socket.as_fd(), 5).unwrap();
        assert_ne!(inode(&socket), before, "it is another one");
        socket
    });
    let value = |level, name| sys::socket_option(socket.as_fd(), level, name).unwrap();
    for (level, name, expected) in options {
        assert_eq!(value(level, name), expected, "{level} {name}");
    }
    let device = value(libc::SOL_SOCKET, crate::socket::inet::SO_BINDTOIFINDEX);
    assert_ne!(device, 0, "it is open to one device alone");
}

/// Nothing is made that would be open where the server's own socket is not.
#[test]
fn a_socket_that_cannot_be_copied_stays_the_servers_own() {
    let (mut servers, address, other) =
        (CapturedServers::contained(), free_address(), free_address());
    let (server, _waiting, _set) = servers.serve(G1, move || {
        let repaired = stream();
        // it holds no pointer that could go wrong, and is as little to copy as those that do
        let (level, name) = (libc::IPPROTO_TCP, libc::TCP_REPAIR);
        let _ = sys::set_socket_option(repaired.as_fd(), level, name, 0);
        let waiting = stream();
        let set = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        set.add(&waiting, EpollEvent::new(EpollFlags::EPOLLIN, 1))
            .unwrap();
        for (socket, address) in [(&repaired, address), (&waiting, other)] {
            let before = inode(socket);
            bind_to(socket, address).unwrap();
            sys::listen(socket.as_fd(), 5).unwrap();
            assert_eq!(inode(socket), before);
        }
        (TcpListener::from(repaired), waiting, set)
    });
    says_hello(&server, &mut TcpStream::connect(address).unwrap());
    assert_eq!(servers.listeners.sockets_of(G1).len(), 0);
    assert_eq!(servers.warnings().len(), 1);
    assert!(servers.warnings()[0].contains("is not kept across a swap"));
}

#[test]
fn what_was_learned_outlives_a_re_execution() {
    let (mut servers, address) = (CapturedServers::contained(), free_address());
    let (continue_call, wait) = std::sync::mpsc::channel();
    let socket = stream();
    let running = servers.start(G1, move || {
        setsockopt(&socket, sockopt::ReusePort, &true).unwrap();
        wait.recv().unwrap();
        bind_to(&socket, address).unwrap();
        [socket, one_of_many(address)]
    });
    while servers.captures[&G1].learned.as_ref().unwrap().is_empty() {
        servers.look(G1);
    }
    servers.hand_over(G1);
    continue_call.send(()).unwrap();
    let [first, second] = servers.finish(G1, running);
    assert_eq!(inode(&first), inode(&second));
}
