//! What systemd does for a service with a socket: `activate ADDRESS NAME COMMAND [ARGS]...`.

use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, id};
use std::{env, io};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

fn main() -> io::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [address, name, command, rest @ ..] = &arguments[..] else {
        panic!("three arguments at least");
    };
    let socket = TcpListener::bind(address)?;
    assert_eq!(
        socket.as_raw_fd(),
        3,
        "the first descriptor of a process that was given none"
    );
    fcntl(&socket, FcntlArg::F_SETFD(FdFlag::empty()))?;
    let variables = [
        ("LISTEN_FDS", "1"),
        ("LISTEN_FDNAMES", name),
        ("LISTEN_PID", &id().to_string()),
    ];
    // The same process becomes the service, so the pid is right.
    Err(Command::new(command).args(rest).envs(variables).exec())
}
