//! What the processes of a generation keep in memory, as /proc tells it.

use std::fs;
use std::time::{Duration, Instant};

use nix::unistd::{Pid, SysconfVar, sysconf};

/// The kernel walks every page for the proportional share, and we have other things to do.
const LARGE: u64 = 1 << 30;
/// A status that is asked for is not to take longer than a client would notice.
const PATIENCE: Duration = Duration::from_millis(20);

/// In bytes, over all processes; nothing where it cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident: what processes share counts once for each.
    pub rss: Option<u64>,
    /// Proportional: what they share is shared out. Left out for what is large.
    pub pss: Option<u64>,
}

impl Memory {
    pub fn of(processes: &[Pid]) -> Self {
        let since = Instant::now();
        let rss = sum(processes, resident);
        let small = rss.is_some_and(|rss| rss < LARGE);
        let in_time = || since.elapsed() < PATIENCE;
        let pss = sum(processes, |pid| {
            (small && in_time()).then(|| proportional(pid)).flatten()
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

fn resident(pid: Pid) -> Option<u64> {
    let pages = resident_pages(&fs::read_to_string(format!("/proc/{pid}/statm")).ok()?)?;
    let size = sysconf(SysconfVar::PAGE_SIZE).ok()??;
    Some(pages.saturating_mul(u64::try_from(size).ok()?))
}

fn resident_pages(statm: &str) -> Option<u64> {
    statm.split_whitespace().nth(1)?.parse().ok()
}

fn proportional(pid: Pid) -> Option<u64> {
    pss(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?)
}

fn pss(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_take_some_ourselves() {
        let ours = Memory::of(&[Pid::this()]);
        let (rss, pss) = (ours.rss.unwrap(), ours.pss.unwrap());
        assert!(rss > 0 && pss > 0, "{ours:?}");
    }

    #[test]
    fn of_the_dead_nothing_is_known() {
        assert_eq!(Memory::of(&[Pid::from_raw(i32::MAX)]), Memory::default());
        assert_eq!(Memory::of(&[]), Memory::default());
    }

    #[test]
    fn what_proc_says_is_read() {
        assert_eq!(resident_pages("5000 1234 800 10 0 900 0\n"), Some(1234));
        let rollup = "55d0-7ffe ---p 00000000 00:00 0 [rollup]\nRss:  900 kB\nPss:   812 kB\n";
        assert_eq!(pss(rollup), Some(812 * 1024));
        assert_eq!(pss(""), None);
    }
}
