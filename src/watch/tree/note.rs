//! One path of a tree as it is now, held against what is known of it.

use std::fs::Metadata;
use std::path::Path;

use super::WatchedTree;
use crate::file;
use crate::supervisor::Time;
use crate::watch::completeness::{self, FileIdentity, Writer};
use crate::watch::content_hash::{HashInProgress, HashProgress};
use crate::watch::differences::{Differs, Entry, HowChanged, has_grown, is_ours, is_same};
use crate::watch::listing::{Sighting, What};

/// Larger files are compared by identity alone.
const BIGGEST_READ: u64 = 8 << 20;

impl WatchedTree {
    /// Judges one path, and returns the number of bytes read for it.
    pub(super) fn note(&mut self, now: Time, sighting: Sighting) -> u64 {
        let (entry, bytes) = match sighting.what {
            What::Gone => (None, 0),
            What::Link(identity) => {
                let entry = Entry {
                    identity,
                    hash: None,
                    young: false,
                };
                (Some(entry), 0)
            }
            What::File(ref path, ref metadata) => {
                let Some((entry, bytes)) = self.read(&sighting.shown, path, metadata) else {
                    // It is being written. A log that its server keeps open never counts; closing it is an event.
                    if self.differences.paths.contains_key(&sighting.shown) {
                        self.differences.since = now;
                    }
                    return 0;
                };
                (Some(entry), bytes)
            }
        };
        let is_known = is_same(self.known.get(&sighting.shown), entry.as_ref());
        if is_known || self.is_new || sighting.since < self.known_until {
            self.differences.paths.remove(&sighting.shown);
            self.learn(sighting.shown, entry);
            return bytes;
        }
        let differences = &mut self.differences;
        if differences.paths.is_empty() {
            differences.first = now;
            differences.is_foreign = false;
        }
        let mut path = None;
        if let What::File(at, metadata) = sighting.what {
            differences.is_foreign |= !is_ours(&metadata);
            path = Some(at);
        }
        let how = match (self.known.get(&sighting.shown), entry.as_ref()) {
            (known, None) => HowChanged::Gone(known.map_or((0, 0), |known| known.identity.changed)),
            (None, Some(_)) => HowChanged::Appeared,
            (Some(known), Some(entry)) => {
                let grew = path.is_some_and(|path| has_grown(known, entry, &path));
                if grew {
                    HowChanged::Grew
                } else {
                    HowChanged::Rewritten
                }
            }
        };
        let differs = Differs {
            entry,
            changed: sighting.since,
            how,
            directory: sighting.directory,
        };
        let before = differences.paths.insert(sighting.shown, differs);
        if !before.is_some_and(|before| is_same(before.entry.as_ref(), entry.as_ref())) {
            differences.since = now;
        }
        bytes
    }

    /// `None` while somebody writes the file.
    fn read(&self, shown: &Path, path: &Path, metadata: &Metadata) -> Option<(Entry, u64)> {
        let mut entry = Entry {
            identity: FileIdentity::of(metadata),
            hash: None,
            young: false,
        };
        let known = self.known.get(shown);
        let seen = self.differences.paths.get(shown);
        let seen = seen.and_then(|differs| differs.entry.as_ref());
        let mut before = [known, seen].into_iter().flatten();
        if let Some(same) = before.find(|one| one.identity == entry.identity && !one.young) {
            return Some((*same, 0));
        }
        entry.young = entry.identity.is_young();
        let Ok(file) = file::open(path) else {
            return Some((entry, 0));
        };
        if !self.is_new && completeness::writer(&file) == Writer::Somebody {
            return None;
        }
        if entry.identity.size > BIGGEST_READ {
            return Some((entry, 0));
        }
        let bytes = entry.identity.size;
        if let HashProgress::Done(hash) = HashInProgress::new(file, entry.identity).go_on() {
            entry.hash = Some(hash);
        }
        Some((entry, bytes))
    }
}
