use std::io::{Read, Write};
use std::time::Duration;

use super::*;

/// A machine that emulates another one takes its time.
const SILENCE: Duration = Duration::from_secs(120);
/// Enough that several are relayed at once.
const CLIENTS: usize = 6;

/// A generation that reads all that a client says, and says it again twice.
fn answer(server: &TestServer) {
    let fd = sys::accept(server.0.fd.as_fd()).unwrap();
    let mut client = TcpStream::from(fd);
    client.set_nonblocking(false).unwrap();
    client.set_read_timeout(Some(SILENCE)).unwrap();
    let mut said = Vec::new();
    client.read_to_end(&mut said).unwrap();
    client.write_all(&said).unwrap();
    client.write_all(&said).unwrap();
}

impl Fixture {
    /// Goes on as the main loop does, until somebody has finished.
    pub fn runs<T>(&mut self, other: &std::thread::ScopedJoinHandle<T>) {
        while !other.is_finished() {
            let mut polled: Vec<_> = self.listeners.polled();
            let (fd, flags) = polled.remove(0);
            let mut polled = [nix::poll::PollFd::new(fd, flags)];
            nix::poll::poll(&mut polled, 10_u8).unwrap();
            self.wake();
        }
    }
}

#[test]
fn clients_of_a_generation_that_is_gone_are_answered_by_the_next() {
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        let mut fixture = Fixture::listening(&[listen]);
        let first = fixture.serving(G1);
        let clients: Vec<TcpStream> = fixture
            .clients(CLIENTS)
            .into_iter()
            .map(Into::into)
            .collect();
        let second = fixture.serving(G2);
        drop(first);
        fixture.leave(G1);
        let listener = fixture.address();
        let connections = CLIENTS;
        assert_eq!(
            fixture.incidents,
            [Incident::Relayed {
                listener,
                connections,
                first: true
            }]
        );
        std::thread::scope(|scope| {
            let talk = scope.spawn(move || {
                for mut client in clients {
                    // more than any socket buffer holds, either way
                    let said = vec![b'x'; 3_000_000];
                    client.set_read_timeout(Some(SILENCE)).unwrap();
                    let mut writer = client.try_clone().unwrap();
                    let writer = std::thread::spawn(move || {
                        writer.write_all(&said).unwrap();
                        writer.shutdown(std::net::Shutdown::Write).unwrap();
                    });
                    let mut heard = Vec::new();
                    client.read_to_end(&mut heard).unwrap();
                    writer.join().unwrap();
                    assert_eq!(heard.len(), 6_000_000);
                }
            });
            scope.spawn(move || (0..CLIENTS).for_each(|_| answer(&second)));
            fixture.runs(&talk);
            talk.join().unwrap();
        });
        fixture.wake();
        assert_eq!(fixture.listeners.context.relays.count(), 0);
    }
}

/// The serving generation would answer for the candidate.
#[test]
fn a_probe_of_a_candidate_that_leaves_is_not_relayed() {
    for listen in ["127.0.0.1:0", "[::1]:0", "0"] {
        let mut fixture = Fixture::listening(&[listen]);
        let first = fixture.serving(G1);
        let second = fixture.spawn(G2, SocketChoice::Own);
        let probe = fixture.listeners.probe(G2, ListenerId(0)).unwrap();
        drop(second);
        fixture.leave(G2);
        fixture.wake();
        let end = TcpStream::from(probe).read(&mut [0; 8]);
        let reset = std::io::ErrorKind::ConnectionReset;
        assert_eq!(end.map_err(|end| end.kind()), Err(reset), "{listen}");
        assert_eq!(first.answers(), 0, "{listen}");
        assert_eq!(fixture.incidents, [], "{listen}");
    }
}

#[test]
fn a_reset_is_passed_on_as_a_reset() {
    let mut fixture = Fixture::listening(&["127.0.0.1:0"]);
    fixture.serving(G1);
    let mut client = TcpStream::from(fixture.client());
    let second = fixture.serving(G2);
    fixture.leave(G1);
    client.write_all(b"hello").unwrap();
    fixture.wake();
    let server = sys::accept(second.0.fd.as_fd()).unwrap();
    // closed with something unread
    drop(server);
    let error = std::thread::scope(|scope| {
        let client = scope.spawn(move || client.read(&mut [0; 8]).unwrap_err());
        fixture.runs(&client);
        client.join().unwrap()
    });
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

/// Until one of the others ends: nobody is accepted who cannot be handed on.
#[test]
fn clients_beyond_as_many_as_can_be_relayed_wait() {
    let mut fixture = Fixture::listening(&["127.0.0.1:0"]);
    fixture.serving(G1);
    let mut clients = fixture.clients(relay::MOST + 10);
    let second = fixture.serving(G2);
    fixture.leave(G1);
    while fixture.relayed() < relay::MOST {
        fixture.wake();
    }
    fixture.wake();
    assert_eq!(fixture.relayed(), relay::MOST);
    clients.drain(..relay::MOST);
    assert_eq!(second.answers(), relay::MOST);
    while fixture.relayed() < relay::MOST + 10 {
        fixture.wake();
    }
    let lost = |incident: &Incident| matches!(incident, Incident::Lost { .. });
    assert!(!fixture.incidents.iter().any(lost));
}

#[test]
fn a_queue_is_relayed_before_its_server_is_told_to_stop() {
    let mut fixture = Fixture::listening(&["127.0.0.1:0"]);
    let first = fixture.serving(G1);
    let mut client = TcpStream::from(fixture.client());
    let asked = client.peer_addr().unwrap();
    let second = fixture.serving(G2);
    let incidents = fixture.listeners.relay_queue(G1);
    fixture.incidents.extend(incidents);
    assert_eq!((fixture.relayed(), first.answers()), (1, 0));
    client.write_all(b"hello").unwrap();
    fixture.wake();
    let server = TcpStream::from(sys::accept(second.0.fd.as_fd()).unwrap());
    assert_eq!(server.peer_addr().unwrap().ip(), asked.ip());
    assert_eq!(server.local_addr().unwrap(), asked);
    assert!(fixture.listeners.relay_queue(G2).is_empty(), "it serves");
}

/// As a client of another host, which has connected to an address that is not loopback's.
#[test]
fn a_relayed_client_comes_from_the_address_that_it_had_connected_to() {
    let mut fixture = Fixture::listening(&["0"]);
    fixture.serving(G1);
    let port = fixture.address().rsplit_once(':').unwrap().1.to_owned();
    let _client = TcpStream::connect(format!("127.0.0.3:{port}")).unwrap();
    let second = fixture.serving(G2);
    fixture.leave(G1);
    let server = TcpStream::from(sys::accept(second.0.fd.as_fd()).unwrap());
    let seen = server.peer_addr().unwrap().ip().to_canonical();
    assert_eq!(seen.to_string(), "127.0.0.3");
}

#[test]
fn while_clients_are_turned_away_they_are_reset_and_counted_and_a_queue_stays() {
    let mut fixture = Fixture::listening(&["127.0.0.1:0"]);
    let first = fixture.serving(G1);
    let _queued = fixture.client();
    assert_eq!(fixture.listeners.turn_away(Refusal::Stopping), []);
    let late: Vec<TcpStream> = fixture.clients(3).into_iter().map(Into::into).collect();
    fixture.wake();
    for mut client in &late {
        let error = client.read(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    assert_eq!(first.answers(), 1, "it is not disturbed");
    fixture.listeners.let_go(G1);
    drop(first);
    let _last = fixture.client();
    drop(fixture.client());
    fixture.wake();
    let connections = 4; // without the one that has left by itself
    assert_eq!(
        fixture.listeners.take_refused(),
        Some(Incident::Refused {
            connections,
            why: Refusal::Stopping
        })
    );
}

#[test]
fn those_of_an_outage_are_not_taken_for_those_of_a_stop() {
    let mut fixture = Fixture::listening(&["127.0.0.1:0"]);
    let _first = fixture.serving(G1);
    assert_eq!(fixture.listeners.turn_away(Refusal::NothingServes), []);
    let _clients = fixture.clients(2);
    fixture.wake();
    let refused = |connections, why| Incident::Refused { connections, why };
    assert_eq!(
        fixture.listeners.turn_away(Refusal::Stopping),
        [refused(2, Refusal::NothingServes)]
    );
    let _last = fixture.client();
    fixture.wake();
    let stop = refused(1, Refusal::Stopping);
    assert_eq!(fixture.listeners.take_refused(), Some(stop.clone()));
    assert_eq!(stop.to_string(), "1 connection was refused during the stop");
}

#[test]
fn a_cut_over_lets_clients_in_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    for listen in ["127.0.0.1:0", path.to_str().unwrap()] {
        let mut fixture = Fixture::listening(&[listen]);
        fixture.serving(G1);
        fixture.listeners.turn_away(Refusal::Stopping);
        let second = fixture.serving(G2);
        let _clients = fixture.clients(2);
        assert_eq!(second.answers(), 2, "{listen}");
    }
}

impl Fixture {
    fn relayed(&self) -> usize {
        let relayed = |incident: &&Incident| matches!(incident, Incident::Relayed { .. });
        self.incidents.iter().filter(relayed).map(counted).sum()
    }
}

fn counted(incident: &Incident) -> usize {
    match incident {
        Incident::Lost { connections, .. } | Incident::Relayed { connections, .. } => *connections,
        Incident::Refused { .. }
        | Incident::NotHeld { .. }
        | Incident::Stranger { .. }
        | Incident::Repaired { .. }
        | Incident::Misled { .. }
        | Incident::Broken { .. } => 0,
    }
}

/// Whatever may have led new connections to the socket of a generation that is gone.
#[test]
fn one_that_comes_back_is_not_carried_round() {
    for listen in ["127.0.0.1:0", "[::]:0"] {
        let mut fixture = Fixture::listening(&[listen]);
        fixture.serving(G1);
        let _client = fixture.client();
        let second = fixture.serving(G2);
        sys::attach_reuseport_program(second.0.fd.as_fd(), &member_index::to_member(0)).unwrap();
        fixture.leave(G1);
        (0..20).for_each(|_| fixture.wake());
        let said: Vec<String> = fixture.incidents.iter().map(Incident::to_string).collect();
        // it is carried once more, and then no further
        assert!(said[0].starts_with("relaying 2 connections"), "{said:?}");
        assert!(said[1].starts_with("closed "), "{said:?}");
        assert_eq!(said.len(), 2, "{said:?}");
    }
}

#[test]
fn a_silent_one_ends() {
    let mut fixture = Fixture::listening(&["127.0.0.1:0"]);
    fixture.serving(G1);
    let client = TcpStream::from(fixture.client());
    fixture.serving(G2);
    fixture.leave(G1);
    while fixture.listeners.context.relays.count() > 0 {
        let deadline = fixture.listeners.deadline().unwrap();
        fixture.listeners.look(deadline);
    }
    let error = (&client).read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_client_that_went_away_is_no_loss() {
    let mut fixture = Fixture::listening(&["127.0.0.1:0"]);
    fixture.serving(G1);
    drop(fixture.clients(3));
    fixture.serving(G2);
    fixture.leave(G1);
    assert_eq!(fixture.incidents, []);
}

#[test]
fn nobody_is_relayed_once_hotswap_stops() {
    let mut fixture = Fixture::listening(&["127.0.0.1:0"]);
    fixture.serving(G1);
    let _client = fixture.client();
    fixture.serving(G2);
    fixture.listeners.stop_repairing();
    fixture.leave(G1);
    let listener = fixture.address();
    let connections = 1;
    assert_eq!(
        fixture.incidents,
        [Incident::Lost {
            listener,
            connections
        }]
    );
}
