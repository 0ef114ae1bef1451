//! What hotswap decides, without the means to do it.
//!
//! [`Supervisor::step`] takes one [`Event`] and returns the [`Action`]s that follow. It makes no system call, spawns no
//! process and reads no clock, so every rule in this file can be tested without a single process.

use std::fmt;
use std::time::Duration;

/// A moment on the monotonic clock, since the machine started.
pub type Time = Duration;

/// One spawn of the server, numbered from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u32);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "generation {}", self.0)
    }
}

/// Somebody who waits for a verdict: a client of the control socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Client(pub u64);

/// How a main process ended, or why it never ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    Status(i32),
    Signal(i32),
    /// exec failed: the status a shell gives (126 or 127), and why.
    CannotRun(i32, String),
    /// It ended with 0, while something it left behind waits on a listener.
    Background,
}
