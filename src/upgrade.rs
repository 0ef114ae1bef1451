//! Replaces hotswap with its next version: the same process, another program.
//!
//! What crosses is in [`handoff`](crate::handoff); this file makes the exec, and finds what the one before has left.

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::execve;

use crate::handoff::{Incoming, Outgoing};
use crate::retry::pause;
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
    let path = std::env::var_os("PATH");
    let found = program::find(&called, None, path.as_deref());
    let found = found.and_then(std::path::absolute);
    found
        .or_else(|_| std::env::current_exe())
        .unwrap_or_else(|_| called.into())
}

/// Becomes the program at that path. Returns only on failure, and then nothing has changed.
pub fn execute(path: &Path, outgoing: &Outgoing) -> io::Error {
    let executed = outgoing.write().and_then(|memory| {
        let ticket = Ticket {
            memory: memory.as_raw_fd(),
            tries: 0,
        };
        become_program(path, &ticket)
    });
    match executed {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

/// Returns only on failure.
fn become_program(path: &Path, ticket: &Ticket) -> io::Result<Infallible> {
    let mut environment: Vec<OsString> = std::env::vars_os()
        .filter(|(name, _)| name != VARIABLE)
        .map(|(name, value)| [name.as_os_str(), &value].join(OsStr::new("=")))
        .collect();
    environment.push(format!("{VARIABLE}={}", ticket.written()).into());
    let path = c_string(path.as_os_str().to_owned())?;
    let arguments = std::env::args_os()
        .map(c_string)
        .collect::<io::Result<Vec<CString>>>()?;
    let environment = environment
        .into_iter()
        .map(c_string)
        .collect::<io::Result<Vec<CString>>>()?;

    // Between exec and its own handler SIGINT would end it.
    let mut interrupt = SigSet::empty();
    interrupt.add(Signal::SIGINT);
    interrupt.thread_block()?;
    open_files::put_back(open_files::given());
    oom_score::put_back(oom_score::given());
    let result = execve(&path, &arguments, &environment);
    open_files::raise();
    oom_score::lower();
    let _ = interrupt.thread_unblock();
    Ok(result?)
}

fn c_string(text: OsString) -> io::Result<CString> {
    Ok(CString::new(text.into_vec())?)
}

/// Where the state is, and for which process: a variable that another process left behind is ignored.
struct Ticket {
    memory: RawFd,
    /// How often the one that was to take over has begun again.
    tries: u32,
}

impl Ticket {
    fn written(&self) -> String {
        let Self { memory, tries } = self;
        format!("{}:{memory}:{tries}", std::process::id())
    }

    fn read(written: &OsStr) -> Option<Self> {
        let mut numbers = written.to_str()?.split(':');
        let mut next = || numbers.next();
        let process: u32 = next()?.parse().ok()?;
        let (memory, tries) = (next()?.parse().ok()?, next()?.parse().ok()?);
        (process == std::process::id()).then_some(Self { memory, tries })
    }
}

/// This process was an older hotswap: what that one has handed over.
pub struct Upgraded {
    pub state: Incoming,
    ticket: Ticket,
    /// It stays open across an exec.
    _memory: File,
}

impl Upgraded {
    /// Before anything else opens a descriptor.
    ///
    /// # Errors
    /// If what was handed over cannot be read.
    pub fn at_start() -> Result<Option<Self>> {
        let written = std::env::var_os(VARIABLE);
        let Some(ticket) = written.as_deref().and_then(Ticket::read) else {
            return Ok(None);
        };
        let memory = File::from(sys::adopt(ticket.memory).map_err(lost)?);
        match Incoming::read(&memory) {
            Ok(state) => Ok(Some(Self {
                state,
                ticket,
                _memory: memory,
            })),
            Err(error) => Err(retry_old_version(&ticket, error)),
        }
    }

    /// This process could not get what it needs for itself: it starts over a little later. Only while nothing has been
    /// taken; returns only if it has tried often enough.
    pub fn retry_old_version(self, error: anyhow::Error) -> anyhow::Error {
        retry_old_version(&self.ticket, error)
    }
}

fn retry_old_version(ticket: &Ticket, error: anyhow::Error) -> anyhow::Error {
    if ticket.tries < TRIES {
        pause(PAUSE);
        let ticket = Ticket {
            tries: ticket.tries + 1,
            ..*ticket
        };
        let _ = become_program(Path::new("/proc/self/exe"), &ticket);
    }
    lost(error)
}

/// The error of a room that cannot continue.
pub fn lost(error: impl Into<anyhow::Error>) -> anyhow::Error {
    let error: anyhow::Error = error.into();
    error.context("cannot go on where the hotswap before ended; its generations keep serving")
}
