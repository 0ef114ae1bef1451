//! Replaces hotswap with its next version: the same process, another program.
//!
//! What crosses is in [`handoff`](crate::handoff); this file makes the exec, and finds what the one before has left. If the
//! next version cannot go on with that, the one before is executed again.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use nix::fcntl::{OFlag, open};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::Mode;
use nix::unistd::execve;

use crate::handoff::{Incoming, Outgoing};
use crate::retry::{pause, retry};
use crate::stub::request::{c_string, c_strings};
use crate::stub::{oom_score, open_files};
use crate::{program, sys};

/// Where the next hotswap finds its [`Ticket`].
const VARIABLE: &str = "HOTSWAP_HANDED_OVER";
/// How often the next one begins again where it lacks memory, descriptors or threads, and how long it waits for them.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(100);

/// The path that hotswap was started by, with its symlinks: what it leads to later is the next version.
pub fn own_path() -> PathBuf {
    let called = std::env::args_os().next().unwrap_or_default();
    let found = program::find_in_own_path(&called, None);
    let found = found.and_then(std::path::absolute);
    found
        .or_else(|_| std::env::current_exe())
        .unwrap_or_else(|_| called.into())
}

/// Becomes the program at that path. Returns only on failure, and then nothing has changed.
pub fn execute(path: &Path, outgoing: &Outgoing) -> io::Error {
    let executed = outgoing.write().and_then(|memory| {
        let before = own_program()?;
        let ticket = Ticket {
            memory: memory.as_raw_fd(),
            tries: 0,
            before: Some(before.as_raw_fd()),
            why_back: None,
        };
        become_program(path, &ticket)
    });
    match executed {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

/// The program of this process, whatever is at its path by now, open across an exec.
fn own_program() -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH;
    let program = retry(|| open("/proc/self/exe", flags, Mode::empty()))?;
    Ok(program)
}

/// Returns only on failure.
fn become_program(path: &Path, ticket: &Ticket) -> io::Result<Infallible> {
    let mut environment: Vec<OsString> = std::env::vars_os()
        .filter(|(name, _)| name != VARIABLE)
        .map(|(name, value)| [name.as_os_str(), &value].join(OsStr::new("=")))
        .collect();
    environment.push(format!("{VARIABLE}={}", ticket.written()).into());
    let path = c_string(path.as_os_str())?;
    let arguments = c_strings(&std::env::args_os().collect::<Vec<_>>())?;
    let environment = c_strings(&environment)?;

    // Between exec and its own handler SIGINT would end it.
    let mut interrupt = SigSet::empty();
    interrupt.add(Signal::SIGINT);
    interrupt.thread_block()?;
    open_files::put_back();
    oom_score::put_back();
    let result = execve(&path, &arguments, &environment);
    open_files::raise();
    oom_score::lower();
    let _ = interrupt.thread_unblock();
    Ok(result?)
}

/// Where the state is, and for which process: a variable that another process left behind is ignored.
struct Ticket {
    memory: RawFd,
    /// How often the one that was to take over has begun again.
    tries: u32,
    /// The program that can go on if this one cannot. An older hotswap does not hand it over.
    before: Option<RawFd>,
    /// This is that program itself: the next version could not go on.
    why_back: Option<String>,
}

impl Ticket {
    fn written(&self) -> String {
        let Self { memory, tries, .. } = self;
        let before = self.before.map(|before| before.to_string());
        let (before, why_back) = (before.unwrap_or_default(), self.why_back.as_deref());
        let why_back = why_back.unwrap_or_default();
        format!(
            "{}:{memory}:{tries}:{before}:{why_back}",
            std::process::id()
        )
    }

    fn read(written: &OsStr) -> Option<Self> {
        let mut parts = written.to_str()?.splitn(5, ':');
        let mut next = || parts.next();
        let process: u32 = next()?.parse().ok()?;
        let (memory, tries) = (next()?.parse().ok()?, next()?.parse().ok()?);
        let before = next().and_then(|before| before.parse().ok());
        let why_back = next().filter(|why| !why.is_empty()).map(str::to_owned);
        (process == std::process::id()).then_some(Self {
            memory,
            tries,
            before,
            why_back,
        })
    }

    fn of_this_process() -> Option<Self> {
        let written = std::env::var_os(VARIABLE)?;
        Self::read(&written)
    }

    /// The program before goes on with all that it has handed over. Returns only if it has not handed itself over, or it
    /// fails.
    fn go_back(&self, why: String) {
        let Some(before) = self.before.filter(|_| self.why_back.is_none()) else {
            return;
        };
        let ticket = Self {
            memory: self.memory,
            tries: 0,
            before: self.before,
            why_back: Some(why),
        };
        let program = format!("/proc/self/fd/{before}");
        let Err(error) = become_program(Path::new(&program), &ticket);
        log::warn!("cannot return to the old hotswap: {error}");
    }
}

/// This process was an older hotswap: what that one has handed over.
pub struct Upgraded {
    pub state: Incoming,
    ticket: Ticket,
    /// They stay open across an exec.
    _memory: File,
    _before: Option<OwnedFd>,
}

impl Upgraded {
    /// Before anything else opens a descriptor.
    ///
    /// # Errors
    /// If what was handed over cannot be read.
    pub fn at_start() -> Result<Option<Self>> {
        let Some(ticket) = Ticket::of_this_process() else {
            return Ok(None);
        };
        let memory = File::from(sys::adopt(ticket.memory).map_err(lost)?);
        match Incoming::read(&memory) {
            Ok(state) => Ok(Some(Self {
                state,
                _memory: memory,
                _before: ticket.before.and_then(|before| sys::adopt(before).ok()),
                ticket,
            })),
            Err(error) => Err(start_over(&ticket, error)),
        }
    }

    /// Why the next version could not go on, if this is the one before.
    pub fn why_back(&self) -> Option<String> {
        self.ticket.why_back.clone()
    }

    /// This version cannot go on with what was handed over: the one before does. Returns only if it cannot either.
    pub fn go_back(&self, error: anyhow::Error) -> anyhow::Error {
        self.ticket.go_back(format!("{error:#}"));
        lost(error)
    }

    /// This process could not get what it needs for itself: it starts over a little later. Only while nothing has been
    /// taken; returns only if it has tried often enough.
    pub fn start_over(self, error: anyhow::Error) -> anyhow::Error {
        start_over(&self.ticket, error)
    }
}

/// This version does not know the command line of the one before, which goes on. Returns if it has handed nothing over.
pub fn go_back_from_usage(error: &str) {
    if let Some(ticket) = Ticket::of_this_process() {
        ticket.go_back(error.lines().next().unwrap_or_default().to_owned());
    }
}

fn start_over(ticket: &Ticket, error: anyhow::Error) -> anyhow::Error {
    if ticket.tries < TRIES {
        pause(PAUSE);
        let ticket = Ticket {
            tries: ticket.tries + 1,
            why_back: ticket.why_back.clone(),
            ..*ticket
        };
        let _ = become_program(Path::new("/proc/self/exe"), &ticket);
    }
    ticket.go_back(format!("{error:#}"));
    lost(error)
}

/// The error of a room that cannot continue.
fn lost(error: impl Into<anyhow::Error>) -> anyhow::Error {
    let error: anyhow::Error = error.into();
    error.context("cannot continue with the state of the old hotswap; its generations keep serving")
}
