//! How hotswap becomes its own next version: the same process, another program.
//!
//! What every room knows travels as JSON in a memfd, and its descriptors by number, since exec keeps both. Which rooms
//! there are is not known here.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::execve;
use serde_json::{Value, json};

use crate::stub::limit;
use crate::{program, sys};

/// Where the next hotswap finds the number of the memfd.
const VARIABLE: &str = "HOTSWAP_HANDED_OVER";

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

fn try_to_execute(path: &Path, luggage: &Luggage) -> io::Result<std::convert::Infallible> {
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
    let mut memory = File::from(memfd_create(c"hotswap", MFdFlags::empty())?);
    let told = Value::from(rooms);
    memory.write_all(told.to_string().as_bytes())?;
    memory.rewind()?;

    let mut environment: Vec<OsString> = std::env::vars_os()
        .filter(|(name, _)| name != VARIABLE)
        .map(|(name, value)| [name.as_os_str(), &value].join(OsStr::new("=")))
        .collect();
    environment.push(format!("{VARIABLE}={}", memory.as_raw_fd()).into());
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

/// What the hotswap before has handed over.
pub struct Arrival(BTreeMap<String, (Value, Vec<OwnedFd>)>);

impl Arrival {
    /// What there is, if this process was hotswap before it was this one. Before anything else opens a descriptor.
    ///
    /// # Errors
    /// If what was handed over cannot be read.
    pub fn at_start() -> Result<Option<Self>> {
        let Some(number) = std::env::var_os(VARIABLE) else {
            return Ok(None);
        };
        let arrival = Self::read(&number);
        arrival
            .map(Some)
            .context("cannot go on where the hotswap before ended; its generations serve on")
    }

    fn read(number: &OsStr) -> Result<Self> {
        let number = std::str::from_utf8(number.as_bytes())?.parse()?;
        let mut memory = File::from(sys::adopt(number)?);
        let mut told = Vec::new();
        memory.read_to_end(&mut told)?;
        let told: Vec<Value> = serde_json::from_slice(&told)?;
        let mut rooms = BTreeMap::new();
        for mut room in told {
            let name = room["name"]
                .as_str()
                .context("a room without a name")?
                .to_owned();
            let numbers: Vec<RawFd> = serde_json::from_value(room["descriptors"].take())?;
            let descriptors = numbers
                .into_iter()
                .map(take)
                .collect::<io::Result<Vec<OwnedFd>>>()?;
            rooms.insert(name, (room["told"].take(), descriptors));
        }
        Ok(Self(rooms))
    }

    /// What that room has told, and its descriptors.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn unpack(&mut self, room: &str) -> Result<(Value, Vec<OwnedFd>)> {
        self.0.remove(room).ok_or_else(|| incomprehensible(room))
    }
}

/// Servers and commands shall not inherit it.
fn take(number: RawFd) -> io::Result<OwnedFd> {
    let descriptor = sys::adopt(number)?;
    fcntl(&descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(descriptor)
}

/// What to say where a room cannot go on.
pub fn incomprehensible(room: &str) -> anyhow::Error {
    anyhow!(
        "cannot go on where the hotswap before ended: what it said of its {room} is not understood; its generations serve on"
    )
}
