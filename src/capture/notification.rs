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
const LONGEST_ADDRESS: usize = 128;
const LONGEST_PATH: usize = libc::PATH_MAX as usize;
const PAGE: usize = 4096;
/// How long to wait for a server's memory or directory, which may be a file system of its own that never answers. Longer
/// than any other takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// A stopped call with its arguments, none of them looked at yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Bind {
        fd: RawFd,
        address: u64,
        length: i32,
    },
    Listen {
        fd: RawFd,
    },
    Unlink {
        directory: RawFd,
        path: u64,
    },
    SetOption {
        fd: RawFd,
        level: i32,
        name: i32,
        value: u64,
        length: i32,
    },
    Other,
}

/// The kernel uses the lower half of a register for an int.
fn int(argument: u64) -> i32 {
    u32::try_from(argument & 0xFFFF_FFFF)
        .unwrap_or(0)
        .cast_signed()
}

impl Call {
    fn decode(number: i64, arguments: [u64; 6]) -> Self {
        let [first, second, third, fourth, fifth, _] = arguments;
        #[cfg(target_arch = "x86_64")]
        if number == libc::SYS_unlink {
            let (directory, path) = (libc::AT_FDCWD, first);
            return Self::Unlink { directory, path };
        }
        match number {
            libc::SYS_bind => Self::Bind {
                fd: int(first),
                address: second,
                length: int(third),
            },
            libc::SYS_listen => Self::Listen { fd: int(first) },
            // a directory is never a listener
            libc::SYS_unlinkat if int(third) & libc::AT_REMOVEDIR == 0 => Self::Unlink {
                directory: int(first),
                path: second,
            },
            libc::SYS_setsockopt => Self::SetOption {
                fd: int(first),
                level: int(second),
                name: int(third),
                value: fourth,
                length: int(fifth),
            },
            _ => Self::Other,
        }
    }
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
    pub call: Call,
}

impl<'a> Notification<'a> {
    /// `listener` is where the call was received.
    pub fn new(listener: BorrowedFd<'a>, received: &ReceivedCall) -> Self {
        Self {
            listener,
            id: received.id,
            answered: false,
            thread: Pid::from_raw(received.thread),
            call: Call::decode(received.number, received.arguments),
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

    /// The call returns 0.
    pub fn succeed(self) {
        self.answer(0, false);
    }

    /// The call fails.
    pub fn refuse(self, error: &io::Error) {
        self.answer(error.raw_os_error().unwrap_or(libc::EIO), false);
    }

    /// The kernel carries the call out.
    pub fn continue_call(self) {
        self.answer(0, true);
    }

    fn answer(mut self, errno: i32, continue_call: bool) {
        self.answered = true;
        // the thread no longer waits for the answer
        let _ = seccomp::answer(self.listener, self.id, errno, continue_call);
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

/// The bytes of a socket address in a thread's memory; `None` for a length that bind(2) refuses.
///
/// # Errors
/// `EFAULT` where there is no such memory, `EPERM` if we may not read it, `ETIMEDOUT`.
pub fn read_address(thread: Pid, address: u64, length: i32) -> io::Result<Option<Vec<u8>>> {
    if length < 2 {
        return Ok(None);
    }
    read_value(thread, address, length, LONGEST_ADDRESS)
}

/// A value in a thread's memory; `None` if it is longer than `most`, or has an impossible length.
///
/// # Errors
/// As [`read_address`].
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
/// As [`read_address`].
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
