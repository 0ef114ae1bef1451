//! hotswap on a terminal: colors there, if they are wanted, and nowhere else.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::openpty;

use crate::common::plan::{client_among_ours, hotswap};
use crate::common::program::{Server, install};
use crate::common::{PATIENCE, eventually, hotswap_program, processes};

/// What is on the screen once this is said.
fn screen(variables: &[(&str, &str)], until: &str) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    let program = dir.path().join("server");
    install(&program, Server::hello().script("v1").as_bytes(), 0o755);
    let terminal = openpty(None, None).expect("a terminal");
    let slave = || Stdio::from(terminal.slave.try_clone().expect("a descriptor"));

    let mut command = hotswap(hotswap_program(), dir.path());
    command
        .args(["--dev", "--listen", "127.0.0.1:0", "--"])
        .arg(&program);
    command
        .env_remove("NO_COLOR")
        .env("TERM", "xterm")
        .envs(variables.iter().copied());
    let child = command
        .stdin(slave())
        .stdout(slave())
        .stderr(slave())
        .spawn();
    let screen = read(File::from(terminal.master), until);
    end(child.expect("hotswap"));
    eventually("the end of all", || {
        processes::of_site(dir.path()).is_empty().then_some(())
    });
    screen
}

fn read(master: File, until: &str) -> String {
    read_on(master, String::new(), until)
}

fn read_on(mut master: File, said: String, until: &str) -> String {
    let start = Instant::now();
    let mut said = said.into_bytes();
    let mut bytes = [0; 4096];
    while !String::from_utf8_lossy(&said).contains(until) {
        assert!(
            start.elapsed() < PATIENCE,
            "never said {until:?}, but {}",
            String::from_utf8_lossy(&said)
        );
        let mut polled = [PollFd::new(master.as_fd(), PollFlags::POLLIN)];
        if poll(&mut polled, PollTimeout::from(100u8)).expect("a poll") == 0 {
            continue;
        }
        let count = master
            .read(&mut bytes)
            .expect("a terminal that says something");
        said.extend_from_slice(&bytes[..count]);
    }
    String::from_utf8_lossy(&said).into_owned()
}

fn end(mut hotswap: Child) {
    let pid = nix::unistd::Pid::from_raw(hotswap.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("a signal to hotswap");
    assert!(hotswap.wait().expect("its end").success());
}

#[test]
fn a_verdict_under_dev_is_green() {
    let screen = screen(&[], "ms)\x1b[0m");
    assert!(
        screen.contains("\x1b[1;32mhotswap: generation 1 is serving (accepting after "),
        "{screen:?}"
    );
}

#[test]
fn no_color_is_shown_to_those_who_want_none() {
    for variable in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let screen = screen(&[variable], "is serving (accepting after ");
        assert!(!screen.contains('\x1b'), "{screen:?}");
    }
}

/// hotswap on a terminal, where somebody types.
struct Desk {
    child: Child,
    master: File,
    /// What was read beyond what was looked for.
    unseen: String,
    dir: tempfile::TempDir,
}

impl Desk {
    fn open(options: &[&str], server: &Server) -> Self {
        Self::at(options, &server.script("v1"))
    }

    fn at(options: &[&str], script: &str) -> Self {
        Self::with(options, script, &[("NO_COLOR", "1")])
    }

    fn with(options: &[&str], script: &str, variables: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let program = dir.path().join("server");
        install(&program, script.as_bytes(), 0o755);
        let terminal = openpty(None, None).expect("a terminal");
        let slave = || Stdio::from(terminal.slave.try_clone().expect("a descriptor"));
        let mut command = hotswap("setsid", dir.path());
        // A session of its own, of which this is the terminal, as of a shell.
        command
            .args(["--ctty", "--wait"])
            .arg(hotswap_program())
            .args(options)
            .args(["--listen", "127.0.0.1:0", "--"])
            .arg(&program)
            .env_remove("NO_COLOR")
            .env("TERM", "xterm")
            .envs(variables.iter().copied());
        let child = command
            .stdin(slave())
            .stdout(slave())
            .stderr(slave())
            .spawn()
            .expect("hotswap");
        let master = File::from(terminal.master);
        Self {
            child,
            master,
            unseen: String::new(),
            dir,
        }
    }

    /// What has been said up to this text; what is seen next comes after it.
    fn sees(&mut self, text: &str) -> String {
        let mut said = std::mem::take(&mut self.unseen);
        if !said.contains(text) {
            let master = self.master.try_clone().expect("a descriptor");
            said = read_on(master, said, text);
        }
        let end = said.find(text).expect("the text") + text.len();
        self.unseen = said.split_off(end);
        said
    }

    /// How long Ctrl-C takes once the server has had these visitors.
    fn served<T>(mut self, visit: impl FnOnce(&str) -> T) -> Duration {
        let said = self.sees("generation 1 is serving");
        let (_, address) = said.split_once("listening on ").expect("an address");
        let _visitors = visit(address.lines().next().expect("a line").trim());
        self.is_interrupted()
    }

    /// Ctrl-C, and how long the end takes.
    fn is_interrupted(&mut self) -> Duration {
        let since = Instant::now();
        self.master.write_all(b"\x03").expect("typed");
        assert!(self.child.wait().expect("its end").success());
        since.elapsed()
    }

    fn types(&mut self, line: &str) {
        writeln!(self.master, "{line}").expect("typed");
    }
}

#[test]
fn keys_swap_show_the_last_verdict_and_stop() {
    let mut desk = Desk::open(&["--dev"], &Server::hello());
    desk.sees("keys: r swap, s status, c clear, q stop, ? help");
    desk.sees("generation 1 is serving");
    desk.types("r");
    desk.sees("generation 2 is serving");
    desk.types("s");
    desk.sees("ago: generation 2 is serving");
    desk.types("?");
    desk.sees("keys: r swap");
    desk.types("q");
    assert!(desk.child.wait().expect("its end").success());
    eventually("the end of all", || {
        processes::of_site(desk.dir.path()).is_empty().then_some(())
    });
}

#[test]
fn a_key_is_named_as_the_cause_of_its_swap() {
    let mut desk = Desk::open(&["--dev"], &Server::hello());
    desk.sees("generation 1 is serving");
    desk.types("r");
    desk.sees("generation 2 is serving");
    let mut history = client_among_ours(desk.dir.path());
    let history = history.arg("history").stdout(Stdio::piped());
    let output = history.output().expect("the history");
    let said = String::from_utf8_lossy(&output.stdout);
    let newest = said.lines().next().unwrap_or_default();
    assert!(newest.contains("generation 2"), "{said}");
    assert!(newest.contains("(key, "), "{said}");
    desk.is_interrupted();
}

#[test]
fn a_key_during_a_build_that_hangs_begins_it_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let hangs = dir.path().join("hangs");
    fs::write(&hangs, "").expect("a file");
    let build = format!(
        "test $HOTSWAP_GENERATION = 1 || ! test -e {} || exec sleep 600",
        hangs.display()
    );
    let mut desk = Desk::open(&["--dev", "--before-swap", &build], &Server::hello());
    desk.sees("generation 1 is serving");
    desk.types("r");
    desk.sees("generation 2 waits for: test");
    // as often as somebody likes
    for _ in 0..3 {
        desk.types("r");
        desk.sees("the build is ended; building again");
        desk.sees("generation 2 waits for: test");
        desk.sees(" at most");
        desk.sees("generation 2 waits for: test");
    }
    fs::remove_file(hangs).expect("its end");
    desk.types("r");
    desk.sees("generation 2 is serving");
    desk.types("q");
    assert!(desk.child.wait().expect("its end").success());
}

#[test]
fn a_key_at_a_version_that_dies_shows_it_in_red() {
    let mut desk = Desk::with(&["--dev", "--no-watch"], &Server::hello().script("v1"), &[]);
    desk.sees("generation 1 is serving");
    install(
        &desk.dir.path().join("server"),
        b"#!/bin/sh\nexit 7\n",
        0o755,
    );
    desk.types("r");
    let said = desk.sees("generation 2 aborted: exited with status 7");
    assert!(
        said.ends_with("\x1b[1;31mhotswap: generation 2 aborted: exited with status 7"),
        "{said:?}"
    );
    desk.is_interrupted();
}

#[test]
fn ctrl_d_is_answered_and_leaves_the_keys_as_they_are() {
    let mut desk = Desk::open(&["--dev"], &Server::hello());
    desk.sees("generation 1 is serving");
    for _ in 0..3 {
        desk.master.write_all(b"\x04").expect("typed");
        desk.sees("keys: r swap");
    }
    desk.types("r");
    desk.sees("generation 2 is serving");
    desk.is_interrupted();
}

/// Once continued it would be stopped again: it still asks at the terminal.
#[test]
fn a_server_that_asks_at_the_terminal_is_not_to_be_continued() {
    let script = format!(
        "#!/bin/sh\nread key </dev/tty\n{}",
        Server::hello().script("v1")
    );
    let mut desk = Desk::at(&["--dev"], &script);
    desk.sees("generation 1 is suspended by SIGTTIN, because it wants the terminal");
    desk.sees("try: ");
    let hint = desk.sees("\n");
    assert!(hint.contains("no server can read the terminal"), "{hint}");
    assert!(!hint.contains("kill"), "{hint}");
    desk.is_interrupted();
}

/// A browser keeps the connection of its last request, and has another one ready for the next. The server has no
/// graceful stop: what it waits for itself is its own affair.
#[test]
fn ctrl_c_waits_neither_for_idle_connections_nor_for_silent_ones() {
    for options in [&[][..], &["--dev"]] {
        let alone = Desk::open(options, &Server::odd("")).served(|_| ());
        let visited = Desk::open(options, &Server::odd("")).served(|address| {
            let mut kept = TcpStream::connect(address).expect("a server");
            let request = b"GET / HTTP/1.1\r\nHost: site\r\n\r\n";
            kept.write_all(request).expect("a connection");
            kept.read_exact(&mut [0; 12]).expect("an answer");
            (kept, TcpStream::connect(address).expect("a server"))
        });
        // it would be five seconds if either were waited for as a request is
        let longest = alone + Duration::from_secs(3);
        assert!(visited < longest, "{visited:?}, and {alone:?} without them");
    }
}
