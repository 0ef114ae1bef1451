//! A server that serves, and meanwhile does its worst to whoever looks at what it binds.
//!
//! Every attack has a thread of its own: addresses of random bytes and lengths at random places, an address that changes
//! while it is bound, sockets bound and closed as fast as can be, listeners opened and closed, paths that are no paths,
//! and children that are killed in the middle of a call.

#![allow(unsafe_code)]

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use std::{env, ptr, thread};

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork, getppid};

fn main() -> io::Result<()> {
    let address = env::args().nth(1).unwrap_or("127.0.0.1:8080".to_owned());
    let listener = TcpListener::bind(address)?;
    for attack in [garbage, race, churn, listeners, paths, deaths] {
        thread::spawn(move || {
            loop {
                attack();
            }
        });
    }
    for stream in listener.incoming() {
        thread::spawn(move || answer(stream?));
    }
    Ok(())
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut request = [0; 4096];
    let _ = stream.read(&mut request)?;
    let generation = env::var("HOTSWAP_GENERATION").unwrap_or_default();
    let body = format!("hello from , generation {generation}\n");
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

/// Numbers without a pattern, good enough to annoy.
fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}

fn stream(family: AddressFamily) -> Option<OwnedFd> {
    socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).ok()
}

fn garbage() {
    let families = [
        AddressFamily::Inet,
        AddressFamily::Inet6,
        AddressFamily::Unix,
    ];
    let which = usize::try_from(random() % 3).unwrap_or(0);
    let Some(socket) = stream(families[which]) else {
        return;
    };
    let mut bytes: Vec<u8> = (0..64).flat_map(|_| random().to_ne_bytes()).collect();
    bytes[0] = [2, 10, 1, 0, 16][usize::try_from(random() % 5).unwrap_or(0)];
    bytes[1] = 0;
    if bytes[0] == 1 {
        // abstract names and names in no directory: nothing is left lying about
        bytes[2] = 0;
    }
    let lengths = [
        0,
        1,
        2,
        3,
        16,
        24,
        28,
        110,
        128,
        129,
        4096,
        u32::MAX,
        1 << 31,
    ];
    let length = lengths[usize::try_from(random() % 13).unwrap_or(0)];
    let places = [
        bytes.as_ptr(),
        ptr::null(),
        ptr::without_provenance(usize::MAX),
        main as *const u8,
    ];
    let place = places[usize::try_from(random() % 4).unwrap_or(0)];
    // SAFETY: the kernel checks every address it is given; nothing is written.
    unsafe { libc::bind(socket.as_raw_fd(), place.cast(), length) };
    let number = i32::try_from(random() % 4000).unwrap_or(0) - 5;
    // SAFETY: as above; the descriptors are not ours.
    unsafe {
        libc::bind(number.max(1000), place.cast(), length);
        libc::listen(number.max(1000), -1);
    }
}

static PORT: AtomicU16 = AtomicU16::new(0);

/// Two threads disagree about an address that a third one binds.
fn race() {
    let Some(socket) = stream(AddressFamily::Inet) else {
        return;
    };
    let mut address = [0_u8; 16];
    address[0] = 2;
    address[4] = 127;
    address[7] = 1;
    let place = address.as_mut_ptr() as usize;
    let stop = AtomicU16::new(0);
    thread::scope(|threads| {
        threads.spawn(|| {
            while stop.load(Ordering::Relaxed) == 0 {
                let new = PORT.fetch_add(1, Ordering::Relaxed);
                let byte = ptr::with_exposed_provenance_mut::<u8>(place);
                // SAFETY: the array outlives the scope; that it is raced for is what this is about.
                unsafe {
                    byte.add(3).write_volatile(new.to_ne_bytes()[0]);
                    byte.write_volatile(if new.is_multiple_of(2) { 2 } else { 10 });
                }
            }
        });
        for _ in 0..10 {
            // SAFETY: the kernel copies sixteen bytes out of the array.
            unsafe { libc::bind(socket.as_raw_fd(), address.as_ptr().cast(), 16) };
        }
        stop.store(1, Ordering::Relaxed);
    });
}

/// Ports that are bound and left, without anybody listening.
fn churn() {
    for _ in 0..64 {
        let Some(socket) = stream(AddressFamily::Inet) else {
            return;
        };
        let port = 40_000 + u16::try_from(random() % 9_000).unwrap_or(0);
        let [high, low] = port.to_be_bytes();
        let address = [2, 0, high, low, 127, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0];
        // SAFETY: the kernel copies sixteen bytes out of the array.
        unsafe { libc::bind(socket.as_raw_fd(), address.as_ptr().cast(), 16) };
    }
}

fn listeners() {
    let port = 49_000 + u16::try_from(random() % 9_000).unwrap_or(0);
    drop(TcpListener::bind(("127.0.0.9", port)));
    thread::sleep(Duration::from_millis(1));
}

fn paths() {
    let long = vec![b'x'; 8192];
    let places: [*const u8; 4] = [
        long.as_ptr(),
        ptr::null(),
        ptr::without_provenance(usize::MAX - 7),
        main as *const u8,
    ];
    for place in places {
        // SAFETY: the kernel checks every address it is given, and there is no such file.
        unsafe {
            libc::unlink(place.cast());
            libc::unlinkat(-1, place.cast(), i32::MAX);
        }
    }
}

/// A child that binds as fast as it can, killed at any moment.
fn deaths() {
    // SAFETY: the child makes system calls only, until it is killed.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => {
            let parent = getppid();
            while getppid() == parent {
                churn();
            }
            // SAFETY: ends this process, which has nothing to tidy up.
            unsafe { libc::_exit(0) };
        }
        Ok(ForkResult::Parent { child }) => {
            thread::sleep(Duration::from_micros(random() % 3000));
            let _ = kill(child, Signal::SIGKILL);
            let _ = waitpid(child, None);
        }
        Err(_) => thread::sleep(Duration::from_millis(10)),
    }
}
