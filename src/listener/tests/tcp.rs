use std::time::Duration;

use super::*;

#[test]
fn no_client_is_lost_by_cutting_over_and_back() {
    let mut fixture = Fixture::listening(&["127.0.0.1:0"]);
    let (first, second) = (fixture.serving(G1), fixture.spawn(G2, SocketChoice::Own));
    let address = fixture.address();
    std::thread::scope(|scope| {
        let clients = scope.spawn(move || {
            let clients = (0..500).map(|_| TcpStream::connect(&address));
            clients.collect::<Result<Vec<_>, _>>()
        });
        while !clients.is_finished() {
            fixture.cut_over(G2);
            fixture.cut_over(G1);
        }
        let clients = clients.join().unwrap().unwrap();
        assert_eq!(first.answers() + second.answers(), clients.len());
    });
    assert_eq!(fixture.incidents, []);
}

#[test]
fn clients_of_both_families_reach_a_port_alone() {
    let mut fixture = Fixture::listening(&["0"]);
    let server = fixture.serving(G1);
    let next = fixture.spawn(G2, SocketChoice::Own);
    let port = server.0.kind.tcp_port().unwrap();
    let _v4 = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let _v6 = TcpStream::connect(("::1", port)).unwrap();
    assert_eq!((server.answers(), next.answers()), (2, 0));
}

#[test]
fn a_probe_reaches_the_candidate_and_no_client_follows() {
    for listen in ["127.0.0.1:0", "[::1]:0", "0"] {
        let mut fixture = Fixture::listening(&[listen]);
        let serving = fixture.serving(G1);
        let candidate = fixture.spawn(G2, SocketChoice::Own);
        let mut probes = Vec::new();
        for round in 0..20 {
            probes.push(fixture.listeners.probe(G2, ListenerId(0)).unwrap());
            let _clients = fixture.clients(10);
            assert_eq!(candidate.answers(), 1, "{listen} {round}");
            assert_eq!(serving.answers(), 10, "{listen} {round}");
        }
    }
}

#[test]
fn clients_wait_for_a_generation_that_is_not_there_yet() {
    let mut fixture = Fixture::listening(&["127.0.0.1:0"]);
    let first = fixture.serving(G1);
    fixture.cut_over(G2);
    let _clients = fixture.clients(5);
    assert_eq!(first.answers(), 0);
    fixture.leave(G1);
    let second = fixture.spawn(G2, SocketChoice::Own);
    assert_eq!(second.answers(), 5);
}

#[test]
fn a_server_that_shuts_its_socket_down_moves_nobody_elses() {
    let mut fixture = Fixture::listening(&["127.0.0.1:0"]);
    let first = fixture.serving(G1);
    let second = fixture.serving(G2);
    let third = fixture.serving(G3);
    for draining in [&first, &second] {
        draining.shuts_down();
        // before hotswap has heard of it, and after
        let _clients = fixture.clients(50);
        assert_eq!(third.answers(), 50);
        fixture.wake();
        let _clients = fixture.clients(50);
        assert_eq!(third.answers(), 50);
    }
}

#[test]
fn a_cut_over_knows_of_what_was_shut_down_a_moment_ago() {
    let mut fixture = Fixture::listening(&["127.0.0.1:0"]);
    let first = fixture.serving(G1);
    let second = fixture.serving(G2);
    let third = fixture.spawn(G3, SocketChoice::Own);
    first.shuts_down();
    fixture.cut_over(G3);
    let _clients = fixture.clients(20);
    assert_eq!((second.answers(), third.answers()), (0, 20));
    third.shuts_down();
    second.shuts_down();
    let fourth = fixture.serving(Generation(4));
    let _clients = fixture.clients(20);
    assert_eq!(fourth.answers(), 20);
}

#[test]
fn clients_of_a_socket_that_was_shut_down_wait_for_the_next_generation() {
    let mut fixture = Fixture::listening(&["127.0.0.1:0"]);
    let first = fixture.serving(G1);
    first.shuts_down();
    fixture.wake();
    let listener = fixture.address();
    assert_eq!(fixture.incidents, [Incident::Repaired { listener }]);
    // what its threads have left it for stays so
    assert!(!crate::socket::listens(first.0.fd.as_fd()));
    let _client = fixture.client();
    let next = fixture.spawn(G2, SocketChoice::Own);
    assert_eq!(next.answers(), 1);
    fixture.cut_over(G2);
    fixture.leave(G1);
    let _client = fixture.client();
    assert_eq!(next.answers(), 1);
}

#[test]
fn a_server_that_listens_again_after_a_shutdown_has_its_clients_again() {
    for heard in [false, true] {
        let mut fixture = Fixture::listening(&["127.0.0.1:0"]);
        let server = fixture.serving(G1);
        server.shuts_down();
        let mut clients = Vec::new();
        if heard {
            fixture.wake();
            clients.push(fixture.client());
        }
        let inode = fixture.listeners.sockets_of(G1)[0].inode;
        fixture.listeners.listen_again(inode).unwrap().unwrap();
        clients.push(fixture.client());
        assert_eq!(server.answers(), clients.len(), "{heard}");
    }
}

#[test]
fn a_socket_shut_down_while_hotswap_stops_stays_so() {
    let mut fixture = Fixture::listening(&["127.0.0.1:0"]);
    let server = fixture.serving(G1);
    fixture.listeners.stop_repairing();
    server.shuts_down();
    fixture.wake();
    assert_eq!(fixture.incidents, []);
    assert!(TcpStream::connect(fixture.address()).is_err());
}

#[test]
fn the_socket_of_a_gone_generation_is_the_next_ones_as_good_as_new() {
    let mut fixture = Fixture::listening(&["127.0.0.1:0"]);
    let address = fixture.address();
    let inode = fixture
        .listeners
        .sockets_of(G1)
        .first()
        .map(|held| held.inode);
    assert_eq!(inode, None);
    fixture.serving(G1);
    let inode = fixture.listeners.sockets_of(G1)[0].inode;
    fixture.serving(G2);
    fixture.leave(G1);
    let third = fixture.spawn(G3, SocketChoice::Own).0;
    assert_eq!(fixture.listeners.sockets_of(G3)[0].inode, inode);
    let flags = nix::fcntl::fcntl(&third.fd, nix::fcntl::FcntlArg::F_GETFL).unwrap();
    assert_eq!(flags & libc::O_NONBLOCK, 0);
    assert_eq!(third.addr, address);
}

#[test]
fn swaps_without_end_need_no_sockets_without_end() {
    let mut fixture = Fixture::listening(&["127.0.0.1:0"]);
    fixture.serving(G1);
    for number in 1..100 {
        fixture.serving(Generation(number + 1));
        fixture.leave(Generation(number));
        // far in the future, when nothing is open any more
        while let Some(deadline) = fixture.listeners.deadline() {
            fixture.listeners.look(deadline);
        }
        let sockets = fixture.listeners.group().size();
        assert_eq!(sockets, 1, "after {number} swaps");
        let _client = fixture.client();
    }
}

/// The kernel closes the sockets of a hotswap that is killed one by one: with two before the target, it would move.
#[test]
fn the_target_is_left_alone_once_all_others_are_gone_and_no_client_is_lost() {
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        let mut fixture = Fixture::listening(&[listen]);
        let all: Vec<_> = (1..=6)
            .map(|number| fixture.serving(Generation(number)))
            .collect();
        (1..6).for_each(|number| fixture.leave(Generation(number)));
        assert!(fixture.listeners.group().size() > 3);
        let address = fixture.address();
        std::thread::scope(|scope| {
            let clients = scope.spawn(move || {
                let clients = (0..200).map(|_| TcpStream::connect(&address));
                clients.collect::<Result<Vec<_>, _>>()
            });
            while let Some(deadline) = fixture.listeners.deadline() {
                fixture.listeners.look(deadline);
            }
            let clients = clients.join().unwrap().unwrap();
            assert_eq!(all[5].answers(), clients.len(), "{listen}");
        });
        assert_eq!(fixture.listeners.group().size(), 1, "{listen}");
        assert_eq!(fixture.incidents, []);
    }
}

#[test]
fn a_stranger_in_the_group_is_named_and_reckoned_with() {
    let mut fixture = Fixture::listening(&["127.0.0.1:0"]);
    let mut last = fixture.serving(G1);
    let address = fixture.address().parse().unwrap();
    let stranger = joins(address, true);
    sys::listen(stranger.as_fd(), 16).unwrap();
    for number in 2..10 {
        last = fixture.serving(Generation(number));
        let _clients = fixture.clients(20);
        assert_eq!(last.answers(), 20);
        fixture.leave(Generation(number - 1));
        while fixture
            .listeners
            .deadline()
            .is_some_and(|deadline| deadline < sys::now() + Duration::from_secs(10))
        {
            let later = sys::now() + Duration::from_secs(20);
            fixture.listeners.look(later);
        }
    }
    let told = fixture
        .incidents
        .iter()
        .filter(|incident| matches!(incident, Incident::Stranger { .. }));
    assert_eq!(told.count(), 1);
    // it may leave whenever it likes
    drop(stranger);
    let _clients = fixture.clients(20);
    assert_eq!(last.answers(), 20);
    let last = fixture.serving(Generation(10));
    let _clients = fixture.clients(20);
    assert_eq!(last.answers(), 20);
}

/// As a child of hotswap has one of each socket until its program runs.
#[test]
fn a_spare_that_is_closed_leaves_though_somebody_has_a_duplicate_of_it() {
    let mut fixture = Fixture::listening(&["127.0.0.1:0"]);
    let _servers: Vec<TestServer> = (1..6)
        .map(|number| fixture.serving(Generation(number)))
        .collect();
    for number in 1..4 {
        fixture.leave(Generation(number));
    }
    let spares = fixture.listeners.group().spares();
    let spares = spares.iter().map(|spare| spare.duplicate().unwrap());
    let duplicates: Vec<OwnedFd> = spares.collect();
    let before = fixture.listeners.group().size();
    let later = sys::now() + Duration::from_secs(20);
    fixture.incidents.extend(fixture.listeners.look(later));
    assert!(fixture.listeners.group().size() < before);
    fixture.serving(Generation(6));
    assert_eq!(fixture.incidents, []);
    drop(duplicates);
}

#[test]
fn a_thousand_listeners_are_steered_together() {
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    if limit.0 < 5_000 {
        eprintln!("skipped: no more than {} descriptors", limit.0);
        return;
    }
    let listens = vec!["127.0.0.1:0"; 1_000];
    let mut fixture = Fixture::listening(&listens);
    drop(
        fixture
            .listeners
            .inherited_sockets(G1, SocketChoice::Own)
            .unwrap(),
    );
    fixture.cut_over(G1);
    let inherited_sockets = fixture
        .listeners
        .inherited_sockets(G2, SocketChoice::Own)
        .unwrap();
    fixture.cut_over(G2);
    for inherited_socket in inherited_sockets.into_iter().step_by(100) {
        let _client = TcpStream::connect(&inherited_socket.addr).unwrap();
        assert_eq!(TestServer(inherited_socket).answers(), 1);
    }
}

#[test]
fn clients_stay_with_the_old_one_where_the_new_one_does_not_accept_until_that_is_gone() {
    let mut fixture = Fixture::listening(&["127.0.0.1:0"]);
    let first = fixture.serving(G1);
    let second = fixture.spawn(G2, SocketChoice::Own);
    fixture.listeners.cut_over(G2, &[ListenerId(0)]).unwrap();
    let _stay = fixture.clients(5);
    assert_eq!((first.answers(), second.answers()), (5, 0));
    fixture.leave(G1);
    let _follow = fixture.clients(5);
    assert_eq!((first.answers(), second.answers()), (0, 5));
}

/// One probe of the order may be late, or a client may have come by mistake.
#[test]
fn a_spare_is_found_by_its_own_probe_and_no_client_is_taken_for_it() {
    let mut fixture = Fixture::listening(&["127.0.0.1:0"]);
    let first = fixture.serving(G1);
    let second = fixture.serving(G2);
    let third = fixture.serving(G3);
    let group = fixture.listeners.group();
    let spares: Vec<u64> = group.spares().iter().map(|spare| spare.inode).collect();
    let early = spares.iter().map(|spare| group.client_of(*spare).unwrap());
    let early: Vec<OwnedFd> = early.collect();
    // where two leave at once, the order of those that take their places is unknown
    first.shuts_down();
    second.shuts_down();
    fixture.wake();
    let group = fixture.listeners.group();
    for spare in group.spares() {
        let _client = group.client_of(spare.inode).unwrap();
        let came = crate::socket::has_client(spare.fd());
        assert!(came, "{} is at another index", spare.inode);
    }
    for _ in &early {
        fixture.wake();
    }
    assert_eq!(third.answers(), early.len());
}

/// It may accept long before it is ready.
#[test]
fn parked_clients_wait_for_a_cut_over_however_many_generations_fail() {
    let mut fixture = Fixture::listening(&["127.0.0.1:0"]);
    let first = fixture.serving(G1);
    fixture.listeners.park(G2).unwrap();
    let mut clients = fixture.clients(2);
    assert_eq!(first.answers(), 0, "they go elsewhere");
    drop(first);
    fixture.leave(G1);
    let second = fixture.spawn(G2, SocketChoice::Target);
    clients.push(fixture.client());
    assert_eq!(second.answers(), 0, "they wait");
    drop(second);
    fixture.leave(G2);
    let third = fixture.spawn(G3, SocketChoice::Target);
    clients.push(fixture.client());
    assert_eq!(third.answers(), 0, "they still wait");
    fixture.cut_over(G3);
    let (since, mut answers) = (Instant::now(), 0);
    while answers < clients.len() {
        assert!(since.elapsed() < Duration::from_secs(20), "{answers}");
        fixture.wake();
        answers += third.answers();
    }
    assert_eq!(fixture.incidents, []);
}
