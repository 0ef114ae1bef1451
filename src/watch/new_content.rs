//! A new content of a watched file that has not passed all gates: how it came, and how long it must stay unchanged.

use std::time::Duration;

use crate::supervisor::Time;
use crate::watch::completeness::{BLIND_SETTLE, FOREIGN_SETTLE, FileIdentity, Writer};
use crate::watch::content_hash::HashInProgress;

/// How long a file of another user is left alone after a write, if no event says that it was closed.
const FOREIGN_OPEN: Duration = Duration::from_secs(10);

/// A file that is not a known one, on its way through the gates.
pub struct NewContent {
    pub identity: FileIdentity,
    /// When the first file after the known one was seen.
    pub begun: Time,
    /// First seen, or last written.
    pub since: Time,
    /// It came by rename or hard link, so it was finished elsewhere.
    pub arrived: bool,
    /// Whether somebody writes it, as far as events tell.
    pub is_open: Option<bool>,
    /// It, or one before it, was said to be open for long.
    pub is_said_open: bool,
    pub content: Content,
    /// Why it cannot be run, once that was said.
    pub unfit: Option<String>,
}

pub enum Content {
    Unread,
    HashInProgress(HashInProgress),
    /// `None` if it cannot be read.
    Read(Option<u64>),
}

impl NewContent {
    pub fn written(&mut self, now: Time) {
        self.arrived = false;
        self.is_open = Some(true);
        self.since = now;
        self.content = Content::Unread;
    }

    /// How long it must have been unchanged, by what is known of its writer.
    pub fn settle(&self, writer: Writer, debounce: Duration) -> Duration {
        let settle = if self.arrived {
            Duration::ZERO
        } else {
            debounce
        };
        match (writer, self.is_open) {
            (Writer::Nobody, _) => settle,
            (Writer::NotOurs, Some(true)) => settle.max(FOREIGN_OPEN),
            (Writer::NotOurs, None) if !self.arrived => settle.max(FOREIGN_SETTLE),
            (Writer::NotOurs | Writer::CannotTell | Writer::Somebody, _) => {
                settle.max(BLIND_SETTLE)
            }
        }
    }
}
