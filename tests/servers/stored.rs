//! What systemd does for a service with a file descriptor store: `stored SOCKET COMMAND [ARGS]...` asks at that unix socket
//! for what is kept, and becomes the command with it.

use std::io::{self, IoSliceMut};
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, id};
use std::{env, str};

use nix::cmsg_space;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// Far above what is passed, which begins at 3.
const OUT_OF_THE_WAY: RawFd = 200;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [path, command, rest @ ..] = &arguments[..] else {
        panic!("two arguments at least");
    };
    let manager = UnixStream::connect(path)?;
    let from = fcntl(&manager, FcntlArg::F_DUPFD_CLOEXEC(OUT_OF_THE_WAY))?;
    drop(manager);
    let (mut names, mut space) = ([0; 4096], cmsg_space!([RawFd; 64]));
    let mut text = [IoSliceMut::new(&mut names)];
    let message = recvmsg::<()>(from, &mut text, Some(&mut space), MsgFlags::empty())?;
    let rights = message.cmsgs()?.find_map(|part| match part {
        ControlMessageOwned::ScmRights(rights) => Some(rights),
        _ => None,
    });
    let (bytes, passed) = (message.bytes, rights.unwrap_or_default());
    assert!(
        passed
            .iter()
            .copied()
            .eq(3..3 + passed.len().try_into().unwrap_or(0))
    );
    let names = str::from_utf8(&names[..bytes]).expect("text").trim_end();
    let mut command = Command::new(command);
    command.args(rest);
    if !passed.is_empty() {
        command.env("LISTEN_FDS", passed.len().to_string());
        command.env("LISTEN_FDNAMES", names);
        // the same process becomes the service, so the pid is right
        command.env("LISTEN_PID", id().to_string());
    }
    Err(command.exec())
}
