//! hotswap on a terminal: colours there, if they are wanted, and nowhere else.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::time::Instant;

use nix::pty::openpty;

use crate::common::plan::hotswap;
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

fn read(mut master: File, until: &str) -> String {
    let start = Instant::now();
    let mut said = Vec::new();
    let mut bytes = [0; 4096];
    while !String::from_utf8_lossy(&said).contains(until) {
        assert!(
            start.elapsed() < PATIENCE,
            "{}",
            String::from_utf8_lossy(&said)
        );
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
fn a_verdict_at_the_desk_is_green() {
    let screen = screen(&[], "ms)\x1b[0m");
    assert!(
        screen.contains("\x1b[1;32mhotswap: generation 1 is serving (accepting after "),
        "{screen:?}"
    );
}

#[test]
fn no_colour_is_shown_to_whom_wants_none() {
    for variable in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let screen = screen(&[variable], "is serving (accepting after ");
        assert!(!screen.contains('\x1b'), "{screen:?}");
    }
}

/// hotswap under `--dev` on a terminal, where somebody types.
struct Desk {
    child: Child,
    master: File,
    dir: tempfile::TempDir,
}

impl Desk {
    fn open() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let program = dir.path().join("server");
        install(&program, Server::hello().script("v1").as_bytes(), 0o755);
        let terminal = openpty(None, None).expect("a terminal");
        let slave = || Stdio::from(terminal.slave.try_clone().expect("a descriptor"));
        let mut command = hotswap("setsid", dir.path());
        // A session of its own, of which this is the terminal, as of a shell.
        command
            .args(["--ctty", "--wait"])
            .arg(hotswap_program())
            .args(["--dev", "--listen", "127.0.0.1:0", "--"])
            .arg(&program)
            .env("NO_COLOR", "1");
        let child = command
            .stdin(slave())
            .stdout(slave())
            .stderr(slave())
            .spawn()
            .expect("hotswap");
        let master = File::from(terminal.master);
        Self { child, master, dir }
    }

    fn sees(&self, text: &str) -> String {
        read(self.master.try_clone().expect("a descriptor"), text)
    }

    fn types(&mut self, line: &str) {
        writeln!(self.master, "{line}").expect("typed");
    }
}

#[test]
fn keys_swap_show_the_last_verdict_and_stop() {
    let mut desk = Desk::open();
    desk.sees("keys: r swap, s status, c clear, q stop, ? help");
    desk.sees("generation 1 is serving");
    desk.types("r");
    desk.sees("generation 2 is serving");
    desk.types("s");
    desk.sees("last swap: generation 2 is serving");
    desk.types("?");
    desk.sees("keys: r swap");
    desk.types("q");
    assert!(desk.child.wait().expect("its end").success());
    eventually("the end of all", || {
        processes::of_site(desk.dir.path()).is_empty().then_some(())
    });
}
