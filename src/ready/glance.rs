//! Whether a candidate has run since it was last looked at. If it has not, a look would show the same again.

use std::time::Duration;

use nix::unistd::Pid;

use crate::supervisor::Time;
use crate::sys;

/// Takes a microsecond, where a look takes a hundred or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance {
    /// The main process: it is who waits in most servers.
    pub(super) process: Pid,
    /// What it had used of the processor before the last look.
    pub(super) used: Time,
    /// Before then looks would take more than their share of the time.
    pub(super) from: Time,
    /// The time between two of them.
    pub(super) pause: Duration,
}

impl Glance {
    /// When to glance next.
    pub fn next(self, now: Time) -> Time {
        self.from.max(now + self.pause)
    }

    /// A thread that blocks has always run before.
    pub fn has_run(self) -> bool {
        sys::cpu_time_of(self.process) != self.used
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};

    use super::*;
    use crate::proc::process::Stat;

    #[test]
    fn who_waits_has_not_run_until_it_is_woken() {
        let mut waiting = Command::new("cat");
        let waiting = waiting.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut waiting = waiting.spawn().unwrap();
        let process = Pid::from_raw(waiting.id().cast_signed());
        let (mut stdin, mut stdout) = (
            waiting.stdin.take().unwrap(),
            waiting.stdout.take().unwrap(),
        );
        let mut echo = [0];
        stdin.write_all(b"a").unwrap();
        stdout.read_exact(&mut echo).unwrap();
        while Stat::of(process).unwrap().is_running() {
            std::thread::yield_now();
        }
        let glance = Glance {
            process,
            used: sys::cpu_time_of(process),
            from: Time::ZERO,
            pause: Duration::ZERO,
        };
        assert!(!glance.has_run());
        stdin.write_all(b"b").unwrap();
        stdout.read_exact(&mut echo).unwrap();
        assert!(glance.has_run());
        drop(stdin);
        waiting.wait().unwrap();
    }

    #[test]
    fn it_keeps_its_distance_and_waits_for_its_share() {
        let glance = |from| Glance {
            process: Pid::this(),
            used: Time::ZERO,
            from: Time::from_millis(from),
            pause: Duration::from_millis(2),
        };
        let now = Time::from_millis(10);
        assert_eq!(glance(11).next(now), Time::from_millis(12));
        assert_eq!(glance(15).next(now), Time::from_millis(15));
    }
}
