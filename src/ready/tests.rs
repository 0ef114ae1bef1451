//! Each mode with sockets and threads of our own in the place of a server, at moments that we choose.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::Instant;

use super::*;
use crate::connections::inode_of;
use crate::listener::Kind;

const START: Time = Time::from_secs(4000);
const TIMEOUT: Duration = Duration::from_secs(30);
const HERE: ListenerId = ListenerId(3);

/// A candidate with one listener.
struct Candidate<L> {
    listener: L,
    kind: Kind,
    readiness: Readiness,
}

impl Candidate<TcpListener> {
    fn new(mode: &Mode) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        Self {
            listener,
            kind: Kind::Tcp { port },
            readiness: Readiness::new(mode, START, TIMEOUT, false).unwrap(),
        }
    }

    fn connect(&self) -> OwnedFd {
        let address = self.listener.local_addr().unwrap();
        TcpStream::connect(address).unwrap().into()
    }
}

impl<L: AsFd> Candidate<L> {
    fn held(&self) -> Held<'_> {
        Held {
            listener: HERE,
            fd: self.listener.as_fd(),
            inode: inode_of(self.listener.as_fd()).unwrap(),
            kind: self.kind,
            steered: true,
            captured: false,
            listens: true,
        }
    }

    fn look(&mut self, after: Duration) -> Option<Ready> {
        let held = Held {
            fd: self.listener.as_fd(),
            listener: HERE,
            inode: inode_of(self.listener.as_fd()).unwrap(),
            kind: self.kind,
            steered: true,
            captured: false,
            listens: true,
        };
        let view = View {
            held: &[held],
            wanted: &[HERE],
            processes: &|| vec![Pid::this()],
            first: false,
            captured: false,
            spent: sys::spent(),
        };
        self.readiness.look(START + after, &view)
    }

    /// It is not ready, and this is wished for.
    fn wishes(&mut self, after: Duration, wishes: &[Wish]) {
        assert_eq!(self.look(after), None, "after {after:?}");
        assert_eq!(self.readiness.wishes(), wishes, "after {after:?}");
    }

    /// Looks again and again, at the same moment, until it is ready.
    fn is_ready(&mut self, after: Duration) -> How {
        let begun = Instant::now();
        loop {
            if let Some(ready) = self.look(after) {
                assert_eq!((ready.missing, ready.doubtful), (vec![], false));
                return ready.how;
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "never ready");
            thread::yield_now();
        }
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn auto_sees_a_thread_that_accepts() {
    let mut candidate = Candidate::new(&Mode::Auto);
    candidate.wishes(OFTEN, &[]);
    // later, where a look costs much
    assert!(candidate.readiness.deadline() >= Some(START + OFTEN + OFTEN));
    let listener = candidate.listener.try_clone().unwrap();
    let server = thread::spawn(move || listener.accept().map(drop));
    assert_eq!(candidate.is_ready(OFTEN * 2).to_string(), "accepting");
    assert_eq!(waited_on(&[candidate.held()], &[Pid::this()]), [HERE]);
    assert_eq!(waited_on(&[candidate.held()], &[]), []);
    drop(candidate.connect());
    server.join().unwrap().unwrap();
}

#[test]
fn auto_probes_whom_it_never_sees_waiting() {
    let mut candidate = Candidate::new(&Mode::Auto);
    candidate.wishes(OFTEN, &[]);
    candidate.wishes(SECOND, &[]);
    candidate.wishes(SECOND + OFTEN, &[Wish::Probe(HERE)]);
    let probe = candidate.connect();
    candidate.readiness.probed(HERE, Ok(probe), START + SECOND);
    candidate.wishes(SECOND * 20, &[]);
    let served = candidate.listener.accept().unwrap();
    assert_eq!(
        candidate.is_ready(SECOND * 20).to_string(),
        "accepted a probe"
    );
    drop(served);
}

#[test]
fn a_probe_is_made_again_when_it_came_to_nothing() {
    let mut candidate = Candidate::new(&Mode::Tcp);
    candidate.wishes(OFTEN, &[Wish::Probe(HERE)]);
    let refused = Err(io::ErrorKind::ConnectionRefused.into());
    candidate.readiness.probed(HERE, refused, START + OFTEN);
    candidate.wishes(OFTEN * 2, &[]);
    candidate.wishes(OFTEN + probe::AGAIN, &[Wish::Probe(HERE)]);
    let (ours, theirs) = UnixStream::pair().unwrap();
    // Unread bytes at its end make a closed connection a reset one.
    (&ours).write_all(b"x").unwrap();
    drop(theirs);
    candidate
        .readiness
        .probed(HERE, Ok(ours.into()), START + SECOND);
    candidate.wishes(SECOND, &[]);
    candidate.wishes(SECOND + probe::AGAIN, &[Wish::Probe(HERE)]);
}

#[test]
fn tcp_wants_a_probe_accepted() {
    let mut candidate = Candidate::new(&Mode::Tcp);
    candidate.wishes(OFTEN, &[Wish::Probe(HERE)]);
    let probe = candidate.connect();
    candidate.readiness.probed(HERE, Ok(probe), START + OFTEN);
    candidate.wishes(SECOND, &[]);
    // To be accepted and closed at once is to be accepted.
    drop(candidate.listener.accept().unwrap());
    assert_eq!(candidate.is_ready(SECOND), How::AcceptedAProbe);
}

#[test]
fn unix_listeners_are_probed_as_well() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("listener");
    let mut candidate = Candidate {
        listener: UnixListener::bind(&path).unwrap(),
        kind: Kind::Unix,
        readiness: Readiness::new(&Mode::Tcp, START, TIMEOUT, false).unwrap(),
    };
    candidate.wishes(OFTEN, &[Wish::Probe(HERE)]);
    let probe = UnixStream::connect(&path).unwrap();
    candidate
        .readiness
        .probed(HERE, Ok(probe.into()), START + OFTEN);
    candidate.wishes(SECOND, &[]);
    let served = candidate.listener.accept().unwrap();
    assert_eq!(candidate.is_ready(SECOND), How::AcceptedAProbe);
    drop(served);
}

/// Accepts once, reads the request, answers, and hangs up.
fn answer(listener: &TcpListener, text: &'static str) -> thread::JoinHandle<String> {
    let listener = listener.try_clone().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 1024];
        let length = stream.read(&mut request).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        String::from_utf8_lossy(&request[..length]).into_owned()
    })
}

#[test]
fn http_wants_a_good_status_and_asks_again() {
    let mut candidate = Candidate::new(&Mode::Http("/health".into()));
    candidate.wishes(OFTEN, &[Wish::Probe(HERE)]);
    let server = answer(&candidate.listener, "HTTP/1.1 503 Warming Up\r\n\r\n");
    let probe = candidate.connect();
    candidate.readiness.probed(HERE, Ok(probe), START + OFTEN);
    candidate.wishes(OFTEN * 2, &[]);
    assert!(
        server
            .join()
            .unwrap()
            .starts_with("GET /health HTTP/1.1\r\n")
    );
    let begun = Instant::now();
    while candidate.readiness.wishes().is_empty() {
        assert_eq!(candidate.look(SECOND), None);
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "it does not ask again"
        );
    }
    let (path, status) = ("/health".to_owned(), 503);
    let lack = candidate.readiness.lack();
    assert_eq!(lack, Some(Lack::Answer { path, status }));
    let server = answer(
        &candidate.listener,
        "HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n",
    );
    let probe = candidate.connect();
    candidate.readiness.probed(HERE, Ok(probe), START + SECOND);
    assert_eq!(candidate.is_ready(SECOND).to_string(), "status 302");
    server.join().unwrap();
}

#[test]
fn what_a_server_says_counts_where_it_is_asked_for() {
    let mut candidate = Candidate::new(&Mode::Notify);
    candidate.wishes(SECOND, &[]);
    assert_eq!(
        candidate.readiness.deadline(),
        None,
        "there is nothing to look for"
    );
    candidate.readiness.said_ready();
    assert_eq!(candidate.is_ready(SECOND).to_string(), "READY=1");

    let mut candidate = Candidate::new(&Mode::Fd(5));
    let (number, theirs) = candidate.readiness.take_descriptor().unwrap();
    assert_eq!(number, 5);
    assert!(candidate.readiness.take_descriptor().is_none());
    candidate.wishes(SECOND, &[]);
    nix::unistd::write(&theirs, b"\n").unwrap();
    candidate.readiness.woken();
    assert_eq!(
        candidate.is_ready(SECOND).to_string(),
        "newline on descriptor 5"
    );
    assert!(
        candidate.readiness.polled().is_none(),
        "it would be ready for ever"
    );
}

#[test]
fn a_command_says_it_by_its_status() {
    let mut candidate = Candidate::new(&Mode::Exec("./is-ready".into()));
    candidate.wishes(OFTEN, &[Wish::Execute("./is-ready".into())]);
    candidate.readiness.executed(false);
    candidate.wishes(OFTEN * 2, &[]);
    candidate.wishes(SECOND, &[Wish::Execute("./is-ready".into())]);
    candidate.readiness.executed(true);
    assert_eq!(candidate.is_ready(SECOND), How::Command);
}

#[test]
fn time_alone_is_enough_if_that_is_wanted() {
    let mut candidate = Candidate::new(&Mode::After(SECOND * 2));
    candidate.wishes(SECOND, &[]);
    assert_eq!(candidate.readiness.deadline(), Some(START + SECOND * 2));
    assert_eq!(candidate.is_ready(SECOND * 2).to_string(), "assumed ready");
}

#[test]
fn a_candidate_is_looked_at_often_at_first_and_seldom_later() {
    let mut candidate = Candidate::new(&Mode::Auto);
    let mut looks = 0;
    while let Some(next) = candidate
        .readiness
        .deadline()
        .filter(|next| *next < START + SECOND)
    {
        candidate.wishes(next.saturating_sub(START), &[]);
        looks += 1;
    }
    assert!(
        (10..600).contains(&looks),
        "{looks} looks in the first second"
    );
    candidate.wishes(SECOND * 9, &[Wish::Probe(HERE)]);
    assert!(candidate.readiness.deadline() >= Some(START + SECOND * 9 + SELDOM));
}

/// One that binds for itself, and has not yet.
fn without_a_socket(readiness: &mut Readiness, after: Duration) {
    let view = View {
        held: &[],
        wanted: &[HERE],
        processes: &|| panic!("there is nothing to look for in them"),
        first: false,
        captured: true,
        spent: sys::spent(),
    };
    assert_eq!(readiness.look(START + after, &view), None);
}

#[test]
fn nobody_is_looked_into_before_there_is_a_socket() {
    let mut readiness = Readiness::new(&Mode::Auto, START, TIMEOUT, false).unwrap();
    without_a_socket(&mut readiness, OFTEN);
}

#[test]
fn a_candidate_that_listens_late_is_looked_at_as_often_as_a_fresh_one() {
    let mut candidate = Candidate::new(&Mode::Auto);
    let late = SECOND * 9;
    without_a_socket(&mut candidate.readiness, late);
    assert!(candidate.readiness.deadline() >= Some(START + late + SELDOM));
    candidate.wishes(late + OFTEN, &[]);
    assert!(candidate.readiness.deadline() < Some(START + late + SELDOM));
}
