//! One watched file, from a hint to the moment at which it is new, complete, and no longer being written.
//!
//! It remembers two contents: what the last candidate started from, and what serves. A file that returns to either of
//! them has not changed.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::file;
use crate::supervisor::Time;
use crate::watch::completeness::{self, BLIND_SETTLE, Completeness, FileIdentity, HowRun, Writer};
use crate::watch::content_hash::{HashInProgress, HashProgress};
use crate::watch::events::HowArrived;
use crate::watch::new_content::{Content, NewContent};
use crate::watch::symlinks::{PathStep, steps};

/// The least time between two checks for a writer.
const SOON: Duration = Duration::from_millis(20);
/// The most time between them, for a file that has been written for long.
const LATE: Duration = Duration::from_millis(500);
/// One that has been written for so long may be kept open by a program that does not close it.
const HELD_OPEN: Duration = Duration::from_secs(5);

/// How long a program that cannot be run must have been at rest before that is said: a build may go on.
const AT_REST: Duration = Duration::from_secs(2);

/// Which gates a file must pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileRole {
    Program,
    /// Named by `--watch`: a new mtime is a change as well, by which touch(1) asks for a swap.
    Named,
    /// The environment that hotswap reads.
    Settings,
}

/// A content that was there at some moment.
#[derive(Clone, Copy, Debug, Default)]
struct KnownContent {
    /// `None` if there was no file.
    identity: Option<FileIdentity>,
    /// `None` if it has not been read yet, or cannot be.
    hash: Option<u64>,
}

pub struct WatchedFile {
    /// As the user wrote it.
    pub as_given: PathBuf,
    pub role: FileRole,
    path: PathBuf,
    steps: Vec<PathStep>,
    /// What the last candidate started from.
    tried: KnownContent,
    /// Its hash, as long as it is being computed.
    reading: Option<HashInProgress>,
    serving: Option<KnownContent>,
    fresh: Option<NewContent>,
    settling: bool,
    again: Option<Time>,
    /// Why a new program cannot be run, until that is said.
    pub unfit: Option<String>,
    /// It has been open for writing for long, until that is said.
    pub is_held_open: bool,
}

impl WatchedFile {
    /// `path` is absolute.
    pub fn new(role: FileRole, as_given: PathBuf, path: PathBuf) -> Self {
        let mut watched = Self {
            as_given,
            role,
            steps: steps(&path),
            path,
            tried: KnownContent::default(),
            reading: None,
            serving: None,
            fresh: None,
            settling: false,
            again: None,
            unfit: None,
            is_held_open: false,
        };
        watched.take_as_tried();
        watched.serves();
        watched
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file that was last tried.
    pub fn identity(&self) -> Option<FileIdentity> {
        self.tried.identity
    }

    /// Where it is, without links.
    pub fn directory(&self) -> PathBuf {
        let last = self.steps.last();
        last.map_or_else(PathBuf::new, |step| step.directory.path.clone())
    }

    pub fn steps(&self) -> &[PathStep] {
        &self.steps
    }

    /// It has passed the gates, and only has to stay unchanged or to be read.
    pub fn is_settling(&self) -> bool {
        self.settling
    }

    pub fn deadline(&self) -> Option<Time> {
        self.again
    }

    /// Returns true if the way to the file has changed.
    pub fn find_steps(&mut self) -> bool {
        let steps = steps(&self.path);
        let differs = steps != self.steps;
        self.steps = steps;
        differs
    }

    /// Takes what is there now as what the next candidate starts from.
    pub fn take_as_tried(&mut self) {
        let identity = FileIdentity::at(&self.path);
        let fresh = self.fresh.take();
        self.settling = false;
        self.again = None;
        if identity.is_some() && identity == self.tried.identity {
            return;
        }
        self.reading = None;
        self.tried = KnownContent {
            identity,
            hash: None,
        };
        match fresh {
            Some(NewContent {
                identity: seen,
                content: Content::Read(hash),
                ..
            }) if identity == Some(seen) => {
                self.tried.hash = hash;
            }
            _ => self.read_tried(),
        }
    }

    fn read_tried(&mut self) {
        let (Some(identity), Ok(file)) = (self.tried.identity, file::open(&self.path)) else {
            return;
        };
        let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
        if is_file {
            self.reading = Some(HashInProgress::new(file, identity));
            self.again = Some(Time::ZERO);
        }
    }

    /// The candidate runs `image`. If that is the file that is there now, it arrived between the last look and
    /// execve(2).
    pub fn runs(&mut self, image: FileIdentity) {
        if FileIdentity::at(&self.path) == Some(image) {
            self.take_as_tried();
        }
    }

    /// The last candidate serves.
    pub fn serves(&mut self) {
        self.serving = Some(self.tried);
    }

    pub fn nothing_serves(&mut self) {
        self.serving = None;
    }

    /// Returns true once for each new content that has passed all gates.
    pub fn look(
        &mut self,
        now: Time,
        arrival: HowArrived,
        debounce: Duration,
        how_run: HowRun,
    ) -> bool {
        self.again = None;
        self.settling = false;
        self.finish_tried();
        let Ok(metadata) = fs::metadata(&self.path) else {
            self.fresh = None;
            return false;
        };
        let identity = FileIdentity::of(&metadata);
        let may_be_another = arrival != HowArrived::Unknown && identity.is_young();
        if self.recognize(identity) && !may_be_another {
            self.fresh = None;
            return false;
        }
        let gate = self.gate(&metadata, how_run);
        let mut fresh = self.notice(now, identity, arrival, metadata.nlink());
        match gate {
            Completeness::Written => {
                fresh.written(now);
                let waits = now.saturating_sub(fresh.begun);
                self.again = Some(now + (waits / 4).clamp(SOON, LATE));
                if waits >= HELD_OPEN && !fresh.is_said_open {
                    fresh.is_said_open = true;
                    self.is_held_open = true;
                }
            }
            Completeness::Shut { why, certain } => {
                let settled = fresh.since + BLIND_SETTLE;
                let settles = !certain && settled > now;
                self.again = settles.then_some(settled);
                if !settles && self.role == FileRole::Program && fresh.unfit.is_none() {
                    self.note_unfit(now, &mut fresh, why);
                }
            }
            Completeness::Open(passed) if passed.identity != identity => self.again = Some(now),
            Completeness::Open(passed) => {
                let settled = fresh.since + fresh.settle(passed.writer, debounce);
                if settled <= now {
                    let differs = self.compare(now, fresh, passed.file);
                    self.settling = self.fresh.is_some();
                    return differs;
                }
                self.settling = true;
                self.again = Some(settled);
            }
        }
        self.fresh = Some(fresh);
        false
    }

    /// Why what is there now cannot be run, since that was said.
    pub fn cannot_run(&self) -> Option<&str> {
        self.fresh.as_ref()?.unfit.as_deref()
    }

    fn note_unfit(&mut self, now: Time, fresh: &mut NewContent, why: String) {
        let file = file::open(&self.path);
        let is_written = file.is_ok_and(|file| completeness::writer(&file) == Writer::Somebody);
        let rests = fresh.since + AT_REST;
        if rests > now {
            self.again = Some(rests);
        } else if is_written {
            self.again = Some(now + AT_REST);
        } else {
            fresh.unfit = Some(why.clone());
            self.unfit = Some(why);
        }
    }

    /// Whether it is another file than the last one tried, and complete: a first look at a file that was touched.
    pub fn seems_changed(&self, how_run: HowRun) -> bool {
        let Ok(metadata) = fs::metadata(&self.path) else {
            return false;
        };
        let identity = Some(FileIdentity::of(&metadata));
        let serving = self.serving.and_then(|serving| serving.identity);
        let is_known = identity == self.tried.identity || identity == serving;
        !is_known && matches!(self.gate(&metadata, how_run), Completeness::Open(_))
    }

    fn gate(&self, metadata: &Metadata, how_run: HowRun) -> Completeness {
        match self.role {
            FileRole::Program => completeness::program(&self.path, metadata, how_run),
            FileRole::Named | FileRole::Settings => completeness::plain(&self.path, metadata),
        }
    }

    /// Whether this file was tried or serves; if it serves, it is what was tried last.
    fn recognize(&mut self, identity: FileIdentity) -> bool {
        let serving = self
            .serving
            .filter(|known| known.identity == Some(identity));
        if let Some(serving) = serving.filter(|_| self.tried.identity != Some(identity)) {
            self.reading = None;
            self.tried = serving;
        }
        self.tried.identity == Some(identity)
    }

    fn notice(
        &mut self,
        now: Time,
        identity: FileIdentity,
        arrival: HowArrived,
        links: u64,
    ) -> NewContent {
        let before = self.fresh.take();
        let before_is_open = before.as_ref().and_then(|fresh| fresh.is_open);
        let is_said_open = before.as_ref().is_some_and(|fresh| fresh.is_said_open);
        let mut fresh = match before {
            Some(fresh) if fresh.identity == identity => fresh,
            before => NewContent {
                identity,
                begun: before.map_or(now, |fresh| fresh.begun),
                since: now,
                arrived: false,
                is_open: before_is_open,
                is_said_open,
                content: Content::Unread,
                unfit: None,
            },
        };
        match arrival {
            HowArrived::Moved => fresh.arrived = true,
            // With other links it is a hard link to a finished file, without them a file that is being written here.
            HowArrived::Created => fresh.arrived = links > 1,
            HowArrived::Written => fresh.written(now),
            HowArrived::Closed => {
                fresh.written(now);
                fresh.is_open = Some(false);
            }
            HowArrived::Unknown => {}
        }
        fresh
    }

    /// The last gate: the content is neither the last one tried nor the one that serves.
    fn compare(&mut self, now: Time, mut fresh: NewContent, file: Option<File>) -> bool {
        let size = Some(fresh.identity.size);
        let has_size = |known: &KnownContent| known.identity.map(|identity| identity.size) == size;
        let may_be_known = has_size(&self.tried) || self.serving.as_ref().is_some_and(has_size);
        if !may_be_known {
            self.tried = KnownContent {
                identity: Some(fresh.identity),
                hash: None,
            };
            self.reading = file.map(|file| HashInProgress::new(file, fresh.identity));
            self.again = self.reading.is_some().then_some(now);
            return true;
        }
        if self.reading.is_some() {
            self.again = Some(now);
            self.fresh = Some(fresh);
            return false;
        }
        let progress = match (std::mem::replace(&mut fresh.content, Content::Unread), file) {
            (Content::Read(hash), _) => return self.decide(fresh.identity, hash),
            (Content::HashInProgress(reading), _) => reading.go_on(),
            (Content::Unread, Some(file)) => HashInProgress::new(file, fresh.identity).go_on(),
            (Content::Unread, None) => return self.decide(fresh.identity, None),
        };
        // Once read, it must pass every gate again, because it may have changed while it was read.
        self.again = Some(now);
        match progress {
            HashProgress::More(reading) => fresh.content = Content::HashInProgress(reading),
            HashProgress::Done(hash) => fresh.content = Content::Read(Some(hash)),
            HashProgress::Lost => self.again = Some(now + SOON),
        }
        self.fresh = Some(fresh);
        false
    }

    fn decide(&mut self, identity: FileIdentity, hash: Option<u64>) -> bool {
        let touch_counts = self.role == FileRole::Named;
        let is = |known: &KnownContent| {
            let same = hash.is_some() && known.hash == hash;
            let untouched = known.identity.map(|known| known.modified) == Some(identity.modified);
            same && (untouched || !touch_counts)
        };
        let is_old = is(&self.tried) || self.serving.as_ref().is_some_and(is);
        self.tried = KnownContent {
            identity: Some(identity),
            hash,
        };
        if let Some(serving) = self.serving.as_mut().filter(|known| is(known)) {
            serving.identity = Some(identity);
        }
        !is_old
    }

    /// Reads one more piece of what the last candidate started from.
    fn finish_tried(&mut self) {
        let Some(reading) = self.reading.take() else {
            return;
        };
        match reading.go_on() {
            HashProgress::More(reading) => {
                self.reading = Some(reading);
                self.again = Some(Time::ZERO);
            }
            HashProgress::Done(hash) => {
                self.tried.hash = Some(hash);
                let tried = self.tried;
                let serving = self.serving.as_mut();
                if let Some(same) = serving.filter(|known| known.identity == tried.identity) {
                    *same = tried;
                }
            }
            HashProgress::Lost => {}
        }
    }
}
