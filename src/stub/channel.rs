//! The channel between hotswap and a stub until the stub has become the server: both ends of it.
//!
//! hotswap sends everything at once and never waits. The stub replies as it goes, and the channel closes when exec has
//! worked.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, setsockopt, socketpair,
    sockopt::ReceiveTimeout,
};
use nix::sys::time::TimeVal;
use nix::unistd::Pid;

use super::OF_A_COMMAND;
use super::request::StubRequest;
use crate::retry::{is_transient, retry};
use crate::sys::message::{ReceivedMessage, receive};

/// How a fresh hotswap knows that it is a stub.
pub const NAME: &str = "hotswap-stub";

/// Descriptors in one message; the kernel takes 253 (`SCM_MAX_FD`).
const BATCH: usize = 250;

/// How long a stub waits for the rest of its request.
const PATIENCE: TimeVal = TimeVal::new(60, 0);

/// More than any path and reason.
const LONGEST_ANSWER: usize = 16 * 1024;

const CANNOT: u8 = b'E';
const CAPTURED: u8 = b'C';
const NOT_CAPTURED: u8 = b'R';

/// What a stub reports before it is the server.
#[derive(Debug)]
pub enum StubMessage {
    /// It is the server now.
    Running,
    /// It ends with this status (125, 126, 127), for this reason.
    Cannot { status: u8, reason: String },
    /// The descriptor that the filter's notifications come from.
    Captured(OwnedFd),
    /// The filter was refused, with this errno. The server runs without it.
    NotCaptured(i32),
}

/// hotswap's end.
#[derive(Debug)]
pub struct StubChannel {
    socket: OwnedFd,
    /// The beginning of a message.
    received: Vec<u8>,
    /// Descriptors that came with it.
    came: Vec<OwnedFd>,
}

/// hotswap itself, even if its file has been replaced.
fn stub() -> Command {
    let mut stub = Command::new("/proc/self/exe");
    // until exec it has hotswap's own variables, which must not make it a generation of an outer hotswap
    stub.arg0(NAME).env_remove("HOTSWAP_GENERATION");
    // it holds sockets that another generation may have, too, but it is not one of its processes
    stub.env(OF_A_COMMAND, NAME);
    // in tests this program is theirs, which is told by its arguments what to do
    #[cfg(test)]
    stub.args([
        "stub::tests::becomes_a_server",
        "--exact",
        "--quiet",
        "--nocapture",
    ]);
    #[cfg(test)]
    stub.arg("--test-threads=1");
    stub
}

/// Starts a process that carries out the order. `handed` go with it, in the order of [`StubRequest::numbers`], and behind them
/// the program itself if it is to be executed by its descriptor.
///
/// # Errors
/// Those of socketpair(2), memfd_create(2), fork(2) and sendmsg(2); then nothing is left of it.
pub fn start(
    request: &StubRequest,
    handed: &[BorrowedFd],
    stdout: Stdio,
    stderr: Stdio,
) -> io::Result<(Pid, StubChannel)> {
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::Stream,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?;
    let written = write_down(request)?;
    // sent before there is a reader: a stub that never starts leaves nothing behind
    send_descriptors(ours.as_fd(), handed)?;
    send_descriptors(ours.as_fd(), &[written.as_fd()])?;
    send(ours.as_fd(), 0, &[])?;
    let child = stub()
        .stdin(theirs)
        .stdout(stdout)
        .stderr(stderr)
        .process_group(0)
        .spawn()
        .map_err(|error| {
            io::Error::new(error.kind(), format!("cannot start a process: {error}"))
        })?;
    let pid = i32::try_from(child.id()).map_err(|_| io::ErrorKind::InvalidData)?;
    let line = StubChannel {
        socket: ours,
        received: Vec::new(),
        came: Vec::new(),
    };
    Ok((Pid::from_raw(pid), line))
}

fn write_down(request: &StubRequest) -> io::Result<File> {
    let plain = MFdFlags::MFD_CLOEXEC;
    // some systems refuse a file that could be executed, and older ones know nothing else (before Linux 6.3)
    let tame = plain | MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
    let file = memfd_create(c"order", tame).or_else(|_| memfd_create(c"order", plain))?;
    let mut file = File::from(file);
    file.write_all(&request.to_bytes()?)?;
    Ok(file)
}

fn send_descriptors(socket: BorrowedFd, descriptors: &[BorrowedFd]) -> io::Result<()> {
    for batch in descriptors.chunks(BATCH) {
        let numbers: Vec<RawFd> = batch.iter().map(AsRawFd::as_raw_fd).collect();
        let count = u8::try_from(numbers.len()).map_err(|_| io::ErrorKind::InvalidData)?;
        send(socket, count, &[ControlMessage::ScmRights(&numbers)])?;
    }
    Ok(())
}

fn send(socket: BorrowedFd, byte: u8, rights: &[ControlMessage]) -> io::Result<()> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let text = [byte];
    let text = [IoSlice::new(&text)];
    retry(|| sendmsg::<()>(socket.as_raw_fd(), &text, rights, flags, None)).map(drop)
}

impl StubChannel {
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// All messages since the last call; the channel ends with [`StubMessage::Running`].
    pub fn messages(&mut self) -> Vec<StubMessage> {
        let mut answers = Vec::new();
        let mut buffer = [0; 1024];
        loop {
            let flags = MsgFlags::MSG_DONTWAIT;
            match receive(self.fd(), &mut buffer, flags) {
                Ok(ReceivedMessage { bytes: 0, .. }) => break answers.push(StubMessage::Running),
                Ok(message) => {
                    self.came.extend(message.descriptors);
                    self.received.extend_from_slice(&buffer[..message.bytes]);
                    answers.extend(self.take_lines());
                    if self.received.len() > LONGEST_ANSWER {
                        break answers.push(StubMessage::Running);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // the rest waits for the next call
                Err(error) if is_transient(&error) => break,
                // a reset: the stub ended without reading all of its request
                Err(_) => break answers.push(StubMessage::Running),
            }
        }
        answers
    }

    fn take_lines(&mut self) -> Vec<StubMessage> {
        let mut answers = Vec::new();
        while let Some(end) = self.received.iter().position(|byte| *byte == 0) {
            let record: Vec<u8> = self.received.drain(..=end).collect();
            let text = String::from_utf8_lossy(&record[1..record.len().max(2) - 1]);
            match record.first() {
                Some(&CAPTURED) => answers.push(self.came.pop().map_or_else(
                    || StubMessage::Cannot {
                        status: 125,
                        reason: "cannot take the descriptor that it is captured by".to_owned(),
                    },
                    StubMessage::Captured,
                )),
                Some(&NOT_CAPTURED) => {
                    answers.extend(text.parse().ok().map(StubMessage::NotCaptured));
                }
                Some(&CANNOT) => {
                    let (status, reason) = text.split_once(' ').unwrap_or(("125", &text));
                    answers.push(StubMessage::Cannot {
                        status: status.parse().unwrap_or(125),
                        reason: reason.to_owned(),
                    });
                }
                _ => {}
            }
        }
        answers
    }
}

/// The stub's end.
pub struct StubEnd(OwnedFd);

impl StubEnd {
    /// `socket` is close-on-exec: that it closes says that exec has worked.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        setsockopt(&socket, ReceiveTimeout, &PATIENCE)?;
        Ok(Self(socket))
    }

    /// For the code that assigns descriptor numbers.
    pub fn descriptor(&mut self) -> &mut OwnedFd {
        &mut self.0
    }

    /// The request, and the descriptors that belong to it.
    ///
    /// # Errors
    /// `EMFILE` if there are more than this process may have, and an end of file if hotswap has gone.
    pub fn take_order(&self) -> io::Result<(StubRequest, Vec<OwnedFd>)> {
        let mut handed = Vec::new();
        loop {
            let mut count = [0];
            let message = receive(self.0.as_fd(), &mut count, MsgFlags::empty())?;
            if message.bytes == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if message.descriptors.len() != usize::from(count[0]) {
                return Err(nix::errno::Errno::EMFILE.into());
            }
            if count[0] == 0 {
                break;
            }
            handed.extend(message.descriptors);
        }
        let written = File::from(handed.pop().ok_or(io::ErrorKind::UnexpectedEof)?);
        let mut bytes = vec![0; usize::try_from(written.metadata()?.len()).unwrap_or(0)];
        written.read_exact_at(&mut bytes, 0)?;
        Ok((StubRequest::from_bytes(&bytes)?, handed))
    }

    /// Waits this long; whether hotswap is still there.
    pub fn holds_for(&self, patience: PollTimeout) -> bool {
        let mut polled = [PollFd::new(self.0.as_fd(), PollFlags::empty())];
        !matches!(poll(&mut polled, patience), Ok(1..))
    }

    /// Reports why it failed, if hotswap is still there.
    pub fn cannot(&self, status: u8, reason: &str) {
        let reason: String = reason.chars().filter(|char| *char != '\0').collect();
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
        record.push(0);
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
