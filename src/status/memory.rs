//! What the processes of a generation keep in memory, as /proc tells it.

use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::proc::memory;

/// The kernel walks every page for the proportional share, and we have other things to do.
const LARGE: u64 = 1 << 30;
/// A status that is asked for is not to take longer than a client would notice.
const PATIENCE: Duration = Duration::from_millis(20);

/// In bytes, over all processes; nothing where it cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Resident: what processes share counts once for each.
    pub rss: Option<u64>,
    /// Proportional: what they share is shared out. Left out for what is large.
    pub pss: Option<u64>,
}

impl MemoryUse {
    pub fn of(processes: &[Pid]) -> Self {
        let since = Instant::now();
        let rss = sum(processes, memory::resident);
        let small = rss.is_some_and(|rss| rss < LARGE);
        let in_time = || since.elapsed() < PATIENCE;
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
