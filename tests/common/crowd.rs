//! Who comes to a site, and what they say of it afterwards.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::eventually;
use super::place::Target;
use super::tally::{Failure, Incident, Tally, who_answered};
use super::visits::Visits;

/// How a client behaves: by default a connection for every request, which is sent at once.
#[derive(Clone, Copy, Default, Debug)]
pub struct Habit {
    /// Keeps its connection from one request to the next.
    pub kept: bool,
    /// How long it stays silent once it is connected.
    pub hesitation: Duration,
    /// How long its answer takes the server.
    pub slow: Duration,
}

impl Habit {
    pub fn kept() -> Habit {
        Habit {
            kept: true,
            ..Habit::default()
        }
    }

    pub fn hesitating() -> Habit {
        Habit {
            hesitation: Duration::from_millis(50),
            ..Habit::default()
        }
    }

    pub fn slow() -> Habit {
        Habit::taking(Duration::from_millis(300))
    }

    /// Its answer takes the server so long.
    pub fn taking(time: Duration) -> Habit {
        Habit {
            slow: time,
            ..Habit::default()
        }
    }

    pub fn request(&self) -> String {
        let path = match self.slow.as_millis() {
            0 => "/".to_owned(),
            ms => format!("/slow?ms={ms}"),
        };
        let connection = if self.kept { "keep-alive" } else { "close" };
        format!("GET {path} HTTP/1.1\r\nHost: site\r\nConnection: {connection}\r\n\r\n")
    }
}

/// A crowd before it comes.
pub struct Guests {
    targets: Vec<Target>,
    epoch: Instant,
    clients: Vec<Habit>,
    flows: Vec<(u32, Habit)>,
}

impl Guests {
    pub fn of(targets: Vec<Target>, epoch: Instant) -> Guests {
        Guests {
            targets,
            epoch,
            clients: Vec::new(),
            flows: Vec::new(),
        }
    }

    /// So many clients, each coming again once it is answered.
    pub fn and(mut self, count: usize, habit: Habit) -> Guests {
        self.clients.extend(vec![habit; count]);
        self
    }

    /// Every kind of client.
    pub fn mixed(self, count: usize) -> Guests {
        let kinds = [
            Habit::default(),
            Habit::kept(),
            Habit::hesitating(),
            Habit::slow(),
        ];
        (0..count).fold(self, |guests, i| guests.and(1, kinds[i % kinds.len()]))
    }

    /// So many a second, whether or not the earlier ones have been answered.
    pub fn arriving(mut self, per_second: u32, habit: Habit) -> Guests {
        self.flows.push((per_second, habit));
        self
    }

    pub fn come(self) -> Crowd {
        self.come_through(|| {})
    }

    /// `door` is run first on the thread that makes the connections.
    pub fn come_through(self, door: impl FnOnce() + Send + 'static) -> Crowd {
        let number = self.clients.len() + self.flows.len();
        let shared = Arc::new(Shared {
            epoch: self.epoch,
            leaving: AtomicBool::new(false),
            asked: AtomicUsize::new(0),
            tally: Mutex::default(),
            last: Mutex::new(vec![(self.epoch, String::new()); number]),
        });
        let (targets, clients, flows) = (self.targets, self.clients, self.flows);
        let theirs = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            door();
            Visits::new(theirs, targets, clients, flows).run();
        });
        Crowd {
            shared,
            thread: Some(thread),
        }
    }
}

/// What the thread that makes the connections shares with the test.
pub struct Shared {
    pub epoch: Instant,
    leaving: AtomicBool,
    /// Requests that have been sent.
    asked: AtomicUsize,
    tally: Mutex<Tally>,
    /// By client: when it asked what was answered last, and by which version.
    last: Mutex<Vec<(Instant, String)>>,
}

impl Shared {
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    pub fn asked(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }

    pub fn answered(&self, client: usize, since: Instant, body: &str) {
        self.tally
            .lock()
            .expect("the tally")
            .answered(body, since.elapsed());
        let mut last = self.last.lock().expect("the answers");
        if let Some((version, _)) = who_answered(body)
            && since >= last[client].0
        {
            last[client] = (since, version.to_owned());
        }
    }

    pub fn failed(&self, incident: Incident) {
        self.tally
            .lock()
            .expect("the tally")
            .failures
            .push(incident);
    }

    pub fn stale(&self) {
        self.tally.lock().expect("the tally").stale += 1;
    }
}

/// Clients who come and come again, until they are told to leave.
pub struct Crowd {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Crowd {
    pub fn so_far(&self) -> Tally {
        self.shared.tally.lock().expect("the tally").clone()
    }

    /// Waits until everybody's newest answer is from that version.
    pub fn until_all_see(&self, version: &str) -> &Crowd {
        eventually(&format!("{version} by all clients"), || {
            let last = self.shared.last.lock().expect("the answers");
            last.iter().all(|(_, seen)| seen == version).then_some(())
        });
        self
    }

    /// Waits until so many requests have been sent, answered or not.
    pub fn until_asked(&self, requests: usize) -> &Crowd {
        let enough = || (self.shared.asked.load(Ordering::Relaxed) >= requests).then_some(());
        eventually(&format!("{requests} requests"), enough);
        self
    }

    /// Waits for so many more answers.
    pub fn until_answered(&self, more: usize) -> &Crowd {
        let before = self.so_far().answers;
        let enough = || (self.so_far().answers >= before + more).then_some(());
        eventually(&format!("{more} more answers"), enough);
        self
    }

    /// Waits for the first failure of that kind.
    pub fn until_failed(&self, failure: Failure) -> &Crowd {
        eventually(&format!("{failure:?}"), || {
            (self.so_far().failed(failure) > 0).then_some(())
        });
        self
    }

    /// Nobody comes any more; those who wait get their answer.
    pub fn leave(&mut self) -> Tally {
        self.shared.leaving.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the clients");
        }
        self.so_far()
    }

    /// The same, and everybody must have been answered.
    pub fn expect_no_failure(&mut self) -> Tally {
        let tally = self.leave();
        tally.expect_no_failure();
        tally
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the clients' tally: {}", self.so_far());
        }
        self.shared.leaving.store(true, Ordering::Relaxed);
    }
}
