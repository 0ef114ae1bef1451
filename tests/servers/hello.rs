//! A small HTTP server that takes over the sockets it is given, and finishes its requests when it is told to stop.
//!
//! It knows nothing of hotswap: `LISTEN_FDS` is systemd's protocol, and without it the server binds the address in its
//! first argument. `/slow?ms=300` takes its time; every other path is answered at once, with the name of who answers.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{env, process, thread};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;
use nix::sys::socket;

static STOPPING: AtomicBool = AtomicBool::new(false);

fn main() -> io::Result<()> {
    // Before the first thread, so that SIGTERM is only ever seen by the one poll below.
    let sigterm = SigSet::from(Signal::SIGTERM);
    sigterm.thread_block()?;
    let stop = SignalFd::new(&sigterm)?;
    let listeners = listeners()?;
    // The end of the scope waits for every connection.
    thread::scope(|connections| {
        loop {
            let mut polled = vec![PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
            polled.extend((listeners.iter()).map(|l| PollFd::new(l.as_fd(), PollFlags::POLLIN)));
            poll(&mut polled, PollTimeout::NONE)?;
            if polled[0].any() == Some(true) {
                STOPPING.store(true, Ordering::SeqCst);
                return Ok(());
            }
            for stream in listeners.iter().filter_map(accept) {
                connections.spawn(|| serve(stream));
            }
        }
    })
}

/// Answers the requests of one connection, until the client leaves or the server stops.
fn serve(stream: TcpStream) -> io::Result<()> {
    let version = env::var("VERSION").unwrap_or(env!("CARGO_PKG_VERSION").to_owned());
    let generation = env::var("HOTSWAP_GENERATION").unwrap_or("0".to_owned());
    let body = format!("hello from {version}, generation {generation}\n");
    stream.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut reader = BufReader::new(stream);
    let mut last = false;
    let mut first = true;
    while !last {
        let Some(head) = request(&mut reader, first)? else {
            break;
        };
        if let Some((_, ms)) = head.split_once("?ms=") {
            let digits: String = ms.chars().take_while(char::is_ascii_digit).collect();
            thread::sleep(Duration::from_millis(digits.parse().unwrap_or(0)));
        }
        first = false;
        last = STOPPING.load(Ordering::SeqCst) || head.contains("connection: close");
        let kept = if last { "close" } else { "keep-alive" };
        let length = body.len();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: {kept}");
        (reader.get_mut()).write_all(format!("{head}\r\n\r\n{body}").as_bytes())?;
    }
    Ok(())
}

/// The next request up to its empty line, in lower case; nothing if the client left, or if it may be sent away.
fn request(reader: &mut BufReader<TcpStream>, first: bool) -> io::Result<Option<String>> {
    let since = Instant::now();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match reader.read_until(b'\n', &mut head) {
            Ok(0) => return Ok(None),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                // Who has had no answer yet may still be about to ask.
                let patience = Duration::from_secs(if first || !head.is_empty() { 5 } else { 0 });
                if STOPPING.load(Ordering::SeqCst) && since.elapsed() > patience {
                    return Ok(None);
                }
            }
            other => drop(other?),
        }
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let length = head
        .lines()
        .find_map(|l| l.strip_prefix("content-length: ")?.parse().ok());
    io::copy(&mut reader.take(length.unwrap_or(0)), &mut io::sink())?;
    Ok(Some(head))
}

/// The sockets of `LISTEN_FDS`, which begin at descriptor 3; else one of our own.
fn listeners() -> io::Result<Vec<TcpListener>> {
    let number = |name: &str| env::var(name).ok()?.parse().ok();
    let given = number("LISTEN_FDS").filter(|_| number("LISTEN_PID") == Some(process::id()));
    let listeners: Vec<TcpListener> = if let Some(count) = given {
        (3..).take(count as usize).map(owned).collect()
    } else {
        let address = env::args().nth(1).unwrap_or("127.0.0.1:8080".to_owned());
        let own = match address.strip_prefix("unix:") {
            Some(path) => OwnedFd::from(UnixListener::bind(path)?),
            None => OwnedFd::from(TcpListener::bind(&address)?),
        };
        println!("listening on {address}");
        vec![own.into()]
    };
    for listener in &listeners {
        // Another generation may take a connection between our poll and our accept.
        listener.set_nonblocking(true)?;
    }
    Ok(listeners)
}

/// accept(2) itself, because a listener may just as well be a unix socket.
fn accept(listener: &TcpListener) -> Option<TcpStream> {
    socket::accept(listener.as_raw_fd()).ok().map(owned)
}

#[allow(unsafe_code)]
fn owned<T: FromRawFd>(fd: i32) -> T {
    // SAFETY: accept(2), or whoever set LISTEN_PID, has just given this descriptor to us, and nothing else owns it.
    unsafe { T::from_raw_fd(fd) }
}
