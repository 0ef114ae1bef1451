//! Parses the socket address that a server passes to bind(2).

use std::ffi::OsString;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// An address that a listener can have. Others are left to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestedAddress {
    Inet(SocketAddr),
    /// As the server gives it: relative to its own working directory and root.
    Path(PathBuf),
    /// Without the leading NUL; NULs within it count.
    Abstract(Vec<u8>),
}

/// Reads an address of any family and length; `None` for what is malformed or of another kind.
pub fn read(bytes: &[u8]) -> Option<RequestedAddress> {
    let (family, rest) = bytes.split_first_chunk::<2>()?;
    match i32::from(u16::from_ne_bytes(*family)) {
        libc::AF_INET => inet(rest),
        libc::AF_INET6 => inet6(rest),
        libc::AF_UNIX => unix(rest),
        _ => None,
    }
}

/// `struct sockaddr_in` of ip(7), after its family: the last eight bytes mean nothing but must be there.
fn inet(bytes: &[u8]) -> Option<RequestedAddress> {
    let bytes = bytes.first_chunk::<14>()?;
    let (port, rest) = bytes.split_first_chunk::<2>()?;
    let ip = Ipv4Addr::from(*rest.first_chunk::<4>()?);
    Some(RequestedAddress::Inet(
        (ip, u16::from_be_bytes(*port)).into(),
    ))
}

/// `struct sockaddr_in6` of ipv6(7), after its family.
fn inet6(bytes: &[u8]) -> Option<RequestedAddress> {
    let (port, rest) = bytes.split_first_chunk::<2>()?;
    let (flow, rest) = rest.split_first_chunk::<4>()?;
    let (ip, rest) = rest.split_first_chunk::<16>()?;
    let (scope, _) = rest.split_first_chunk::<4>()?;
    let address = SocketAddrV6::new(
        Ipv6Addr::from(*ip),
        u16::from_be_bytes(*port),
        u32::from_ne_bytes(*flow),
        u32::from_ne_bytes(*scope),
    );
    Some(RequestedAddress::Inet(address.into()))
}

/// `struct sockaddr_un` of unix(7), after its family; nothing at all asks for a name of the kernel's choice.
fn unix(bytes: &[u8]) -> Option<RequestedAddress> {
    match bytes {
        [0, name @ ..] if bytes.len() <= 108 => Some(RequestedAddress::Abstract(name.to_vec())),
        [_, ..] if bytes.len() <= 108 => {
            let path = bytes.split(|byte| *byte == 0).next()?;
            Some(RequestedAddress::Path(
                OsString::from_vec(path.to_vec()).into(),
            ))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsFd;

    use proptest::prelude::*;

    use super::*;
    use crate::sys;

    fn unix_bytes(rest: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(libc::AF_UNIX).unwrap().to_ne_bytes().to_vec();
        bytes.extend_from_slice(rest);
        bytes
    }

    #[test]
    fn reads_what_the_kernel_writes() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let name = sys::socket_name(listener.as_fd()).unwrap();
            let expected = RequestedAddress::Inet(listener.local_addr().unwrap());
            assert_eq!(read(&name), Some(expected));
        }
    }

    #[test]
    fn a_path_ends_at_its_nul() {
        assert_eq!(
            read(&unix_bytes(b"/run/a\0rest")),
            Some(RequestedAddress::Path("/run/a".into()))
        );
        assert_eq!(
            read(&unix_bytes(b"a")),
            Some(RequestedAddress::Path("a".into()))
        );
        assert_eq!(read(&unix_bytes(&[b'x'; 109])), None);
        assert_eq!(read(&unix_bytes(b"")), None);
    }

    #[test]
    fn an_abstract_name_is_all_of_its_bytes() {
        assert_eq!(
            read(&unix_bytes(b"\0a\0b")),
            Some(RequestedAddress::Abstract(b"a\0b".to_vec()))
        );
    }

    #[test]
    fn an_address_cut_short_is_none() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let name = sys::socket_name(listener.as_fd()).unwrap();
        assert_eq!(read(&name[..15]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..140)) {
            let _ = read(&bytes);
        }
    }
}
