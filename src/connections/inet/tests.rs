use std::io::{Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::*;
use crate::socket::inode_of;

/// So long ago, in milliseconds, something was sent, received and acknowledged.
fn info(ago: (u32, u32, u32), received: u64, segments: (u32, u32)) -> Vec<u8> {
    let mut info = vec![0; 160];
    info[44..48].copy_from_slice(&ago.0.to_ne_bytes());
    info[52..56].copy_from_slice(&ago.1.to_ne_bytes());
    info[56..60].copy_from_slice(&ago.2.to_ne_bytes());
    info[128..136].copy_from_slice(&received.to_ne_bytes());
    info[140..144].copy_from_slice(&segments.0.to_ne_bytes());
    info[152..156].copy_from_slice(&segments.1.to_ne_bytes());
    info
}

fn exchange(since_sent: u32, since_received: u32, received: u64) -> Vec<u8> {
    let last = since_sent.min(since_received);
    info((since_sent, since_received, last), received, (5, 2))
}

fn answer(state: u8, queues: (u32, u32), inode: u32, info: &[u8]) -> Vec<u8> {
    let mut message = vec![0; MESSAGE];
    message[1] = state;
    message[56..60].copy_from_slice(&queues.0.to_ne_bytes());
    message[60..64].copy_from_slice(&queues.1.to_ne_bytes());
    message[68..72].copy_from_slice(&inode.to_ne_bytes());
    let length = u16::try_from(4 + info.len()).unwrap();
    message.extend(length.to_ne_bytes());
    message.extend(INET_DIAG_INFO.to_ne_bytes());
    message.extend(info);
    message
}

fn activity(state: u8, queues: (u32, u32), info: &[u8]) -> Activity {
    parse(&answer(state, queues, 77, info)).unwrap().activity
}

#[test]
fn what_was_tried_and_closed_is_seen_for_a_while() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, begun) = (listener.local_addr().unwrap(), Instant::now());
    let tried = || {
        // the timer of the kernel is as exact as its ticks
        let within = begun.elapsed() + Duration::from_millis(50);
        let ended = ended_from_here(Family::V4, address.port()).unwrap();
        ended.iter().any(|ago| *ago <= within)
    };
    let client = TcpStream::connect(address).unwrap();
    let (server, _) = listener.accept().unwrap();
    assert!(!tried());
    drop(client);
    drop(server);
    let deadline = begun + Duration::from_secs(10);
    while !tried() {
        assert!(Instant::now() < deadline, "never seen");
        std::thread::yield_now();
    }
}

#[test]
fn a_connection_is_busy_until_it_is_answered() {
    let busy = |queues, info: &[u8]| activity(1, queues, info) == Activity::Busy;
    let unsure = activity(1, (0, 0), &exchange(900, 900, 0));
    assert_eq!(unsure, Activity::Unsure, "nothing received yet");
    assert!(
        busy((0, 0), &exchange(900, 100, 80)),
        "received, not answered"
    );
    assert!(
        busy((5, 0), &exchange(100, 900, 80)),
        "a request is not read"
    );
    let mut stuck = exchange(100, 900, 80);
    stuck[144] = 5;
    assert!(busy((0, 9), &stuck), "an answer is not sent");
    assert_eq!(
        activity(1, (0, 5), &exchange(100, 900, 80)),
        Activity::Undecided,
        "an answer is not acknowledged"
    );
    assert_eq!(
        activity(1, (0, 0), &exchange(3100, 3900, 80)),
        Activity::Quiet
    );
}

#[test]
fn what_was_sent_just_now_may_be_a_part_of_an_answer() {
    let sent = |ago| activity(1, (0, 0), &exchange(ago, 9000, 80));
    assert_eq!(sent(39), Activity::Undecided);
    assert_eq!(sent(40), Activity::Paused);
    assert_eq!(sent(2999), Activity::Paused);
    assert_eq!(sent(3000), Activity::Quiet);
}

#[test]
fn within_one_tick_the_acknowledgement_tells_an_answer_from_a_request() {
    let at_once = |ago, segments| activity(1, (0, 0), &info(ago, 80, segments));
    let undecided = Activity::Undecided;
    assert_eq!(
        at_once((3300, 3300, 3300), (4, 1)),
        Activity::Quiet,
        "answered, acknowledged"
    );
    assert_eq!(
        at_once((3300, 3300, 3260), (6, 2)),
        Activity::Quiet,
        "acknowledged later"
    );
    assert_eq!(
        at_once((3300, 3300, 3300), (5, 2)),
        undecided,
        "a second request"
    );
    assert_eq!(
        at_once((3300, 3300, 3300), (23, 11)),
        undecided,
        "an eleventh"
    );
    assert_eq!(
        at_once((3300, 3300, 3300), (22, 10)),
        Activity::Quiet,
        "ten answers"
    );
}

#[test]
fn a_client_that_has_hung_up_leaves_nothing_to_wait_for() {
    let busy = |queues, info: &[u8]| activity(CLOSE_WAIT, queues, info) == Activity::Busy;
    assert!(!busy((1, 0), &exchange(900, 100, 1)), "it never asked");
    assert!(
        !busy((1, 0), &exchange(100, 900, 81)),
        "only its end is unread"
    );
    assert!(
        busy((0, 0), &exchange(900, 100, 81)),
        "half-closed after a request"
    );
    assert!(
        busy((81, 0), &exchange(900, 100, 81)),
        "its request is unread"
    );
}

#[test]
fn an_answer_that_cannot_be_read_is_no_quiet_connection() {
    let whole = answer(1, (0, 0), 77, &exchange(100, 900, 80));
    for length in 0..whole.len() - 4 {
        let parsed = parse(&whole[..length]);
        assert!(
            parsed.is_none_or(|one| one.activity == Activity::Busy),
            "{length} bytes"
        );
    }
    assert_eq!(parse(&whole).unwrap().inode, 77);
}

/// What the kernel says of one connection: not accepted, accepted, asked, answered, hung up.
fn life_of_a_connection(address: SocketAddr, family: Family) {
    let listener = TcpListener::bind(address).unwrap();
    let address = listener.local_addr().unwrap();
    let all = || {
        let all = accepted(&[(family, address.port())]).unwrap().into_iter();
        all.map(|(_, one)| (one.inode, one.activity))
            .collect::<Vec<_>>()
    };
    assert_eq!(all(), []);
    let mut client = TcpStream::connect(address).unwrap();
    assert_eq!(all(), [], "it waits");
    let ends = (client.local_addr().unwrap(), address);
    assert!(!is_accepted(ends.0, ends.1).unwrap());
    let (mut server, _) = listener.accept().unwrap();
    assert!(is_accepted(ends.0, ends.1).unwrap());
    let inode = inode_of(server.as_fd()).unwrap();
    assert_eq!(all(), [(inode, Activity::Unsure)]);
    let many: Vec<_> = (0..=FEW).map(|_| (family, address.port())).collect();
    assert_eq!(accepted(&many).unwrap().len(), 1);
    client.write_all(b"question").unwrap();
    assert_eq!(all(), [(inode, Activity::Busy)], "unread");
    server.read_exact(&mut [0; 8]).unwrap();
    // Receiving and sending within one tick of the kernel's clock look alike.
    std::thread::sleep(Duration::from_millis(30));
    server.write_all(b"answer").unwrap();
    client.read_exact(&mut [0; 6]).unwrap();
    until(|| all() == [(inode, Activity::Paused)]);
    client.shutdown(Shutdown::Write).unwrap();
    until(|| all() == [(inode, Activity::Paused)]);
    drop(server);
    until(|| all().is_empty());
}

fn until(what: impl Fn() -> bool) {
    let start = Instant::now();
    while !what() {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "it never came true"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn the_kernel_tells_what_a_connection_is_at() {
    life_of_a_connection(SocketAddr::from(([127, 0, 0, 1], 0)), Family::V4);
}

#[test]
fn it_tells_the_same_over_ipv6() {
    let address = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    if TcpListener::bind(address).is_ok() {
        life_of_a_connection(address, Family::V6);
    }
}

proptest::proptest! {
    #[test]
    fn nothing_that_is_read_is_trusted(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
        parse(&bytes);
        local_port(&bytes);
        Traffic::parse(&bytes, &bytes);
    }
}
