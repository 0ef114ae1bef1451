mod captured;
mod handed_over;
mod history;
mod open;
mod paths;
mod relayed;
mod shared;
mod steered;
mod tcp;

use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::{Duration, Instant};

use nix::sys::socket::{Shutdown, shutdown};

use super::*;
use crate::address::{Address, Listen};
use crate::connections::inet::inode_of_server_end;
use crate::socket::inet::InetAddress;
use crate::supervisor::{Refusal, SocketChoice};
use crate::sys;

const G1: Generation = Generation(1);
const G2: Generation = Generation(2);
const G3: Generation = Generation(3);

/// Listeners as a main loop has them, and generations that are nothing but their sockets.
struct Fixture {
    listeners: Listeners,
    listens: Vec<Listen>,
    incidents: Vec<Incident>,
}

impl Listeners {
    fn group(&self) -> &ReuseportGroup {
        match &self.all[0].steering {
            ListenerKind::Group(group) => group,
            ListenerKind::Path(_) | ListenerKind::Shared(_) => panic!("no group"),
        }
    }
}

/// A listening socket beside others at the address.
fn joins(at: std::net::SocketAddr, join: bool) -> OwnedFd {
    let address = InetAddress::new(at, None);
    address.bind_in_group(join).unwrap()
}

/// An abstract address that no other run of the tests has.
fn abstract_address(of: &str) -> String {
    format!("unix:@hotswap test of {of} {}", std::process::id())
}

impl Fixture {
    fn listening(listens: &[&str]) -> Self {
        Self::with(listens, |_| {})
    }

    fn with(listens: &[&str], change: impl FnOnce(&mut SocketOptions)) -> Self {
        let mut options = SocketOptions {
            backlog: 4096,
            mode: None,
            owner: None,
            share: false,
        };
        change(&mut options);
        let listens: Vec<Listen> = listens.iter().map(|text| text.parse().unwrap()).collect();
        let (listeners, warnings) = Listeners::open(
            &listens,
            ListenerContext::new(options).unwrap(),
            Vec::new(),
            None,
        )
        .unwrap();
        assert_eq!(warnings, Vec::<String>::new());
        Self {
            listeners,
            listens,
            incidents: Vec::new(),
        }
    }

    /// What is said to a second hotswap that wants the same.
    fn refusal(&self, listen: &str) -> String {
        let options = self.listeners.context.options.clone();
        match Listeners::open(
            &[listen.parse().unwrap()],
            ListenerContext::new(options).unwrap(),
            Vec::new(),
            None,
        ) {
            Ok(_) => panic!("{listen} was free"),
            Err(error) => error.to_string(),
        }
    }

    /// The server of a generation: it takes its first socket and accepts when told to.
    fn spawn(&mut self, generation: Generation, sockets: SocketChoice) -> TestServer {
        let mut inherited_sockets = self
            .listeners
            .inherited_sockets(generation, sockets)
            .unwrap();
        TestServer(inherited_sockets.remove(0))
    }

    fn serving(&mut self, generation: Generation) -> TestServer {
        let server = self.spawn(generation, SocketChoice::Own);
        self.cut_over(generation);
        server
    }

    fn cut_over(&mut self, generation: Generation) {
        let incidents = self.listeners.cut_over(generation, &[]).unwrap();
        self.incidents.extend(incidents);
    }

    fn leave(&mut self, generation: Generation) {
        let incidents = self.listeners.leave(generation, sys::now());
        self.incidents.extend(incidents);
    }

    /// What the main loop does when poll says so.
    fn wake(&mut self) {
        let incidents = self.listeners.woken(sys::now());
        self.incidents.extend(incidents);
    }

    fn address(&self) -> String {
        self.listeners.listening().remove(0)
    }

    fn client(&self) -> OwnedFd {
        let address = self.address();
        match &self.listens[0].address {
            Address::Path(_) => UnixStream::connect(address).unwrap().into(),
            Address::Abstract(name) => {
                let address = SocketAddr::from_abstract_name(name).unwrap();
                UnixStream::connect_addr(&address).unwrap().into()
            }
            Address::Tcp(_) | Address::Udp(_) => {
                let client = TcpStream::connect(address).unwrap();
                until_queued(&client);
                client.into()
            }
        }
    }

    fn clients(&self, count: usize) -> Vec<OwnedFd> {
        (0..count).map(|_| self.client()).collect()
    }
}

/// connect(2) returns when the server's SYN and ACK are there: the client's own ACK may still be on its way.
fn until_queued(client: &TcpStream) {
    let (from, to) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
    let since = Instant::now();
    while inode_of_server_end(from, to).unwrap().is_none() {
        assert!(since.elapsed() < Duration::from_secs(20), "not queued");
        std::thread::yield_now();
    }
}

struct TestServer(InheritedSocket);

impl TestServer {
    /// How many clients wait on it; they are answered.
    fn answers(&self) -> usize {
        let mut count = 0;
        while self.has_client() && sys::accept(self.0.fd.as_fd()).is_ok() {
            count += 1;
        }
        count
    }

    fn has_client(&self) -> bool {
        let mut polled = [nix::poll::PollFd::new(self.0.fd.as_fd(), PollFlags::POLLIN)];
        nix::poll::poll(&mut polled, 0_u8).unwrap() == 1
    }

    fn shuts_down(&self) {
        match shutdown(self.0.fd.as_raw_fd(), Shutdown::Both) {
            // ENOTCONN: it had done so before
            Ok(()) | Err(nix::Error::ENOTCONN) => {}
            Err(error) => panic!("{error}"),
        }
    }
}
