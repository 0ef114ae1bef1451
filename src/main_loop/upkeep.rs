//! Makes the control socket and the file beside it again when somebody removes them.
//!
//! inotify(7) tells of that, so that nobody has to look; without it hotswap looks at each `--poll`.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::poll::PollFlags;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::World;
use crate::adoption::memory::Memory;
use crate::polled::Polled;
use crate::record::Record;
use crate::supervisor::Time;
use crate::sys;

#[derive(Debug)]
pub(super) struct Upkeep {
    /// `None` if the kernel has no more of them.
    removals: Option<Inotify>,
    /// When to look whether everything is there.
    due: Option<Time>,
}

impl Upkeep {
    /// The first look is due at once.
    pub fn new(now: Time) -> Self {
        let flags = InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK;
        Self {
            removals: Inotify::init(flags).ok(),
            due: Some(now),
        }
    }

    pub fn is_due(&self, now: Time) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    /// Something was done to one of the files. Others may be removed with it, and their directory: that comes first.
    pub fn woken(&mut self, look: Option<Time>) {
        if let Some(removals) = &self.removals {
            while removals.read_events().is_ok_and(|read| !read.is_empty()) {}
        }
        self.due = self.due.or(look);
    }

    /// Whether their removal will be told. Each time they may be other files.
    fn follow<'a>(&self, mut paths: impl Iterator<Item = &'a Path>) -> bool {
        // what is still open is not deleted, but has one link less
        let removed = AddWatchFlags::IN_ATTRIB | AddWatchFlags::IN_MOVE_SELF;
        let flags = removed | AddWatchFlags::IN_DONT_FOLLOW;
        let removals = self.removals.as_ref();
        let follow =
            |path: &Path, flags| removals.is_some_and(|all| all.add_watch(path, flags).is_ok());
        // a directory may be moved with all that is in it
        let follow_directory = |path| follow(path, AddWatchFlags::IN_MOVE_SELF);
        paths.all(|path| follow(path, flags) && path.parent().is_none_or(follow_directory))
    }
}

impl Polled for Upkeep {
    fn polled(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let removals = self.removals.iter();
        removals
            .map(|all| (all.as_fd(), PollFlags::POLLIN))
            .collect()
    }

    fn deadline(&self) -> Option<Time> {
        self.due
    }
}

impl World {
    /// The next `--poll`, if there is one.
    pub(super) fn next_poll(&self) -> Option<Time> {
        let poll = self.args.poll;
        (!poll.is_zero()).then(|| sys::now().saturating_add(poll))
    }

    /// A cleaner of /tmp or a logout may have removed it, and what is beside it.
    pub(super) fn repair_control(&mut self) {
        self.repair_control_socket();
        self.repair_memory();
        let memory = self.heritage.memory().map(Memory::path);
        let is_told = self
            .upkeep
            .follow(self.control.path().into_iter().chain(memory));
        self.upkeep.due = if is_told { None } else { self.next_poll() };
    }

    fn repair_control_socket(&mut self) {
        // a directory that the user has named may be about to be replaced
        match self.control.repair(self.args.control.is_none()) {
            Ok(Some(done)) => self.publish(&Record::notice(done)),
            Ok(None) => self.status_data.control_lost = None,
            // another hotswap claims a socket beside it
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => {
                let why = error.to_string();
                if self.status_data.control_lost.replace(why.clone()).as_ref() != Some(&why) {
                    self.warn(why);
                }
            }
        }
    }
}
