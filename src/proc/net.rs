//! The kernel's tables of sockets, as text: /proc/net.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};

use super::{in_base, lines, number, read, words};

/// `TCP_LISTEN` of net/tcp_states.h.
pub const LISTENING: u8 = 10;

/// A line of /proc/net/tcp and its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InetSocket {
    pub port: u16,
    pub state: u8,
    pub inode: u64,
    /// The kernel's references to it. It counts handshakes and queued connections of a listener; a kernel internal.
    pub references: u32,
}

impl InetSocket {
    /// `sl local remote state queues timer retransmits uid timeout inode references ...`, addresses in hexadecimal.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let fields: Vec<&[u8]> = words(line).collect();
        let local = fields.get(1)?;
        let colon = local.iter().rposition(|byte| *byte == b':')?;
        Some(Self {
            port: u16::try_from(in_base(local.get(colon + 1..)?, 16)?).ok()?,
            state: u8::try_from(in_base(fields.get(3)?, 16)?).ok()?,
            inode: number(fields.get(9)?)?,
            references: number(fields.get(10)?)?,
        })
    }
}

/// All sockets in the table `tcp`, `tcp6`, `udp` or `udp6`; none if it cannot be read.
pub fn inet(table: &str) -> Vec<InetSocket> {
    let text = read(format!("/proc/self/net/{table}")).unwrap_or_default();
    lines(&text).skip(1).filter_map(InetSocket::parse).collect()
}

/// The table as a stream. It lists listeners first, and the kernel goes through all connections to fill a large buffer.
///
/// # Errors
/// Those of open(2).
pub fn open_inet(table: &str) -> io::Result<impl Read + use<>> {
    File::open(format!("/proc/self/net/{table}"))
}

/// The first unprivileged port; `None` if it cannot be read.
pub fn first_unprivileged_port() -> Option<u16> {
    number(&read("/proc/sys/net/ipv4/ip_unprivileged_port_start").ok()?)
}

/// The inodes of all unix sockets.
///
/// # Errors
/// If the table cannot be read.
pub fn all_unix() -> io::Result<HashSet<u64>> {
    let text = read("/proc/self/net/unix")?;
    let inodes = lines(&text)
        .skip(1)
        .filter_map(|line| number(words(line).nth(6)?));
    Ok(inodes.collect())
}

/// The inodes of the unix sockets whose name is wanted; abstract names begin with `@`.
pub fn unix(wanted: impl Fn(&[u8]) -> bool) -> Vec<u64> {
    let text = read("/proc/self/net/unix").unwrap_or_default();
    let all = lines(&text).filter_map(named);
    all.filter(|(_, name)| wanted(name))
        .map(|(inode, _)| inode)
        .collect()
}

/// `address: references protocol flags type state inode name`: a name may hold blanks.
fn named(line: &[u8]) -> Option<(u64, &[u8])> {
    let mut rest = line;
    let mut word = rest;
    for _ in 0..7 {
        rest = rest.trim_ascii_start();
        let end = rest.iter().position(u8::is_ascii_whitespace)?;
        (word, rest) = rest.split_at(end);
    }
    Some((number(word)?, rest.strip_prefix(b" ")?))
}

#[cfg(test)]
mod tests {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener};

    use nix::sys::stat::fstat;

    use super::*;

    #[test]
    fn a_line_of_tcp_is_read() {
        let line = b"   1: 0100007F:1F90 00000000:0000 0A 00000000:00000002 00:00000000 00000000  1000        0 652 4 0000 100";
        let socket = InetSocket::parse(line).unwrap();
        assert_eq!((socket.port, socket.state), (8080, LISTENING));
        assert_eq!((socket.inode, socket.references), (652, 4));
        for line in ["", "  sl  local_address rem_address", " 0: a b 0A 1 2 3"] {
            assert_eq!(InetSocket::parse(line.as_bytes()), None, "{line:?}");
        }
    }

    #[test]
    fn a_unix_socket_is_found_by_a_name_of_any_bytes() {
        let line = b"0000: 00000002 00000000 00010000 0001 01   651 /run/a b\xd1";
        assert_eq!(named(line), Some((651, b"/run/a b\xd1".as_slice())));
        assert_eq!(named(b"0000: 00000002 00000000 00010000 0001 01 651"), None);
        let name = format!("hotswap-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        let inode = fstat(&listener).unwrap().st_ino;
        assert_eq!(
            unix(|known| known == format!("@{name}").as_bytes()),
            [inode]
        );
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_is_read_is_trusted(bytes: Vec<u8>) {
            named(&bytes);
            InetSocket::parse(&bytes);
        }
    }
}
