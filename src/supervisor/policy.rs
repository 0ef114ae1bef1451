//! The options that the core needs.

use std::time::Duration;

/// The options that the core needs; set once, at the start.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools)] // a switch on the line is a bool here
pub struct Policy {
    pub ready_timeout: Duration,
    pub min_ready: Duration,
    pub quiesce: Duration,
    /// How long requests in flight may take once hotswap is to stop, and once it was interrupted.
    pub stop_quiesce: Duration,
    pub interrupt_quiesce: Duration,
    pub drain_timeout: Duration,
    pub max_draining: usize,
    /// The old generation stops before the new one starts.
    pub stop_first: bool,
    pub restart: RestartPolicy,
    /// How long the command before a swap may take, if there is one.
    pub before_swap: Option<Duration>,
    /// It runs before the first start, too.
    pub before_first: bool,
    /// Run the last good program instead of one that was rejected or does not start.
    pub fallback: bool,
    /// Nothing tells whether a file has changed: a request may mean a new one.
    pub unwatched: bool,
    /// The ready timeout is at least this many times the longest start.
    pub ready_factor: u32,
    /// New connections wait for the next version as soon as there may be one.
    pub hold: bool,
}

impl Policy {
    /// The most of the drain timeout that is reserved for the server's own graceful stop.
    pub const STOP_RESERVE: Duration = Duration::from_secs(2);

    /// How long before SIGKILL the stop signal is sent at the latest.
    pub fn stop_reserve(&self) -> Duration {
        Self::STOP_RESERVE.min(self.drain_timeout / 2)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
    /// Wait for a changed file or a request instead of restarting or ending.
    OnChange,
}
