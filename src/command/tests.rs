use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;

use nix::poll::{PollFd, PollTimeout, poll};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use super::*;
use crate::sys;

fn start(command: Vec<OsString>, told: &[(&str, OsString)], deadline: Option<Time>) -> Command {
    Command::start("test", command, told, None, None, Stderr::Pass, deadline).expect("a process")
}

/// Does for it what the loop does, for a moment.
fn go_on(command: &mut Command) {
    let polled = command.polled();
    let mut fds: Vec<PollFd> = polled
        .iter()
        .map(|(fd, flags)| PollFd::new(*fd, *flags))
        .collect();
    poll(&mut fds, PollTimeout::from(5_u8)).expect("poll works");
    let ready = polled
        .iter()
        .zip(&fds)
        .filter(|(_, fd)| fd.any() == Some(true));
    for fd in ready.map(|((fd, _), _)| fd.as_raw_fd()).collect::<Vec<_>>() {
        command.woken(fd);
    }
    command.look(sys::now());
}

fn ended(mut command: Command) -> Ended {
    loop {
        go_on(&mut command);
        let status = match waitpid(command.pid(), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, status)) => status << 8,
            Ok(WaitStatus::Signaled(_, signal, _)) => signal as i32,
            other => {
                other.expect("it is our child");
                continue;
            }
        };
        let mut ended = command.died(ExitStatus::from_raw(status));
        // the test program has announced itself before it became the command
        ended
            .last_lines
            .retain(|line| !line.is_empty() && line != "running 1 test");
        return ended;
    }
}

#[test]
fn a_command_knows_what_it_was_told_and_prints_to_stderr() {
    let told = [("HOTSWAP_EVENT", "gone".into())];
    let command = start(
        shell("echo $HOTSWAP_EVENT; echo loud >&2; exit 3"),
        &told,
        None,
    );
    let ended = ended(command);
    assert_eq!(ended.exit, Exit::Status(3));
    assert_eq!(ended.last_lines, ["gone", "loud"]);
}

#[test]
fn a_command_that_cannot_be_run_says_why() {
    let ended = ended(start(vec!["/no/such/program".into()], &[], None));
    let why = "cannot run /no/such/program: No such file or directory (os error 2)";
    assert_eq!(ended.exit, Exit::CannotRun(127, why.into()));
}

#[test]
fn all_of_a_command_ends_at_its_deadline() {
    let soon = sys::now() + Duration::from_millis(50);
    let command = start(shell("sleep 60 | cat; echo never"), &[], Some(soon));
    let group = command.pid();
    let ended = ended(command);
    assert_eq!(ended.exit, Exit::Signal(libc::SIGTERM));
    assert!(ended.last_lines.is_empty());
    // its children have been killed; init, or the process that adopts them, reaps them
    let left = || killpg(group, None).is_ok();
    let started = sys::now();
    while left() && sys::now() < started + Duration::from_secs(20) {
        let _ = waitpid(Pid::from_raw(-group.as_raw()), Some(WaitPidFlag::WNOHANG));
        std::thread::yield_now();
    }
    assert!(!left());
}

#[test]
fn a_command_that_is_deaf_is_killed() {
    let deaf = shell("trap '' TERM; echo deaf; while sleep 1; do :; done");
    let mut command = start(deaf, &[], None);
    while !said(&command, "deaf") {
        go_on(&mut command);
    }
    command.end(sys::now());
    assert_eq!(ended(command).exit, Exit::Signal(libc::SIGKILL));
}

fn said(command: &Command, line: &str) -> bool {
    let lines = command.streams.last_lines();
    lines.iter().any(|said| said == line)
}
