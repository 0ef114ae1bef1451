//! Each mode, with sockets and threads of the test in place of a server, at moments that the test chooses.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::Instant;

use nix::unistd::Pid;

use super::pace::{LONGEST, SHORTEST};
use super::reason::HttpAnswer;
use super::*;
use crate::listener::{GenerationSocket, SocketKind};
use crate::socket::inode_of;

const START: Time = Time::from_secs(4000);
const TIMEOUT: Duration = Duration::from_secs(30);
const HERE: ListenerId = ListenerId(3);
const REQUIRED: Required = Required {
    listener: HERE,
    need: Need::Accept,
};

fn name(listener: ListenerId) -> String {
    format!("{listener:?}")
}

#[test]
fn a_candidate_that_takes_long_is_told_of_once() {
    let told = |mode: &ReadyMode, timeout| {
        let mut candidate = Candidate::new(mode);
        candidate.readiness = Readiness::new(mode, START, timeout, false).unwrap();
        let mut told = |seconds| {
            assert_eq!(candidate.look(Duration::from_secs(seconds)), None);
            candidate.readiness.take_notices()
        };
        [4, 5, 6].map(&mut told)
    };
    let notify = ReadyMode::Notify;
    assert_eq!(
        told(&notify, TIMEOUT),
        [vec![], vec![ReadyNotice::NotYet], vec![]]
    );
    let nothing = [vec![], vec![], vec![]];
    assert_eq!(told(&notify, Duration::from_secs(9)), nothing);
    assert_eq!(
        told(&ReadyMode::After(Duration::from_secs(8)), TIMEOUT),
        nothing
    );
}

/// A candidate with one listener.
struct Candidate<L> {
    listener: L,
    kind: SocketKind,
    readiness: Readiness,
}

impl Candidate<TcpListener> {
    fn new(mode: &ReadyMode) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        Self {
            listener,
            kind: SocketKind::Tcp { port },
            readiness: Readiness::new(mode, START, TIMEOUT, false).unwrap(),
        }
    }

    fn connect(&self) -> OwnedFd {
        let address = self.listener.local_addr().unwrap();
        TcpStream::connect(address).unwrap().into()
    }
}

fn held(listener: &impl AsFd, kind: SocketKind) -> GenerationSocket<'_> {
    GenerationSocket {
        listener: HERE,
        fd: Some(listener.as_fd()),
        inode: inode_of(listener.as_fd()).unwrap(),
        kind,
        family: None,
        steered: true,
        captured: false,
        listens: true,
    }
}

impl<L: AsFd> Candidate<L> {
    fn held(&self) -> GenerationSocket<'_> {
        held(&self.listener, self.kind)
    }

    fn look(&mut self, after: Duration) -> Option<Ready> {
        let held = held(&self.listener, self.kind);
        let view = CandidateView {
            held: &[held],
            required: &[REQUIRED],
            optional: &[],
            main: Pid::this(),
            processes: &|| vec![Pid::this()],
            rank: Rank::Candidate,
            captured: false,
            hidden: false,
            chosen_port: false,
            patience: None,
            cpu_time: sys::cpu_time(),
        };
        self.readiness.look(START + after, &view)
    }

    /// It is not ready, and wants this done.
    fn requests(&mut self, after: Duration, requests: &[ReadyRequest]) {
        assert_eq!(self.look(after), None, "after {after:?}");
        assert_eq!(self.readiness.requests(), requests, "after {after:?}");
    }

    /// Looks again and again at the same moment, until it is ready.
    fn is_ready(&mut self, after: Duration) -> ReadyBy {
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
    let mut candidate = Candidate::new(&ReadyMode::Auto);
    candidate.requests(SHORTEST, &[]);
    // later, because this look took longer
    assert!(candidate.readiness.deadline() >= Some(START + SHORTEST + SHORTEST));
    let listener = candidate.listener.try_clone().unwrap();
    let server = thread::spawn(move || listener.accept().map(drop));
    assert_eq!(candidate.is_ready(SHORTEST * 2).to_string(), "accepting");
    assert_eq!(accepting_on(&[candidate.held()], &[Pid::this()]), [HERE]);
    assert_eq!(accepting_on(&[candidate.held()], &[]), []);
    drop(candidate.connect());
    server.join().unwrap().unwrap();
}

#[test]
fn auto_probes_a_listener_that_is_never_seen_waiting() {
    let mut candidate = Candidate::new(&ReadyMode::Auto);
    candidate.requests(SHORTEST, &[]);
    candidate.requests(SECOND, &[]);
    candidate.requests(SECOND + SHORTEST, &[ReadyRequest::Probe(HERE)]);
    let probe = candidate.connect();
    candidate.readiness.probed(HERE, Ok(probe), START + SECOND);
    candidate.requests(SECOND * 20, &[]);
    let served = candidate.listener.accept().unwrap();
    assert_eq!(
        candidate.is_ready(SECOND * 20).to_string(),
        "accepted a probe"
    );
    drop(served);
}

#[test]
fn a_failed_probe_is_made_again() {
    let mut candidate = Candidate::new(&ReadyMode::Tcp);
    candidate.requests(SHORTEST, &[ReadyRequest::Probe(HERE)]);
    let refused = Err(io::ErrorKind::ConnectionRefused.into());
    candidate.readiness.probed(HERE, refused, START + SHORTEST);
    candidate.requests(SHORTEST * 2, &[]);
    candidate.requests(SHORTEST + probe::AGAIN, &[ReadyRequest::Probe(HERE)]);
    let (ours, theirs) = UnixStream::pair().unwrap();
    // A connection that is closed with unread bytes is reset.
    (&ours).write_all(b"x").unwrap();
    drop(theirs);
    candidate
        .readiness
        .probed(HERE, Ok(ours.into()), START + SECOND);
    candidate.requests(SECOND, &[]);
    candidate.requests(SECOND + probe::AGAIN, &[ReadyRequest::Probe(HERE)]);
}

#[test]
fn tcp_wants_a_probe_accepted() {
    let mut candidate = Candidate::new(&ReadyMode::Tcp);
    candidate.requests(SHORTEST, &[ReadyRequest::Probe(HERE)]);
    let probe = candidate.connect();
    candidate
        .readiness
        .probed(HERE, Ok(probe), START + SHORTEST);
    candidate.requests(SECOND, &[]);
    // Accepted and closed at once counts as accepted.
    drop(candidate.listener.accept().unwrap());
    assert_eq!(candidate.is_ready(SECOND), ReadyBy::AcceptedAProbe);
}

#[test]
fn unix_listeners_are_probed_as_well() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("listener");
    let mut candidate = Candidate {
        listener: UnixListener::bind(&path).unwrap(),
        kind: SocketKind::Unix,
        readiness: Readiness::new(&ReadyMode::Tcp, START, TIMEOUT, false).unwrap(),
    };
    candidate.requests(SHORTEST, &[ReadyRequest::Probe(HERE)]);
    let probe = UnixStream::connect(&path).unwrap();
    candidate
        .readiness
        .probed(HERE, Ok(probe.into()), START + SHORTEST);
    candidate.requests(SECOND, &[]);
    let served = candidate.listener.accept().unwrap();
    assert_eq!(candidate.is_ready(SECOND), ReadyBy::AcceptedAProbe);
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
    let mut candidate = Candidate::new(&http());
    candidate.requests(SHORTEST, &[ReadyRequest::Probe(HERE)]);
    let server = answer(&candidate.listener, "HTTP/1.1 503 Warming Up\r\n\r\n");
    let probe = candidate.connect();
    candidate
        .readiness
        .probed(HERE, Ok(probe), START + SHORTEST);
    candidate.requests(SHORTEST * 2, &[]);
    assert!(
        server
            .join()
            .unwrap()
            .starts_with("GET /health HTTP/1.1\r\n")
    );
    let begun = Instant::now();
    while candidate.readiness.requests().is_empty() {
        assert_eq!(candidate.look(SECOND), None);
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "it does not try again"
        );
    }
    let reason = NotReadyReason::Answers {
        path: "/health".to_owned(),
        answer: HttpAnswer::Status(503),
    };
    assert_eq!(candidate.readiness.not_ready_reason(&name), Some(reason));
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
fn a_server_says_that_it_is_ready_in_the_modes_that_ask_for_it() {
    let mut candidate = Candidate::new(&ReadyMode::Notify);
    candidate.requests(SECOND, &[]);
    assert_eq!(
        candidate.readiness.deadline(),
        Some(START + LATE),
        "there is nothing to look for before"
    );
    candidate.readiness.said_ready();
    assert_eq!(candidate.is_ready(SECOND).to_string(), "READY=1");

    let mut candidate = Candidate::new(&ReadyMode::Fd(5));
    let (number, theirs) = candidate.readiness.take_descriptor().unwrap();
    assert_eq!(number, 5);
    assert!(candidate.readiness.take_descriptor().is_none());
    candidate.requests(SECOND, &[]);
    nix::unistd::write(&theirs, b"\n").unwrap();
    candidate.readiness.woken();
    assert_eq!(
        candidate.is_ready(SECOND).to_string(),
        "newline on descriptor 5"
    );
    assert!(
        candidate.readiness.polled().is_empty(),
        "it would stay readable"
    );
}

#[test]
fn a_command_says_it_by_its_status() {
    let mut candidate = Candidate::new(&ReadyMode::Exec("./is-ready".into()));
    candidate.requests(SHORTEST, &[ReadyRequest::ExecCommand("./is-ready".into())]);
    let reason = candidate.readiness.not_ready_reason(&name);
    assert_eq!(reason, Some(NotReadyReason::CommandRuns));
    candidate.readiness.executed(Exit::Status(7));
    candidate.requests(SHORTEST * 2, &[]);
    candidate.requests(SECOND, &[ReadyRequest::ExecCommand("./is-ready".into())]);
    let reason = NotReadyReason::CommandEnded(Exit::Status(7));
    assert_eq!(candidate.readiness.not_ready_reason(&name), Some(reason));
    candidate.readiness.executed(Exit::Status(0));
    assert_eq!(candidate.is_ready(SECOND), ReadyBy::Command);
}

#[test]
fn time_alone_is_enough_if_the_mode_says_so() {
    let mut candidate = Candidate::new(&ReadyMode::After(SECOND * 2));
    candidate.requests(SECOND, &[]);
    assert_eq!(candidate.readiness.deadline(), Some(START + SECOND * 2));
    assert_eq!(candidate.is_ready(SECOND * 2).to_string(), "assumed ready");
}

#[test]
fn a_candidate_is_looked_at_often_at_first_and_rarely_later() {
    let mut candidate = Candidate::new(&ReadyMode::Auto);
    let mut looks = 0;
    while let Some(next) = candidate
        .readiness
        .deadline()
        .filter(|next| *next < START + SECOND)
    {
        candidate.requests(next.saturating_sub(START), &[]);
        looks += 1;
    }
    assert!(
        (10..1200).contains(&looks),
        "{looks} looks in the first second"
    );
    candidate.requests(SECOND * 9, &[ReadyRequest::Probe(HERE)]);
    assert!(candidate.readiness.deadline() >= Some(START + SECOND * 9 + LONGEST));
}

#[test]
fn between_looks_it_is_seen_whether_another_one_is_worth_it() {
    let mut candidate = Candidate::new(&ReadyMode::Auto);
    candidate.requests(SHORTEST, &[]);
    let first = candidate.readiness.glance().expect("a glance");
    candidate.requests(SECOND, &[]);
    let second = candidate.readiness.glance().expect("a glance");
    let later = START + SECOND * 9;
    assert!(first.next(later) < second.next(later));
    // the process of this test has run
    assert!(second.has_run());
    let mut told = Candidate::new(&ReadyMode::Notify);
    told.requests(SHORTEST, &[]);
    assert_eq!(told.readiness.glance(), None);
}

/// A server that binds its own socket, and has not done so yet.
fn without_a_socket(readiness: &mut Readiness, after: Duration) -> usize {
    let looked = Cell::new(0);
    let view = CandidateView {
        held: &[],
        required: &[REQUIRED],
        optional: &[],
        main: Pid::this(),
        processes: &|| {
            looked.set(looked.get() + 1);
            vec![Pid::this()]
        },
        rank: Rank::Candidate,
        captured: true,
        hidden: false,
        chosen_port: false,
        patience: None,
        cpu_time: sys::cpu_time(),
    };
    assert_eq!(readiness.look(START + after, &view), None);
    looked.get()
}

#[test]
fn processes_are_not_inspected_before_there_is_a_socket() {
    let mut readiness = Readiness::new(&ReadyMode::Auto, START, TIMEOUT, false).unwrap();
    assert_eq!(without_a_socket(&mut readiness, SHORTEST), 0);
}

#[test]
fn a_candidate_that_listens_late_is_looked_at_as_often_as_a_fresh_one() {
    let mut candidate = Candidate::new(&ReadyMode::Auto);
    let late = SECOND * 9;
    without_a_socket(&mut candidate.readiness, late);
    assert!(candidate.readiness.deadline() >= Some(START + late + LONGEST));
    candidate.requests(late + SHORTEST, &[]);
    assert!(candidate.readiness.deadline() < Some(START + late + LONGEST));
}

/// A candidate that binds for itself and lacks a socket, whatever its mode says.
fn lacks_a_socket(readiness: &mut Readiness, after: Duration, patience: Option<Duration>) -> bool {
    let view = CandidateView {
        held: &[],
        required: &[REQUIRED],
        optional: &[],
        main: Pid::this(),
        processes: &|| vec![Pid::this()],
        rank: Rank::Candidate,
        captured: true,
        hidden: false,
        chosen_port: false,
        patience,
        cpu_time: sys::cpu_time(),
    };
    readiness.look(START + after, &view).is_none()
}

#[test]
fn no_mode_is_enough_without_a_socket_where_one_is_required() {
    let modes = [
        ReadyMode::Notify,
        ReadyMode::After(SECOND),
        ReadyMode::Exec("true".into()),
    ];
    for mode in modes {
        let mut readiness = Readiness::new(&mode, START, TIMEOUT, false).unwrap();
        readiness.said_ready();
        readiness.executed(Exit::Status(0));
        assert!(lacks_a_socket(&mut readiness, SECOND, None), "{mode:?}");
        assert!(readiness.deadline().is_some(), "{mode:?}");
        assert!(
            lacks_a_socket(&mut readiness, SECOND * 29, None),
            "{mode:?}"
        );
        let reason = NotReadyReason::DoesNotAccept(vec![name(HERE)]);
        assert_eq!(readiness.not_ready_reason(&name), Some(reason), "{mode:?}");
        let patience = Some(SECOND);
        assert!(
            !lacks_a_socket(&mut readiness, SECOND * 29, patience),
            "{mode:?}"
        );
    }
}

#[test]
fn what_was_never_said_is_what_is_missing() {
    let reason = |mode| {
        let readiness = Readiness::new(&mode, START, TIMEOUT, false).unwrap();
        readiness.not_ready_reason(&name)
    };
    let expected = Some(NotReadyReason::NoReadyMessage);
    assert_eq!(reason(ReadyMode::Notify), expected);
    assert_eq!(reason(ReadyMode::Fd(5)), Some(NotReadyReason::NoNewline(5)));
    for mode in [ReadyMode::Tcp, http()] {
        assert_eq!(reason(mode), Some(NotReadyReason::NothingToAsk));
    }
}

fn http() -> ReadyMode {
    ReadyMode::Http {
        host: None,
        path: "/health".to_owned(),
    }
}
