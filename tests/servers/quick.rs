//! An HTTP server that is up within a millisecond, and says in every answer when it was.
//!
//! `quick ADDRESS [MS] [graceful]`: with MS it takes so long to start. It takes the sockets of `LISTEN_FDS`, else it binds
//! ADDRESS, which may also be a socket that it was started with: `fd:3`. One thread, one epoll set, no state; SIGTERM just
//! ends it, unless it is to be graceful and answers first whom it has accepted.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd};
use std::time::Duration;
use std::{env, process, thread};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;
use nix::time::{ClockId, clock_gettime};

fn now() -> io::Result<u128> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(Duration::from(now).as_nanos())
}

fn main() -> io::Result<()> {
    let began = now()?;
    let start = env::args().nth(2).and_then(|ms| ms.parse().ok());
    thread::sleep(Duration::from_millis(start.unwrap_or(0)));
    let mut listeners = listeners()?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let watch = |fd: i32| EpollEvent::new(EpollFlags::EPOLLIN, u64::try_from(fd).unwrap_or(0));
    for listener in &listeners {
        listener.set_nonblocking(true)?;
        epoll.add(listener, watch(listener.as_raw_fd()))?;
    }
    let mut told_to_stop = SigSet::empty();
    if env::args().nth(3).is_some_and(|word| word == "graceful") {
        told_to_stop.add(Signal::SIGTERM);
        told_to_stop.thread_block()?;
    }
    let stop = SignalFd::new(&told_to_stop)?;
    epoll.add(&stop, watch(stop.as_raw_fd()))?;
    let generation = env::var("HOTSWAP_GENERATION").unwrap_or("0".to_owned());
    let body = format!("generation {generation} began {began} ready {}\n", now()?);
    let answer = |connection: &str| {
        let length = body.len();
        format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: {connection}\r\n\r\n{body}"
        )
    };
    let (kept, last) = (answer("keep-alive"), answer("close"));
    let mut connections: HashMap<i32, TcpStream> = HashMap::new();
    let mut events = [EpollEvent::empty(); 256];
    while !(listeners.is_empty() && connections.is_empty()) {
        let woken = epoll.wait(&mut events, EpollTimeout::NONE)?;
        for event in &events[..woken] {
            let fd = i32::try_from(event.data()).unwrap_or(0);
            if fd == stop.as_raw_fd() {
                // others may have it open still: it would go on waking us up
                for listener in listeners.drain(..) {
                    epoll.delete(&listener)?;
                }
                epoll.delete(&stop)?;
            } else if let Some(listener) = listeners.iter().find(|one| one.as_raw_fd() == fd) {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    epoll.add(&stream, watch(stream.as_raw_fd()))?;
                    connections.insert(stream.as_raw_fd(), stream);
                }
            } else if let Some(stream) = connections.get_mut(&fd)
                && !serve(stream, &kept, &last)
            {
                connections.remove(&fd);
            }
        }
    }
    Ok(())
}

/// Answers one request, which came in one piece; whether the connection stays.
fn serve(stream: &mut TcpStream, kept: &str, last: &str) -> bool {
    let mut request = [0; 1024];
    let Ok(length @ 1..) = stream.read(&mut request) else {
        return false;
    };
    let closes = request[..length].windows(7).any(|part| part == b": close");
    let answer = if closes { last } else { kept };
    stream.write_all(answer.as_bytes()).is_ok() && !closes
}

/// The sockets of `LISTEN_FDS`, which begin at descriptor 3; else one of our own.
fn listeners() -> io::Result<Vec<TcpListener>> {
    let number = |name: &str| env::var(name).ok()?.parse().ok();
    let passed = number("LISTEN_FDS").filter(|_| number("LISTEN_PID") == Some(process::id()));
    if let Some(count) = passed {
        return Ok((3..).take(count as usize).map(owned).collect());
    }
    let address = env::args().nth(1).unwrap_or("127.0.0.1:8080".to_owned());
    let given = address.strip_prefix("fd:").and_then(|fd| fd.parse().ok());
    Ok(vec![match given {
        Some(fd) => owned(fd),
        None => TcpListener::bind(address)?,
    }])
}

#[allow(unsafe_code)]
fn owned(fd: i32) -> TcpListener {
    // SAFETY: whoever set LISTEN_PID has just given this descriptor to us, and nothing else owns it.
    unsafe { TcpListener::from_raw_fd(fd) }
}
