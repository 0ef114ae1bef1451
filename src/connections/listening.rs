//! Who listens on TCP addresses, of all processes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::unistd::Pid;

use super::inet::{MESSAGE, local_port, request};
use super::process_sockets::ProcessSockets;
use super::sock_diag::{self, Scope, attributes, number};
use crate::socket::Inode;
use crate::socket::inet::Family;

const LISTEN: u32 = 1 << 10;
const INET_DIAG_SKV6ONLY: u16 = 11;

/// A listening socket of any process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listening {
    pub address: SocketAddr,
    /// The network device it is bound to; 0 if it is not.
    pub device: u32,
    /// `IPV6_V6ONLY`.
    pub only_v6: bool,
    pub inode: Inode,
    /// Connections that wait to be accepted.
    pub queue: u32,
}

/// Every listening socket of that family at that port, or at any if it is 0.
///
/// # Errors
/// Those of the sock_diag(7) answer.
pub fn listening(family: Family, port: u16) -> io::Result<Vec<Listening>> {
    let mut found = Vec::new();
    let request = request(family, LISTEN, port, &[0; 34]);
    sock_diag::ask(&request, Scope::All, |message| {
        found.extend(parse(family, message));
    })?;
    Ok(found)
}

/// Those that these processes have.
pub fn of_processes(processes: &[Pid]) -> Vec<Listening> {
    let mut owners = ProcessSockets::default();
    owners.refresh(processes);
    let all = Family::ALL.map(|family| listening(family, 0).unwrap_or_default());
    let all = all.into_iter().flatten();
    all.filter(|one| owners.have(one.inode)).collect()
}

/// `struct inet_diag_msg` of linux/inet_diag.h; `None` if it is too short.
fn parse(family: Family, message: &[u8]) -> Option<Listening> {
    let ip = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from(*message.get(8..)?.first_chunk::<4>()?)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from(*message.get(8..)?.first_chunk::<16>()?)),
    };
    let mut attributes = attributes(message.get(MESSAGE..)?);
    let only_v6 = attributes.find(|(kind, _)| *kind == INET_DIAG_SKV6ONLY);
    Some(Listening {
        address: SocketAddr::new(ip, local_port(message)?),
        device: number(message, 40)?,
        only_v6: only_v6.is_some_and(|(_, value)| value.first() == Some(&1)),
        inode: number(message, 68)?.into(),
        queue: number(message, 56)?,
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsFd;

    use super::*;
    use crate::socket::inode_of;

    #[test]
    fn every_listening_socket_is_found_and_no_other() {
        for (family, address) in [(Family::V4, "127.0.0.1:0"), (Family::V6, "[::1]:0")] {
            let listener = TcpListener::bind(address).unwrap();
            let address = listener.local_addr().unwrap();
            let (client, accepted) = (std::net::TcpStream::connect(address), listener.accept());
            let inode = inode_of(listener.as_fd()).unwrap();
            for port in [0, address.port()] {
                let all = listening(family, port).unwrap();
                let here = all.iter().filter(|found| found.address == address);
                let here: Vec<_> = here.copied().collect();
                assert_eq!(
                    here,
                    [Listening {
                        address,
                        device: 0,
                        only_v6: family == Family::V6,
                        inode,
                        queue: 0
                    }]
                );
            }
            drop((client, accepted));
        }
    }

    #[test]
    fn an_answer_cut_short_is_none() {
        assert_eq!(parse(Family::V4, &[0; 71]), None);
        assert_eq!(parse(Family::V6, &[]), None);
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_is_read_is_trusted(bytes: Vec<u8>) {
            parse(Family::V4, &bytes);
            parse(Family::V6, &bytes);
        }
    }
}
