use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use super::*;

const G1: Generation = Generation(1);
const G2: Generation = Generation(2);
const G3: Generation = Generation(3);

/// Listeners as a main loop has them, and generations that are nothing but their sockets.
struct House {
    listeners: Listeners,
    notes: Vec<Note>,
}

impl House {
    fn listening(listens: &[&str]) -> Self {
        Self::with(listens, |_| {})
    }

    fn with(listens: &[&str], change: impl FnOnce(&mut SocketOptions)) -> Self {
        let mut options = SocketOptions {
            backlog: 4096,
            mode: None,
            owner: None,
            share: false,
        };
        change(&mut options);
        let listens: Vec<Listen> = listens.iter().map(|text| text.parse().unwrap()).collect();
        let (listeners, warnings) = Listeners::open(&listens, options, Vec::new()).unwrap();
        assert_eq!(warnings, Vec::<String>::new());
        Self {
            listeners,
            notes: Vec::new(),
        }
    }

    /// The server of a generation: it takes its first socket and accepts when told to.
    fn spawn(&mut self, generation: Generation, sockets: Sockets) -> TcpListener {
        let mut seats = self.listeners.seats(generation, sockets).unwrap();
        let listener = TcpListener::from(seats.remove(0).fd);
        listener.set_nonblocking(true).unwrap();
        listener
    }

    fn serving(&mut self, generation: Generation) -> TcpListener {
        let server = self.spawn(generation, Sockets::Own);
        self.cut_over(generation);
        server
    }

    fn cut_over(&mut self, generation: Generation) {
        let notes = self.listeners.cut_over(generation).unwrap();
        self.notes.extend(notes);
    }

    fn leave(&mut self, generation: Generation) {
        self.notes
            .extend(self.listeners.leave(generation, sys_now()));
    }

    /// What the main loop does when poll says so.
    fn wake(&mut self) {
        let fd = std::os::fd::AsRawFd::as_raw_fd(&self.listeners.polled()[0].0);
        let notes = self.listeners.woken(fd, PollFlags::POLLIN, sys_now());
        self.notes.extend(notes);
    }

    fn client(&self) -> TcpStream {
        let address = self.listeners.listening().remove(0);
        TcpStream::connect(address).unwrap()
    }

    fn clients(&self, count: usize) -> Vec<TcpStream> {
        (0..count).map(|_| self.client()).collect()
    }
}

fn sys_now() -> Time {
    crate::sys::now()
}

/// How many clients wait on this server; they are answered.
fn answers(server: &TcpListener) -> usize {
    let mut count = 0;
    loop {
        match server.accept() {
            Ok(_) => count += 1,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return count,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn new_connections_go_to_the_serving_generation_alone() {
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        let mut house = House::listening(&[listen]);
        let first = house.serving(G1);
        let second = house.spawn(G2, Sockets::Own);
        let _early = house.clients(20);
        assert_eq!((answers(&first), answers(&second)), (20, 0));
        house.cut_over(G2);
        let _late = house.clients(20);
        assert_eq!((answers(&first), answers(&second)), (0, 20));
        house.cut_over(G1);
        let _back = house.clients(20);
        assert_eq!((answers(&first), answers(&second)), (20, 0));
    }
}

#[test]
fn clients_of_both_families_reach_a_port_alone() {
    let mut house = House::listening(&["0"]);
    let server = house.serving(G1);
    let next = house.spawn(G2, Sockets::Own);
    let port = server.local_addr().unwrap().port();
    let _v4 = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let _v6 = TcpStream::connect(("::1", port)).unwrap();
    assert_eq!((answers(&server), answers(&next)), (2, 0));
}

#[test]
fn a_probe_reaches_the_candidate_and_no_client_follows() {
    for listen in ["127.0.0.1:0", "[::1]:0", "0"] {
        let mut house = House::listening(&[listen]);
        let serving = house.serving(G1);
        let candidate = house.spawn(G2, Sockets::Own);
        let mut probes = Vec::new();
        for round in 0..20 {
            probes.push(house.listeners.probe(G2, ListenerId(0)).unwrap());
            let _clients = house.clients(10);
            assert_eq!(answers(&candidate), 1, "{listen} {round}");
            assert_eq!(answers(&serving), 10, "{listen} {round}");
        }
    }
}

#[test]
fn a_restart_answers_the_clients_that_waited() {
    let mut house = House::listening(&["127.0.0.1:0"]);
    drop(house.serving(G1));
    let mut waiting = house.clients(5);
    house.leave(G1);
    waiting.extend(house.clients(5));
    let server = house.spawn(G2, Sockets::Target);
    house.cut_over(G2);
    assert_eq!(answers(&server), 10);
    assert_eq!(house.notes, []);
}

#[test]
fn what_is_left_in_the_queue_of_a_gone_generation_is_counted() {
    let mut house = House::listening(&["127.0.0.1:0"]);
    let _first = house.serving(G1);
    let _clients = house.clients(3);
    let second = house.spawn(G2, Sockets::Own);
    house.cut_over(G2);
    house.leave(G1);
    let listener = second.local_addr().unwrap().to_string();
    let connections = 3;
    assert_eq!(
        house.notes,
        [Note::Lost {
            listener,
            connections
        }]
    );
}

#[test]
fn a_server_that_shuts_its_socket_down_moves_nobody_elses() {
    let mut house = House::listening(&["127.0.0.1:0"]);
    let first = house.serving(G1);
    let second = house.serving(G2);
    let third = house.serving(G3);
    for draining in [&first, &second] {
        nix::sys::socket::shutdown(
            std::os::fd::AsRawFd::as_raw_fd(draining),
            nix::sys::socket::Shutdown::Both,
        )
        .unwrap();
        // before hotswap has heard of it, and after
        let _clients = house.clients(50);
        assert_eq!(answers(&third), 50);
        house.wake();
        let _clients = house.clients(50);
        assert_eq!(answers(&third), 50);
    }
}

#[test]
fn a_serving_socket_that_was_shut_down_listens_again() {
    let mut house = House::listening(&["127.0.0.1:0"]);
    let server = house.serving(G1);
    nix::sys::socket::shutdown(
        std::os::fd::AsRawFd::as_raw_fd(&server),
        nix::sys::socket::Shutdown::Both,
    )
    .unwrap();
    house.wake();
    let listener = server.local_addr().unwrap().to_string();
    assert_eq!(house.notes, [Note::Repaired { listener }]);
    let _client = house.client();
    assert_eq!(answers(&server), 1);
}

#[test]
fn the_socket_of_a_gone_generation_is_the_next_ones_as_good_as_new() {
    let mut house = House::listening(&["127.0.0.1:0"]);
    let first = house.serving(G1);
    let address = first.local_addr().unwrap();
    house.serving(G2);
    house.leave(G1);
    drop(first);
    let third = house.listeners.seats(G3, Sockets::Own).unwrap().remove(0);
    let flags = nix::fcntl::fcntl(third.fd.as_fd(), nix::fcntl::FcntlArg::F_GETFL).unwrap();
    assert_eq!(flags & libc::O_NONBLOCK, 0);
    assert_eq!(third.port, Some(address.port()));
    assert_eq!(third.addr, address.to_string());
}

#[test]
fn nobody_else_can_have_the_address_and_the_owner_is_named() {
    let house = House::listening(&["127.0.0.1:0"]);
    let address = house.listeners.listening().remove(0);
    let listen: Listen = address.parse().unwrap();
    let options = house.listeners.means.options.clone();
    let error = Listeners::open(&[listen], options, Vec::new())
        .err()
        .unwrap();
    let said = error.to_string();
    assert!(
        said.starts_with(&format!("cannot listen on {address}: Address")),
        "{said}"
    );
    assert!(
        said.contains(&format!("pid {}", std::process::id())),
        "{said}"
    );
    assert!(said.contains("\ntry: "), "{said}");
}

#[test]
fn a_shared_socket_that_was_shut_down_listens_again() {
    let mut house = House::with(&["127.0.0.1:0"], |options| options.share = true);
    let server = house.serving(G1);
    server.set_nonblocking(true).unwrap();
    nix::sys::socket::shutdown(
        std::os::fd::AsRawFd::as_raw_fd(&server),
        nix::sys::socket::Shutdown::Both,
    )
    .unwrap();
    house.wake();
    let client = house.client();
    client
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    assert_eq!(answers(&server), 1);
}

#[test]
fn names_are_told_apart() {
    let house = House::listening(&[
        "a=127.0.0.1:0",
        "127.0.0.1:0",
        "a=127.0.0.1:0",
        "udp:127.0.0.1:0",
    ]);
    let names: Vec<_> = house
        .listeners
        .all
        .iter()
        .map(|listener| listener.name.as_str())
        .collect();
    assert_eq!(names, ["a", "listen1", "a-2", "listen2"]);
}
