//! One stopped call: what was asked, and the answer it gets.
//!
//! A call that is dropped without an answer is carried out by the kernel.

use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::proc::memory;
use crate::sys::seccomp;

/// `sizeof(struct sockaddr_storage)`: the kernel takes no longer address.
pub const LONGEST_ADDRESS: usize = 128;
const LONGEST_PATH: usize = libc::PATH_MAX as usize;
const PAGE: usize = 4096;
/// How long to wait for a server's memory or directory, which may be a file system of its own that never answers. Longer
/// than any other takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// The kernel uses the lower half of a register for an int.
pub fn int(argument: u64) -> i32 {
    u32::try_from(argument & 0xFFFF_FFFF)
        .unwrap_or(0)
        .cast_signed()
}

/// A stopped call as the kernel tells it. The one who made it waits until it is answered through its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceivedCall {
    id: u64,
    thread: i32,
    number: i64,
    arguments: [u64; 6],
}

impl ReceivedCall {
    /// Blocks if nothing waits.
    ///
    /// # Errors
    /// Those of [`seccomp::receive`].
    pub fn receive(listener: BorrowedFd) -> io::Result<Self> {
        let notification = seccomp::receive(listener)?;
        Ok(Self {
            id: notification.id,
            thread: notification.pid.cast_signed(),
            number: notification.data.nr.into(),
            arguments: notification.data.args,
        })
    }

    /// The next one, if any; never blocks.
    pub fn try_receive(listener: BorrowedFd) -> Option<Self> {
        // receiving blocks if nothing waits, whatever the descriptor's flags are
        let mut polled = [PollFd::new(listener, PollFlags::POLLIN)];
        poll(&mut polled, PollTimeout::ZERO).ok()?;
        if !polled[0].revents()?.contains(PollFlags::POLLIN) {
            return None;
        }
        Self::receive(listener).ok()
    }
}

/// A thread that waits in a call for our answer.
pub struct Notification<'a> {
    listener: BorrowedFd<'a>,
    id: u64,
    answered: bool,
    pub thread: Pid,
    pub number: i64,
    /// None of them looked at yet.
    pub arguments: [u64; 6],
}

impl<'a> Notification<'a> {
    /// `listener` is where the call was received.
    pub fn new(listener: BorrowedFd<'a>, received: &ReceivedCall) -> Self {
        Self {
            listener,
            id: received.id,
            answered: false,
            thread: Pid::from_raw(received.thread),
            number: received.number,
            arguments: received.arguments,
        }
    }

    /// Whether the thread still waits. If so, what was read through its pid before belongs to it, not to another thread with
    /// the same pid.
    pub fn is_valid(&self) -> bool {
        seccomp::is_valid(self.listener, self.id)
    }

    /// Replaces the thread's descriptor with a duplicate of our socket.
    ///
    /// # Errors
    /// `ENOENT` if the thread has gone.
    pub fn replace(&self, source: BorrowedFd, target: RawFd, flags: i32) -> io::Result<()> {
        let close_on_exec = flags & libc::O_CLOEXEC != 0;
        seccomp::replace_descriptor(self.listener, self.id, source, target, close_on_exec)
    }

    /// The call returns 0, or fails with this errno.
    pub fn answer(mut self, errno: i32) {
        self.answered = true;
        // the thread no longer waits for the answer
        let _ = seccomp::answer(self.listener, self.id, errno, false);
    }
}

impl Drop for Notification<'_> {
    fn drop(&mut self) {
        if !self.answered {
            let _ = seccomp::answer(self.listener, self.id, 0, true);
        }
    }
}

/// Does work that a server could delay, in a thread that is left behind if it takes too long.
///
/// # Errors
/// `ETIMEDOUT`, and those of `work`.
pub fn bounded<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::Builder::new()
        .name("capture".to_owned())
        .spawn(move || sender.send(work()))?;
    receiver
        .recv_timeout(PATIENCE)
        .unwrap_or_else(|_| Err(Errno::ETIMEDOUT.into()))
}

/// A value in a thread's memory; `None` if it is longer than `most`, or has an impossible length.
///
/// # Errors
/// `EFAULT` where there is no such memory, `EPERM` if we may not read it, `ETIMEDOUT`.
pub fn read_value(
    thread: Pid,
    address: u64,
    length: i32,
    most: usize,
) -> io::Result<Option<Vec<u8>>> {
    match usize::try_from(length) {
        Ok(0) => Ok(Some(Vec::new())),
        Ok(length) if length <= most => bounded(move || {
            let bytes = memory::read(thread, address, length)?;
            Ok((bytes.len() == length).then_some(bytes))
        }),
        _ => Ok(None),
    }
}

/// A path in a thread's memory, without its NUL; `None` if it is longer than any path.
///
/// # Errors
/// As [`read_value`].
pub fn read_path(thread: Pid, mut address: u64) -> io::Result<Option<Vec<u8>>> {
    bounded(move || {
        let mut path = Vec::new();
        while path.len() < LONGEST_PATH {
            // the page behind the string may not be there
            let in_page = usize::try_from(address).unwrap_or(0) % PAGE;
            let bytes = memory::read(thread, address, PAGE - in_page)?;
            if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
                path.extend_from_slice(&bytes[..end]);
                return Ok((path.len() < LONGEST_PATH).then_some(path));
            }
            address = address.saturating_add(bytes.len() as u64);
            path.extend_from_slice(&bytes);
        }
        Ok(None)
    })
}
