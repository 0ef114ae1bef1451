//! The keeper: a process that holds what a server cannot live without, for the time between the death of its hotswap and
//! the next one.
//!
//! hotswap sends it a duplicate of the pipe that the server's stderr is, and of the descriptor that its stopped calls come
//! by. They wait in the channel while it sleeps, until hotswap is dead. From then on it passes on what is written, lets
//! the kernel carry out what is called, and ends with the last of those servers. It decides nothing.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::Result;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_name;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair,
};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::handoff;
use crate::polled::Polled;
use crate::retry::is_for_later;
use crate::stub::OF_A_COMMAND;
use crate::supervisor::Time;
use crate::sys;
use crate::sys::message::receive;
use crate::sys::{memory, process, seccomp};

/// How a fresh hotswap knows that it is the keeper, and what ps(1) and top(1) show.
const NAME: &CStr = c"hotswap-keeper";
const STDERR: u8 = b'E';
const CALLS: u8 = b'C';
/// One that ends sooner has failed. After this many in a row, none is started.
const LASTING: Duration = Duration::from_secs(1);
const MOST_FAILED: u32 = 3;
/// A hotswap that dies closes the channel first.
const DYING: u16 = 1_000;
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
    /// Those of socketpair(2), pidfd_open(2) and fork(2).
    pub fn start(failed: u32) -> io::Result<Self> {
        let (channel, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        let hotswap = Pid::this();
        Command::new("/proc/self/exe")
            .arg0(OsStr::from_bytes(NAME.to_bytes()))
            .env_remove("HOTSWAP_GENERATION")
            // it holds what servers have, but it is not one of their processes
            .env(OF_A_COMMAND, OsStr::from_bytes(NAME.to_bytes()))
            .stdin(theirs)
            // a leaked end of the channel would hide the death of hotswap
            .stdout(sys::pidfd_open(hotswap, hotswap)?)
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
    /// Those of sendmsg(2): it has ended, or is full.
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
    std::env::args_os()
        .next()
        .is_some_and(|name| name.as_bytes() == NAME.to_bytes())
}

struct KeptDescriptor {
    kind: u8,
    descriptor: File,
}

/// Sleeps until hotswap is dead, and serves until those that it serves are.
///
/// # Errors
/// Those of poll(2).
pub fn run() -> Result<ExitCode> {
    // a Ctrl-C or a hang-up is meant for others
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?;
    // "exe" by now, from the path that was executed
    set_name(NAME)?;
    process::close_range(3, i32::MAX)?;
    let _ = std::env::set_current_dir("/");
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let (channel, hotswap) = (stdin.as_fd(), stdout.as_fd());
    let says = |source, flags, patience: PollTimeout| -> nix::Result<bool> {
        Ok(poll(&mut [PollFd::new(source, flags)], patience)? > 0)
    };
    let is_closed = says(channel, PollFlags::empty(), PollTimeout::ZERO)?;
    if is_closed && !says(hotswap, PollFlags::POLLIN, DYING.into())? {
        // another keeper has been started
        return Ok(ExitCode::SUCCESS);
    }
    if !is_closed && !says(hotswap, PollFlags::POLLIN, PollTimeout::ZERO)? {
        memory::sleep_and_begin_again(channel, hotswap, NAME);
    }
    serve(received(channel))?;
    Ok(ExitCode::SUCCESS)
}

/// What hotswap has sent.
fn received(channel: BorrowedFd) -> Vec<KeptDescriptor> {
    let mut kept = Vec::new();
    let mut kind = [0];
    while let Ok(message) = receive(channel, &mut kind, MsgFlags::MSG_DONTWAIT) {
        if message.bytes == 0 {
            break;
        }
        let new = message.descriptors.into_iter();
        kept.extend(new.map(|descriptor| KeptDescriptor {
            kind: kind[0],
            descriptor: descriptor.into(),
        }));
    }
    kept
}

fn serve(mut kept: Vec<KeptDescriptor>) -> Result<()> {
    while !kept.is_empty() {
        let mut polled: Vec<PollFd> = kept
            .iter()
            .map(|kept| PollFd::new(kept.descriptor.as_fd(), PollFlags::POLLIN))
            .collect();
        poll(&mut polled, PollTimeout::NONE)?;
        let flags: Vec<PollFlags> = polled
            .iter()
            .map(|polled| polled.revents().unwrap_or(PollFlags::POLLERR))
            .collect();
        let mut flags = flags.into_iter();
        kept.retain_mut(|kept| is_left(kept, flags.next().unwrap_or(PollFlags::empty())));
    }
    Ok(())
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
        Err(error) => is_for_later(&error),
    }
}
