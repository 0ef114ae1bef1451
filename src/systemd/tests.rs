//! A service manager of our own, and what it hears.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use nix::unistd::Pid;
use tempfile::TempDir;

use super::store::{Store, Wanted, name_of};
use super::{ServiceManager, inherited_names};
use crate::polled::Polled;
use crate::supervisor::{Event, Exit, Generation, Policy, RestartPolicy, Supervisor, Time};

const US: i32 = 42;

struct Service {
    hears: UnixDatagram,
    manager: ServiceManager,
    supervisor: Supervisor,
    now: Time,
    _room: TempDir,
}

fn policy() -> Policy {
    Policy {
        hold: false,
        ready_timeout: Duration::from_secs(30),
        min_ready: Duration::ZERO,
        quiesce: Duration::from_secs(10),
        stop_quiesce: Duration::from_secs(5),
        interrupt_quiesce: Duration::from_secs(1),
        drain_timeout: Duration::from_secs(30),
        max_draining: 4,
        stop_first: false,
        restart: RestartPolicy::OnFailure,
        before_swap: None,
        before_first: false,
        fallback: true,
        unwatched: false,
        ready_factor: 0,
    }
}

fn variables(set: &[(&str, &str)]) -> impl Fn(&str) -> Option<OsString> {
    let set: Vec<(String, OsString)> = set
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.into()))
        .collect();
    move |name| {
        let mut set = set.iter();
        set.find(|(set, _)| set == name)
            .map(|(_, value)| value.clone())
    }
}

fn us() -> Pid {
    Pid::from_raw(US)
}

impl Service {
    fn with(watchdog: &[(&str, &str)]) -> Self {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("notify");
        let hears = UnixDatagram::bind(&path).unwrap();
        hears.set_nonblocking(true).unwrap();
        let path = path.to_str().unwrap();
        let set = [&[("NOTIFY_SOCKET", path)], watchdog].concat();
        let now = Duration::from_secs(100);
        Self {
            hears,
            manager: ServiceManager::of(variables(&set), us(), now),
            supervisor: Supervisor::new(policy()),
            now,
            _room: room,
        }
    }

    fn serving() -> Self {
        let mut service = Self::with(&[]);
        service.happens(Event::Launched);
        service.serves(1);
        service.heard();
        service
    }

    fn happens(&mut self, event: Event) {
        let asked = event == Event::SwapAsked(None);
        self.now += Duration::from_secs(1);
        self.supervisor.step(self.now, event);
        if asked {
            self.manager.asked(&self.supervisor, self.now);
        }
        self.manager.follow(&self.supervisor, None, self.now);
    }

    fn serves(&mut self, generation: u32) {
        self.happens(Event::Ready(Generation(generation)));
        self.happens(Event::CutOverDone(Generation(generation)));
    }

    fn starts(&mut self) {
        self.happens(Event::ProgramChecked(Ok(())));
    }

    fn heard(&mut self) -> Vec<String> {
        let mut messages = Vec::new();
        let mut buffer = [0; 500];
        while let Ok(bytes) = self.hears.recv(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..bytes]);
            messages.extend(text.lines().map(str::to_owned));
        }
        messages
    }

    fn heard_this(&mut self, expected: &[&str]) {
        assert_eq!(self.heard(), expected);
    }
}

#[test]
fn ready_is_said_once_the_first_generation_serves() {
    let mut service = Service::with(&[]);
    service.happens(Event::Launched);
    service.heard_this(&["STATUS=generation 1 is starting"]);
    service.happens(Event::Ready(Generation(1)));
    service.heard_this(&[]);
    service.happens(Event::CutOverDone(Generation(1)));
    service.heard_this(&["READY=1", "STATUS=generation 1 is serving"]);
}

#[test]
fn a_swap_is_a_reload_with_its_time() {
    let mut service = Service::serving();
    service.happens(Event::SwapAsked(None));
    let since = format!("MONOTONIC_USEC={}", service.now.as_micros());
    service.heard_this(&[
        "RELOADING=1",
        &since,
        "EXTEND_TIMEOUT_USEC=15000000",
        "STATUS=generation 1 is serving, generation 2 is starting",
    ]);
    service.starts();
    service.serves(2);
    service.heard_this(&["READY=1", "STATUS=generation 2 is serving, 1 draining"]);
    assert_eq!(service.manager.deadline(), None);
}

#[test]
fn what_has_to_prove_itself_is_not_said_to_start() {
    let mut service = Service::with(&[]);
    let min_ready = Duration::from_secs(10);
    service.supervisor = Supervisor::new(Policy {
        min_ready,
        ..policy()
    });
    service.happens(Event::Launched);
    service.serves(1);
    service.happens(Event::SwapAsked(None));
    service.starts();
    service.heard();
    service.serves(2);
    service.heard_this(&["STATUS=generation 1 is serving, generation 2 is proving"]);
}

#[test]
fn a_failed_swap_ends_the_reload_too() {
    let mut service = Service::serving();
    service.happens(Event::SwapAsked(None));
    service.starts();
    service.heard();
    service.happens(Event::Died(Generation(2), Exit::Status(1)));
    assert_eq!(service.heard()[0], "READY=1");
}

#[test]
fn a_reload_asked_for_during_a_swap_ends_with_the_next_one() {
    let mut service = Service::serving();
    service.happens(Event::SwapAsked(None));
    service.starts();
    service.heard();
    service.happens(Event::SwapAsked(None));
    let since = format!("MONOTONIC_USEC={}", service.now.as_micros());
    service.heard_this(&["RELOADING=1", &since, "EXTEND_TIMEOUT_USEC=15000000"]);
    service.serves(2);
    assert!(!service.heard().contains(&"READY=1".to_owned()));
    service.starts();
    service.serves(3);
    assert!(service.heard().contains(&"READY=1".to_owned()));
}

#[test]
fn a_restart_is_no_reload() {
    let mut service = Service::serving();
    service.happens(Event::Died(Generation(1), Exit::Signal(11)));
    let heard = service.heard();
    assert!(
        heard.iter().all(|line| line.starts_with("STATUS=")),
        "{heard:?}"
    );
}

#[test]
fn more_time_is_asked_for_while_it_takes() {
    let mut service = Service::serving();
    service.happens(Event::StopAsked(None));
    assert_eq!(
        service.heard()[..2],
        ["STOPPING=1", "EXTEND_TIMEOUT_USEC=15000000"]
    );
    for _ in 0..3 {
        let due = service.manager.deadline().unwrap();
        service.manager.look(due);
        service.heard_this(&["EXTEND_TIMEOUT_USEC=15000000"]);
    }
}

#[test]
fn signs_of_life_come_twice_as_often_as_is_wanted() {
    let mut service = Service::with(&[("WATCHDOG_USEC", "4000000"), ("WATCHDOG_PID", "42")]);
    let first = service.manager.deadline().unwrap();
    service.manager.look(first);
    service.heard_this(&["WATCHDOG=1"]);
    assert_eq!(
        service.manager.deadline(),
        Some(first + Duration::from_secs(2))
    );
}

#[test]
fn the_watchdog_of_another_process_is_not_ours() {
    let mut service = Service::with(&[("WATCHDOG_USEC", "4000000"), ("WATCHDOG_PID", "7")]);
    service.manager.look(service.now + Duration::from_secs(4));
    service.heard_this(&[]);
}

#[test]
fn an_abstract_socket_does_as_well() {
    let name = format!("hotswap-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let hears = UnixDatagram::bind_addr(&address).unwrap();
    let set = [("NOTIFY_SOCKET", format!("@{name}"))];
    let set = set.map(|(key, value)| (key, value.leak() as &str));
    let mut manager = ServiceManager::of(variables(&set), us(), Time::ZERO);
    manager.look(Duration::from_secs(5));
    let mut buffer = [0; 100];
    let bytes = hears.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..bytes], b"EXTEND_TIMEOUT_USEC=15000000\n");
}

#[test]
fn a_manager_that_does_not_listen_hurts_nobody() {
    for name in ["", "/nowhere/notify", "relative", "vsock:2:1234"] {
        let mut manager =
            ServiceManager::of(variables(&[("NOTIFY_SOCKET", name)]), us(), Time::ZERO);
        let mut supervisor = Supervisor::new(policy());
        supervisor.step(Time::ZERO, Event::Launched);
        manager.follow(&supervisor, None, Time::ZERO);
        manager.look(Duration::from_secs(5));
    }
}

#[test]
fn what_a_busy_manager_could_not_take_comes_later() {
    let mut service = Service::with(&[]);
    let again = Duration::from_millis(100);
    for _ in 0..100_000 {
        service.now += Duration::from_secs(5);
        service.manager.look(service.now);
        if service.manager.deadline() == Some(service.now + again) {
            break;
        }
    }
    assert!(!service.heard().is_empty());
    service
        .manager
        .look(service.now + Duration::from_millis(100));
    assert!(!service.heard().is_empty());
}

#[test]
fn only_descriptors_meant_for_us_are_taken() {
    let given = |set: &[(&str, &str)]| inherited_names(variables(set), us());
    let two = [("LISTEN_PID", "42"), ("LISTEN_FDS", "2")];
    assert_eq!(given(&two), ["", ""]);
    assert_eq!(
        given(&[&two[..], &[("LISTEN_FDNAMES", "web:admin")]].concat()),
        ["web", "admin"]
    );
    assert_eq!(
        given(&[&two[..], &[("LISTEN_FDNAMES", "web")]].concat()),
        ["", ""]
    );
    assert!(given(&[("LISTEN_PID", "7"), ("LISTEN_FDS", "2")]).is_empty());
    assert!(given(&[("LISTEN_FDS", "2")]).is_empty());
    assert!(given(&[("LISTEN_PID", "42"), ("LISTEN_FDS", "-2")]).is_empty());
    assert!(given(&[("LISTEN_PID", "42"), ("LISTEN_FDS", "99999999")]).is_empty());
}

proptest::proptest! {
    #[test]
    fn no_variables_make_up_descriptors(count in "-?[0-9]{0,12}", names in "(\\PC{0,3}:){0,6}") {
        let variable = |name: &str| match name {
            "LISTEN_PID" => Some(Pid::this().to_string().into()),
            "LISTEN_FDS" => Some(count.clone().into()),
            _ => Some(names.clone().into()),
        };
        let found = inherited_names(variable, Pid::this());
        let wanted: usize = count.parse().ok().filter(|count| *count <= 4096).unwrap_or(0);
        proptest::prop_assert_eq!(found.len(), wanted);
    }
}

const ONE: &str = "127.0.0.1:8080";
const OTHER: &str = "/run/api/sock";

fn wanted<'a>(address: &str, inode: u64, socket: &'a UnixDatagram) -> Wanted<'a> {
    Wanted {
        address: address.to_owned(),
        inode,
        socket: Some(socket.as_fd()),
        is_early: false,
    }
}

fn texts(store: &mut Store, wanted: &[Wanted], seconds: u64) -> Vec<String> {
    let sent = store.follow(wanted, Duration::from_secs(seconds));
    sent.into_iter()
        .map(|message| message.text.trim_end().replace('\n', " "))
        .collect()
}

#[test]
fn what_new_connections_go_to_is_kept_and_nothing_else() {
    let socket = UnixDatagram::unbound().unwrap();
    let mut store = Store::new(true);
    let both = [wanted(ONE, 1, &socket), wanted(OTHER, 2, &socket)];
    let kept = [
        "FDSTORE=1 FDNAME=hotswap-127.0.0.1-8080 FDPOLL=0",
        "FDSTORE=1 FDNAME=hotswap-/run/api/sock FDPOLL=0",
    ];
    assert_eq!(texts(&mut store, &both, 0), kept);
    assert_eq!(texts(&mut store, &both, 1), [""; 0]);
    let moved = [wanted(ONE, 3, &socket)];
    let sent = [
        "FDSTOREREMOVE=1 FDNAME=hotswap-127.0.0.1-8080",
        kept[0],
        "FDSTOREREMOVE=1 FDNAME=hotswap-/run/api/sock",
    ];
    assert_eq!(texts(&mut store, &moved, 2), sent);
}

/// A server that looks for a free port binds some before the one that it keeps.
#[test]
fn a_captured_address_is_kept_once_its_server_serves() {
    let socket = UnixDatagram::unbound().unwrap();
    let mut store = Store::new(true);
    let early = |inode| Wanted {
        is_early: true,
        ..wanted(ONE, inode, &socket)
    };
    assert_eq!(texts(&mut store, &[early(1)], 0), [""; 0]);
    store.came_back(name_of(ONE), 7);
    assert_eq!(texts(&mut store, &[early(7)], 1), [""; 0]);
    assert_eq!(texts(&mut store, &[early(8)], 2).len(), 2);
}

#[test]
fn a_manager_that_closes_what_it_is_sent_keeps_nothing() {
    let socket = UnixDatagram::unbound().unwrap();
    for keeps in [true, false] {
        let mut store = Store::new(false);
        assert!(!store.keeps());
        let mut sent = store.follow(&[wanted(ONE, 1, &socket)], Duration::ZERO);
        let pipe = sent.pop().unwrap();
        assert!(pipe.text.contains("FDNAME=hotswap-trial"));
        let pipe = pipe.descriptor.filter(|_| keeps);
        assert_eq!(store.keeps(), keeps);
        store.look(store.deadline().unwrap());
        drop(pipe);
        assert_eq!((store.keeps(), store.deadline()), (keeps, None));
        let more = texts(&mut store, &[wanted(ONE, 2, &socket)], 2);
        assert_eq!(!more.is_empty(), keeps);
    }
}
