//! What a room has to say to the one poll(2): what it waits for, and until when.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::poll::PollFlags;

/// Something that waits in the main loop.
pub trait Polled {
    /// Its descriptors, and what is waited for on each.
    fn polled(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        Vec::new()
    }

    /// When it wants to be looked at, whatever happens until then: a time of [`crate::sys::now`].
    fn deadline(&self) -> Option<Duration> {
        None
    }
}

/// A moment at which something is to be done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alarm(pub Option<Duration>);

impl Alarm {
    pub fn is_due(self, now: Duration) -> bool {
        self.0.is_some_and(|due| due <= now)
    }
}

impl Polled for Alarm {
    fn deadline(&self) -> Option<Duration> {
        self.0
    }
}
