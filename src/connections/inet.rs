//! The TCP connections of a port, and which of them are busy.
//!
//! The layouts are those of linux/inet_diag.h and linux/tcp.h.

use std::cmp::Ordering;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::sock_diag::{self, Scope, attributes, number};
use crate::socket::inet::Family;

const INET_DIAG_INFO: u16 = 2;
/// ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT: the states in which the server may still send something.
const STATES: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << CLOSE_WAIT;
const CLOSE_WAIT: u8 = 8;
/// FIN_WAIT2 and TIME_WAIT: what the kernel remembers of connections that no process has any more.
const CLOSED: u32 = 1 << 5 | 1 << 6;
/// How long it does, and the timer that a message of sock_diag(7) then names.
const TIME_WAIT: Duration = Duration::from_secs(60);
const TIMER_OF_TIME_WAIT: u8 = 3;
const MESSAGE: usize = 72;
/// Up to this many ports are requested one by one; beyond that, reading the connections of all ports costs less.
const FEW: usize = 8;
/// After this many milliseconds, what was sent counts as a complete answer.
const A_PART_AGO: u32 = 40;

/// One connection, from the server's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// 0 until it is accepted, and once no process has it any more.
    pub inode: u64,
    pub activity: Activity,
}

/// Whether a client waits for something on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// A request may be arriving, in work, or not completely answered.
    Busy,
    /// A request may be on its way: nothing has come yet. Or the kernel does not tell: a unix connection.
    Unsure,
    /// The last answer is not acknowledged, or came within the same tick of the kernel's clock as the last request, so
    /// that their order is unknown; or something was sent just now, and may not be all. `received` counts bytes.
    Undecided {
        received: u64,
    },
    Quiet,
}

/// Every connection of any process whose local port is one of these, with that port.
///
/// # Errors
/// Those of the sock_diag(7) answer.
pub fn connections(family: Family, ports: &[u16]) -> io::Result<Vec<(u16, Connection)>> {
    let mut found = Vec::new();
    // Each request takes the kernel through its whole table, so many are combined into one.
    let asked = if ports.len() > FEW { &[0] } else { ports };
    for port in asked {
        let request = request(family, STATES, *port, &[0; 34]);
        sock_diag::ask(&request, Scope::All, |message| {
            found.extend(local_port(message).zip(parse(message)));
        })?;
    }
    found.retain(|(port, _)| ports.contains(port));
    Ok(found)
}

fn local_port(message: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(*message.get(4..)?.first_chunk()?))
}

/// Whether a program on this host has connected to the port in this time, and has closed the connection.
///
/// # Errors
/// Those of the sock_diag(7) answer.
pub fn was_tried_from_here(family: Family, port: u16, within: Duration) -> io::Result<bool> {
    let mut found = false;
    // the end that closes first is the one that stays
    let of_client = [&port.to_be_bytes()[..], &[0; 32]].concat();
    for (port, rest) in [(0, of_client.as_slice()), (port, &[0; 34])] {
        let request = request(family, CLOSED, port, rest);
        sock_diag::ask(&request, Scope::All, |message| {
            found |= is_local(message) && closed_ago(message).is_some_and(|ago| ago <= within);
        })?;
    }
    Ok(found)
}

/// Both ends have the same address, as on the loopback device.
fn is_local(message: &[u8]) -> bool {
    message.get(8..24) == message.get(24..40)
}

fn closed_ago(message: &[u8]) -> Option<Duration> {
    let is_timer = message.get(2) == Some(&TIMER_OF_TIME_WAIT);
    let left = number(message, 52).filter(|_| is_timer)?;
    Some(TIME_WAIT.saturating_sub(Duration::from_millis(left.into())))
}

/// Whether some process has the server's end of this connection.
///
/// # Errors
/// Those of the sock_diag(7) answer.
pub fn is_accepted(client: SocketAddr, server: SocketAddr) -> io::Result<bool> {
    Ok(inode_of_server_end(client, server)?.is_some_and(|inode| inode != 0))
}

/// The inode of the server's end of this connection: 0 while it is queued, `None` if there is no such connection yet.
///
/// # Errors
/// Those of the sock_diag(7) answer.
pub fn inode_of_server_end(client: SocketAddr, server: SocketAddr) -> io::Result<Option<u32>> {
    let bytes = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => (ip.octets().to_vec(), Family::V4),
        IpAddr::V6(ip) => (ip.octets().to_vec(), Family::V6),
    };
    let ((mut source, family), (mut destination, _)) = (bytes(server), bytes(client));
    source.resize(16, 0);
    destination.resize(16, 0);
    let rest = [&client.port().to_be_bytes()[..], &source, &destination].concat();
    let mut inode = None;
    let answer = sock_diag::ask(
        &request(family, STATES, server.port(), &rest),
        Scope::One,
        |message| {
            // If the kernel does not find the connection, it returns the listener.
            let is_connection = message.get(1).is_some_and(|state| STATES & 1 << state != 0);
            inode = number(message, 68).filter(|_| is_connection);
        },
    );
    match answer {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(|()| inode),
    }
}

/// The request for the sockets in these states at a local port, or at any if it is 0; `rest` is the remote port and the two addresses, all zero for any.
pub(super) fn request(family: Family, states: u32, port: u16, rest: &[u8]) -> Vec<u8> {
    let family = match family {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    let byte = |number: i32| u8::try_from(number).unwrap_or_default();
    let mut bytes = vec![
        byte(family),
        byte(libc::IPPROTO_TCP),
        1 << (INET_DIAG_INFO - 1),
        0,
    ];
    bytes.extend(states.to_ne_bytes());
    bytes.extend(port.to_be_bytes());
    bytes.extend(rest);
    // No interface; the last eight bytes are INET_DIAG_NOCOOKIE.
    bytes.extend([0; 4]);
    bytes.extend([0xff; 8]);
    bytes
}

/// One answer; `None` if it is too short.
fn parse(message: &[u8]) -> Option<Connection> {
    let info = attributes(message.get(MESSAGE..)?)
        .find(|(kind, _)| *kind == INET_DIAG_INFO)
        .map_or(&[][..], |(_, value)| value);
    let traffic = Traffic::parse(message, info);
    Some(Connection {
        inode: u64::from(number(message, 68)?),
        activity: traffic.map_or(Activity::Busy, |traffic| traffic.activity()),
    })
}

/// The kernel's counters of one connection; times are milliseconds ago.
struct Traffic {
    /// Its FIN has arrived. The kernel counts it as one byte received, and one to read until it is read.
    client_is_done: bool,
    to_read: u32,
    /// What the client has not acknowledged, and the part of it that has not been sent.
    to_send: u32,
    unsent: u32,
    since_sent: u32,
    since_received: u32,
    since_acknowledged: u32,
    received: u64,
    segments_in: u32,
    data_segments_in: u32,
}

impl Traffic {
    fn parse(message: &[u8], info: &[u8]) -> Option<Self> {
        Some(Self {
            client_is_done: *message.get(1)? == CLOSE_WAIT,
            to_read: number(message, 56)?,
            to_send: number(message, 60)?,
            unsent: number(info, 144)?,
            since_sent: number(info, 44)?,
            since_received: number(info, 52)?,
            since_acknowledged: number(info, 56)?,
            received: u64::from_ne_bytes(*info.get(128..)?.first_chunk()?),
            segments_in: number(info, 140)?,
            data_segments_in: number(info, 152)?,
        })
    }

    fn activity(&self) -> Activity {
        let fin = u32::from(self.client_is_done);
        let has_asked = self.received > u64::from(fin);
        if self.client_is_done && !has_asked {
            return Activity::Quiet;
        }
        if !has_asked && self.to_read == fin {
            return Activity::Unsure;
        }
        if !has_asked || self.to_read > fin || self.unsent > 0 {
            return Activity::Busy;
        }
        let undecided = Activity::Undecided {
            received: self.received,
        };
        match self.since_received.cmp(&self.since_sent) {
            Ordering::Less => Activity::Busy,
            // A client that sends the next request at once acknowledges the answer with it.
            Ordering::Equal | Ordering::Greater if self.to_send > 0 => undecided,
            // Many servers write the header and the body of an answer separately.
            Ordering::Equal | Ordering::Greater if self.since_sent < A_PART_AGO => undecided,
            Ordering::Greater => Activity::Quiet,
            Ordering::Equal if self.answer_is_acknowledged() => Activity::Quiet,
            Ordering::Equal => undecided,
        }
    }

    /// The last that came was no request but the acknowledgement of an answer: it came later than the last data, or there
    /// is one for every request. (The first two segments are those of the handshake.)
    fn answer_is_acknowledged(&self) -> bool {
        let bare = self.segments_in.saturating_sub(self.data_segments_in);
        self.since_acknowledged < self.since_received
            || bare.saturating_sub(2) >= self.data_segments_in
    }
}

#[cfg(test)]
mod tests {
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
            was_tried_from_here(Family::V4, address.port(), within).unwrap()
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
            Activity::Undecided { received: 80 },
            "an answer is not acknowledged"
        );
        assert_eq!(
            activity(1, (0, 0), &exchange(100, 900, 80)),
            Activity::Quiet
        );
    }

    #[test]
    fn what_was_sent_just_now_may_be_a_part_of_an_answer() {
        let sent = |ago| activity(1, (0, 0), &exchange(ago, 300, 80));
        assert_eq!(sent(39), Activity::Undecided { received: 80 });
        assert_eq!(sent(40), Activity::Quiet);
    }

    #[test]
    fn within_one_tick_the_acknowledgement_tells_an_answer_from_a_request() {
        let at_once = |ago, segments| activity(1, (0, 0), &info(ago, 80, segments));
        let undecided = Activity::Undecided { received: 80 };
        assert_eq!(
            at_once((300, 300, 300), (4, 1)),
            Activity::Quiet,
            "answered, acknowledged"
        );
        assert_eq!(
            at_once((300, 300, 260), (6, 2)),
            Activity::Quiet,
            "acknowledged later"
        );
        assert_eq!(
            at_once((300, 300, 300), (5, 2)),
            undecided,
            "a second request"
        );
        assert_eq!(at_once((300, 300, 300), (23, 11)), undecided, "an eleventh");
        assert_eq!(
            at_once((300, 300, 300), (22, 10)),
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
            let all = connections(family, &[address.port()]).unwrap().into_iter();
            all.map(|(_, one)| (one.inode, one.activity))
                .collect::<Vec<_>>()
        };
        assert_eq!(all(), []);
        let mut client = TcpStream::connect(address).unwrap();
        assert_eq!(all(), [(0, Activity::Unsure)]);
        let ends = (client.local_addr().unwrap(), address);
        assert!(!is_accepted(ends.0, ends.1).unwrap());
        let (mut server, _) = listener.accept().unwrap();
        assert!(is_accepted(ends.0, ends.1).unwrap());
        let inode = inode_of(server.as_fd()).unwrap();
        assert_eq!(all(), [(inode, Activity::Unsure)]);
        let many: Vec<u16> = (0..=FEW).map(|_| address.port()).collect();
        assert_eq!(connections(family, &many).unwrap().len(), 1);
        client.write_all(b"question").unwrap();
        assert_eq!(all(), [(inode, Activity::Busy)], "unread");
        server.read_exact(&mut [0; 8]).unwrap();
        // Receiving and sending within one tick of the kernel's clock look alike.
        std::thread::sleep(Duration::from_millis(30));
        server.write_all(b"answer").unwrap();
        client.read_exact(&mut [0; 6]).unwrap();
        until(|| all() == [(inode, Activity::Quiet)]);
        client.shutdown(Shutdown::Write).unwrap();
        until(|| all() == [(inode, Activity::Quiet)]);
        drop(server);
        until(|| all().iter().all(|one| one.0 == 0));
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
}
