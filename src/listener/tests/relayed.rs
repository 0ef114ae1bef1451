use std::io::{Read, Write};
use std::time::Duration;

use super::*;

/// A generation that reads all that a client says, and says it again twice.
fn answer(server: &TestServer) {
    let fd = sys::accept(server.0.fd.as_fd()).unwrap();
    let mut client = TcpStream::from(fd);
    client.set_nonblocking(false).unwrap();
    client
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
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
        let clients: Vec<TcpStream> = fixture.clients(20).into_iter().map(Into::into).collect();
        let second = fixture.serving(G2);
        drop(first);
        fixture.leave(G1);
        let listener = fixture.address();
        let connections = 20;
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
                    client
                        .set_read_timeout(Some(Duration::from_secs(20)))
                        .unwrap();
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
            scope.spawn(move || (0..20).for_each(|_| answer(&second)));
            fixture.runs(&talk);
            talk.join().unwrap();
        });
        fixture.wake();
        assert_eq!(fixture.listeners.context.relays.count(), 0);
    }
}

#[test]
fn clients_of_a_gone_generation_on_a_path_are_answered_too() {
    let directory = tempfile::tempdir().unwrap();
    let listen = format!("unix:{}", directory.path().join("api.sock").display());
    let mut fixture = Fixture::listening(&[&listen]);
    fixture.serving(G1);
    let mut client = UnixStream::from(fixture.client());
    let second = fixture.serving(G2);
    fixture.leave(G1);
    client.write_all(b"hello").unwrap();
    fixture.wake();
    let server = UnixStream::from(sys::accept(second.0.fd.as_fd()).unwrap());
    let mut heard = [0; 5];
    (&server).read_exact(&mut heard).unwrap();
    (&server).write_all(b"there").unwrap();
    drop(server);
    let mut said = String::new();
    std::thread::scope(|scope| {
        let client = scope.spawn(|| client.read_to_string(&mut said).unwrap());
        fixture.runs(&client);
    });
    assert_eq!((&heard, said.as_str()), (b"hello", "there"));
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

#[test]
fn no_more_are_relayed_than_can_be_borne() {
    let mut fixture = Fixture::listening(&["127.0.0.1:0"]);
    fixture.serving(G1);
    let clients = fixture.clients(relay::MOST + 10);
    let _second = fixture.serving(G2);
    fixture.leave(G1);
    while fixture.incidents.iter().map(counted).sum::<usize>() < clients.len() {
        fixture.wake();
    }
    let lost = |incident: &&Incident| matches!(incident, Incident::Lost { .. });
    let lost: usize = fixture.incidents.iter().filter(lost).map(counted).sum();
    assert_eq!(lost, 10);
}

fn counted(incident: &Incident) -> usize {
    match incident {
        Incident::Lost { connections, .. } | Incident::Relayed { connections, .. } => *connections,
        Incident::Stranger { .. } | Incident::Repaired { .. } | Incident::Broken { .. } => 0,
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
        assert!(said[0].starts_with("1 connection that"), "{said:?}");
        assert!(said[0].contains(" is relayed"), "{said:?}");
        assert!(said[1].ends_with(" had to be closed"), "{said:?}");
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
