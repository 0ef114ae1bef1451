//! The one poll(2), also where the limit of open descriptors was lowered while hotswap runs.
//!
//! The kernel refuses to poll more descriptors than that limit allows, even if all of them are open. Then they are polled
//! in parts. hotswap goes on, a little later at each turn, until there are fewer of them or the limit is raised again.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, ppoll};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::time::TimeSpec;

use crate::ready::Glance;
use crate::supervisor::Time;
use crate::sys;

/// How long one part is waited for while the others are not looked at.
const TURN: Duration = Duration::from_millis(20);

/// How a poll went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PollOutcome {
    Whole,
    /// Nothing was asked of the kernel: it has no memory now, or a signal came first.
    Nothing,
    /// In parts, because no more than that number may be polled at once.
    InParts(usize),
}

/// Waits until one of them is ready, or the time is over.
pub(super) fn poll(fds: &mut [PollFd], timeout: Option<Duration>) -> Result<PollOutcome> {
    match ppoll(fds, timeout.map(TimeSpec::from_duration), None) {
        Ok(_) => Ok(PollOutcome::Whole),
        Err(Errno::EINTR | Errno::EAGAIN | Errno::ENOMEM) => Ok(PollOutcome::Nothing),
        Err(Errno::EINVAL) => {
            let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE)
                .context("cannot read the limit of descriptors")?;
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            poll_in_parts(fds, limit, timeout);
            Ok(PollOutcome::InParts(limit))
        }
        Err(error) => Err(error).context("cannot poll"),
    }
}

/// Until one of them is ready, the time is over, or the candidate has run since its last look.
pub(super) fn poll_with_glances(
    fds: &mut [PollFd],
    due: Option<Time>,
    glance: Glance,
) -> Result<PollOutcome> {
    let _punctual = Punctual::new();
    loop {
        let now = sys::now();
        let next = glance.next(now);
        let until = due.map_or(next, |due| due.min(next));
        let outcome = poll(fds, Some(until.saturating_sub(now)))?;
        let is_over = due.is_some_and(|due| due <= sys::now());
        let is_ready = fds.iter().any(|fd| fd.any() == Some(true));
        if outcome != PollOutcome::Whole || is_over || is_ready || glance.has_run() {
            return Ok(outcome);
        }
    }
}

/// While it lives, a wait ends when its time is over; without it, the kernel may take 0.05 ms more.
struct Punctual {
    /// Put back at once, for what hotswap starts inherits it.
    before: Option<u64>,
}

impl Punctual {
    fn new() -> Self {
        let before = prctl::get_timerslack().ok();
        let before = before.and_then(|before| u64::try_from(before).ok());
        if before.is_some() {
            // The least there is: 0 would stand for the default.
            let _ = prctl::set_timerslack(1);
        }
        Self { before }
    }
}

impl Drop for Punctual {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            let _ = prctl::set_timerslack(before);
        }
    }
}

/// Looks at every part, and waits for the first one if nothing is ready: signals are in it.
fn poll_in_parts(fds: &mut [PollFd], limit: usize, timeout: Option<Duration>) {
    let mut ready = 0;
    for part in fds.chunks_mut(limit.max(1)) {
        ready += ppoll(part, Some(TimeSpec::from_duration(Duration::ZERO)), None).unwrap_or(0);
    }
    if ready == 0 {
        let turn = TimeSpec::from_duration(timeout.map_or(TURN, |timeout| timeout.min(TURN)));
        let first = fds.len().min(limit);
        let _ = ppoll(&mut fds[..first], Some(turn), None);
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::fd::AsFd;

    use nix::poll::PollFlags;

    use super::*;

    #[test]
    fn what_is_ready_is_found_in_whatever_part_it_is() {
        let (silent, _silent) = io::pipe().unwrap();
        let (ready, writer) = io::pipe().unwrap();
        drop(writer);
        for at in 0..5 {
            for limit in 1..7 {
                let mut pipes = [silent.as_fd(); 5];
                pipes[at] = ready.as_fd();
                let mut fds = pipes.map(|pipe| PollFd::new(pipe, PollFlags::POLLIN));
                poll_in_parts(&mut fds, limit, None);
                let found = fds.iter().position(|one| one.any() == Some(true));
                assert_eq!(found, Some(at), "limit {limit}");
            }
        }
    }

    #[test]
    fn a_limit_of_nothing_only_lets_time_pass() {
        let (silent, _silent) = io::pipe().unwrap();
        let mut fds = [PollFd::new(silent.as_fd(), PollFlags::POLLIN)];
        poll_in_parts(&mut fds, 0, None);
        assert_eq!(fds[0].any(), Some(false));
    }

    #[test]
    fn glances_come_on_time_and_leave_the_timers_as_they_were() {
        let before = prctl::get_timerslack().unwrap();
        let punctual = Punctual::new();
        assert_eq!(prctl::get_timerslack(), Ok(1));
        drop(punctual);
        assert_eq!(prctl::get_timerslack(), Ok(before));
    }
}
