//! Clients of every kind, at a control socket in a room of its own.

mod histories;

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::poll::{PollFd, PollTimeout, poll};
use nix::unistd::Uid;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::connection::CLIENT_TIMEOUT;
use super::socket_dirs::SocketDirs;
use super::*;
use crate::supervisor::Generation;

const NOW: Time = Duration::from_secs(1000);

/// An instance that answers nothing by itself.
struct Clients {
    control: Control,
    directory: TempDir,
}

impl Clients {
    fn open() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (control, warning) =
            Control::open(&dirs(&directory), None, "api", false, |_, _| false).unwrap();
        assert_eq!(warning, None);
        Self { control, directory }
    }

    /// Lets the control do all that it can do now.
    fn settle(&mut self) -> Vec<ClientRequest> {
        let mut requests = Vec::new();
        for _ in 0..100 {
            let polled = self.control.polled();
            let mut fds: Vec<PollFd> = polled
                .iter()
                .map(|(fd, flags)| PollFd::new(*fd, *flags))
                .collect();
            if poll(&mut fds, PollTimeout::ZERO).unwrap() == 0 {
                break;
            }
            let ready: Vec<(RawFd, PollFlags)> = fds
                .iter()
                .zip(&polled)
                .filter(|(fd, _)| fd.any().unwrap_or(true))
                .map(|(fd, (borrowed, _))| (borrowed.as_raw_fd(), fd.revents().unwrap()))
                .collect();
            for (fd, flags) in ready {
                requests.extend(self.control.woken(fd, flags, NOW));
            }
        }
        requests
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.control.path().unwrap()).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream
    }

    /// A client that has asked this, and how hotswap knows it.
    fn asking(&mut self, line: &str) -> (UnixStream, ClientRequest) {
        let mut stream = self.connect();
        stream.write_all(line.as_bytes()).unwrap();
        stream.write_all(b"\n").unwrap();
        let requests = self.settle();
        assert_eq!(requests.len(), 1, "{line}");
        (stream, requests[0].clone())
    }
}

fn dirs(directory: &TempDir) -> SocketDirs {
    SocketDirs {
        runtime_directory: Some(directory.path().into()),
        xdg_runtime_dir: None,
        around_us: None,
        run: directory.path().join("run"),
        tmp: directory.path().join("tmp"),
        shm: directory.path().join("shm"),
        uid: Uid::effective(),
    }
}

/// Everything said so far, a JSON object a line, and whether the connection has ended.
fn heard(stream: &mut UnixStream) -> (Vec<Value>, bool) {
    let mut bytes = Vec::new();
    let ended = match stream.read_to_end(&mut bytes) {
        Ok(_) => true,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    };
    let lines = bytes.split(|byte| *byte == b'\n');
    let lines = lines.filter(|line| !line.is_empty());
    let values = lines.map(|line| serde_json::from_slice(line).unwrap());
    (values.collect(), ended)
}

fn verdict(text: &str) -> SwapVerdict {
    SwapVerdict {
        serving: true,
        text: text.into(),
        outcome: "serving".into(),
        ..SwapVerdict::default()
    }
}

#[test]
fn a_client_is_greeted_and_asks() {
    let mut room = Clients::open();
    let (mut stream, request) = room.asking(r#"{"do":"swap","drained":true}"#);
    assert_eq!(request.what, RequestKind::Swap(drained(true)));
    let (said, ended) = heard(&mut stream);
    assert_eq!(said[0]["name"], "api");
    assert!(!ended);
}

#[test]
fn a_request_may_come_in_pieces() {
    let mut room = Clients::open();
    let mut stream = room.connect();
    for piece in ["{\"do\"", ":\"sta", "tus\"}"] {
        stream.write_all(piece.as_bytes()).unwrap();
        assert_eq!(room.settle(), []);
    }
    stream.write_all(b"\n").unwrap();
    assert_eq!(room.settle()[0].what, RequestKind::Status);
}

#[test]
fn everyone_who_waits_for_a_swap_hears_how_it_goes_and_ends() {
    let mut room = Clients::open();
    let (mut one, first) = room.asking(r#"{"do":"swap"}"#);
    let (mut two, second) = room.asking(r#"{"do":"swap"}"#);
    room.control.publish(&json!({"event": "started"}));
    let clients = [first.client, second.client];
    let text = "generation 2 is serving";
    room.control
        .verdict(&clients, &verdict(text), Some(Generation(1)), NOW);
    for stream in [&mut one, &mut two] {
        let (said, ended) = heard(stream);
        assert_eq!(said[1]["event"]["event"], "started");
        assert_eq!(said[2]["verdict"]["message"], text);
        assert!(ended);
    }
}

#[test]
fn who_wants_the_old_one_gone_waits_for_that() {
    let mut room = Clients::open();
    let (mut stream, request) = room.asking(r#"{"do":"swap","drained":true}"#);
    let old = Generation(1);
    room.control.verdict(
        &[request.client],
        &verdict("serving; 1 is draining"),
        Some(old),
        NOW,
    );
    room.control.drains(old, "3 connections");
    room.control.drains(old, "3 connections");
    room.control
        .gone(Generation(7), "generation 7 is gone", NOW);
    assert!(room.control.is_waited_for(old));
    let (said, ended) = heard(&mut stream);
    assert_eq!(said[1..], [json!({"progress": "3 connections"})]);
    assert!(!ended);
    room.control.gone(old, "1 is gone", NOW);
    let (said, ended) = heard(&mut stream);
    assert_eq!(said[0]["verdict"]["message"], "serving; 1 is gone");
    assert!(ended);
}

#[test]
fn a_failed_swap_has_nothing_to_wait_for() {
    let mut room = Clients::open();
    let (mut stream, request) = room.asking(r#"{"do":"swap","drained":true}"#);
    let failed = SwapVerdict {
        serving: false,
        text: "generation 2 aborted".into(),
        last_lines: vec!["no such table".into()],
        ..SwapVerdict::default()
    };
    room.control.verdict(&[request.client], &failed, None, NOW);
    let (said, ended) = heard(&mut stream);
    assert_eq!(said[1]["verdict"]["stderr"], json!(["no such table"]));
    assert!(ended);
}

#[test]
fn stop_is_answered_once_the_socket_is_gone() {
    let mut room = Clients::open();
    let path = room.control.path().unwrap().to_owned();
    let (mut stopping, _) = room.asking(r#"{"do":"stop"}"#);
    let (mut following, _) = room.asking(r#"{"do":"events"}"#);
    assert!(!heard(&mut stopping).1);
    room.control.close(NOW);
    assert!(!path.exists());
    assert_eq!(heard(&mut stopping), (vec![json!({"done": true})], true));
    assert!(heard(&mut following).1);
}

#[test]
fn an_upgrade_is_answered_with_a_reason_if_it_is_refused() {
    let mut room = Clients::open();
    let (mut stream, _) = room.asking(r#"{"do":"upgrade"}"#);
    room.control.upgraded(Err("it does not run"), NOW);
    let (said, ended) = heard(&mut stream);
    assert_eq!(said[1], json!({"refused": "it does not run"}));
    assert!(ended);
}

#[test]
fn what_is_no_request_is_told_so() {
    let mut room = Clients::open();
    for line in ["swap\n".to_owned(), "x".repeat(5000)] {
        let mut stream = room.connect();
        let _ = stream.write_all(line.as_bytes());
        assert_eq!(room.settle(), []);
        let (said, ended) = heard(&mut stream);
        assert!(said[1]["error"].is_string() && ended, "{said:?}");
    }
}

#[test]
fn a_client_that_hangs_is_let_go() {
    let mut room = Clients::open();
    let mut stream = room.connect();
    assert_eq!(room.control.deadline(), None);
    room.settle();
    assert_eq!(room.control.deadline(), Some(NOW + CLIENT_TIMEOUT));
    room.control.look(NOW + CLIENT_TIMEOUT);
    assert_eq!(room.control.deadline(), None);
    assert!(heard(&mut stream).1);
}

#[test]
fn waiting_for_a_verdict_takes_as_long_as_it_takes() {
    let mut room = Clients::open();
    let (mut stream, _) = room.asking(r#"{"do":"swap"}"#);
    assert_eq!(room.control.deadline(), None);
    room.control.look(NOW + Duration::from_secs(86_400));
    assert!(!heard(&mut stream).1);
}

#[test]
fn a_client_that_says_all_and_closes_its_end_still_gets_the_answer() {
    let mut room = Clients::open();
    let (mut stream, request) = room.asking(r#"{"do":"status"}"#);
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    room.settle();
    room.control
        .answer(request.client, &Reply::Status(json!({"name": "api"})), NOW);
    let (said, ended) = heard(&mut stream);
    assert_eq!(said[1]["status"]["name"], "api");
    assert!(ended);
}

#[test]
fn a_client_that_asks_and_leaves_has_asked() {
    let mut room = Clients::open();
    let mut stream = room.connect();
    stream.write_all(b"{\"do\":\"swap\"}\n").unwrap();
    drop(stream);
    assert_eq!(room.settle().len(), 1);
    assert_eq!(room.control.polled().len(), 1);
}

#[test]
fn a_client_that_vanishes_is_forgotten() {
    let mut room = Clients::open();
    let (stream, request) = room.asking(r#"{"do":"swap"}"#);
    drop(stream);
    room.settle();
    assert_eq!(room.control.polled().len(), 1);
    room.control
        .verdict(&[request.client], &verdict("serving"), None, NOW);
}

#[test]
fn a_follower_that_does_not_read_is_dropped() {
    let mut room = Clients::open();
    let (_deaf, _) = room.asking(r#"{"do":"events"}"#);
    let (mut keen, _) = room.asking(r#"{"do":"events"}"#);
    let long = "x".repeat(1000);
    for _ in 0..2000 {
        room.control
            .publish(&json!({"event": "notice", "message": long}));
        room.settle();
        assert!(!heard(&mut keen).1);
    }
    // The socket itself, and the one who reads.
    assert_eq!(room.control.polled().len(), 2);
}

#[test]
fn a_flood_stays_where_it_comes_from() {
    let mut room = Clients::open();
    let (mut stream, _) = room.asking(r#"{"do":"swap"}"#);
    let mut sent = 0;
    loop {
        match stream.write(&[b'x'; 4096]) {
            Ok(bytes) => sent += bytes,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error} after {sent} bytes"),
        }
        assert_eq!(room.settle(), []);
        assert!(sent < 64 << 20, "somebody reads what nobody asked for");
    }
}

#[test]
fn too_many_that_ask_nothing_make_room_for_one_that_does() {
    let mut room = Clients::open();
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(room.connect());
        room.settle();
    }
    let (_stream, request) = room.asking(r#"{"do":"swap"}"#);
    assert_eq!(request.what, RequestKind::Swap(drained(false)));
    assert!(room.control.polled().len() <= 129);
}

#[test]
fn a_directory_that_cannot_be_had_is_a_warning_and_a_path_an_error() {
    let room = tempfile::tempdir().unwrap();
    let missing = room.path().join("missing");
    let mut dirs = dirs(&room);
    dirs.runtime_directory = Some(missing.clone().into());
    let (mut control, warning) = Control::open(&dirs, None, "api", false, |_, _| false).unwrap();
    assert!(warning.unwrap().contains("No such file or directory"));
    assert_eq!(control.path(), None);
    control.close(NOW);
    let asked = Control::open(&dirs, Some(&missing.join("x")), "api", false, |_, _| false);
    assert!(format!("{:#}", asked.unwrap_err()).starts_with("cannot create the control socket"));
}

#[test]
fn a_second_instance_of_that_name_gets_another() {
    let room = Clients::open();
    let (second, _) =
        Control::open(&dirs(&room.directory), None, "api", false, |_, _| false).unwrap();
    assert_eq!(second.name(), "api-2");
}

/// As re-executed: everything by its descriptors alone.
fn re_executed(room: Clients) -> Clients {
    Clients {
        control: crate::handoff::carry(&room.control).unwrap(),
        directory: room.directory,
    }
}

#[test]
fn clients_do_not_notice_an_upgrade() {
    let mut room = Clients::open();
    let (mut upgrading, _) = room.asking(r#"{"do":"upgrade"}"#);
    let (mut patient, request) = room.asking(r#"{"do":"swap","drained":true}"#);
    let mut hesitant = room.connect();
    hesitant.write_all(b"{\"do\":").unwrap();
    room.settle();
    let old = Generation(1);
    room.control
        .verdict(&[request.client], &verdict("serving"), Some(old), NOW);
    let path = room.control.path().unwrap().to_owned();
    let mut room = re_executed(room);
    room.control.upgraded(Ok(()), NOW);
    assert_eq!(heard(&mut upgrading).0[1], json!({"done": true}));
    room.control.gone(old, "1 is gone", NOW);
    let (said, ended) = heard(&mut patient);
    assert_eq!(said[1]["verdict"]["message"], "serving; 1 is gone");
    assert!(ended);
    hesitant.write_all(b"\"status\"}\n").unwrap();
    assert_eq!(room.settle()[0].what, RequestKind::Status);
    let (_new, request) = room.asking(r#"{"do":"stop"}"#);
    assert!(request.client > ClientId(3));
    room.control.close(NOW);
    assert!(!path.exists());
}

fn drained(drained: bool) -> SwapRequest {
    SwapRequest {
        drained,
        ..SwapRequest::default()
    }
}
