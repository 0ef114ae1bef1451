//! Calls that a filter around hotswap may answer with SIGSYS, which nobody can catch, or never: tried in a process of
//! their own.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::{getpid, gettid};

use super::caller::Caller;
use super::filter::{self, Stops};
use crate::proc::status;
use crate::retry::retry;

/// How a fresh hotswap knows that it is a trial.
const NAME: &str = "hotswap-trial";

const SECCOMP: &str = "seccomp";
const PIDFD_GETFD: &str = "pidfd_getfd";

/// For a call that takes microseconds, and the start of a process on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);

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
/// In words, if one of the calls that capture needs would end hotswap, or hold it up.
pub fn survives() -> io::Result<()> {
    // in unit tests /proc/self/exe is theirs
    if cfg!(test) || !status::is_filtered(getpid()) {
        return Ok(());
    }
    for call in [SECCOMP, PIDFD_GETFD] {
        let mut trial = Command::new("/proc/self/exe");
        trial.arg0(NAME).arg(call).stdin(Stdio::null());
        let (kind, does) = match run_within(PATIENCE, &mut trial)? {
            None => (ErrorKind::TimedOut, "does not answer"),
            Some(ended) if ended.signal() == Some(Signal::SIGSYS as i32) => {
                (ErrorKind::PermissionDenied, "ends")
            }
            Some(_) => continue,
        };
        let why = format!("a filter around hotswap {does} programs that call {call}(2)");
        return Err(io::Error::new(kind, why));
    }
    Ok(())
}

/// How the command ended; `None` if it had to be killed because it did not. Its stdout is not to be used.
fn run_within(patience: Duration, command: &mut Command) -> io::Result<Option<ExitStatus>> {
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let Some(stdout) = child.stdout.take() else {
        return Err(ErrorKind::BrokenPipe.into());
    };
    // the other end is closed when it ends
    let mut waiting = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    let patience = PollTimeout::try_from(patience).unwrap_or(PollTimeout::ZERO);
    let has_ended = retry(|| poll(&mut waiting, patience))? > 0;
    if has_ended {
        return child.wait().map(Some);
    }
    // the main loop reaps it
    child.kill()?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(line: &str) -> Command {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", line]);
        shell
    }

    #[test]
    fn a_trial_that_ends_says_how() {
        let ended = run_within(Duration::from_secs(30), &mut shell("exit 7")).unwrap();
        assert_eq!(ended.and_then(|status| status.code()), Some(7));
    }

    #[test]
    fn a_trial_that_does_not_end_is_given_up() {
        let never = &mut shell("kill -STOP $$");
        let patience = Duration::from_millis(50);
        assert_eq!(run_within(patience, never).unwrap(), None);
    }
}
