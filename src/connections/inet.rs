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
/// ESTABLISHED and CLOSE_WAIT: those in which it has not closed it.
const OPEN: u32 = 1 << 1 | 1 << CLOSE_WAIT;
const CLOSE_WAIT: u8 = 8;
const FIN_WAIT1: u8 = 4;
/// FIN_WAIT1, FIN_WAIT2 and TIME_WAIT: what the kernel remembers of connections that no process has any more.
const CLOSED: u32 = 1 << FIN_WAIT1 | 1 << 5 | 1 << 6;
/// How long it does, and the timer that a message of sock_diag(7) then names.
const TIME_WAIT: Duration = Duration::from_secs(60);
const TIMER_OF_TIME_WAIT: u8 = 3;
/// `struct inet_diag_msg`; attributes follow.
pub(super) const MESSAGE: usize = 72;
/// Up to this many ports are requested one by one; beyond that, reading the connections of all ports costs less.
const FEW: usize = 8;
/// How many milliseconds the parts of an answer that is made at once are apart.
const A_PART_AGO: u32 = 40;
/// And those of one that takes its time: a page whose head is sent first, a stream.
const A_SLOW_PART_AGO: u32 = 3_000;

/// One connection, from the server's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// 0 until it is accepted, and once no process has it any more.
    pub inode: u64,
    /// How many bytes.
    pub received: u64,
    pub activity: Activity,
    pub ends: Ends,
}

/// The local port and the remote one, and both addresses, as the kernel writes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends([u8; 36]);

/// Whether a client waits for something on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// A request may be arriving, in work, or not completely answered.
    Busy,
    /// A request may be on its way: nothing has come yet. Or the kernel does not tell: a unix connection.
    Unsure,
    /// The last answer is not acknowledged, or came within the same tick of the kernel's clock as the last request, so
    /// that their order is unknown; or something was sent just now, and may not be all.
    Undecided,
    /// Something was sent a while ago, and may not be all.
    Paused,
    Quiet,
}

/// Every connection that any process has accepted on one of these ports, with that port.
///
/// # Errors
/// Those of the sock_diag(7) answer.
pub fn accepted(ports: &[(Family, u16)]) -> io::Result<Vec<((Family, u16), Connection)>> {
    let mut found = Vec::new();
    for ports in Family::ALL.map(|family| ports.iter().filter(move |port| port.0 == family)) {
        let mut asked: Vec<_> = ports.copied().collect();
        // Each request takes the kernel through its whole table, so many are combined into one.
        if asked.len() > FEW {
            asked = vec![(asked[0].0, 0)];
        }
        for (family, port) in asked {
            let request = request(family, STATES, port, &[0; 34]);
            sock_diag::ask(&request, Scope::All, |message| {
                let at = local_port(message).map(|port| (family, port));
                found.extend(at.zip(parse(message)));
            })?;
        }
    }
    found.retain(|(at, one)| one.inode != 0 && ports.contains(at));
    Ok(found)
}

/// How many clients of the port wait to be accepted: not those that were reset, as a probe of hotswap's is.
///
/// # Errors
/// Those of the sock_diag(7) answer.
pub fn unaccepted(family: Family, port: u16) -> io::Result<u32> {
    let mut count = 0;
    let request = request(family, OPEN, port, &[0; 34]);
    sock_diag::ask(&request, Scope::All, |message| {
        count += u32::from(number(message, 68) == Some(0));
    })?;
    Ok(count)
}

pub(super) fn local_port(message: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(*message.get(4..)?.first_chunk()?))
}

/// How long ago each connection from this host to the port ended, as far as the kernel remembers: for a minute.
///
/// # Errors
/// Those of the sock_diag(7) answer.
pub fn ended_from_here(family: Family, port: u16) -> io::Result<Vec<Duration>> {
    let mut ended = Vec::new();
    // the end that closes first is the one that stays
    let of_client = [&port.to_be_bytes()[..], &[0; 32]].concat();
    for (port, rest) in [(0, of_client.as_slice()), (port, &[0; 34])] {
        let request = request(family, CLOSED, port, rest);
        sock_diag::ask(&request, Scope::All, |message| {
            let ago = is_closing(message).then_some(Duration::ZERO);
            let ago = ago.or_else(|| closed_ago(message));
            ended.extend(ago.filter(|_| is_local(message)));
        })?;
    }
    Ok(ended)
}

/// Both ends have the same address, as on the loopback device.
fn is_local(message: &[u8]) -> bool {
    message.get(8..24) == message.get(24..40)
}

/// No process has it any more, and the other end has not acknowledged that yet: it takes milliseconds.
fn is_closing(message: &[u8]) -> bool {
    message.get(1) == Some(&FIN_WAIT1) && number(message, 68) == Some(0)
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
    inode_at(&request(family, STATES, server.port(), &rest))
}

/// The inode of the client's end of a connection: 0 once no process has it, `None` if it is on another host.
///
/// # Errors
/// Those of the sock_diag(7) answer.
pub fn inode_of_client_end(family: Family, Ends(ends): &Ends) -> io::Result<Option<u32>> {
    let (ports, addresses) = ends.split_at(4);
    let (here, there) = (ports.split_at(2), addresses.split_at(16));
    let port = u16::from_be_bytes(here.1.try_into().unwrap_or_default());
    let rest = [here.0, there.1, there.0].concat();
    inode_at(&request(family, STATES, port, &rest))
}

fn inode_at(request: &[u8]) -> io::Result<Option<u32>> {
    let mut inode = None;
    let answer = sock_diag::ask(request, Scope::One, |message| {
        // If the kernel does not find the connection, it returns the listener.
        let is_connection = message.get(1).is_some_and(|state| STATES & 1 << state != 0);
        inode = number(message, 68).filter(|_| is_connection);
    });
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
    let ends = *message.get(4..)?.first_chunk()?;
    Some(Connection {
        ends: Ends(ends),
        inode: u64::from(number(message, 68)?),
        received: traffic.as_ref().map_or(0, |traffic| traffic.received),
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
        let answered = if self.since_sent < A_SLOW_PART_AGO {
            Activity::Paused
        } else {
            Activity::Quiet
        };
        match self.since_received.cmp(&self.since_sent) {
            Ordering::Less => Activity::Busy,
            // A client that sends the next request at once acknowledges the answer with it.
            Ordering::Equal | Ordering::Greater if self.to_send > 0 => Activity::Undecided,
            // Many servers write the header and the body of an answer separately.
            Ordering::Equal | Ordering::Greater if self.since_sent < A_PART_AGO => {
                Activity::Undecided
            }
            Ordering::Greater => answered,
            Ordering::Equal if self.answer_is_acknowledged() => answered,
            Ordering::Equal => Activity::Undecided,
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
mod tests;
