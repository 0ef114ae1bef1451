use super::*;

#[test]
fn all_generations_have_the_same_socket() {
    for listen in ["127.0.0.1:0", &abstract_address("one socket")] {
        let mut fixture = Fixture::with(&[listen], |options| options.share = true);
        let first = fixture.serving(G1);
        let second = fixture.serving(G2);
        let _clients = fixture.clients(2);
        assert_eq!(sys::accept(first.0.fd.as_fd()).map(drop).ok(), Some(()));
        assert_eq!(second.answers(), 1);
        assert!(!fixture.listeners.sockets_of(G2)[0].steered);
        fixture.leave(G1);
        assert!(!fixture.listeners.has_socket(G1));
        assert!(fixture.listeners.has_socket(G2));
    }
}

#[test]
fn a_tcp_socket_that_one_of_two_shuts_down_listens_again() {
    let mut fixture = Fixture::with(&["127.0.0.1:0"], |options| options.share = true);
    let first = fixture.serving(G1);
    let second = fixture.serving(G2);
    first.shuts_down();
    fixture.wake();
    let _client = fixture.client();
    assert_eq!(second.answers(), 1);
    let listener = fixture.address();
    assert_eq!(fixture.incidents, [Incident::Repaired { listener }]);
}

#[test]
fn a_tcp_socket_that_its_only_server_shuts_down_listens_for_the_next() {
    for is_gone in [false, true] {
        let mut fixture = Fixture::with(&["127.0.0.1:0"], |options| options.share = true);
        let server = fixture.serving(G1);
        server.shuts_down();
        fixture.wake();
        assert!(!crate::socket::listens(server.0.fd.as_fd()));
        if is_gone {
            fixture.leave(G1);
        }
        let next = fixture.spawn(G2, SocketChoice::Own);
        let _client = fixture.client();
        assert_eq!(next.answers(), 1);
    }
}

#[test]
fn an_abstract_socket_that_was_shut_down_is_bound_anew_for_the_next() {
    let mut fixture = Fixture::listening(&[&abstract_address("shutdown")]);
    let server = fixture.serving(G1);
    server.shuts_down();
    fixture.wake();
    assert!(matches!(fixture.incidents[..], [Incident::Broken { .. }]));
    drop(server);
    fixture.leave(G1);
    let next = fixture.serving(G2);
    let _client = fixture.client();
    assert_eq!(next.answers(), 1);
}

#[test]
fn a_shared_path_is_put_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    let listen = format!("unix:{}", path.display());
    let mut fixture = Fixture::with(&[&listen], |options| options.share = true);
    let server = fixture.serving(G1);
    let name = std::os::unix::net::UnixListener::from(server.0.fd.try_clone().unwrap());
    let name = name.local_addr().unwrap();
    assert_eq!(name.as_pathname(), Some(path.as_path()));
    std::fs::remove_file(&path).unwrap();
    let next = fixture.serving(G2);
    let _client = fixture.client();
    assert_eq!(next.answers(), 1);
    server.shuts_down();
    fixture.wake();
    let next = fixture.serving(G3);
    let _client = fixture.client();
    assert_eq!(next.answers(), 1);
    drop(fixture);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_datagram_socket_is_handed_on() {
    let mut fixture = Fixture::listening(&["udp:127.0.0.1:0"]);
    let server = fixture.serving(G1);
    let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(b"x", &server.0.addr).unwrap();
    assert!(server.has_client());
    // the words for users tell it from TCP
    assert_eq!(fixture.address(), format!("udp:{}", server.0.addr));
    assert!(matches!(server.0.kind, SocketKind::Udp { .. }));
}

#[test]
fn what_hotswap_was_given_keeps_its_name_and_its_place() {
    let given = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (pipe, _other) = nix::unistd::pipe().unwrap();
    let address = given.local_addr().unwrap().to_string();
    let inherited = vec![(given.into(), "web".to_owned()), (pipe, String::new())];
    let fixture = Fixture::listening(&[]);
    let options = fixture.listeners.context.options.clone();
    let listens = ["127.0.0.1:0".parse().unwrap()];
    let (mut listeners, _) = Listeners::open(
        &listens,
        ListenerContext::new(options).unwrap(),
        inherited,
        None,
    )
    .unwrap();
    let inherited_sockets = listeners.inherited_sockets(G1, SocketChoice::Own).unwrap();
    let names: Vec<_> = inherited_sockets
        .iter()
        .map(|inherited_socket| inherited_socket.name.as_str())
        .collect();
    assert_eq!(names, ["web", "listen1", "listen2"]);
    assert_eq!(
        (&inherited_sockets[0].addr, &inherited_sockets[0].as_given),
        (&address, &address)
    );
    assert_eq!(inherited_sockets[1].kind, SocketKind::Other);
}
