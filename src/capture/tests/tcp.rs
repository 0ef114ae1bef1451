//! TCP addresses that servers bind by themselves.

use std::io::{ErrorKind, Read};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::mpsc;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{SockaddrIn, SockaddrIn6, bind, setsockopt, sockopt};

use super::{
    CaptureEvent, CapturedServers, G1, G2, bind_to, free_address, inode, says_hello, stream,
    stream_v6,
};
use crate::capture::CallContext;
use crate::sys;

#[test]
fn what_a_server_binds_is_a_listener() {
    let (mut captured_servers, address) = (CapturedServers::new(), free_address());
    let server = captured_servers.serve(G1, move || TcpListener::bind(address).unwrap());
    assert_eq!(captured_servers.listens(), [address.to_string().as_str()]);
    let held = captured_servers.listeners.sockets_of(G1);
    assert_eq!((held[0].inode, held[0].captured), (inode(&server), true));
    says_hello(&server, &mut TcpStream::connect(address).unwrap());
}

#[test]
fn the_next_generation_gets_its_clients_at_the_cut_over() {
    let (mut captured_servers, address) = (CapturedServers::new(), free_address());
    let old = captured_servers.serve(G1, move || TcpListener::bind(address).unwrap());
    captured_servers.listeners.cut_over(G1, &[]).unwrap();
    let new = captured_servers.serve(G2, move || TcpListener::bind(address).unwrap());
    assert_ne!(inode(&old), inode(&new));
    says_hello(&old, &mut TcpStream::connect(address).unwrap());
    captured_servers.listeners.cut_over(G2, &[]).unwrap();
    says_hello(&new, &mut TcpStream::connect(address).unwrap());
    drop(old);
    assert_eq!(captured_servers.leave(G1), []);
    says_hello(&new, &mut TcpStream::connect(address).unwrap());
}

#[test]
fn a_restart_gets_the_dead_ones_socket_and_who_waits_there() {
    let (mut captured_servers, address) = (CapturedServers::new(), free_address());
    drop(captured_servers.serve(G1, move || TcpListener::bind(address).unwrap()));
    captured_servers.listeners.cut_over(G1, &[]).unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    captured_servers.leave(G1);
    let server = captured_servers.serve(G2, move || TcpListener::bind(address).unwrap());
    says_hello(&server, &mut client);
}

/// As Asio does; of another socket in its place it would never hear.
#[test]
fn a_restart_that_waits_by_epoll_before_it_binds_keeps_its_own_socket() {
    let (mut captured_servers, address) = (CapturedServers::new(), free_address());
    drop(captured_servers.serve(G1, move || TcpListener::bind(address).unwrap()));
    captured_servers.listeners.cut_over(G1, &[]).unwrap();
    captured_servers.leave(G1);
    let (set, server) = captured_servers.serve(G2, move || {
        let socket = stream();
        let set = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        let event = EpollEvent::new(EpollFlags::EPOLLIN, 1);
        set.add(&socket, event).unwrap();
        bind_to(&socket, address).unwrap();
        sys::listen(socket.as_fd(), 5).unwrap();
        (set, TcpListener::from(socket))
    });
    captured_servers.listeners.cut_over(G2, &[]).unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    let mut events = [EpollEvent::empty()];
    assert_eq!(set.wait(&mut events, EpollTimeout::NONE), Ok(1));
    says_hello(&server, &mut client);
    assert_eq!(captured_servers.warnings(), [""; 0]);
}

#[test]
fn a_listener_goes_with_the_last_generation_that_has_it() {
    let (mut captured_servers, address, other) =
        (CapturedServers::new(), free_address(), free_address());
    let both = captured_servers.serve(G1, move || [address, other].map(TcpListener::bind));
    captured_servers.listeners.cut_over(G1, &[]).unwrap();
    let new = captured_servers.serve(G2, move || TcpListener::bind(address).unwrap());
    captured_servers.listeners.cut_over(G2, &[]).unwrap();
    TcpStream::connect(other).unwrap();
    drop(both);
    captured_servers.leave(G1);
    let refused = TcpStream::connect(other).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    says_hello(&new, &mut TcpStream::connect(address).unwrap());
}

#[test]
fn what_bind_refuses_is_refused() {
    let mut captured_servers = CapturedServers::new();
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = stranger.local_addr().unwrap();
    let lacking: SocketAddr = "192.0.2.1:4711".parse().unwrap();
    let (in_use, not_here) = captured_servers.serve(G1, move || {
        let error = |address| TcpListener::bind(address).unwrap_err().kind();
        (error(taken), error(lacking))
    });
    assert_eq!(in_use, ErrorKind::AddrInUse);
    assert_eq!(not_here, ErrorKind::AddrNotAvailable);
    assert_eq!(captured_servers.warnings(), [""; 0]);
}

#[test]
fn an_address_is_in_use_for_as_long_as_the_server_holds_it() {
    let (mut captured_servers, address) = (CapturedServers::new(), free_address());
    let server = captured_servers.serve(G1, move || {
        let first = TcpListener::bind(address).unwrap();
        let second = TcpListener::bind(address).unwrap_err();
        assert_eq!(second.kind(), ErrorKind::AddrInUse);
        drop(first);
        TcpListener::bind(address).unwrap()
    });
    says_hello(&server, &mut TcpStream::connect(address).unwrap());
}

#[test]
fn workers_that_share_a_port_share_a_socket() {
    let (mut captured_servers, address) = (CapturedServers::new(), free_address());
    let sockets = captured_servers.serve(G1, move || {
        [(); 2].map(|()| {
            let socket = stream();
            setsockopt(&socket, sockopt::ReusePort, &true).unwrap();
            bind_to(&socket, address).unwrap();
            sys::listen(socket.as_fd(), 5).unwrap();
            socket
        })
    });
    assert_eq!(inode(&sockets[0]), inode(&sockets[1]));
    assert_eq!(captured_servers.listeners.sockets_of(G1).len(), 1);
}

#[test]
fn multipath_tcp_becomes_plain_tcp() {
    let (mut captured_servers, address) = (CapturedServers::new(), free_address());
    let server = captured_servers.serve(G1, move || {
        let socket = sys::multipath_socket().ok()?;
        bind_to(&socket, address).unwrap();
        sys::listen(socket.as_fd(), 5).unwrap();
        Some(TcpListener::from(socket))
    });
    let Some(server) = server else {
        eprintln!("skipped: this kernel has no multipath TCP");
        return;
    };
    let protocol = sys::socket_option(server.as_fd(), libc::SOL_SOCKET, libc::SO_PROTOCOL);
    assert_eq!(protocol.unwrap(), libc::IPPROTO_TCP);
    says_hello(&server, &mut TcpStream::connect(address).unwrap());
}

#[test]
fn a_listened_address_is_given_to_whoever_binds_it() {
    let mut captured_servers = CapturedServers::listening(&["127.0.0.1:0"]);
    let address: SocketAddr = captured_servers.listeners.listening()[0].parse().unwrap();
    let port = address.port();
    let server = captured_servers.serve(G1, move || TcpListener::bind(("0.0.0.0", port)).unwrap());
    let held = captured_servers.listeners.sockets_of(G1);
    assert_eq!((held.len(), held[0].inode), (1, inode(&server)));
    says_hello(&server, &mut TcpStream::connect(address).unwrap());
}

#[test]
fn udp_is_captured_where_it_is_named() {
    let mut captured_servers = CapturedServers::listening(&["udp:127.0.0.1:0"]);
    let listening = captured_servers.listeners.listening().remove(0);
    let address: SocketAddr = listening.strip_prefix("udp:").unwrap().parse().unwrap();
    let other = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr();
    let other = other.unwrap();
    let sockets = captured_servers.serve(G1, move || {
        [address, other].map(|at| UdpSocket::bind(at).unwrap())
    });
    let held = captured_servers.listeners.sockets_of(G1);
    let held: Vec<u64> = held.iter().map(|held| held.inode).collect();
    assert_eq!(held, [inode(&sockets[0])]);
}

/// As nginx and others have it: one socket for each family at the same port.
#[test]
fn a_pair_of_wildcards_is_two_listeners() {
    let (mut captured_servers, port) = (CapturedServers::new(), free_address().port());
    for generation in [G1, G2] {
        let pair = captured_servers.serve(generation, move || {
            let v4 = TcpListener::bind(("0.0.0.0", port)).unwrap();
            let v6 = stream_v6();
            setsockopt(&v6, sockopt::Ipv6V6Only, &true).unwrap();
            let any = SockaddrIn6::from(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0));
            bind(v6.as_raw_fd(), &any).unwrap();
            sys::listen(v6.as_fd(), 5).unwrap();
            [v4, TcpListener::from(v6)]
        });
        captured_servers
            .listeners
            .cut_over(generation, &[])
            .unwrap();
        says_hello(
            &pair[0],
            &mut TcpStream::connect(("127.0.0.1", port)).unwrap(),
        );
        says_hello(&pair[1], &mut TcpStream::connect(("::1", port)).unwrap());
    }
}

#[test]
fn a_dual_stack_wildcard_is_one() {
    let (mut captured_servers, port) = (CapturedServers::new(), free_address().port());
    for generation in [G1, G2] {
        let server =
            captured_servers.serve(generation, move || TcpListener::bind(("::", port)).unwrap());
        captured_servers
            .listeners
            .cut_over(generation, &[])
            .unwrap();
        for host in ["127.0.0.1", "::1"] {
            says_hello(&server, &mut TcpStream::connect((host, port)).unwrap());
        }
    }
    assert_eq!(captured_servers.listens().len(), 1);
}

#[test]
fn a_port_of_the_kernels_choice_is_left_alone_with_one_line() {
    let mut captured_servers = CapturedServers::new();
    let servers = captured_servers.serve(G1, || {
        // as Go does to learn what the kernel knows: never a listener
        let probe = stream();
        bind_to(&probe, "127.0.0.1:0".parse().unwrap()).unwrap();
        drop(probe);
        [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap())
    });
    assert_eq!(captured_servers.listeners.sockets_of(G1).len(), 0);
    assert_eq!(captured_servers.warnings().len(), 1);
    assert!(!captured_servers.captures[&G1].called_bind_or_listen());
    drop(servers);
}

#[test]
fn a_client_with_a_port_of_its_own_is_not_held_open() {
    let (mut captured_servers, address) = (CapturedServers::new(), free_address());
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let there = stranger.local_addr().unwrap();
    captured_servers.serve(G1, move || {
        let client = stream();
        bind_to(&client, address).unwrap();
        let SocketAddr::V4(there) = there else { return };
        nix::sys::socket::connect(client.as_raw_fd(), &SockaddrIn::from(there)).unwrap();
    });
    let (mut accepted, _) = stranger.accept().unwrap();
    let end = accepted.read(&mut [0]).unwrap();
    assert_eq!(end, 0, "nobody else holds the connection open");
}

#[test]
fn a_changed_address_is_said() {
    let (mut captured_servers, address) = (CapturedServers::new(), free_address());
    let _old = captured_servers.serve(G1, move || TcpListener::bind(address).unwrap());
    captured_servers.listeners.cut_over(G1, &[]).unwrap();
    let port = address.port();
    let _new = captured_servers.serve(G2, move || TcpListener::bind(("0.0.0.0", port)).unwrap());
    assert!(captured_servers.warnings()[0].starts_with("address changed"));
}

/// The server has bound when hotswap is replaced by its next version, and listens after.
#[test]
fn a_re_execution_between_bind_and_listen_is_not_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let (mut captured_servers, address) = (CapturedServers::new(), free_address());
    let path = directory.path().join("api.sock");
    captured_servers.serve(G1, {
        let path = path.clone();
        move || UnixListener::bind(path).unwrap()
    });
    let (sender, server) = (mpsc::channel(), stream());
    let fd = server.as_raw_fd();
    let (continue_call, wait) = sender;
    let work = move || {
        bind_to(&server, address).unwrap();
        wait.recv().unwrap();
        sys::listen(server.as_fd(), 5).unwrap();
        TcpListener::from(server)
    };
    let running = captured_servers.start(G2, work);
    while !captured_servers.captures[&G2].called_bind_or_listen() {
        captured_servers.look(G2);
    }
    assert_eq!(captured_servers.captures[&G2].bound_sockets.all[0].fd, fd);
    for generation in [G1, G2] {
        captured_servers.hand_over(generation);
    }
    continue_call.send(()).unwrap();
    let server = captured_servers.finish(G2, running);
    says_hello(&server, &mut TcpStream::connect(address).unwrap());
}

/// It was received by the hotswap that ends with the re-execution, which alone could answer it.
#[test]
fn a_call_in_hand_at_a_re_execution_is_answered_by_the_next() {
    let (mut captured_servers, address) = (CapturedServers::new(), free_address());
    let running = captured_servers.start(G1, move || TcpListener::bind(address).unwrap());
    captured_servers.wait_for_call(G1);
    captured_servers.hand_over(G1);
    let server = captured_servers.finish(G1, running);
    says_hello(&server, &mut TcpStream::connect(address).unwrap());
    assert_eq!(captured_servers.listens(), [address.to_string().as_str()]);
}

#[test]
fn a_generation_without_tasks_is_gone() {
    let mut captured_servers = CapturedServers::new();
    captured_servers.serve(G1, || ());
    while captured_servers.events.is_empty() {
        captured_servers.look(G1);
    }
    captured_servers.look(G1);
    assert_eq!(captured_servers.events, [CaptureEvent::Gone]);
}

#[test]
fn a_listener_that_its_server_has_closed_is_closed() {
    let (mut captured_servers, address, other) =
        (CapturedServers::new(), free_address(), free_address());
    let _other = captured_servers.serve(G1, move || {
        drop(TcpListener::bind(address).unwrap());
        TcpListener::bind(other).unwrap()
    });
    captured_servers.listeners.cut_over(G1, &[]).unwrap();
    let capture = captured_servers.captures.get_mut(&G1).unwrap();
    capture.sweep(&mut CallContext {
        now: sys::now(),
        listeners: &mut captured_servers.listeners,
        capture_not: &[],
        directory: Path::new("/"),
        processes: &Vec::new,
    });
    let refused = TcpStream::connect(address).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

/// As many a server does that looks for a free port.
#[test]
fn what_was_tried_out_and_closed_is_in_nobodys_way() {
    let (mut captured_servers, address) = (CapturedServers::new(), free_address());
    let try_out = move || {
        drop(TcpListener::bind(("0.0.0.0", address.port())).unwrap());
        drop(TcpListener::bind(("::", address.port())).unwrap());
        drop(TcpListener::bind(address).unwrap());
        let used = TcpListener::bind(address).unwrap();
        let twice = TcpListener::bind(("0.0.0.0", address.port())).unwrap_err();
        assert_eq!(twice.kind(), ErrorKind::AddrInUse);
        used
    };
    let first = captured_servers.serve(G1, try_out);
    captured_servers.listeners.cut_over(G1, &[]).unwrap();
    says_hello(&first, &mut TcpStream::connect(address).unwrap());
    let second = captured_servers.serve(G2, try_out);
    says_hello(&first, &mut TcpStream::connect(address).unwrap());
    captured_servers.listeners.cut_over(G2, &[]).unwrap();
    says_hello(&second, &mut TcpStream::connect(address).unwrap());
}
