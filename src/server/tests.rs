//! Generations of programs that every machine has.

mod lifecycle;
mod start;

use std::fs;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;

use nix::poll::{PollFd, PollTimeout, poll};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::wait::{WaitStatus, waitpid};

use super::*;
use crate::listener::SocketKind;
use crate::sys;

const PATIENCE: Duration = Duration::from_secs(20);

fn server_config(command: &[&str]) -> ServerConfig {
    ServerConfig {
        command: command.iter().map(OsString::from).collect(),
        user: None,
        group: None,
        chdir: None,
        env_file: None,
        stderr: Stderr::Pass,
        name: format!("test-{:?}", std::thread::current().id()),
        control: None,
        capture: None,
        stdin: Stdin::Null,
    }
}

fn sh(script: &str) -> ServerConfig {
    server_config(&["sh", "-c", script])
}

fn inherited_socket(at: usize, fd: impl Into<OwnedFd>) -> InheritedSocket {
    InheritedSocket {
        name: format!("listen{}", at + 1),
        as_given: "127.0.0.1:0".into(),
        addr: "127.0.0.1:0".into(),
        kind: SocketKind::Tcp { port: 1 },
        fd: fd.into(),
    }
}

fn launch(sockets: usize) -> Launch {
    let socket = || TcpListener::bind("127.0.0.1:0").expect("a port");
    Launch {
        generation: Generation(1),
        sockets: (0..sockets)
            .map(|at| inherited_socket(at, socket()))
            .collect(),
        notify: "@nobody".into(),
        ready_fd: None,
        program: None,
        paths: false,
        variables: environment::inherited(None, &[]).unwrap(),
        directory: None,
    }
}

/// A generation, and what is heard of it.
struct Site {
    server: Server,
    reports: Vec<ServerEvent>,
    exit: Option<Exit>,
}

impl Site {
    fn start(server_config: &ServerConfig, mut launch: Launch) -> Self {
        launch.variables = environment::inherited_by(server_config).expect("an env file");
        set_child_subreaper(true).expect("Linux");
        let server = Server::spawn(server_config, launch, sys::now()).expect("processes to be had");
        Self {
            server,
            reports: Vec::new(),
            exit: None,
        }
    }

    /// Hears what there is to hear until this is so.
    fn until(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        let started = sys::now();
        while !is_so(self) {
            let late = sys::now() > started + PATIENCE;
            assert!(!late, "{what}: {:?}", self.server.last_lines());
            self.read_channel();
        }
    }

    fn read_channel(&mut self) {
        let polled = self.server.polled();
        let mut fds: Vec<PollFd> = polled
            .iter()
            .map(|(fd, flags)| PollFd::new(*fd, *flags))
            .collect();
        poll(&mut fds, PollTimeout::from(5_u8)).expect("poll works");
        let ready: Vec<RawFd> = polled
            .iter()
            .zip(&fds)
            .filter(|(_, fd)| fd.revents().is_some_and(|seen| !seen.is_empty()))
            .map(|((fd, _), _)| fd.as_raw_fd())
            .collect();
        for fd in ready {
            self.reports.extend(self.server.woken(fd));
        }
    }

    fn until_it_says(&mut self, line: &str) {
        self.until(line, |site| site.lines().iter().any(|said| said == line));
    }

    fn lines(&self) -> Vec<String> {
        self.server.last_lines()
    }

    fn reap(&mut self) -> Exit {
        let raw = match waitpid(self.server.pid(), None).expect("it is our child") {
            WaitStatus::Exited(_, status) => status << 8,
            WaitStatus::Signaled(_, signal, _) => signal as i32,
            other => panic!("it did not end: {other:?}"),
        };
        self.reports.extend(self.server.read_channel());
        let exit = self
            .server
            .died(ExitStatus::from_raw(raw), &HashSet::new(), &[]);
        self.exit = Some(exit.clone());
        exit
    }

    fn stop(mut self) -> Exit {
        self.server.stop(Some(Signal::SIGTERM as i32));
        self.reap()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.server.kill();
        if self.exit.is_none() {
            let _ = waitpid(self.server.pid(), None);
        }
    }
}
