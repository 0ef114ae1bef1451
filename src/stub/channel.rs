//! The channel between hotswap and a stub until the stub has become the server: both ends of it.
//!
//! The stub reports as it goes, and the channel closes when exec has worked.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair,
};

use crate::retry::{is_transient, retry};
use crate::sys;
use crate::sys::message::{ReceivedMessage, receive};

/// More than any path and reason.
const LONGEST_ANSWER: usize = 16 * 1024;

const CANNOT: u8 = b'E';
const CAPTURED: u8 = b'C';
const NOT_CAPTURED: u8 = b'R';

/// What a stub reports before it is the server.
#[derive(Debug)]
pub enum StubMessage {
    /// Nothing more: its exec has closed the channel, or its end has, which the reaping tells.
    Closed,
    /// It ends with this status (125, 126, 127), for this reason.
    Cannot { status: u8, reason: String },
    /// The descriptor that the filter's notifications come from.
    Captured(OwnedFd),
    /// The filter was refused, with this errno. The server runs without it.
    NotCaptured(i32),
}

/// hotswap's end.
#[derive(Debug)]
pub struct StubChannel(OwnedFd);

/// Both ends, close-on-exec.
///
/// # Errors
/// Those of socketpair(2).
pub fn open() -> io::Result<(StubChannel, StubEnd)> {
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?;
    Ok((StubChannel(ours), StubEnd(theirs)))
}

impl StubChannel {
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// All messages since the last call; the channel ends with [`StubMessage::Closed`].
    pub fn messages(&self) -> Vec<StubMessage> {
        let mut messages = Vec::new();
        let mut buffer = vec![0; LONGEST_ANSWER];
        loop {
            match receive(self.fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(ReceivedMessage { bytes: 0, .. }) => break messages.push(StubMessage::Closed),
                Ok(message) => {
                    let bytes = &buffer[..message.bytes];
                    messages.extend(StubMessage::read(bytes, message.descriptors));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // the rest waits for the next call
                Err(error) if is_transient(&error) => break,
                Err(_) => break messages.push(StubMessage::Closed),
            }
        }
        messages
    }
}

impl StubMessage {
    /// `None` if it is unknown.
    fn read(message: &[u8], mut descriptors: Vec<OwnedFd>) -> Option<Self> {
        let (kind, text) = message.split_first()?;
        let text = String::from_utf8_lossy(text);
        match *kind {
            CAPTURED => Some(descriptors.pop().map_or_else(
                || Self::Cannot {
                    status: 125,
                    reason: "cannot receive the seccomp notification descriptor".to_owned(),
                },
                Self::Captured,
            )),
            NOT_CAPTURED => text.parse().ok().map(Self::NotCaptured),
            CANNOT => {
                let (status, reason) = text.split_once(' ').unwrap_or(("125", &text));
                Some(Self::Cannot {
                    status: status.parse().unwrap_or(125),
                    reason: reason.to_owned(),
                })
            }
            _ => None,
        }
    }
}

/// The stub's end.
pub struct StubEnd(OwnedFd);

impl StubEnd {
    /// The same end in the process that has been started, whatever number it gets there.
    ///
    /// # Errors
    /// Those of fcntl(2).
    pub fn in_child(&self) -> io::Result<Self> {
        sys::adopt(self.0.as_raw_fd()).map(Self)
    }

    /// For the code that assigns descriptor numbers.
    pub fn descriptor(&mut self) -> &mut OwnedFd {
        &mut self.0
    }

    /// Waits this long; whether hotswap is still there.
    pub fn holds_for(&self, patience: PollTimeout) -> bool {
        let mut polled = [PollFd::new(self.0.as_fd(), PollFlags::empty())];
        !matches!(poll(&mut polled, patience), Ok(1..))
    }

    /// Reports why it failed, if hotswap is still there.
    pub fn cannot(&self, status: u8, reason: &str) {
        self.say(CANNOT, &format!("{status} {reason}"), &[]);
    }

    pub fn captured(&self, notifications: BorrowedFd) {
        self.say(CAPTURED, "", &[notifications.as_raw_fd()]);
    }

    pub fn not_captured(&self, errno: i32) {
        self.say(NOT_CAPTURED, &errno.to_string(), &[]);
    }

    fn say(&self, kind: u8, text: &str, descriptors: &[RawFd]) {
        let mut record = vec![kind];
        record.extend_from_slice(text.as_bytes());
        let rights = [ControlMessage::ScmRights(descriptors)];
        let rights = if descriptors.is_empty() {
            &rights[..0]
        } else {
            &rights
        };
        let (text, flags) = ([IoSlice::new(&record)], MsgFlags::MSG_NOSIGNAL);
        // the buffer of a fresh socket holds it; if hotswap has gone, there is nobody to tell
        let _ = retry(|| sendmsg::<()>(self.0.as_raw_fd(), &text, rights, flags, None));
    }
}
