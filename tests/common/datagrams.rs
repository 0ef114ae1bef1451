//! A client that sends datagrams without pause and counts the echoes.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::eventually;
use super::place::Target;
use super::tally::who_answered;

pub struct Datagrams {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    answered: AtomicUsize,
    lost: AtomicUsize,
    last: Mutex<String>,
}

impl Datagrams {
    /// One at a time, the next as soon as the echo is there.
    pub fn to(target: &Target) -> Datagrams {
        let Target::Udp(address) = target else {
            panic!("no place for datagrams: {target:?}");
        };
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.connect(address).expect("its peer");
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("its patience");
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let mut buffer = [0; 512];
            while !theirs.stop.load(Ordering::Relaxed) {
                socket.send(b"?").expect("a datagram sent");
                let Ok(count) = socket.recv(&mut buffer) else {
                    theirs.lost.fetch_add(1, Ordering::Relaxed);
                    continue;
                };
                theirs.answered.fetch_add(1, Ordering::Relaxed);
                let text = String::from_utf8_lossy(&buffer[..count]);
                if let Some((version, _)) = who_answered(&text) {
                    version.clone_into(&mut theirs.last.lock().expect("the version"));
                }
            }
        });
        Datagrams { shared, thread }
    }

    pub fn until_answered_by(&self, version: &str) {
        eventually(version, || {
            (*self.shared.last.lock().expect("the version") == version).then_some(())
        });
    }

    pub fn expect_none_lost(self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the client");
        assert!(self.shared.answered.load(Ordering::Relaxed) > 0);
        assert_eq!(self.shared.lost.load(Ordering::Relaxed), 0);
    }
}
