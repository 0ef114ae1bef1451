//! The NOTIFY_SOCKET of one generation, as sd_notify(3) speaks to it.
//!
//! Only processes of the generation are heard. Whatever they send, one wake-up reads a bounded part of it, and a flood is
//! read a little at a time while its sender blocks.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::sockopt::PassCred;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, bind, getsockname, setsockopt, socket,
};
use nix::unistd::Pid;

use crate::supervisor::{Generation, Time};
use crate::sys;

/// So many messages are read in one wake-up.
const BATCH: usize = 64;
/// So long a sender of more has to wait.
const PAUSE: Duration = Duration::from_millis(10);
/// What systemd takes in one message.
const MESSAGE: usize = 4096;
/// A status line is cut off behind so many characters.
const STATUS: usize = 200;
/// Another's socket may be in the way of a name.
const NAMES: u32 = 100;

/// What a server says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    Ready,
    Stopping,
    /// For people to read; control characters are taken out.
    Status(String),
}

#[derive(Debug)]
pub struct NotifySocket {
    socket: OwnedFd,
    address: String,
    /// More than a batch had come: it is left alone until then.
    paused: Option<Time>,
}

impl NotifySocket {
    /// # Errors
    /// Those of socket(2) and bind(2).
    pub fn new(generation: Generation) -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Unix,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            None,
        )?;
        setsockopt(&socket, PassCred, &true)?;
        let base = format!("hotswap-{}-{}", std::process::id(), generation.0);
        let mut name = base.clone();
        for other in 2..NAMES {
            match bind(
                socket.as_raw_fd(),
                &UnixAddr::new_abstract(name.as_bytes())?,
            ) {
                Err(Errno::EADDRINUSE) => name = format!("{base}-{other}"),
                result => {
                    result?;
                    break;
                }
            }
        }
        Self::resume(socket)
    }

    /// Takes one up again that was made before hotswap re-executed itself.
    ///
    /// # Errors
    /// If it is no socket with an abstract name.
    pub fn resume(socket: OwnedFd) -> io::Result<Self> {
        let address: UnixAddr = getsockname(socket.as_raw_fd())?;
        let name = address.as_abstract().ok_or(Errno::EADDRNOTAVAIL)?;
        let address = format!("@{}", String::from_utf8_lossy(name));
        Ok(Self {
            socket,
            address,
            paused: None,
        })
    }

    /// The value of NOTIFY_SOCKET.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn polled(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let is_open = self.paused.is_none();
        is_open.then(|| (self.socket.as_fd(), PollFlags::POLLIN))
    }

    /// When a flood may go on.
    pub fn deadline(&self) -> Option<Time> {
        self.paused
    }

    /// The deadline has come.
    pub fn look(&mut self, now: Time) {
        self.paused = self.paused.filter(|until| now < *until);
    }

    /// Reads what has come; `belongs` tells whether a process is one of the generation.
    pub fn woken(&mut self, now: Time, mut belongs: impl FnMut(Pid) -> bool) -> Vec<Notice> {
        let mut heard: Vec<Notice> = Vec::new();
        let mut known: Option<(Pid, bool)> = None;
        let mut message = [0; MESSAGE];
        for _ in 0..BATCH {
            // Descriptors that come along (BARRIER, FDSTORE) are closed here, which is what a barrier waits for.
            let Ok((bytes, sender)) = self.receive(&mut message) else {
                return heard;
            };
            let Some(sender) = sender else { continue };
            let is_theirs = match known {
                Some((pid, is_theirs)) if pid == sender => is_theirs,
                _ => belongs(sender),
            };
            known = Some((sender, is_theirs));
            if is_theirs {
                for notice in notices(message.get(..bytes).unwrap_or_default()) {
                    heard.retain(|other| {
                        std::mem::discriminant(other) != std::mem::discriminant(&notice)
                    });
                    heard.push(notice);
                }
            }
        }
        self.paused = Some(now + PAUSE);
        heard
    }

    /// The length of a message and its sender; 0 if it was longer than a message may be.
    fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Option<Pid>)> {
        let (bytes, sender) = loop {
            match sys::receive_with_sender(self.socket.as_fd(), buffer, MsgFlags::MSG_TRUNC) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        Ok((if bytes > buffer.len() { 0 } else { bytes }, sender))
    }
}

/// The lines of one message that mean something to us.
fn notices(message: &[u8]) -> impl Iterator<Item = Notice> {
    let text = std::str::from_utf8(message).unwrap_or_default();
    text.lines().filter_map(|line| match line {
        "READY=1" => Some(Notice::Ready),
        "STOPPING=1" => Some(Notice::Stopping),
        _ => line.strip_prefix("STATUS=").map(|status| {
            let printable = status.chars().filter(|character| !character.is_control());
            Notice::Status(printable.take(STATUS).collect())
        }),
    })
}
