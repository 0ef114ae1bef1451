use super::*;

#[test]
fn all_generations_have_the_same_socket() {
    for listen in ["127.0.0.1:0", &abstract_address("one socket")] {
        let mut house = House::with(&[listen], |options| options.share = true);
        let first = house.serving(G1);
        let second = house.serving(G2);
        let _clients = house.clients(2);
        assert_eq!(sys::accept(first.0.fd.as_fd()).map(drop).ok(), Some(()));
        assert_eq!(second.answers(), 1);
        assert!(!house.listeners.sockets_of(G2)[0].steered);
        house.leave(G1);
        assert!(!house.listeners.has_seat(G1));
        assert!(house.listeners.has_seat(G2));
    }
}

#[test]
fn a_tcp_socket_that_was_shut_down_listens_again() {
    let mut house = House::with(&["127.0.0.1:0"], |options| options.share = true);
    let server = house.serving(G1);
    server.shuts_down();
    house.wake();
    let _client = house.client();
    assert_eq!(server.answers(), 1);
    let listener = house.address();
    assert_eq!(house.notes, [Note::Repaired { listener }]);
}

#[test]
fn an_abstract_socket_that_was_shut_down_is_bound_anew_for_the_next() {
    let mut house = House::listening(&[&abstract_address("shutdown")]);
    let server = house.serving(G1);
    server.shuts_down();
    house.wake();
    assert!(matches!(house.notes[..], [Note::Broken { .. }]));
    drop(server);
    house.leave(G1);
    let next = house.serving(G2);
    let _client = house.client();
    assert_eq!(next.answers(), 1);
}

#[test]
fn a_shared_path_is_put_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    let listen = format!("unix:{}", path.display());
    let mut house = House::with(&[&listen], |options| options.share = true);
    let server = house.serving(G1);
    let name = std::os::unix::net::UnixListener::from(server.0.fd.try_clone().unwrap());
    let name = name.local_addr().unwrap();
    assert_eq!(name.as_pathname(), Some(path.as_path()));
    std::fs::remove_file(&path).unwrap();
    let next = house.serving(G2);
    let _client = house.client();
    assert_eq!(next.answers(), 1);
    server.shuts_down();
    house.wake();
    let next = house.serving(G3);
    let _client = house.client();
    assert_eq!(next.answers(), 1);
    drop(house);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_datagram_socket_is_handed_on() {
    let mut house = House::listening(&["udp:127.0.0.1:0"]);
    let server = house.serving(G1);
    let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(b"x", &server.0.addr).unwrap();
    assert!(server.has_client());
    // the words for users tell it from TCP
    assert_eq!(house.address(), format!("udp:{}", server.0.addr));
    assert_eq!(
        (server.0.kind, server.0.port),
        (
            Kind::Udp {
                port: server.0.kind.port().unwrap()
            },
            None
        )
    );
}

#[test]
fn what_hotswap_was_given_keeps_its_name_and_its_place() {
    let given = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (pipe, _other) = nix::unistd::pipe().unwrap();
    let address = given.local_addr().unwrap().to_string();
    let inherited = vec![(given.into(), "web".to_owned()), (pipe, String::new())];
    let house = House::listening(&[]);
    let options = house.listeners.means.options.clone();
    let listens = ["127.0.0.1:0".parse().unwrap()];
    let (mut listeners, _) =
        Listeners::open(&listens, Means::new(options).unwrap(), inherited).unwrap();
    let seats = listeners.seats(G1, Sockets::Own).unwrap();
    let names: Vec<_> = seats.iter().map(|seat| seat.name.as_str()).collect();
    assert_eq!(names, ["web", "listen1", "listen2"]);
    assert_eq!((&seats[0].addr, &seats[0].spelled), (&address, &address));
    assert_eq!(seats[1].kind, Kind::Other);
}
