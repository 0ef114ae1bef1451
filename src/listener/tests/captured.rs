use std::net::SocketAddr;

use super::*;

/// A house without `--listen`, whose servers bring their own sockets.
struct Servers {
    fixture: Fixture,
    asked: CapturedAddress,
    at: SocketAddr,
}

impl Servers {
    fn at(text: &str) -> Self {
        let free = std::net::TcpListener::bind(text).unwrap();
        let at = free.local_addr().unwrap();
        Self {
            fixture: Fixture::listening(&[]),
            asked: CapturedAddress::Tcp {
                at,
                only_v6: false,
                device: 0,
            },
            at,
        }
    }

    /// The server of a generation binds and listens, as capture lets it.
    fn starts(&mut self, generation: Generation) -> OwnedFd {
        let listeners = &mut self.fixture.listeners;
        listeners
            .inherited_sockets(generation, SocketChoice::Own)
            .unwrap();
        let join = match listeners.plan(generation, &self.asked, false).unwrap() {
            BindPlan::Alone => false,
            BindPlan::Join => true,
            BindPlan::Instead(given) => return given.socket,
        };
        let socket = joins(self.at, join);
        let ours = socket.try_clone().unwrap();
        listeners
            .listen(generation, &self.asked, ours, None)
            .unwrap();
        socket
    }

    fn serving(&mut self, generation: Generation) -> OwnedFd {
        let server = self.starts(generation);
        self.fixture.cut_over(generation);
        server
    }

    fn client(&self) -> TcpStream {
        TcpStream::connect(self.at).unwrap()
    }

    fn size(&self) -> Option<usize> {
        (!self.fixture.listeners.all.is_empty()).then(|| self.fixture.listeners.group().size())
    }
}

fn answers(server: &OwnedFd) -> usize {
    crate::socket::set_nonblocking(server.as_fd(), true).unwrap();
    let accepted = std::iter::from_fn(|| sys::accept(server.as_fd()).ok());
    accepted.count()
}

#[test]
fn a_candidate_that_listens_gets_no_client_before_its_cut_over() {
    for at in ["127.0.0.1:0", "[::1]:0"] {
        let mut servers = Servers::at(at);
        let first = servers.serving(G1);
        let second = servers.starts(G2);
        let _clients: Vec<_> = (0..20).map(|_| servers.client()).collect();
        assert_eq!((answers(&first), answers(&second)), (20, 0));
        servers.fixture.cut_over(G2);
        let _client = servers.client();
        assert_eq!((answers(&first), answers(&second)), (0, 1));
    }
}

#[test]
fn a_server_keeps_the_queue_of_an_address_that_it_binds_while_hotswap_stops() {
    let mut servers = Servers::at("127.0.0.1:0");
    servers.fixture.listeners.turn_away(Refusal::Stopping);
    let server = servers.starts(G1);
    let client = servers.client();
    until_queued(&client);
    servers.fixture.listeners.turn_away_queue(G1);
    assert_eq!(answers(&server), 1);
}

/// A socket of this generation beside those at other addresses.
fn listens_beside(listeners: &mut Listeners, generation: Generation, at: SocketAddr) -> OwnedFd {
    let asked = CapturedAddress::Tcp {
        at,
        only_v6: false,
        device: 0,
    };
    let socket = joins(at, true);
    let ours = socket.try_clone().unwrap();
    listeners.listen(generation, &asked, ours, None).unwrap();
    socket
}

#[test]
fn clients_of_a_narrower_address_go_where_the_others_go() {
    let mut servers = Servers::at("[::]:0");
    let first = servers.serving(G1);
    let wide = servers.starts(G2);
    let narrow = SocketAddr::from(([127, 0, 0, 1], servers.at.port()));
    let second = listens_beside(&mut servers.fixture.listeners, G2, narrow);
    let _clients = [(); 5].map(|()| TcpStream::connect(narrow).unwrap());
    assert_eq!([&first, &wide, &second].map(answers), [5, 0, 0]);
    servers.fixture.cut_over(G2);
    let _clients = [(); 5].map(|()| TcpStream::connect(narrow).unwrap());
    assert_eq!([&first, &wide, &second].map(answers), [0, 0, 5]);
    // it is rolled back
    servers.fixture.cut_over(G1);
    let _clients = [(); 5].map(|()| TcpStream::connect(narrow).unwrap());
    assert_eq!([&first, &wide, &second].map(answers), [5, 0, 0]);
    servers.fixture.cut_over(G2);
    let _client = TcpStream::connect(narrow).unwrap();
    assert_eq!([&first, &wide, &second].map(answers), [0, 0, 1]);
}

/// A link-local address of this machine, if it has one.
fn link_local() -> Option<SocketAddr> {
    let table = std::fs::read_to_string("/proc/net/if_inet6").ok()?;
    let mut lines = table.lines().map(|line| line.split_whitespace());
    lines.find_map(|mut fields| {
        let (address, device) = (fields.next()?, fields.next()?);
        let ip = u128::from_str_radix(address, 16).ok()?.into();
        let device = u32::from_str_radix(device, 16).ok()?;
        let at = std::net::SocketAddrV6::new(ip, 0, 0, device);
        ip.is_unicast_link_local().then_some(at.into())
    })
}

/// Such a socket is bound to the device of its scope, although nobody has asked for that.
#[test]
fn a_link_local_address_is_a_listener_like_others() {
    let Some(at) = link_local() else { return };
    let mut servers = Servers::at(&at.to_string());
    let first = servers.serving(G1);
    let second = servers.starts(G2);
    let _clients: Vec<_> = (0..5).map(|_| servers.client()).collect();
    assert_eq!((answers(&first), answers(&second)), (5, 0));
    servers.fixture.cut_over(G2);
    let _client = servers.client();
    assert_eq!((answers(&first), answers(&second)), (0, 1));
}

#[test]
fn a_restart_is_given_the_dead_ones_socket_at_its_bind() {
    let mut servers = Servers::at("127.0.0.1:0");
    drop(servers.serving(G1));
    let _waiting = [servers.client(), servers.client()];
    servers.fixture.leave(G1);
    let second = servers.starts(G2);
    assert_eq!(answers(&second), 2);
    assert_eq!(servers.fixture.incidents, []);
}

#[test]
fn the_dead_ones_socket_is_kept_for_a_candidate_that_has_not_bound_yet() {
    let mut servers = Servers::at("127.0.0.1:0");
    let _helper = servers.serving(G1);
    let _waiting = servers.client();
    // its main process is dead, while something of it is still there
    let inherited_sockets = servers
        .fixture
        .listeners
        .inherited_sockets(G2, SocketChoice::Target)
        .unwrap();
    assert!(inherited_sockets.is_empty());
    let second = servers.starts(G2);
    servers.fixture.cut_over(G2);
    servers.fixture.leave(G1);
    assert_eq!(answers(&second), 1);
    assert_eq!(servers.fixture.incidents, []);
}

#[test]
fn a_server_that_binds_after_its_cut_over_gets_the_clients_that_were_parked() {
    let mut servers = Servers::at("127.0.0.1:0");
    let first = servers.serving(G1);
    servers.fixture.listeners.park(G2).unwrap();
    let _waiting = [servers.client(), servers.client()];
    drop(first);
    servers.fixture.leave(G1);
    let listeners = &mut servers.fixture.listeners;
    listeners
        .inherited_sockets(G2, SocketChoice::Target)
        .unwrap();
    let now = sys::now();
    let until = now + Duration::from_secs(60);
    listeners.release_kept(G2, &[], &[], (until, now));
    servers.fixture.cut_over(G2);
    let second = servers.starts(G2);
    assert_eq!(answers(&second), 2);
}

#[test]
fn an_address_that_no_generation_has_any_more_is_given_up() {
    let mut servers = Servers::at("127.0.0.1:0");
    servers.serving(G1);
    let _client = servers.client();
    servers.fixture.cut_over(G2);
    servers.fixture.leave(G1);
    assert!(
        servers.fixture.listeners.has_socket(G2),
        "clients wait for one not yet spawned"
    );
    servers
        .fixture
        .listeners
        .inherited_sockets(G3, SocketChoice::Own)
        .unwrap();
    servers.fixture.cut_over(G3);
    servers.fixture.leave(G2);
    assert_eq!(servers.size(), None);
    assert!(TcpStream::connect(servers.at).is_err());
}

#[test]
fn swaps_without_end_need_no_sockets_without_end() {
    swaps_without_end(&[]);
}

#[test]
fn nor_do_they_while_a_generation_drains_for_long() {
    swaps_without_end(&[G1]);
}

fn swaps_without_end(staying: &[Generation]) {
    let mut servers = Servers::at("127.0.0.1:0");
    servers.serving(G1);
    for number in 1..60 {
        let next = servers.serving(Generation(number + 1));
        if !staying.contains(&Generation(number)) {
            servers.fixture.leave(Generation(number));
        }
        for listener in &mut servers.fixture.listeners.all {
            if let ListenerKind::Group(group) = &mut listener.steering {
                group.age();
            }
        }
        servers.fixture.listeners.look(sys::now());
        assert!(
            servers.size() <= Some(4 + 4 * staying.len()),
            "{:?} after {number}",
            servers.size()
        );
        let _client = servers.client();
        assert_eq!(answers(&next), 1);
    }
    // a process that another test has just forked holds our closed sockets until its exec
    let is_stranger = |incident: &Incident| matches!(incident, Incident::Stranger { .. });
    servers
        .fixture
        .incidents
        .retain(|incident| !is_stranger(incident));
    assert_eq!(servers.fixture.incidents, []);
}
