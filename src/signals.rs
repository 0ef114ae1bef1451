//! The signals that hotswap reacts to: which they are, who sent them, and what SIGHUP means.
//!
//! SIGINT comes through ctrlc, whose thread only counts and wakes the loop. All others are blocked before any thread
//! starts, and read from one signalfd.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::poll::PollFlags;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::polled::Polled;
use crate::socket::has_hung_up;
use crate::supervisor::Time;
use crate::sys;

/// So soon after its terminal has closed, an interactive shell sends SIGHUP to its jobs.
const SHELL_DELAY: Duration = Duration::from_secs(1);

/// What a signal asks of hotswap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalRequest {
    Swap,
    /// SIGTERM, with its sender: from a generation that is starting it means that it is ready.
    Stop {
        sender: Pid,
    },
    /// SIGQUIT, SIGPWR and SIGRTMIN+3, by which service managers and containers stop what they run.
    Quit,
    /// The terminal has closed.
    HungUp,
    /// SIGINT.
    Interrupt,
    Reopen,
    Upgrade,
    /// A child has changed its state.
    Reap,
    /// Somebody has sent another signal, for the first time. It would have ended hotswap.
    Ignored(i32),
}

#[derive(Debug)]
pub struct Signals {
    descriptor: SignalFd,
    /// Counts them.
    interrupts: Arc<EventFd>,
    surroundings: Surroundings,
    /// The controlling terminal, until it closes.
    terminal: Option<File>,
    /// When that was.
    closed: Option<Time>,
    /// What has been said to be ignored.
    ignored: BTreeSet<i32>,
}

/// How hotswap was started.
#[derive(Debug, Serialize, Deserialize)]
pub struct Surroundings {
    /// SIGHUP was ignored at the start, as by nohup(1).
    hang_up_ignored: bool,
}

impl Signals {
    /// Blocks what is read here; call it before any thread starts.
    ///
    /// # Errors
    /// Only if the process is out of descriptors or threads.
    pub fn take() -> Result<Self> {
        let hang_up_ignored = sys::is_ignored(Signal::SIGHUP);
        // Service managers look for a handler before they reload; and an ignored signal would never reach a signalfd.
        sys::catch_and_ignore(Signal::SIGHUP).context("cannot catch SIGHUP")?;
        let mask = sys::signal_set(read_here());
        mask.thread_block().context("cannot block signals")?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let interrupts = EventFd::from_flags(flags).map_err(io::Error::from);
        let interrupts = Arc::new(interrupts.context("cannot make an eventfd")?);
        let count = Arc::clone(&interrupts);
        ctrlc::set_handler(move || {
            let _ = count.write(1);
        })
        .context("cannot catch SIGINT")?;
        // The previous hotswap has held it back until now.
        let mut interrupt = SigSet::empty();
        interrupt.add(Signal::SIGINT);
        interrupt
            .thread_unblock()
            .context("cannot unblock SIGINT")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let descriptor = SignalFd::with_flags(&mask, flags)
            .map_err(io::Error::from)
            .context("cannot make a signalfd")?;
        Ok(Self {
            descriptor,
            interrupts,
            surroundings: Surroundings { hang_up_ignored },
            terminal: terminal(),
            closed: None,
            ignored: BTreeSet::new(),
        })
    }

    /// How hotswap was started, for its next version.
    pub fn surroundings(&self) -> &Surroundings {
        &self.surroundings
    }

    pub fn resume(&mut self, surroundings: Surroundings) {
        self.surroundings = surroundings;
    }

    /// All that has come since the last time.
    pub fn read(&mut self) -> Vec<SignalRequest> {
        self.notice_closed_terminal();
        let interrupts = self.interrupts.read().unwrap_or(0).min(2);
        let interrupts = (0..interrupts).map(|_| SignalRequest::Interrupt);
        let mut asked: Vec<_> = interrupts.collect();
        while let Ok(Some(signal)) = self.descriptor.read_signal() {
            let number = i32::try_from(signal.ssi_signo).unwrap_or_default();
            asked.extend(match Signal::try_from(number) {
                Ok(Signal::SIGHUP) => self.hang_up(signal.ssi_code),
                Ok(Signal::SIGTERM) => {
                    let sender = i32::try_from(signal.ssi_pid).unwrap_or_default();
                    Some(SignalRequest::Stop {
                        sender: Pid::from_raw(sender),
                    })
                }
                Ok(Signal::SIGQUIT | Signal::SIGPWR) => Some(SignalRequest::Quit),
                Ok(Signal::SIGCHLD) => Some(SignalRequest::Reap),
                Ok(Signal::SIGUSR1) => Some(SignalRequest::Reopen),
                Ok(Signal::SIGUSR2) => Some(SignalRequest::Upgrade),
                Ok(Signal::SIGIO | Signal::SIGPIPE) => None,
                _ if number == quit_of_containers() => Some(SignalRequest::Quit),
                // The kernel's own say nothing of what a user wants.
                _ if signal.ssi_code > 0 => None,
                _ => self
                    .ignored
                    .insert(number)
                    .then_some(SignalRequest::Ignored(number)),
            });
        }
        asked
    }

    fn hang_up(&self, code: i32) -> Option<SignalRequest> {
        let by_kernel = code == libc::SI_KERNEL;
        if self.surroundings.hang_up_ignored {
            return (!by_kernel).then_some(SignalRequest::Swap);
        }
        // An interactive shell sends a plain one to its jobs when its terminal closes.
        let closed_now = |closed| sys::now().saturating_sub(closed) < SHELL_DELAY;
        if by_kernel || self.closed.is_some_and(closed_now) {
            Some(SignalRequest::HungUp)
        } else {
            Some(SignalRequest::Swap)
        }
    }

    fn notice_closed_terminal(&mut self) {
        let closes = |terminal: &mut File| has_hung_up(terminal.as_fd());
        if self.terminal.take_if(closes).is_some() {
            self.closed = Some(sys::now());
        }
    }
}

impl Polled for Signals {
    fn polled(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let mut polled = vec![
            (self.descriptor.as_fd(), PollFlags::POLLIN),
            (self.interrupts.as_fd(), PollFlags::POLLIN),
        ];
        let terminal = self.terminal.iter();
        polled.extend(terminal.map(|terminal| (terminal.as_fd(), PollFlags::empty())));
        polled
    }
}

/// SIGRTMIN+3, which systemd sends to containers and user managers.
fn quit_of_containers() -> i32 {
    libc::SIGRTMIN() + 3
}

/// Every signal that would end hotswap, but SIGINT, which is ctrlc's; and SIGCHLD. A fault of our own still ends it: the
/// kernel lets nobody block the signal of that.
fn read_here() -> impl Iterator<Item = i32> {
    let left_out = [
        Signal::SIGINT,
        Signal::SIGKILL,
        // These stop and go on, or do nothing.
        Signal::SIGSTOP,
        Signal::SIGTSTP,
        Signal::SIGTTIN,
        Signal::SIGTTOU,
        Signal::SIGCONT,
        Signal::SIGURG,
        Signal::SIGWINCH,
    ];
    let named = Signal::iterator().filter(move |signal| !left_out.contains(signal));
    let named = named.map(|signal| signal as i32);
    named.chain(libc::SIGRTMIN()..=libc::SIGRTMAX())
}

fn terminal() -> Option<File> {
    File::open("/dev/tty").ok()
}
