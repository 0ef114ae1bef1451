//! The memory of the processes of a generation.

use std::time::{Duration, Instant};

use nix::unistd::Pid;
use serde::Serialize;

use crate::proc::memory;

/// Above this size the proportional share is left out: the kernel walks every page for it.
const LARGE: u64 = 1 << 30;
/// How long a status may take, so that the client does not notice.
const TIME_LIMIT: Duration = Duration::from_millis(20);

/// In bytes, over all processes; `None` if it cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MemoryUse {
    /// Resident: shared memory counts once for each process.
    #[serde(rename = "rss_bytes")]
    pub rss: Option<u64>,
    /// Proportional: shared memory is divided among the processes. Left out if it is large.
    #[serde(rename = "pss_bytes")]
    pub pss: Option<u64>,
}

impl MemoryUse {
    pub fn of(processes: &[Pid]) -> Self {
        let since = Instant::now();
        let rss = sum(processes, memory::resident);
        let small = rss.is_some_and(|rss| rss < LARGE);
        let in_time = || since.elapsed() < TIME_LIMIT;
        let pss = sum(processes, |pid| {
            (small && in_time())
                .then(|| memory::proportional(pid))
                .flatten()
        });
        Self { rss, pss }
    }
}

fn sum(processes: &[Pid], of_one: impl Fn(Pid) -> Option<u64>) -> Option<u64> {
    if processes.is_empty() {
        return None;
    }
    processes
        .iter()
        .try_fold(0_u64, |sum, pid| Some(sum.saturating_add(of_one(*pid)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_take_some_ourselves() {
        let ours = MemoryUse::of(&[Pid::this()]);
        let (rss, pss) = (ours.rss.unwrap(), ours.pss.unwrap());
        assert!(rss > 0 && pss > 0, "{ours:?}");
    }

    #[test]
    fn of_the_dead_nothing_is_known() {
        assert_eq!(
            MemoryUse::of(&[Pid::from_raw(i32::MAX)]),
            MemoryUse::default()
        );
        assert_eq!(MemoryUse::of(&[]), MemoryUse::default());
    }
}
