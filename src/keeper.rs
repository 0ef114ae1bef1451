//! The keeper: a process that holds what a server cannot live without, for the time between the death of its hotswap and
//! the next one.
//!
//! It has a duplicate of the pipe that the server's stderr is, and of the descriptor that its stopped calls come by. It
//! sleeps until hotswap is dead. From then on it passes on what is written, lets the kernel carry out what is called, and
//! ends with the last of those servers. It decides nothing.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::Result;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_name;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair,
};
use nix::unistd::{Pid, getppid};
use serde::{Deserialize, Serialize};

use crate::handoff;
use crate::polled::Polled;
use crate::stub::OF_A_COMMAND;
use crate::supervisor::Time;
use crate::sys;
use crate::sys::message::receive;
use crate::sys::{memory, process, seccomp};

/// How a fresh hotswap knows that it is the keeper.
const NAME: &str = "hotswap-keeper";
/// The same, as ps(1) and top(1) show it.
const SHOWN_NAME: &CStr = c"hotswap-keeper";
const STDERR: u8 = b'E';
const CALLS: u8 = b'C';
/// One that ends sooner has failed. After this many in a row, none is started.
const LASTING: Duration = Duration::from_secs(1);
const MOST_FAILED: u32 = 3;
/// What is passed on at once.
const PIECE: usize = 16 * 1024;

/// hotswap's end.
#[derive(Debug, Serialize, Deserialize)]
pub struct Keeper {
    #[serde(with = "handoff::descriptor")]
    channel: OwnedFd,
    started: Time,
    /// How many before it ended soon, one after another.
    failed: u32,
}

impl Keeper {
    /// # Errors
    /// Those of socketpair(2) and fork(2).
    pub fn start(failed: u32) -> io::Result<Self> {
        let (channel, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        Command::new("/proc/self/exe")
            .arg0(NAME)
            .arg(std::process::id().to_string())
            .env_remove("HOTSWAP_GENERATION")
            // it holds what servers have, but it is not one of their processes
            .env(OF_A_COMMAND, NAME)
            .stdin(theirs)
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()?;
        let started = sys::now();
        Ok(Self {
            channel,
            started,
            failed,
        })
    }

    /// The end of the pipe that a server's stderr is read from.
    ///
    /// # Errors
    /// Those of sendmsg(2): it has ended.
    pub fn keep_stderr(&self, pipe: BorrowedFd) -> io::Result<()> {
        self.keep(STDERR, pipe)
    }

    /// Where the calls come from that a filter stops.
    ///
    /// # Errors
    /// As [`Keeper::keep_stderr`].
    pub fn keep_calls(&self, notifications: BorrowedFd) -> io::Result<()> {
        self.keep(CALLS, notifications)
    }

    fn keep(&self, kind: u8, descriptor: BorrowedFd) -> io::Result<()> {
        let (text, rights) = ([kind], [descriptor.as_raw_fd()]);
        let rights = [ControlMessage::ScmRights(&rights)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let channel = self.channel.as_raw_fd();
        sendmsg::<()>(channel, &[IoSlice::new(&text)], &rights, flags, None)?;
        Ok(())
    }

    /// It has ended: how many have ended soon, one after another; `None` if they are too many.
    pub fn failed(&self, now: Time) -> Option<u32> {
        let is_soon = now < self.started + LASTING;
        let failed = if is_soon { self.failed + 1 } else { 0 };
        (failed <= MOST_FAILED).then_some(failed)
    }
}

impl Polled for Keeper {
    /// It says only that it has ended.
    fn polled(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        vec![(self.channel.as_fd(), PollFlags::empty())]
    }
}

/// Whether this process was started to be the keeper.
pub fn was_asked_for() -> bool {
    std::env::args_os().next().is_some_and(|name| name == *NAME)
}

struct KeptDescriptor {
    kind: u8,
    descriptor: File,
}

/// Keeps until hotswap is dead, and serves until those that it serves are.
///
/// # Errors
/// Those of poll(2) and of pidfd_open(2).
pub fn run() -> Result<ExitCode> {
    // a Ctrl-C or a hang-up is meant for others
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?;
    // "exe" by now, from the path that was executed
    set_name(SHOWN_NAME)?;
    process::close_range(3, i32::MAX)?;
    let _ = std::env::set_current_dir("/");
    let hotswap = std::env::args().nth(1).and_then(|pid| pid.parse().ok());
    let hotswap = Pid::from_raw(hotswap.unwrap_or_default());
    // A leaked end of the channel would hide its death. If it is dead by now, this process has another parent.
    let mut living = if getppid() == hotswap {
        Some(sys::pidfd_open(hotswap, hotswap)?)
    } else {
        None
    };
    let mut channel = Some(io::stdin().as_fd().try_clone_to_owned()?);
    let mut kept: Vec<KeptDescriptor> = Vec::new();
    loop {
        if living.is_none() {
            take(&mut channel, &mut kept);
            channel = None;
            if kept.is_empty() {
                return Ok(ExitCode::SUCCESS);
            }
        }
        let wanted = if living.is_some() {
            PollFlags::empty()
        } else {
            PollFlags::POLLIN
        };
        let mut polled: Vec<PollFd> = kept
            .iter()
            .map(|kept| PollFd::new(kept.descriptor.as_fd(), wanted))
            .collect();
        let last = polled.len();
        let others = channel.iter().map(AsFd::as_fd);
        let others = others.chain(living.iter().map(AsFd::as_fd));
        polled.extend(others.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        if living.is_some() {
            memory::give_back();
        }
        match poll(&mut polled, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            polled => polled?,
        };
        let flags: Vec<PollFlags> = polled
            .iter()
            .map(|polled| polled.revents().unwrap_or(PollFlags::POLLERR))
            .collect();
        let mut events = flags.iter().copied();
        kept.retain_mut(|kept| is_left(kept, events.next().unwrap_or(PollFlags::empty())));
        let mut events = flags.iter().skip(last);
        if channel.is_some() && events.next().is_some_and(|flags| !flags.is_empty()) {
            take(&mut channel, &mut kept);
        }
        if events.next().is_some_and(|flags| !flags.is_empty()) {
            living = None;
        }
    }
}

/// Serves it; false once there is nothing to serve any more.
fn is_left(kept: &mut KeptDescriptor, flags: PollFlags) -> bool {
    if !flags.contains(PollFlags::POLLIN) {
        return flags.is_empty();
    }
    if kept.kind == CALLS {
        if let Ok(call) = seccomp::receive(kept.descriptor.as_fd()) {
            let _ = seccomp::answer(kept.descriptor.as_fd(), call.id, 0, true);
        }
        return true;
    }
    let mut piece = [0; PIECE];
    match kept.descriptor.read(&mut piece) {
        Ok(0) => false,
        // where nobody reads it is lost, as by the bare server
        Ok(bytes) => {
            let _ = io::stderr().write_all(&piece[..bytes]);
            true
        }
        Err(error) => {
            [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted].contains(&error.kind())
        }
    }
}

/// What hotswap has sent, until it has closed its end.
fn take(channel: &mut Option<OwnedFd>, kept: &mut Vec<KeptDescriptor>) {
    let Some(open) = channel else { return };
    let mut kind = [0];
    loop {
        match receive(open.as_fd(), &mut kind, MsgFlags::MSG_DONTWAIT) {
            Ok(message) if message.bytes > 0 => {
                let new = message.descriptors.into_iter();
                kept.extend(new.map(|descriptor| KeptDescriptor {
                    kind: kind[0],
                    descriptor: descriptor.into(),
                }));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Ok(_) | Err(_) => break,
        }
    }
    *channel = None;
}
