//! What a candidate that is ready has shown, and what it has not.

use std::fmt;
use std::os::fd::RawFd;

use crate::listener::ListenerId;

/// What showed that it is ready, the best first. The log adds how long that took.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReadyBy {
    Accepting,
    AcceptedAProbe,
    SaidReady,
    ReadyFd(RawFd),
    Status(u16),
    Command,
    /// Nothing could be seen or asked.
    Assumed,
}

impl fmt::Display for ReadyBy {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Accepting => write!(f, "accepting"),
            Self::AcceptedAProbe => write!(f, "accepted a probe"),
            Self::SaidReady => write!(f, "READY=1"),
            Self::ReadyFd(fd) => write!(f, "newline on descriptor {fd}"),
            Self::Status(status) => write!(f, "status {status}"),
            Self::Command => write!(f, "command succeeded"),
            Self::Assumed => write!(f, "assumed ready"),
        }
    }
}

/// The candidate is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    pub how: ReadyBy,
    /// Where it was seen accepting; where nothing of that kind is looked for, where it has a socket.
    pub accepts: Vec<ListenerId>,
    /// Listeners it should accept on and does not: a warning, and their clients stay with the old generation.
    pub missing: Vec<ListenerId>,
    /// It has a listener, and was assumed to accept without proof: a warning.
    pub doubtful: bool,
    /// It has not said READY=1, which it should have: a warning.
    pub unsaid: bool,
}

impl Ready {
    /// It has listeners, and accepts on all but these.
    pub fn but_for(missing: Vec<ListenerId>, how: ReadyBy) -> Self {
        Self {
            missing,
            doubtful: how == ReadyBy::Assumed,
            ..how.into()
        }
    }
}

impl From<ReadyBy> for Ready {
    fn from(how: ReadyBy) -> Self {
        Self {
            how,
            accepts: Vec::new(),
            missing: Vec::new(),
            doubtful: false,
            unsaid: false,
        }
    }
}
