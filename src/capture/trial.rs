//! Calls that a filter around hotswap may answer with SIGSYS, which nobody can catch: tried in a process of their own.

use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode, Stdio};

use nix::sys::signal::Signal;
use nix::unistd::{getpid, gettid};

use super::caller::Caller;
use super::filter::{self, Stops};
use crate::proc::status;

/// How a fresh hotswap knows that it is a trial.
const NAME: &str = "hotswap-trial";

const SECCOMP: &str = "seccomp";
const PIDFD_GETFD: &str = "pidfd_getfd";

/// Whether this process was started to try a call.
pub fn was_asked_for() -> bool {
    std::env::args_os().next().is_some_and(|name| name == NAME)
}

/// Makes the call. What it returns is seen later, by hotswap itself; here it only has to return.
pub fn run() -> ExitCode {
    let call = std::env::args_os().nth(1).unwrap_or_default();
    if call == SECCOMP {
        let (paths, options) = (true, true);
        let _ = filter::install(Stops { paths, options });
    }
    if call == PIDFD_GETFD
        && let Ok(myself) = Caller::of(gettid())
    {
        let _ = myself.descriptor(io::stderr().as_raw_fd());
    }
    ExitCode::SUCCESS
}

/// # Errors
/// In words, if one of the calls that capture needs would end hotswap.
pub fn survives() -> io::Result<()> {
    // in unit tests /proc/self/exe is theirs
    if cfg!(test) || !status::is_filtered(getpid()) {
        return Ok(());
    }
    for call in [SECCOMP, PIDFD_GETFD] {
        let ended = Command::new("/proc/self/exe")
            .arg0(NAME)
            .arg(call)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()?;
        if ended.signal() == Some(Signal::SIGSYS as i32) {
            let why = format!("a filter around hotswap ends programs that call {call}(2)");
            return Err(io::Error::new(ErrorKind::PermissionDenied, why));
        }
    }
    Ok(())
}
