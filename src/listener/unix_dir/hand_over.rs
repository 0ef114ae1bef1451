//! A place that outlives the hotswap that found it.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use serde_json::{Value, json};

use super::{FileId, UnixDir};
use crate::listener::hand_over::{bytes, list};

impl UnixDir {
    pub fn hand_over<'a>(&'a self, descriptors: &mut Vec<BorrowedFd<'a>>) -> Value {
        descriptors.push(self.directory.as_fd());
        descriptors.extend(self.lock.as_ref().map(AsFd::as_fd));
        json!({
            "name": self.name.as_bytes(),
            "path": self.path.as_os_str().as_bytes(),
            "locked": self.lock.is_some(),
        })
    }

    pub fn take_over(
        state: &Value,
        descriptors: &mut impl Iterator<Item = OwnedFd>,
    ) -> Option<Self> {
        let name = OsString::from_vec(bytes(&state["name"])?);
        let path = OsString::from_vec(bytes(&state["path"])?);
        let mut dir = Self::within(descriptors.next()?, name, path.into());
        if state["locked"].as_bool()? {
            // the lock is still held: it belongs to the open file, which has come with the descriptor
            dir.lock = Some(descriptors.next()?);
        }
        Some(dir)
    }
}

/// A file as it is written.
pub fn file_of(state: &Value) -> Option<FileId> {
    match list(state, Value::as_u64)?[..] {
        [device, inode] => Some((device, inode)),
        _ => None,
    }
}
