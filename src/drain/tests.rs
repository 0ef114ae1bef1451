use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;

use super::*;
use crate::socket::inode_of;

const CUT: Time = Time::from_secs(500);
const OPEN: AcceptQueue = AcceptQueue {
    queued: 0,
    handshakes: Some(true),
};
const QUEUED: AcceptQueue = AcceptQueue {
    queued: 1,
    handshakes: Some(false),
};
const UNKNOWN: AcceptQueue = AcceptQueue {
    queued: 0,
    handshakes: None,
};

fn drain() -> Drain {
    Drain::new(CUT, None)
}

fn alone() -> LookCost {
    let cpu_time = sys::cpu_time();
    LookCost { cpu_time, among: 1 }
}

/// Looks at the queue at each deadline; what was said, and how long after the cut-over.
fn said(drain: &mut Drain, backlogs: &[AcceptQueue]) -> Vec<(u128, Queue)> {
    let mut said = Vec::new();
    for queue in backlogs {
        let Some(now) = drain.deadline() else { break };
        if let Some(DrainEvent::Queue(queue)) = drain.queue_seen(now, Duration::ZERO, *queue) {
            said.push((now.saturating_sub(CUT).as_millis(), queue));
        }
    }
    said
}

#[test]
fn a_queue_is_settled_when_nothing_is_open_twice() {
    let mut drain = drain();
    let seen = said(
        &mut drain,
        &[
            QUEUED,
            QUEUED,
            OPEN,
            AcceptQueue::NONE,
            OPEN,
            AcceptQueue::NONE,
            AcceptQueue::NONE,
        ],
    );
    assert_eq!(
        seen,
        [
            (0, Queue::Waiting),
            (10, Queue::Empty),
            (30, Queue::Settled)
        ]
    );
    assert_eq!(drain.deadline(), None, "there is nothing more to see");
}

#[test]
fn handshakes_that_cannot_be_seen_are_never_settled() {
    let seen = said(&mut drain(), &[UNKNOWN; 100]);
    assert_eq!(seen, [(0, Queue::Empty)]);
}

#[test]
fn a_queue_is_looked_at_often_first_and_seldom_later() {
    let mut drain = drain();
    let mut moments = Vec::new();
    while moments.len() < 40 {
        let now = drain.deadline().unwrap();
        moments.push(now.saturating_sub(CUT).as_millis());
        drain.queue_seen(now, Duration::ZERO, QUEUED);
    }
    assert!(
        moments.iter().take(20).copied().eq((0..100).step_by(5)),
        "{moments:?}"
    );
    assert!(
        moments
            .windows(2)
            .skip(20)
            .all(|pair| pair[1] - pair[0] == 50),
        "{moments:?}"
    );
}

fn count(busy: usize) -> ActivityCount {
    ActivityCount {
        connections: Some(9),
        busy,
        unsure: 0,
    }
}

#[test]
fn connections_are_counted_again_as_long_as_any_is_busy() {
    let mut drain = drain();
    drain.count_connections();
    let now = CUT + Duration::from_secs(1);
    let took = Duration::from_millis(2);
    assert_eq!(drain.counted(now, took, count(1), AcceptQueue::NONE), None);
    assert_eq!(drain.deadline(), Some(now + took + SELDOM));
    assert_eq!(drain.connections(), Some(9));
    let took = Duration::from_millis(20);
    assert_eq!(drain.counted(now, took, count(1), AcceptQueue::NONE), None);
    assert_eq!(
        drain.deadline(),
        Some(now + took + took * 10),
        "a count that takes long"
    );
    assert_eq!(
        drain.counted(now, took, count(0), AcceptQueue::NONE),
        Some(DrainEvent::Quiet)
    );
    assert_eq!(drain.deadline(), None);
}

#[test]
fn a_handshake_that_is_still_open_is_a_connection_to_come() {
    let mut drain = drain();
    drain.count_connections();
    assert_eq!(drain.counted(CUT, Duration::ZERO, count(0), OPEN), None);
    assert_eq!(drain.deadline(), Some(CUT + OFTEN));
    assert_eq!(
        drain.counted(CUT + OFTEN, Duration::ZERO, count(0), AcceptQueue::NONE),
        Some(DrainEvent::Quiet)
    );
}

fn held(listener: &TcpListener) -> GenerationSocket<'_> {
    GenerationSocket {
        listener: ListenerId(4),
        fd: Some(listener.as_fd()),
        inode: inode_of(listener.as_fd()).unwrap(),
        kind: SocketKind::Tcp {
            port: listener.local_addr().unwrap().port(),
        },
        family: Some(crate::socket::inet::Family::V4),
        steered: true,
        captured: false,
        listens: true,
    }
}

#[test]
fn the_more_generations_drain_the_seldomer_each_is_looked_at() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let next = |among| {
        let effort = LookCost { among, ..alone() };
        while effort.took() < Duration::from_millis(1) * among {}
        let mut drain = drain();
        drain.look(CUT, &[held(&listener)], &[Pid::this()], effort);
        drain.deadline().unwrap().saturating_sub(CUT)
    };
    assert!(next(64) >= Duration::from_millis(640));
    assert!(next(1) < Duration::from_millis(640));
    drop(client);
}

#[test]
fn a_generation_without_a_socket_of_its_own_is_done_at_once() {
    let mut drain = drain();
    assert_eq!(
        drain.look(CUT, &[], &[], alone()),
        [DrainEvent::Queue(Queue::Settled)]
    );
    drain.count_connections();
    assert_eq!(drain.look(CUT, &[], &[], alone()), [DrainEvent::Quiet]);
    assert_eq!((drain.deadline(), drain.connections()), (None, Some(0)));
}

#[test]
fn a_queue_that_nobody_takes_from_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let held = held(&listener);
    let client = TcpStream::connect(address).unwrap();
    let us = [Pid::this()];
    let waiting = [DrainEvent::Queue(Queue::Waiting)];
    assert_eq!(drain().look(CUT, &[held], &us, alone()), waiting);
    let mut doubted = drain();
    doubted.may_not_accept(vec![held.listener]);
    let settled = [DrainEvent::Queue(Queue::Settled)];
    assert_eq!(doubted.look(CUT, &[held], &us, alone()), settled);
    // It has begun to accept since it was last seen not to.
    let served = listener.accept().unwrap();
    let second = TcpStream::connect(address).unwrap();
    let mut doubted = drain();
    doubted.may_not_accept(vec![held.listener]);
    assert_eq!(doubted.look(CUT, &[held], &us, alone()), waiting);
    drop((client, served, second));
}
