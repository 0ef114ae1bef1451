//! sock_diag(7): asks the kernel about its sockets, and parses its answers.
//!
//! It never waits: the kernel has the next part of an answer ready.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const HEADER: usize = 16;
/// The kernel fills at most 32 KiB at a time.
const BUFFER: usize = 64 * 1024;

/// Whether one socket is asked for, or all that match.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    One,
    All,
}

/// # Errors
/// Those of socket(2).
pub fn open() -> io::Result<OwnedFd> {
    let (family, kind) = (AddressFamily::Netlink, SockType::Raw);
    let protocol = SockProtocol::NetlinkSockDiag;
    Ok(socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol)?)
}

/// Sends one request and hands every socket of the answer to `each`.
///
/// # Errors
/// `ENOENT` if the one socket is not there; those of the kernel's answer, of socket(2), send(2) and recv(2).
pub fn ask(request: &[u8], scope: Scope, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let netlink = open()?;
    send(
        netlink.as_raw_fd(),
        &message(request, scope),
        MsgFlags::empty(),
    )?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let bytes = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT)?;
        for (kind, body) in messages(buffer.get(..bytes).unwrap_or_default()) {
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    return match number(body, 0) {
                        Some(0) => Ok(()),
                        Some(code) => {
                            Err(Errno::from_raw(0_i32.wrapping_sub_unsigned(code)).into())
                        }
                        None => Err(Errno::EBADMSG.into()),
                    };
                }
                _ => each(body),
            }
        }
        if scope == Scope::One {
            return Ok(());
        }
    }
}

fn message(request: &[u8], scope: Scope) -> Vec<u8> {
    let length = u32::try_from(HEADER + request.len()).unwrap_or(u32::MAX);
    let flags = match scope {
        Scope::One => NLM_F_REQUEST,
        Scope::All => NLM_F_REQUEST | NLM_F_DUMP,
    };
    let mut bytes = Vec::with_capacity(HEADER + request.len());
    bytes.extend(length.to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(request);
    bytes
}

/// The messages in one datagram: their types and bodies. A truncated one is left out.
fn messages(datagram: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = usize::try_from(number(rest, 0)?).ok()?;
        let kind = short(rest, 4)?;
        let body = rest.get(HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// The attributes after the fixed part of a message: their types and values.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(short(rest, 0)?);
        let kind = short(rest, 2)?;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Two bytes in native order.
pub fn short(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_ne_bytes(*bytes))
}

/// Four bytes in native order.
pub fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn every_message_of_a_datagram_is_found() {
        let datagram = [
            message(b"first", Scope::One),
            vec![0; 3],
            message(b"second..", Scope::All),
        ];
        let datagram = datagram.concat();
        let found: Vec<_> = messages(&datagram).collect();
        assert_eq!(
            found,
            [
                (SOCK_DIAG_BY_FAMILY, b"first".as_slice()),
                (SOCK_DIAG_BY_FAMILY, b"second..".as_slice())
            ]
        );
    }

    #[test]
    fn what_is_cut_short_ends_the_walk() {
        let whole = message(b"12345678", Scope::All);
        for length in 0..whole.len() {
            assert_eq!(messages(&whole[..length]).count(), 0, "{length} bytes");
        }
        let lying = attribute(1, b"abcd");
        for length in 0..lying.len() {
            assert_eq!(attributes(&lying[..length]).count(), 0, "{length} bytes");
        }
        // A length below that of its own header would never end.
        assert_eq!(messages(&[0; 64]).count(), 0);
        assert_eq!(attributes(&[0; 64]).count(), 0);
    }

    #[test]
    fn attributes_are_aligned_to_four_bytes() {
        let bytes = [attribute(7, b"abcde"), attribute(9, b"")].concat();
        let found: Vec<_> = attributes(&bytes).collect();
        assert_eq!(found, [(7, b"abcde".as_slice()), (9, b"".as_slice())]);
    }

    #[test]
    fn an_unknown_family_is_an_error() {
        let error = ask(&[250; 56], Scope::All, |_| ()).unwrap_err();
        assert!(error.raw_os_error().is_some(), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_end_the_walk_badly(bytes: Vec<u8>) {
            for (_, body) in messages(&bytes) {
                attributes(body).count();
            }
            attributes(&bytes).count();
        }
    }
}
