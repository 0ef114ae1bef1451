//! Says that a watched path is gone, and that it is back: each once, and not for the moment in which it is replaced.

use std::path::PathBuf;
use std::time::Duration;

use crate::record::Record;
use crate::supervisor::Time;
use crate::watch::changed::escaped;

/// A build may take this long between removing a file and making it again.
const REPLACED_WITHIN: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Presence {
    There,
    /// It is not there since then, which is not said yet.
    GoneSince(Time),
    Gone,
    /// It is waited for since the start.
    NotYet,
}

/// One path that the user named.
pub struct NamedPath {
    as_given: PathBuf,
    path: PathBuf,
    presence: Presence,
}

impl NamedPath {
    /// `path` is absolute.
    pub fn new(as_given: PathBuf, path: PathBuf) -> Self {
        let mut watched = Self {
            as_given,
            path,
            presence: Presence::There,
        };
        if !watched.is_there() {
            watched.presence = Presence::NotYet;
        }
        watched
    }

    /// One that cannot be looked at counts as there.
    fn is_there(&self) -> bool {
        self.path.try_exists().unwrap_or(true)
    }

    pub fn deadline(&self) -> Option<Time> {
        match self.presence {
            Presence::GoneSince(since) => Some(since + REPLACED_WITHIN),
            Presence::There | Presence::Gone | Presence::NotYet => None,
        }
    }

    /// Looks whether it is there, and says what is new about that.
    pub fn look(&mut self, now: Time) -> Option<Record> {
        let name = || escaped(&self.as_given);
        let mut news = None;
        self.presence = match (self.presence, self.is_there()) {
            (Presence::Gone, true) => {
                news = Some(Record::notice(format!("{} is back", name())));
                Presence::There
            }
            (_, true) => Presence::There,
            (Presence::There, false) => Presence::GoneSince(now),
            (Presence::GoneSince(since), false) if now >= since + REPLACED_WITHIN => {
                let text = format!("{} is gone; waiting for it to come back", name());
                news = Some(Record::warning(text));
                Presence::Gone
            }
            (presence, false) => presence,
        };
        news
    }
}
