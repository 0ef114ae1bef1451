//! The NOTIFY_SOCKET of one generation, in the protocol of sd_notify(3).
//!
//! Messages of processes outside the generation are ignored. One wake-up reads a bounded number of messages; whatever
//! floods the socket blocks meanwhile.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::sockopt::PassCred;
use nix::sys::socket::{MsgFlags, SockFlag, SockType, UnixAddr, bind, getsockname, setsockopt};
use serde::{Deserialize, Serialize};

use crate::handoff;
use crate::polled::Polled;
use crate::socket::unix_socket;
use crate::supervisor::Time;
use crate::sys::message::{Sender, receive};

/// At most this many messages are read in each span of time.
const BATCH: usize = 64;
const SPAN: Duration = Duration::from_millis(10);
/// The longest message that systemd accepts.
const MESSAGE: usize = 4096;
/// A longer status is truncated to this many characters.
const STATUS: usize = 200;

/// What a server says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotifyMessage {
    Ready,
    Stopping,
    /// For people to read, without control characters.
    Status(String),
    /// What went wrong, as a number of errno(3).
    Errno(i32),
}

#[derive(Debug, Serialize, Deserialize)]
pub struct NotifySocket {
    #[serde(with = "handoff::descriptor")]
    socket: OwnedFd,
    address: String,
    /// When the current span began, and the number of messages read in it.
    #[serde(skip)]
    read: (Time, usize),
    /// A whole batch was read: do not poll until then.
    #[serde(skip)]
    paused: Option<Time>,
    /// What it said last.
    #[serde(skip)]
    status: Option<String>,
    #[serde(skip)]
    errno: Option<i32>,
}

impl NotifySocket {
    /// # Errors
    /// Those of socket(2) and bind(2).
    pub fn new() -> io::Result<Self> {
        let socket = unix_socket(SockType::Datagram, SockFlag::SOCK_NONBLOCK)?;
        setsockopt(&socket, PassCred, &true)?;
        // The kernel picks the name, so nobody can know it in advance and take it.
        bind(socket.as_raw_fd(), &UnixAddr::new_unnamed())?;
        let address: UnixAddr = getsockname(socket.as_raw_fd())?;
        let name = address.as_abstract().ok_or(Errno::EADDRNOTAVAIL)?;
        let address = format!("@{}", String::from_utf8_lossy(name));
        Ok(Self {
            socket,
            address,
            read: (Time::ZERO, 0),
            paused: None,
            status: None,
            errno: None,
        })
    }

    /// The value of NOTIFY_SOCKET.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// `STATUS=opening the database, ERRNO=2`: what it said last, if it has said anything.
    pub fn last_words(&self) -> Option<String> {
        let status = self
            .status
            .as_ref()
            .map(|status| format!("STATUS={status}"));
        let errno = self.errno.map(|errno| format!("ERRNO={errno}"));
        let words: Vec<String> = status.into_iter().chain(errno).collect();
        (!words.is_empty()).then(|| words.join(", "))
    }

    /// The deadline has come.
    pub fn look(&mut self, now: Time) {
        self.paused = self.paused.filter(|until| now < *until);
    }

    /// Reads messages; `belongs` tells whether their sender is part of the generation.
    pub fn woken(
        &mut self,
        now: Time,
        mut belongs: impl FnMut(Sender) -> bool,
    ) -> Vec<NotifyMessage> {
        let mut heard: Vec<NotifyMessage> = Vec::new();
        let mut known: Option<(Sender, bool)> = None;
        let mut message = [0; MESSAGE];
        if now >= self.read.0 + SPAN {
            self.read = (now, 0);
        }
        while self.read.1 < BATCH {
            // Descriptors in a message (BARRIER, FDSTORE) are closed here, which ends a barrier.
            let Ok((bytes, sender)) = self.receive(&mut message) else {
                return heard;
            };
            self.read.1 += 1;
            let Some(sender) = sender else { continue };
            let is_theirs = match known {
                Some((known, is_theirs)) if known == sender => is_theirs,
                _ => belongs(sender),
            };
            known = Some((sender, is_theirs));
            if is_theirs {
                for notice in messages(message.get(..bytes).unwrap_or_default()) {
                    match &notice {
                        NotifyMessage::Status(status) => self.status = Some(status.clone()),
                        NotifyMessage::Errno(errno) => self.errno = Some(*errno),
                        NotifyMessage::Ready | NotifyMessage::Stopping => {}
                    }
                    heard.retain(|other| {
                        std::mem::discriminant(other) != std::mem::discriminant(&notice)
                    });
                    heard.push(notice);
                }
            }
        }
        self.paused = Some(self.read.0 + SPAN);
        heard
    }

    /// The length of a message, 0 if it was too long, and its sender.
    fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Option<Sender>)> {
        let message = loop {
            match receive(self.socket.as_fd(), buffer, MsgFlags::MSG_TRUNC) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        let bytes = if message.bytes > buffer.len() {
            0
        } else {
            message.bytes
        };
        Ok((bytes, message.sender))
    }
}

impl Polled for NotifySocket {
    fn polled(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let is_open = self.paused.is_none();
        Vec::from_iter(is_open.then(|| (self.socket.as_fd(), PollFlags::POLLIN)))
    }

    /// When to poll again after a full batch.
    fn deadline(&self) -> Option<Time> {
        self.paused
    }
}

/// The known lines of one message.
fn messages(message: &[u8]) -> impl Iterator<Item = NotifyMessage> {
    let text = std::str::from_utf8(message).unwrap_or_default();
    text.lines().filter_map(|line| match line {
        "READY=1" => Some(NotifyMessage::Ready),
        "STOPPING=1" => Some(NotifyMessage::Stopping),
        _ => match line.split_once('=')? {
            ("STATUS", status) => {
                let printable = status.chars().filter(|character| !character.is_control());
                Some(NotifyMessage::Status(printable.take(STATUS).collect()))
            }
            ("ERRNO", errno) => errno.parse().ok().map(NotifyMessage::Errno),
            _ => None,
        },
    })
}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, Read};

    use nix::sys::socket::{ControlMessage, connect, sendmsg};

    use nix::unistd::Pid;

    use super::*;

    const NOW: Time = Time::from_secs(50);

    fn notify_socket() -> NotifySocket {
        NotifySocket::new().unwrap()
    }

    /// A server's end, connected to the address in its environment.
    fn sender(to: &NotifySocket) -> OwnedFd {
        let sender = unix_socket(SockType::Datagram, SockFlag::SOCK_NONBLOCK).unwrap();
        let name = to.address().strip_prefix('@').unwrap();
        connect(
            sender.as_raw_fd(),
            &UnixAddr::new_abstract(name.as_bytes()).unwrap(),
        )
        .unwrap();
        sender
    }

    fn send(from: &OwnedFd, message: &[u8]) -> bool {
        nix::sys::socket::send(from.as_raw_fd(), message, MsgFlags::empty()).is_ok()
    }

    #[test]
    fn the_messages_of_a_server_are_read() {
        let mut notify = notify_socket();
        let server = sender(&notify);
        assert!(send(
            &server,
            b"STATUS=warming up\nEXTEND_TIMEOUT_USEC=5000000\nWATCHDOG=1"
        ));
        assert!(send(&server, b"READY=1\nSTATUS=fine\x1b[31m\nMAINPID=1\n"));
        assert!(send(&server, b"STOPPING=1"));
        let heard = notify.woken(NOW, |sender| sender.pid == Pid::this());
        let status = NotifyMessage::Status("fine[31m".into());
        assert_eq!(
            heard,
            [NotifyMessage::Ready, status, NotifyMessage::Stopping]
        );
        assert!(notify.polled().len() == 1);
        assert!(send(&server, b"ERRNO=two"));
        assert!(send(&server, b"STATUS=no database\nERRNO=2"));
        notify.woken(NOW, |_| true);
        let last = notify.last_words();
        assert_eq!(last.as_deref(), Some("STATUS=no database, ERRNO=2"));
    }

    #[test]
    fn messages_of_other_processes_are_ignored() {
        let mut notify = notify_socket();
        assert!(send(&sender(&notify), b"READY=1"));
        assert_eq!(notify.woken(NOW, |_| false), []);
    }

    #[test]
    fn unknown_messages_are_ignored() {
        let mut notify = notify_socket();
        let server = sender(&notify);
        let long = [b"READY=1\n".repeat(MESSAGE / 8), vec![b'x']].concat();
        for message in [
            &b""[..],
            b"READY=0",
            b" READY=1",
            b"READY=1\xff",
            b"READY",
            &long,
        ] {
            assert!(send(&server, message));
            assert_eq!(notify.woken(NOW, |_| true), [], "{} bytes", message.len());
        }
    }

    #[test]
    fn a_barrier_ends_when_its_message_is_read() {
        let mut notify = notify_socket();
        let (mut barrier, held) = std::io::pipe().unwrap();
        let rights = [held.as_raw_fd()];
        let control = [ControlMessage::ScmRights(&rights)];
        let text = [IoSlice::new(b"BARRIER=1")];
        let server = sender(&notify);
        sendmsg::<()>(server.as_raw_fd(), &text, &control, MsgFlags::empty(), None).unwrap();
        drop(held);
        assert_eq!(notify.woken(NOW, |_| true), []);
        assert_eq!(
            barrier.read(&mut [0]).unwrap(),
            0,
            "the other end is closed"
        );
    }

    #[test]
    fn a_flood_is_read_a_batch_at_a_time() {
        let mut notify = notify_socket();
        let server = sender(&notify);
        let mut messages = 0;
        while notify.polled().len() == 1 {
            while send(&server, b"STATUS=again") {
                messages += 1;
            }
            assert!(notify.woken(NOW, |_| true).len() <= 1);
        }
        assert!(messages >= BATCH, "paused after {messages}");
        assert_eq!(notify.deadline(), Some(NOW + SPAN));
        notify.look(NOW + SPAN / 2);
        assert!(notify.polled().is_empty(), "it is too early to go on");
        notify.look(NOW + SPAN);
        assert!(notify.polled().len() == 1 && notify.deadline().is_none());
        send(&server, b"READY=1");
        while notify.polled().len() == 1 && !notify.woken(NOW + SPAN, |_| true).is_empty() {}
        assert!(notify.polled().len() == 1, "the flood is over");
    }

    #[test]
    fn every_socket_has_a_name_of_its_own_and_keeps_it() {
        let (first, second) = (notify_socket(), notify_socket());
        assert_ne!(first.address(), second.address());
        let address = first.address().to_owned();
        let mut again: NotifySocket = handoff::carry(&first).unwrap();
        drop(first);
        assert_eq!(again.address(), address);
        assert!(send(&sender(&again), b"READY=1"));
        assert_eq!(again.woken(NOW, |_| true), [NotifyMessage::Ready]);
    }

    proptest::proptest! {
        #[test]
        fn no_datagram_gets_a_control_character_through(bytes: Vec<u8>, text in "STATUS=\\PC{0,40}[\\x00-\\x1f\\x7f]{0,3}\\PC{0,400}") {
            for message in messages(&bytes).chain(messages(text.as_bytes())) {
                if let NotifyMessage::Status(status) = message {
                    proptest::prop_assert!(status.chars().count() <= STATUS);
                    proptest::prop_assert!(!status.contains(char::is_control));
                }
            }
        }
    }
}
