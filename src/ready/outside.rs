//! Listening sockets of a generation that are no listeners of hotswap's: it is not captured, or this address is left to
//! it.

use nix::unistd::Pid;

use super::auto::Evidence;
use super::blocked_threads::{self, SoughtSocket};
use crate::connections::listening::of_processes;

/// What these processes do with listening TCP sockets of theirs.
pub fn look(processes: &[Pid]) -> Evidence {
    let own = of_processes(processes).into_iter();
    let sought = own.map(|socket| SoughtSocket {
        inode: socket.inode,
        datagrams: false,
    });
    let sought: Vec<_> = sought.collect();
    if sought.is_empty() {
        return Evidence::Nothing;
    }
    let seen = blocked_threads::look(processes, &sought);
    if seen.waiting.is_empty() && seen.registered.is_empty() {
        Evidence::Listens
    } else {
        Evidence::Waits
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_socket_that_hotswap_does_not_hold_is_found_in_the_process() {
        let own = [Pid::this()];
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_ne!(look(&own), Evidence::Nothing);
        let server = thread::spawn(move || listener.accept().map(drop));
        let since = Instant::now();
        while look(&own) != Evidence::Waits {
            assert!(since.elapsed() < Duration::from_secs(10), "never seen");
            thread::yield_now();
        }
        drop(std::net::TcpStream::connect(address).unwrap());
        server.join().unwrap().unwrap();
        assert_eq!(look(&[]), Evidence::Nothing);
    }
}
