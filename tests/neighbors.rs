//! Others who want the same port: a process that joins the group of sockets, and another hotswap.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, accept, bind, listen, setsockopt,
    socket, sockopt,
};

use crate::capture::at;
use crate::common::attempt::attempt;
use crate::common::crowd::{Crowd, Habit};
use crate::common::place::{Place, Target, free_address};
use crate::common::plan::Plan;
use crate::common::site::Site;
use crate::common::{Raised, alone, eventually};

fn address(site: &Site) -> SocketAddr {
    match site.targets[0] {
        Target::Tcp(address) => address,
        ref other => panic!("no TCP address: {other:?}"),
    }
}

/// New connections all the time, and some that stay.
fn many(site: &Site) -> Crowd {
    let guests = site.guests().arriving(300, Habit::default());
    guests.and(4, Habit::kept()).come()
}

/// This test itself, as a process of the same user that binds what hotswap listens on.
struct Stranger(OwnedFd);

impl Stranger {
    fn joining(site: &Site) -> Stranger {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Inet, SockType::Stream, flags, None).expect("a socket");
        setsockopt(&fd, sockopt::ReusePort, &true).expect("a socket that shares its port");
        let address = SockaddrStorage::from(address(site));
        bind(fd.as_raw_fd(), &address).expect("the same user may bind it");
        listen(&fd, Backlog::new(128).expect("a backlog")).expect("a place in the group");
        Stranger(fd)
    }

    fn expect_nobody(&self) {
        let came = accept(self.0.as_raw_fd());
        assert_eq!(came, Err(Errno::EAGAIN), "somebody has come to a stranger");
    }
}

/// What hotswap says of a stranger that it has found.
fn stranger_said(site: &Site) -> usize {
    let us = format!("pid {} ", std::process::id());
    let lines = site.log.lines("listens on");
    let of_us = |line: &&String| line.contains(&us) && line.ends_with("it gets no connections");
    lines.iter().filter(of_us).count()
}

#[test]
fn a_stranger_in_the_group_gets_no_connection_and_is_named_once() {
    let site = Site::serving("v1");
    let mut clients = many(&site);
    let before = Stranger::joining(&site);
    site.swaps(5);
    assert_eq!(stranger_said(&site), 1);
    before.expect_nobody();
    drop(before);
    site.publish("v7").swap();
    clients.until_all_see("v7");
    assert_eq!(stranger_said(&site), 1);
    clients.expect_no_failure();
}

/// They join and leave as fast as they can, before, in and after the swaps: new connections never go astray.
fn strangers_take_no_connection(plan: Plan) {
    let _alone = alone();
    let site = plan.serving("v1");
    let mut clients = many(&site);
    let (enough, visits) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let _end = Raised(&enough);
        scope.spawn(|| {
            while !enough.load(Ordering::Relaxed) {
                let stranger = Stranger::joining(&site);
                let visit = visits.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(visit % 7));
                stranger.expect_nobody();
            }
        });
        site.swaps(15);
    });
    clients.until_all_see("v16");
    clients.expect_no_failure();
    println!("{} visits", visits.load(Ordering::Relaxed));
}

#[test]
fn strangers_that_come_and_go_take_no_connection() {
    strangers_take_no_connection(Site::at(Place::Tcp4));
}

#[test]
fn strangers_that_come_and_go_take_no_connection_of_a_captured_server() {
    let address = free_address();
    strangers_take_no_connection(at(address).by_odd(&format!("at={address}")));
}

/// The second is refused with a line that says who is there; the first goes on and its clients notice nothing.
#[test]
fn another_hotswap_on_the_same_port_is_refused() {
    let site = Site::serving("v1");
    let mut clients = many(&site);
    let taken = address(&site).to_string();
    let refused = |options: &[&str]| {
        let listen = [&["--listen", taken.as_str()], options].concat();
        let what = format!("cannot listen on {taken}: Address already in use (os error 98)");
        let owner = format!("pid {}", site.hotswap());
        attempt(&[&listen[..], &["--", "/bin/true"]].concat()).is_refused(125, &[&what, &owner]);
    };
    refused(&[]);
    site.publish("v2").swap();
    refused(&["--share"]);
    clients.until_all_see("v2");
    clients.expect_no_failure();
}

/// Its server finds the port taken, as it would without any hotswap.
#[test]
fn the_server_of_another_hotswap_finds_the_port_taken() {
    let address = free_address();
    let own = format!("at={address}");
    let site = at(address).by_odd(&own).serving("v1");
    let mut clients = many(&site);
    clients.until_answered(100);
    let mut second = Site::at(Place::Nowhere).by_odd(&own).opening("other");
    assert_eq!(second.end().code(), Some(1));
    let why = second
        .log
        .wait_for("generation 1 aborted: exited with status 1");
    eventually(&why, || second.log.says("AddrInUse").then_some(()));
    second.expect_nothing_left();
    site.publish_odd("v2", &own).swap();
    clients.until_all_see("v2");
    clients.expect_no_failure().expect_never_seen("other");
}
