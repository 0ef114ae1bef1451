//! hotswap's clock: the kernel's monotonic one, but it stands still while hotswap is stopped.
//!
//! It knows no date: a wall clock that is set changes nothing that hotswap decides, but for what a file's times tell.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// If hotswap wakes this much later than it should, it was not slow but stopped: by a signal, a debugger or a frozen
/// cgroup.
const STOPPED: Duration = Duration::from_secs(1);

/// How often the loop wakes while a deadline is pending, so that a stop can be noticed.
const BEAT: Duration = Duration::from_millis(500);

/// For how long hotswap has been stopped, in nanoseconds.
static STOOD_STILL: AtomicU64 = AtomicU64::new(0);

/// Now, since the machine started: it stays comparable over a re-execution of hotswap.
pub fn now() -> Duration {
    read(ClockId::CLOCK_MONOTONIC).saturating_sub(stood_still())
}

/// The wall clock, in seconds and nanoseconds: what the times of files are compared with, and nothing else.
pub fn wall_time() -> (i64, i64) {
    clock_gettime(ClockId::CLOCK_REALTIME).map_or((0, 0), |time| (time.tv_sec(), time.tv_nsec()))
}

/// The same as the kernel stamps files with: it counts in ticks, so that no later change has an earlier time.
pub fn file_time() -> (i64, i64) {
    clock_gettime(ClockId::CLOCK_REALTIME_COARSE)
        .map_or((0, 0), |time| (time.tv_sec(), time.tv_nsec()))
}

/// The processor time of this thread, which is what a look costs on a busy machine.
pub fn cpu_time() -> Duration {
    read(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

/// What that process has had of the processor, all of its threads together; nothing if it has ended.
pub fn cpu_time_of(process: Pid) -> Duration {
    ClockId::pid_cpu_clock_id(process).map_or(Duration::ZERO, read)
}

/// By how much [`now`] is behind the kernel's clock.
pub fn stood_still() -> Duration {
    Duration::from_nanos(STOOD_STILL.load(Ordering::Relaxed))
}

/// Continues the clock of the previous hotswap.
pub fn resume(stood_still: Duration) {
    STOOD_STILL.store(nanoseconds(stood_still), Ordering::Relaxed);
}

/// The wake-ups of the loop, which show when hotswap was stopped.
#[derive(Debug)]
pub struct Pulse {
    at: Duration,
    cpu_time: Duration,
}

impl Pulse {
    pub fn begin() -> Self {
        Self {
            at: now(),
            cpu_time: cpu_time(),
        }
    }

    /// When the loop must wake again, so that a stop is noticed.
    pub fn next(&self) -> Duration {
        self.at + BEAT
    }

    /// The loop is awake, and should have been at `due` at the latest. If hotswap was stopped in between, the clock
    /// continues from there, so that nothing expires that hotswap could not attend to.
    pub fn beat(&mut self, due: Option<Duration>) {
        let worked = cpu_time().saturating_sub(self.cpu_time);
        let expected = due.map(|due| due.max(self.at) + worked);
        let late = expected.map_or(Duration::ZERO, |expected| now().saturating_sub(expected));
        if late > STOPPED {
            log::debug!("hotswap was suspended for {late:.1?}; deadlines moved by as much");
            STOOD_STILL.fetch_add(nanoseconds(late), Ordering::Relaxed);
        }
        *self = Self::begin();
    }
}

fn read(clock: ClockId) -> Duration {
    clock_gettime(clock).map_or(Duration::ZERO, Duration::from)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
