//! This process looks at its own threads.

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::select::{FdSet, select};

use super::*;
use crate::socket::inode_of;

/// Ends the wait if the test fails.
const LONG: u16 = 10_000;

fn listener() -> (TcpListener, SoughtSocket) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let inode = inode_of(listener.as_fd()).unwrap();
    (
        listener,
        SoughtSocket {
            inode,
            datagrams: false,
        },
    )
}

fn is_seen(sought: SoughtSocket) -> bool {
    let seen = look(&[Pid::this()], &[sought]);
    assert!(!seen.blind, "this test must be able to see itself");
    seen.waiting.contains(&sought.inode)
}

/// A thread that waits in this way is seen, and is no longer seen once a client has ended its wait.
fn shows(wait: impl FnOnce(BorrowedFd) + Send) {
    let (listener, sought) = listener();
    let address = listener.local_addr().unwrap();
    assert!(!is_seen(sought), "nobody waits yet");
    thread::scope(|scope| {
        let waiting = scope.spawn(|| wait(listener.as_fd()));
        let start = Instant::now();
        while !is_seen(sought) {
            assert!(start.elapsed() < Duration::from_secs(5), "never seen");
            thread::yield_now();
        }
        let client = TcpStream::connect(address).unwrap();
        waiting.join().unwrap();
        drop(client);
    });
    assert!(!is_seen(sought), "nobody waits any more");
}

#[test]
fn a_thread_in_accept_waits() {
    shows(|listener| {
        let listener = TcpListener::from(listener.try_clone_to_owned().unwrap());
        listener.accept().unwrap();
    });
}

#[test]
fn a_thread_in_poll_waits() {
    shows(|listener| {
        let mut set = [PollFd::new(listener, PollFlags::POLLIN)];
        poll(&mut set, PollTimeout::from(LONG)).unwrap();
    });
}

#[test]
fn a_thread_in_select_waits() {
    shows(|listener| {
        let mut set = FdSet::new();
        set.insert(listener);
        select(None, &mut set, None, None, None).unwrap();
    });
}

#[test]
fn a_thread_in_epoll_wait_waits() {
    shows(|listener| {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        epoll
            .add(listener, EpollEvent::new(EpollFlags::EPOLLIN, 0))
            .unwrap();
        epoll
            .wait(&mut [EpollEvent::empty()], EpollTimeout::from(LONG))
            .unwrap();
    });
}

#[test]
fn a_thread_that_receives_datagrams_waits() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let inode = inode_of(socket.as_fd()).unwrap();
    let sought = SoughtSocket {
        inode,
        datagrams: true,
    };
    assert!(!is_seen(sought));
    thread::scope(|scope| {
        scope.spawn(|| socket.recv_from(&mut [0; 9]).unwrap());
        let start = Instant::now();
        while !is_seen(sought) {
            assert!(start.elapsed() < Duration::from_secs(5), "never seen");
            thread::yield_now();
        }
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client
            .send_to(b"now", socket.local_addr().unwrap())
            .unwrap();
    });
}

#[test]
fn registering_a_socket_is_not_waiting_on_it() {
    let (listener, sought) = listener();
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    epoll
        .add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, 0))
        .unwrap();
    assert!(!is_seen(sought));
}

#[test]
fn a_process_that_has_ended_does_not_count_as_unreadable() {
    let sought = listener().1;
    assert_eq!(
        look(&[Pid::from_raw(i32::MAX)], &[sought]),
        BlockedThreads::default()
    );
}

#[test]
fn a_poll_waits_for_descriptors_polled_for_reading() {
    let entry =
        |fd: i32, events: u16| [&fd.to_ne_bytes()[..], &events.to_ne_bytes(), &[0; 2]].concat();
    let array = [
        entry(5, 1),
        entry(6, 4),
        entry(-1, 1),
        entry(7, 0x40),
        vec![8, 0, 0],
    ]
    .concat();
    assert_eq!(polled(&array), [5, 7]);
}

#[test]
fn a_select_waits_for_descriptors_in_the_set_and_below_its_length() {
    let set = [0b1000_u64.to_ne_bytes(), 0b101_u64.to_ne_bytes()].concat();
    assert_eq!(selected(&set, 128), [3, 64, 66]);
    assert_eq!(selected(&set, 66), [3, 64]);
    assert_eq!(selected(&set[..8], 128), [3]);
}

proptest::proptest! {
    #[test]
    fn nothing_that_is_read_in_another_process_is_trusted(bytes: Vec<u8>, length in 0..SET) {
        polled(&bytes);
        assert!(selected(&bytes, length).iter().all(|fd| *fd < 4096));
    }
}
