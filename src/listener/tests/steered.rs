//! What holds at an address of any kind that leads new connections to one generation.

use std::io::{Read, Write};

use super::*;

/// Of each kind, and the directory of the path.
fn everywhere() -> (tempfile::TempDir, [String; 3]) {
    let directory = tempfile::tempdir().unwrap();
    let path = format!("unix:{}", directory.path().join("api.sock").display());
    (directory, ["127.0.0.1:0".into(), "[::1]:0".into(), path])
}

#[test]
fn new_connections_go_to_the_serving_generation_alone() {
    let (_directory, listens) = everywhere();
    for listen in &listens {
        let mut fixture = Fixture::listening(&[listen]);
        let first = fixture.serving(G1);
        let second = fixture.spawn(G2, SocketChoice::Own);
        let _early = fixture.clients(20);
        assert_eq!((first.answers(), second.answers()), (20, 0), "{listen}");
        fixture.cut_over(G2);
        let _late = fixture.clients(20);
        assert_eq!((first.answers(), second.answers()), (0, 20), "{listen}");
        fixture.cut_over(G1);
        let _back = fixture.clients(20);
        assert_eq!((first.answers(), second.answers()), (20, 0), "{listen}");
        let _probe = fixture.listeners.probe(G2, ListenerId(0)).unwrap();
        assert_eq!((first.answers(), second.answers()), (0, 1), "{listen}");
    }
}

#[test]
fn a_restart_answers_the_clients_that_waited() {
    let (_directory, listens) = everywhere();
    for listen in &listens {
        let mut fixture = Fixture::listening(&[listen]);
        drop(fixture.serving(G1));
        let mut waiting = fixture.clients(5);
        fixture.leave(G1);
        waiting.extend(fixture.clients(5));
        let server = fixture.spawn(G2, SocketChoice::Target);
        fixture.cut_over(G2);
        assert_eq!(server.answers(), 10, "{listen}");
        assert_eq!(fixture.incidents, [], "{listen}");
    }
}

/// Queued at a generation that is gone.
#[test]
fn a_relayed_client_does_not_notice() {
    let (_directory, listens) = everywhere();
    for listen in &listens {
        for is_upgraded in [false, true] {
            let mut fixture = Fixture::listening(&[listen]);
            fixture.serving(G1);
            let mut client = UnixStream::from(fixture.client());
            let second = fixture.serving(G2);
            fixture.leave(G1);
            client.write_all(b"hello").unwrap();
            fixture.wake();
            if is_upgraded {
                fixture = fixture.after_exec();
            }
            // read(2) and write(2) are the same for any socket
            let mut server = UnixStream::from(sys::accept(second.0.fd.as_fd()).unwrap());
            let mut heard = [0; 5];
            server.set_nonblocking(false).unwrap();
            server.read_exact(&mut heard).unwrap();
            server.write_all(b"there").unwrap();
            drop(server);
            let mut said = String::new();
            std::thread::scope(|scope| {
                let client = scope.spawn(|| client.read_to_string(&mut said).unwrap());
                fixture.runs(&client);
            });
            assert_eq!((&heard, said.as_str()), (b"hello", "there"), "{listen}");
        }
    }
}
