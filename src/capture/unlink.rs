//! unlink(2): a path that clients use outlives the generation that made it.

use std::ffi::OsString;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::caller::Caller;
use super::notification::{Notification, read_path};
use super::{CallResult, Capture, server_path};
use crate::listener::{CapturedAddress, Listeners, PathEntry};

impl Capture {
    /// Servers unlink their path before they bind it and after they have closed it, but the path belongs to all generations.
    pub(super) fn unlink(
        &mut self,
        call: &Notification,
        directory: RawFd,
        address: u64,
        listeners: &mut Listeners,
    ) -> CallResult {
        // most servers have no such listener, and unlink other files all the time
        if !listeners.have_paths() {
            return CallResult::Continue;
        }
        match wanted(call, directory, address, listeners) {
            Ok(Some(entry)) if listeners.meets_live_path(&entry, self.generation) => {
                let path = CapturedAddress::Path(entry);
                self.bound_sockets.note_unlinked(&path, true);
                CallResult::Succeed
            }
            Ok(_) => CallResult::Continue,
            Err(error) => {
                self.could_not_look(&error);
                CallResult::Continue
            }
        }
    }
}

fn wanted(
    call: &Notification,
    directory: RawFd,
    address: u64,
    listeners: &Listeners,
) -> io::Result<Option<PathEntry>> {
    let path = read_path(call.thread, address)?;
    let path = path.map(|path| PathBuf::from(OsString::from_vec(path)));
    let named = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| listeners.have_path_named(name))
    };
    let Some(path) = path.filter(named) else {
        return Ok(None);
    };
    let caller = Caller::of(call.thread)?;
    let entry = server_path::find(&caller, directory, &path)?;
    Ok(entry.filter(|_| call.is_valid()))
}
