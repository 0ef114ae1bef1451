//! How hotswap becomes its own next version: the same process, another program.
//!
//! What every room knows travels as JSON in a memfd, and its descriptors by number, since exec keeps both. Which rooms
//! there are is not known here.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::execve;
use serde_json::{Value, json};

use crate::again::again;
use crate::stub::limit;
use crate::{program, sys};

/// Where the next hotswap finds its [`Ticket`].
const VARIABLE: &str = "HOTSWAP_HANDED_OVER";
/// How often the next one begins again where it lacks memory, descriptors or threads, and how long it waits for them.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(100);

/// The path that hotswap was started by, links and all: what it leads to later is the next version.
pub fn own_path() -> PathBuf {
    let called = std::env::args_os().next().unwrap_or_default();
    let path = std::env::var_os("PATH");
    let found = program::find(&called, None, path.as_deref());
    let found = found.and_then(std::path::absolute);
    found
        .or_else(|_| std::env::current_exe())
        .unwrap_or_else(|_| called.into())
}

/// What is handed over, room by room.
#[derive(Default)]
pub struct Luggage<'a>(Vec<Room<'a>>);

struct Room<'a> {
    name: String,
    told: Value,
    descriptors: Vec<BorrowedFd<'a>>,
}

impl<'a> Luggage<'a> {
    pub fn pack(
        &mut self,
        name: impl Into<String>,
        (told, descriptors): (Value, Vec<BorrowedFd<'a>>),
    ) {
        let name = name.into();
        self.0.push(Room {
            name,
            told,
            descriptors,
        });
    }
}

/// Becomes the program at that path. Returns only if that did not work, and then nothing has changed.
pub fn execute(path: &Path, luggage: &Luggage) -> io::Error {
    match try_to_execute(path, luggage) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn try_to_execute(path: &Path, luggage: &Luggage) -> io::Result<Infallible> {
    // Duplicates without close-on-exec; they close with this list if it comes to nothing.
    let mut kept = Vec::new();
    let mut rooms = Vec::new();
    for room in &luggage.0 {
        let first = kept.len();
        for descriptor in &room.descriptors {
            kept.push(sys::adopt(fcntl(descriptor, FcntlArg::F_DUPFD(0))?)?);
        }
        let numbers: Vec<RawFd> = kept[first..].iter().map(AsRawFd::as_raw_fd).collect();
        rooms.push(json!({"name": room.name, "told": room.told, "descriptors": numbers}));
    }
    let told = Value::from(rooms).to_string();
    let mut memory = File::from(again(|| memfd_create(c"hotswap", MFdFlags::empty()))?);
    memory.write_all(told.as_bytes())?;
    let ticket = Ticket {
        memory: memory.as_raw_fd(),
        tries: 0,
    };
    become_program(path, &ticket)
}

/// Returns only if it did not work.
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
    limit::put_back(limit::given());
    let result = execve(&path, &arguments, &environment);
    limit::raise();
    let _ = interrupt.thread_unblock();
    Ok(result?)
}

fn c_string(text: OsString) -> io::Result<CString> {
    Ok(CString::new(text.into_vec())?)
}

/// Where what was handed over is, and for whom: a variable that another process has left lying about says nothing to us.
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

/// What the hotswap before has handed over.
pub struct Arrival {
    ticket: Ticket,
    /// It and all that is not unpacked yet stay open over an exec.
    memory: File,
    rooms: BTreeMap<String, (Value, Vec<RawFd>)>,
}

impl Arrival {
    /// What there is, if this process was hotswap before it was this one. Before anything else opens a descriptor.
    ///
    /// # Errors
    /// If what was handed over cannot be read.
    pub fn at_start() -> Result<Option<Self>> {
        let written = std::env::var_os(VARIABLE);
        let Some(ticket) = written.as_deref().and_then(Ticket::read) else {
            return Ok(None);
        };
        let mut arrival = Self {
            memory: File::from(sys::adopt(ticket.memory).map_err(lost)?),
            ticket,
            rooms: BTreeMap::new(),
        };
        match arrival.read() {
            Ok(()) => Ok(Some(arrival)),
            Err(error) => Err(arrival.begin_again(error)),
        }
    }

    fn read(&mut self) -> Result<()> {
        let length = usize::try_from(self.memory.metadata()?.len())?;
        let mut told = vec![0; length];
        self.memory.read_exact_at(&mut told, 0)?;
        let told: Vec<Value> = serde_json::from_slice(&told)?;
        for mut room in told {
            let name = room["name"]
                .as_str()
                .context("a room without a name")?
                .to_owned();
            let numbers = serde_json::from_value(room["descriptors"].take())?;
            self.rooms.insert(name, (room["told"].take(), numbers));
        }
        Ok(())
    }

    /// What it needs for itself this process could not get: it tries once more from the very beginning, a little later.
    /// Only for as long as nothing has been unpacked; returns only if there is no more hope.
    pub fn begin_again(self, error: anyhow::Error) -> anyhow::Error {
        if self.ticket.tries >= TRIES {
            return lost(error);
        }
        std::thread::sleep(PAUSE);
        let ticket = Ticket {
            tries: self.ticket.tries + 1,
            ..self.ticket
        };
        let _ = become_program(Path::new("/proc/self/exe"), &ticket);
        lost(error)
    }

    /// What that room has told, and its descriptors.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn unpack(&mut self, room: &str) -> Result<(Value, Vec<OwnedFd>)> {
        let (told, numbers) = self
            .rooms
            .remove(room)
            .ok_or_else(|| incomprehensible(room))?;
        let descriptors = numbers.into_iter().map(take);
        Ok((told, descriptors.collect::<io::Result<_>>()?))
    }
}

impl Drop for Arrival {
    /// What nobody has asked for.
    fn drop(&mut self) {
        let rooms = std::mem::take(&mut self.rooms).into_values();
        rooms
            .flat_map(|(_, numbers)| numbers)
            .for_each(|number| drop(take(number)));
    }
}

/// Servers and commands shall not inherit it.
fn take(number: RawFd) -> io::Result<OwnedFd> {
    let descriptor = sys::adopt(number)?;
    fcntl(&descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(descriptor)
}

fn lost(error: impl Into<anyhow::Error>) -> anyhow::Error {
    let error: anyhow::Error = error.into();
    error.context("cannot go on where the hotswap before ended; its generations serve on")
}

/// What to say where a room cannot go on.
pub fn incomprehensible(room: &str) -> anyhow::Error {
    anyhow!(
        "cannot go on where the hotswap before ended: what it said of its {room} is not understood; its generations serve on"
    )
}
