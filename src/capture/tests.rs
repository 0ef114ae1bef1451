//! Servers that are threads of this process, each under the filter, and the listeners that hotswap makes of theirs.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use nix::poll::{PollFd, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, socket};
use nix::sys::stat::fstat;

use super::*;
use crate::listener::{Incident, ListenerContext, SocketOptions};
use crate::supervisor::SocketChoice;
use crate::sys;

mod contained;
mod tcp;
mod unix;

const G1: Generation = Generation(1);
const G2: Generation = Generation(2);

struct CapturedServers {
    listeners: Listeners,
    captures: BTreeMap<Generation, Capture>,
    events: Vec<CaptureEvent>,
    stops: Stops,
}

impl CapturedServers {
    fn listening(on: &[&str]) -> Self {
        let listens: Vec<_> = on.iter().map(|listen| listen.parse().unwrap()).collect();
        let options = SocketOptions {
            backlog: 128,
            mode: None,
            owner: None,
            share: false,
        };
        let (listeners, _) = Listeners::open(
            &listens,
            ListenerContext::new(options).unwrap(),
            Vec::new(),
            None,
        )
        .unwrap();
        Self {
            listeners,
            captures: BTreeMap::new(),
            events: Vec::new(),
            stops: Stops {
                paths: true,
                options: false,
            },
        }
    }

    fn new() -> Self {
        Self::listening(&[])
    }

    /// As in a container that forbids pidfd_getfd(2).
    fn contained() -> Self {
        let mut servers = Self::new();
        servers.stops.options = true;
        servers
    }

    /// Answers a server under the filter until it has done its work.
    fn serve<T: Send + 'static>(
        &mut self,
        generation: Generation,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        self.listeners
            .inherited_sockets(generation, SocketChoice::Own)
            .unwrap();
        self.again(generation, work)
    }

    /// The same generation goes on, in another thread.
    fn again<T: Send + 'static>(
        &mut self,
        generation: Generation,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let server = self.start(generation, work);
        self.finish(generation, server)
    }

    fn start<T: Send + 'static>(
        &mut self,
        generation: Generation,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let (sender, receiver) = mpsc::channel();
        let stops = self.stops;
        let server = thread::spawn(move || {
            sender.send(filter::install(stops).unwrap()).unwrap();
            work()
        });
        let capture = Capture::new(generation, receiver.recv().unwrap(), stops);
        self.captures.insert(generation, capture);
        server
    }

    fn finish<T>(&mut self, generation: Generation, server: JoinHandle<T>) -> T {
        while !server.is_finished() {
            self.look(generation);
        }
        server.join().unwrap()
    }

    /// Until a call has been received, and not answered.
    fn wait_for_call(&self, generation: Generation) {
        let polled = self.captures[&generation].polled();
        let mut polled = [PollFd::new(polled[0].0, polled[0].1)];
        poll(&mut polled, PollTimeout::NONE).unwrap();
    }

    /// As after a re-execution: only what was told is known, and only what was handed over is open.
    fn hand_over(&mut self, generation: Generation) {
        let mut capture = self.captures.remove(&generation).unwrap();
        capture.pause();
        let mut next: Capture = handoff::carry(&capture).unwrap();
        // exec runs no destructor
        std::mem::forget(capture);
        next.resume();
        let capture = next;
        self.captures.insert(generation, capture);
    }

    fn look(&mut self, generation: Generation) {
        let capture = self.captures.get_mut(&generation).unwrap();
        let polled = capture.polled();
        let mut polled: Vec<_> = polled
            .into_iter()
            .map(|(fd, flags)| PollFd::new(fd, flags))
            .collect();
        poll(&mut polled, PollTimeout::from(10_u8)).unwrap();
        let flags = polled.first().and_then(PollFd::revents);
        if let Some(flags) = flags.filter(|flags| !flags.is_empty()) {
            let mut context = CallContext {
                now: sys::now(),
                listeners: &mut self.listeners,
                capture_not: &[],
                directory: Path::new("/"),
                // the server is a thread of ours, whose duplicates would be taken for its own
                processes: &Vec::new,
            };
            let events = capture.woken(flags, &mut context);
            self.events.extend(events);
            let named = capture.name_listeners(true, &mut context);
            self.events.extend(named);
        }
    }

    fn warnings(&self) -> Vec<&str> {
        let warnings = self.events.iter().filter_map(|events| match events {
            CaptureEvent::Warning(text) | CaptureEvent::Hint(_, text) => Some(text.as_str()),
            CaptureEvent::Binds | CaptureEvent::Listens(_) | CaptureEvent::Gone => None,
        });
        warnings.collect()
    }

    fn listens(&self) -> Vec<&str> {
        let listens = self.events.iter().filter_map(|events| match events {
            CaptureEvent::Listens(as_given) => Some(as_given.as_str()),
            CaptureEvent::Binds
            | CaptureEvent::Warning(_)
            | CaptureEvent::Hint(..)
            | CaptureEvent::Gone => None,
        });
        listens.collect()
    }

    fn leave(&mut self, generation: Generation) -> Vec<Incident> {
        self.captures.remove(&generation);
        self.listeners.leave(generation, sys::now())
    }
}

fn inode(socket: &impl AsFd) -> u64 {
    fstat(socket).unwrap().st_ino
}

/// A host of this process alone, and a port that is free on all others: the kernel gives it no client, as it would one that
/// was just let go, and no connection of another test still waits there for its end.
fn free_address() -> SocketAddr {
    let [_, a, b, c] = std::process::id().to_be_bytes();
    loop {
        let random = RandomState::new().build_hasher().finish() % 20_000;
        let port = 10_000 + u16::try_from(random).unwrap();
        let any = SockaddrIn6::from(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0));
        if bind(stream_v6().as_raw_fd(), &any).is_ok() {
            return (Ipv4Addr::new(127, a, b, c), port).into();
        }
    }
}

fn says_hello(server: &TcpListener, client: &mut TcpStream) {
    client.write_all(b"hello").unwrap();
    let (mut accepted, _) = server.accept().unwrap();
    let mut heard = [0; 5];
    accepted.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello");
}

fn stream() -> OwnedFd {
    let flags = SockFlag::SOCK_CLOEXEC;
    socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap()
}

fn stream_v6() -> OwnedFd {
    let flags = SockFlag::SOCK_CLOEXEC;
    socket(AddressFamily::Inet6, SockType::Stream, flags, None).unwrap()
}

fn bind_to(socket: &OwnedFd, address: SocketAddr) -> nix::Result<()> {
    let SocketAddr::V4(address) = address else {
        unreachable!("these tests are about IPv4");
    };
    bind(socket.as_raw_fd(), &SockaddrIn::from(address))
}
