//! Clients nobody wants, in the moment of the cut-over and long after it: they harm neither those who want an answer nor
//! the drain.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, setsockopt,
    socket, sockopt,
};

use crate::common::crowd::{Crowd, Habit};
use crate::common::network::{FAR_AWAY, Network};
use crate::common::place::{Place, Target};
use crate::common::site::Site;
use crate::common::{Raised, alone, eventually, skipped};

/// Those who want an answer: new ones all the time, and some that stay.
fn honest(site: &Site) -> Crowd {
    let guests = site.guests().arriving(100, Habit::default());
    guests.and(4, Habit::kept()).and(2, Habit::slow()).come()
}

fn connection(site: &Site) -> TcpStream {
    match site.targets[0] {
        Target::Tcp(address) => TcpStream::connect(address).expect("a connection"),
        ref other => panic!("no TCP address: {other:?}"),
    }
}

/// As many connections as two threads can make, all through five swaps, each broken off at once or after half a request.
#[test]
fn a_flood_of_connections_harms_nobody_else() {
    const MOST: usize = 20_000;
    let _alone = alone();
    let site = Site::serving("v1");
    let mut clients = honest(&site);
    let (enough, made) = (AtomicBool::new(false), AtomicUsize::new(0));
    let flood = || {
        let reset = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        while !enough.load(Ordering::Relaxed) && made.fetch_add(1, Ordering::Relaxed) < MOST {
            let mut flooding = connection(&site);
            setsockopt(&flooding, sockopt::Linger, &reset).expect("no time to close");
            let half = if made.load(Ordering::Relaxed).is_multiple_of(2) {
                ""
            } else {
                "GET / HT"
            };
            let _ = flooding.write_all(half.as_bytes());
        }
    };
    thread::scope(|scope| {
        let _end = Raised(&enough);
        (0..2).for_each(|_| drop(scope.spawn(flood)));
        site.swaps(5);
        clients.until_all_see("v6");
    });
    println!("{} connections in the flood", made.load(Ordering::Relaxed));
    clients.expect_no_failure();
    site.wait_until_gone(5);
}

/// Two hundred who never end their requests, a byte at a time, and a hundred who never begin one.
fn slow_ones_do_not_hold_the_drain(site: &Site, how_it_ends: &str) {
    let mut clients = honest(site);
    clients.until_answered(100);
    let silent: Vec<TcpStream> = (0..100).map(|_| connection(site)).collect();
    let mut dripping: Vec<TcpStream> = (0..200).map(|_| connection(site)).collect();
    let enough = AtomicBool::new(false);
    thread::scope(|scope| {
        let _end = Raised(&enough);
        scope.spawn(|| {
            while !enough.load(Ordering::Relaxed) {
                for one in &mut dripping {
                    // Until it is sent away.
                    let _ = one.write_all(b"x");
                }
                thread::sleep(Duration::from_millis(50));
            }
        });
        site.publish("v2").swap();
        let gone = site.log.wait_for("generation 1 is gone");
        assert!(gone.contains(how_it_ends), "{gone}");
    });
    clients.until_all_see("v2");
    clients.expect_no_failure();
    drop(silent);
}

#[test]
fn slow_clients_do_not_hold_a_server_that_dies_of_its_stop_signal() {
    let plan = Site::at(Place::Tcp4).with(&["--quiesce", "1s"]);
    let site = plan.by_odd("").serving("v1");
    slow_ones_do_not_hold_the_drain(&site, "(killed by SIGTERM)");
}

/// It waits for the end of their requests, which never comes.
#[test]
fn slow_clients_hold_a_graceful_server_no_longer_than_the_drain_timeout() {
    let plan = Site::at(Place::Tcp4).with(&["--quiesce", "1s", "--drain-timeout", "4s"]);
    let site = plan.serving("v1");
    slow_ones_do_not_hold_the_drain(&site, "(killed by SIGKILL)");
    assert!(
        site.log
            .says("generation 1 is killed: it did not end in time")
    );
}

/// Half-open connections from addresses that never answer: they fill the listener's queue of handshakes until the kernel
/// sends cookies, in one generation after the other.
#[test]
fn a_syn_flood_harms_nobody_else() {
    const NAME: &str = "a_syn_flood_harms_nobody_else";
    const MOST: usize = 30_000;
    let network = match Network::with(Duration::from_millis(1), 0) {
        Ok(network) => network,
        Err(why) => return skipped(NAME, &why),
    };
    let _alone = alone();
    let site = Site::at(Place::Given(Target::Tcp(FAR_AWAY)))
        .with(&["--listen", &FAR_AWAY.to_string()])
        .through(network.to_the_site())
        .serving("v1");
    let guests = site.guests().arriving(100, Habit::default());
    let mut clients = guests
        .and(4, Habit::kept())
        .come_through(network.to_the_clients());
    let (enough, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    let door = network.to_the_clients();
    thread::scope(|scope| {
        let _end = Raised(&enough);
        scope.spawn(|| {
            door();
            let flood = SynFlood::begin();
            while !enough.load(Ordering::Relaxed) {
                for number in
                    sent.fetch_add(50, Ordering::Relaxed)..MOST.min(sent.load(Ordering::Relaxed))
                {
                    flood.send(number);
                }
                thread::sleep(Duration::from_millis(10));
            }
        });
        half_open(network.to_the_site(), 1000);
        site.swaps(3);
        clients.until_all_see("v4");
    });
    println!(
        "{} packets in the flood",
        sent.load(Ordering::Relaxed).min(MOST)
    );
    clients.expect_no_failure();
    site.wait_until_gone(3);
}

/// Waits until so many handshakes are half done behind that door.
fn half_open(door: impl FnOnce() + Send + 'static, number: usize) {
    let look = move || {
        door();
        let is_half_open = |line: &&str| line.split_ascii_whitespace().nth(3) == Some("03");
        eventually("half-open connections", || {
            let table = fs::read_to_string("/proc/thread-self/net/tcp").expect("the table");
            (table.lines().filter(is_half_open).count() >= number).then_some(())
        });
    };
    thread::spawn(look).join().expect("half-open connections");
}

/// Packets that begin a connection to the site and are all that is ever heard of it.
struct SynFlood(std::os::fd::OwnedFd);

impl SynFlood {
    fn begin() -> SynFlood {
        let raw = socket(
            AddressFamily::Inet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::Raw,
        );
        // IPPROTO_RAW: with headers of our own.
        SynFlood(raw.expect("a raw socket"))
    }

    fn send(&self, number: usize) {
        let SocketAddr::V4(to) = FAR_AWAY else {
            panic!("an IPv4 address: {FAR_AWAY}");
        };
        let low = |number: usize| u8::try_from(number % 200).expect("a byte");
        let from = Ipv4Addr::new(10, 9, 0, 10 + low(number));
        let port = 1024 + u16::try_from(number % 60_000).expect("a port");
        let packet = syn(SocketAddrV4::new(from, port), to);
        let to = SockaddrIn::from(to);
        // What the way cannot take is not part of the flood.
        let _ = sendto(self.0.as_raw_fd(), &packet, &to, MsgFlags::empty());
    }
}

/// An IP header, of which the kernel fills in the length and the sum, and a TCP header of RFC 9293 without options.
fn syn(from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
    let mut tcp = Vec::new();
    tcp.extend(from.port().to_be_bytes());
    tcp.extend(to.port().to_be_bytes());
    tcp.extend([0; 8]);
    let (five_words, flag_syn) = (5 << 4, 2);
    tcp.extend([five_words, flag_syn, 0xff, 0xff, 0, 0, 0, 0]);
    let addresses = [from.ip().octets(), to.ip().octets()].concat();
    let pseudo = [&addresses[..], &[0, 6, 0, 20], &tcp].concat();
    let words = pseudo
        .chunks_exact(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = !u16::try_from(sum).expect("16 bits");
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    let (version_and_length, time_to_live, protocol) = (0x45, 64, 6);
    let ip = [
        version_and_length,
        0,
        0,
        40,
        0,
        0,
        0,
        0,
        time_to_live,
        protocol,
        0,
        0,
    ];
    [&ip[..], &addresses, &tcp].concat()
}
