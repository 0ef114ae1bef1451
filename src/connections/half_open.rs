//! The `ref` column of /proc/net/tcp: how many handshakes and queued connections a listening socket still has.
//!
//! It is a kernel internal, so it is used only once [`can_be_seen`] has tried it on a listener of our own.

use std::collections::{HashMap, HashSet};
use std::io::{self, BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, poll};

use crate::proc::net::{self, InetSocket, LISTENING};
use crate::socket::inet::Family;
use crate::socket::inode_of;

/// Two lines. Listeners come first in the file; the kernel would go through all connections to fill a larger piece.
const PIECE: usize = 300;
/// How long a connection to ourselves may take, in milliseconds.
const LOOPBACK_TIMEOUT_MS: u8 = 100;
/// `ref` of an idle listener.
pub const IDLE: u32 = 1;

/// `ref` of each of these sockets that listens.
///
/// # Errors
/// Those of reading the file.
pub fn references(family: Family, inodes: &[u64]) -> io::Result<HashMap<u64, u32>> {
    if inodes.is_empty() {
        return Ok(HashMap::new());
    }
    let table = match family {
        Family::V4 => "tcp",
        Family::V6 => "tcp6",
    };
    find(net::open_inet(table)?, inodes)
}

fn find(file: impl Read, inodes: &[u64]) -> io::Result<HashMap<u64, u32>> {
    let wanted: HashSet<u64> = inodes.iter().copied().collect();
    let mut found = HashMap::new();
    let lines = BufReader::with_capacity(PIECE, file).split(b'\n');
    for line in lines.skip(1) {
        let socket = InetSocket::parse(&line?).filter(|socket| socket.state == LISTENING);
        let Some(listener) = socket else {
            break;
        };
        if wanted.contains(&listener.inode) {
            found.insert(listener.inode, listener.references);
        }
        if found.len() == wanted.len() {
            break;
        }
    }
    Ok(found)
}

/// Whether this kernel counts as expected: 1 when idle, 2 with a connection in the queue, 1 once it is accepted.
pub fn can_be_seen() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| try_out().unwrap_or(false))
}

fn try_out() -> io::Result<bool> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let inode = inode_of(listener.as_fd())?;
    let is =
        |wanted| Ok::<_, io::Error>(references(Family::V4, &[inode])?.get(&inode) == Some(&wanted));
    let idle = is(IDLE)?;
    let client = TcpStream::connect_timeout(
        &listener.local_addr()?,
        Duration::from_millis(LOOPBACK_TIMEOUT_MS.into()),
    )?;
    let queued = is(IDLE + 1)?;
    // The client's last ACK may still be on its way, so what accept(2) finds at once proves nothing.
    let mut waited = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    poll(&mut waited, LOOPBACK_TIMEOUT_MS)?;
    listener.set_nonblocking(true)?;
    let accepted = listener.accept()?;
    let again = is(IDLE)?;
    drop((client, accepted));
    Ok(idle && queued && again)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:07E8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 651 1 0000000099a924bb 100 0 0 10 0
   1: 0100007F:1F90 00000000:0000 0A 00000000:00000002 00:00000000 00000000  1000        0 652 4 0000000099a924bc 100 0 0 10 0
   2: 0100007F:1F90 0100007F:D3A2 01 00000000:00000000 00:00000000 00000000  1000        0 653 1 0000000099a924bd 20 4 30 10 -1
   3: 0100007F:1F91 00000000:0000 0A 00000000:00000002 00:00000000 00000000  1000        0 654 9 0000000099a924bc 100 0 0 10 0\n";

    /// Gives a few bytes at a time, and fails once more than the limit is asked for.
    struct Pieces<'a>(&'a [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let bytes = self.0.len().min(7).min(buffer.len());
            assert!(bytes <= self.1, "read further than needed");
            self.1 -= bytes;
            buffer[..bytes].copy_from_slice(&self.0[..bytes]);
            self.0 = &self.0[bytes..];
            Ok(bytes)
        }
    }

    fn find_in(text: &str, inodes: &[u64]) -> Vec<Option<u32>> {
        let found = find(Pieces(text.as_bytes(), usize::MAX), inodes).unwrap();
        inodes
            .iter()
            .map(|inode| found.get(inode).copied())
            .collect()
    }

    #[test]
    fn references_are_found_by_inode() {
        assert_eq!(find_in(TABLE, &[652, 651]), [Some(4), Some(1)]);
        assert_eq!(find_in(TABLE, &[652, 652]), [Some(4), Some(4)]);
        assert_eq!(find_in(TABLE, &[]), []);
    }

    #[test]
    fn nothing_is_read_behind_the_listeners() {
        assert_eq!(find_in(TABLE, &[653, 654, 7]), [None, None, None]);
        let first_two = TABLE.find("   1:").unwrap() + 7;
        let found = find(Pieces(TABLE.as_bytes(), first_two), &[651]).unwrap();
        assert_eq!(found, HashMap::from([(651, 1)]));
    }

    /// Remembers the most that was asked for at once.
    struct Fill<'a>(&'a [u8], usize);

    impl Read for Fill<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 = self.1.max(buffer.len());
            self.0.read(buffer)
        }
    }

    #[test]
    fn the_kernel_is_never_asked_to_fill_more_than_a_few_lines() {
        let mut table = Fill(TABLE.as_bytes(), 0);
        find(&mut table, &[652]).unwrap();
        let line = TABLE.lines().nth(1).unwrap().len();
        assert!(table.1 < 4 * line, "{} bytes at once", table.1);
    }

    #[test]
    fn a_table_of_another_shape_tells_nothing() {
        for text in [
            "",
            "\n",
            "heading\nnonsense\n",
            "heading\n 0: a b 0A 1 2 3\n",
        ] {
            assert_eq!(find_in(text, &[1]), [None], "{text:?}");
        }
    }

    #[test]
    fn a_handshake_that_is_accepted_is_no_longer_counted() {
        assert!(
            try_out().unwrap(),
            "this kernel counts otherwise: hotswap would wait 3 s after each cut-over"
        );
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_is_read_is_trusted(bytes: Vec<u8>, at: proptest::sample::Index, byte: u8) {
            let mut damaged = TABLE.as_bytes().to_vec();
            let at = at.index(damaged.len());
            damaged[at] = byte;
            for table in [bytes, damaged] {
                let found = find(Pieces(&table, usize::MAX), &[651, 652]).unwrap();
                proptest::prop_assert!(found.len() <= 2);
            }
        }
    }
}
