//! Processes of a candidate that are stopped: they do not get ready until somebody continues them.

use std::time::Duration;

use nix::unistd::Pid;

use super::view::CandidateView;
use crate::proc::process::Stat;
use crate::supervisor::Time;

/// How often they are looked for.
const BETWEEN_LOOKS: Duration = Duration::from_millis(250);

/// A process that a signal has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    pub pid: Pid,
    /// `None` if the kernel does not tell.
    pub signal: Option<i32>,
}

impl Stopped {
    /// `None` if it is not, or only by a debugger.
    pub fn of(pid: Pid) -> Option<Self> {
        let signal = Stat::of(pid)?.stopped_by()?;
        let signal = (signal > 0).then_some(signal);
        Some(Self { pid, signal })
    }
}

/// Those of a candidate that were stopped at the last look.
#[derive(Debug)]
pub struct StoppedProcesses {
    all: Vec<Stopped>,
    looked: Time,
}

impl StoppedProcesses {
    pub fn new(started: Time) -> Self {
        Self {
            all: Vec::new(),
            looked: started,
        }
    }

    pub fn all(&self) -> &[Stopped] {
        &self.all
    }

    /// Looks now and then, and at the main process when it would be ready otherwise: the others have time until it serves.
    /// Returns those that are new.
    pub fn look(&mut self, now: Time, view: &CandidateView, is_ready: bool) -> Vec<Stopped> {
        let all = if now >= self.looked + BETWEEN_LOOKS {
            self.looked = now;
            stopped_among((view.processes)())
        } else if is_ready {
            let mut all = self.all.clone();
            all.retain(|stopped| stopped.pid != view.main);
            all.extend(Stopped::of(view.main));
            all
        } else {
            return Vec::new();
        };
        let before = std::mem::replace(&mut self.all, all);
        let new = self.all.iter().filter(|one| !before.contains(one));
        new.copied().collect()
    }
}

/// Those of these processes that are stopped.
pub fn stopped_among(processes: Vec<Pid>) -> Vec<Stopped> {
    processes.into_iter().filter_map(Stopped::of).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::{Duration, Instant};

    use nix::sys::signal::{Signal, kill};

    use super::*;

    #[test]
    fn a_stopped_process_is_seen_with_its_signal_until_it_is_continued() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let until = |expected: Option<Stopped>| {
            let since = Instant::now();
            while Stopped::of(pid) != expected {
                assert!(since.elapsed() < Duration::from_secs(10), "{expected:?}");
                std::thread::yield_now();
            }
        };
        until(None);
        kill(pid, Signal::SIGTTOU).unwrap();
        let signal = Some(Signal::SIGTTOU as i32);
        until(Some(Stopped { pid, signal }));
        kill(pid, Signal::SIGCONT).unwrap();
        until(None);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
