use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command};

use super::*;
use crate::socket::generation_socket::held;
use crate::socket::inet::Family;

fn activity(connections: usize, busy: usize) -> ActivityCount {
    ActivityCount {
        connections: Some(connections),
        busy,
        unsure: 0,
    }
}

/// They have sent nothing, or go through a unix socket.
fn unsure(connections: usize) -> ActivityCount {
    ActivityCount {
        unsure: connections,
        ..activity(connections, connections)
    }
}

/// A process that has what it is given, and no more; it is killed at the end.
struct Process(Child);

impl Process {
    fn with(ends: [impl Into<OwnedFd>; 2]) -> Self {
        let [one, other] = ends.map(Into::into);
        let server = Command::new("sleep")
            .arg("60")
            .stdin(one)
            .stdout(other)
            .spawn();
        Self(server.unwrap())
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id().try_into().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn tcp() -> (TcpListener, SocketKind) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, SocketKind::Tcp { port })
}

#[test]
fn connections_of_these_processes_are_counted() {
    let (listener, kind) = tcp();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let one = held(&listener, kind);
    let mut counter = ActivityCounter::default();
    let us = [Pid::this()];
    assert_eq!(counter.count(&[one], &us), activity(0, 0), "not accepted");
    let (served, _) = listener.accept().unwrap();
    let process = Process::with([served.try_clone().unwrap(), served.try_clone().unwrap()]);
    let they = [process.pid()];
    assert_eq!(counter.count(&[one], &they), unsure(1));
    assert_eq!(
        ActivityCounter::default().count(&[one], &[]),
        activity(0, 0),
        "somebody else's"
    );
    let shared = GenerationSocket {
        steered: false,
        ..one
    };
    assert_eq!(
        counter.count(&[shared], &they),
        activity(1, 0),
        "nobody waits for it"
    );
    drop((client, served));
}

#[test]
fn a_connection_with_both_ends_in_these_processes_is_no_client() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("listener");
    let unix = UnixListener::bind(&path).unwrap();
    let mapped = TcpListener::bind("[::]:0").unwrap();
    let port = mapped.local_addr().unwrap().port();
    let (v4, v4_kind) = tcp();
    let v6 = TcpListener::bind("[::1]:0").unwrap();
    let v6_port = v6.local_addr().unwrap().port();
    let dual = |one| GenerationSocket {
        family: Some(Family::V6),
        ..one
    };
    let check = |one: GenerationSocket, client: OwnedFd, served: OwnedFd| {
        let both = Process::with([client.try_clone().unwrap(), served.try_clone().unwrap()]);
        let mut counter = ActivityCounter::default();
        assert_eq!(counter.count(&[one], &[both.pid()]), activity(0, 0));
        assert!(have_accepted(&[one], &[both.pid()]));
        let process = Process::with([served.try_clone().unwrap(), served]);
        assert_eq!(counter.count(&[one], &[process.pid()]), unsure(1));
    };
    let client = UnixStream::connect(&path).unwrap();
    let (served, _) = unix.accept().unwrap();
    check(held(&unix, SocketKind::Unix), client.into(), served.into());
    let kinds = [
        (held(&v4, v4_kind), &v4, v4.local_addr().unwrap()),
        (
            dual(held(&v6, SocketKind::Tcp { port: v6_port })),
            &v6,
            v6.local_addr().unwrap(),
        ),
        (
            dual(held(&mapped, SocketKind::Tcp { port })),
            &mapped,
            ([127, 0, 0, 1], port).into(),
        ),
    ];
    for (one, listener, address) in kinds {
        let client = TcpStream::connect(address).unwrap();
        let (served, _) = listener.accept().unwrap();
        check(one, client.into(), served.into());
    }
}

#[test]
fn what_others_have_is_left_out() {
    let (listener, kind) = tcp();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let served = listener.accept().unwrap();
    let found = find(&[held(&listener, kind)]).unwrap();
    assert_eq!(without(&found, &[Pid::this()]), Some(0));
    let mut other = Command::new("sleep").arg("60").spawn().unwrap();
    let pid = Pid::from_raw(other.id().try_into().unwrap());
    assert_eq!(without(&found, &[pid]), Some(1));
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(without(&found, &[pid]), None, "there is nobody to ask");
    drop((client, served));
}

#[test]
fn a_second_request_in_the_tick_of_the_first_answer_is_busy() {
    let (listener, kind) = tcp();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut served, _) = listener.accept().unwrap();
    let one = held(&listener, kind);
    let mut piece = [0; 8];
    client.write_all(b"question").unwrap();
    served.read_exact(&mut piece).unwrap();
    served.write_all(b"answer..").unwrap();
    client.read_exact(&mut piece).unwrap();
    client.write_all(b"question").unwrap();
    served.read_exact(&mut piece).unwrap();
    let mut counter = ActivityCounter::default();
    let process = Process::with([served.try_clone().unwrap(), served]);
    for _ in 0..3 {
        assert_eq!(counter.count(&[one], &[process.pid()]), activity(1, 1));
    }
}

#[test]
fn what_cannot_be_told_is_busy_unless_it_gets_on_and_on() {
    let mut counter = ActivityCounter::default();
    let mut is_busy = |received| {
        let found = FoundConnection {
            inode: 5,
            received,
            activity: Activity::Undecided,
            is_certain: true,
            client: ClientEnd::Unix(0),
        };
        let busy = counter.is_busy(&found);
        let now = counter.undecided(&found).unwrap();
        counter.undecided = HashMap::from([(5, now)]);
        busy
    };
    assert!(is_busy(80), "never seen before");
    assert!(is_busy(160), "it may be a part of an answer");
    assert!(is_busy(160), "it is where it was");
    let busy: Vec<_> = (3..=6).map(|asked| is_busy(80 * asked)).collect();
    assert_eq!(busy, [true, true, true, false], "it never pauses");
}

#[test]
fn an_answer_may_go_on_until_the_client_asks_again() {
    let mut counter = ActivityCounter::default();
    let mut is_busy = |received, activity| {
        let found = FoundConnection {
            inode: 5,
            received,
            activity,
            is_certain: true,
            client: ClientEnd::Unix(0),
        };
        let busy = counter.is_busy(&found);
        counter.remember(&[found]);
        busy
    };
    assert!(is_busy(80, Activity::Busy));
    assert!(is_busy(80, Activity::Paused), "the head");
    assert!(is_busy(80, Activity::Undecided), "a piece");
    assert!(is_busy(80, Activity::Paused));
    assert!(is_busy(160, Activity::Busy), "another request");
    assert!(!is_busy(160, Activity::Paused), "its answer");
}

#[test]
fn an_open_unix_connection_is_busy() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("listener");
    let listener = UnixListener::bind(&path).unwrap();
    let one = held(&listener, SocketKind::Unix);
    let client = UnixStream::connect(&path).unwrap();
    let served = listener.accept().unwrap();
    let mut counter = ActivityCounter::default();
    assert_eq!(counter.count(&[one], &[]), unsure(1));
    drop(client);
    assert_eq!(counter.count(&[one], &[]), activity(0, 0));
    drop(served);
}
