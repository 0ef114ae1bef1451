//! The client's side: finds the instance, and talks to it.
//!
//! It prints nothing, and trusts no socket by its name: one that belongs to another user (for root: to any), or does not
//! greet as hotswap does, is skipped and sent nothing.

pub mod queries;
pub mod requests;

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::sockopt::{PeerCredentials, SendTimeout};
use nix::sys::socket::{UnixAddr, connect, getsockopt, setsockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::{Pid, Uid};
use serde_json::Value;

use super::others;
use super::protocol::{Reply, RequestKind, line_of};
use super::socket_dirs::{FoundSocket, SocketDirs};
use crate::proc::process::Stat;
use crate::socket::unix_stream;
use crate::sys;

/// How long an instance may take to greet after others have.
const GREETING: Duration = Duration::from_secs(1);
/// How long the only one may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one may take that has nothing more to do, in milliseconds.
const ENDING: u16 = 5_000;
/// The longest message: a status.
const LONGEST_LINE: usize = 16 * 1024 * 1024;

pub const NOBODY: u8 = 3;
pub const LOST: u8 = 125;

/// A connection to a running hotswap.
#[derive(Debug)]
pub struct Instance {
    pub name: String,
    pub pid: Pid,
    path: PathBuf,
    own: bool,
    /// Something has come from it.
    pub has_answered: bool,
    stream: UnixStream,
    input: Vec<u8>,
}

/// What came next.
#[derive(Debug, PartialEq)]
pub enum Received {
    Said(Reply),
    TimedOut,
    /// The connection has ended.
    Lost,
}

/// Why there is no instance to talk to.
#[derive(Debug, PartialEq, Eq)]
pub struct NoInstance {
    pub status: u8,
    pub why: String,
}

impl NoInstance {
    /// As the result of a request.
    pub fn result(&self) -> &'static str {
        if self.status == NOBODY {
            "not-found"
        } else {
            "lost"
        }
    }

    fn because(why: String) -> Self {
        Self {
            status: NOBODY,
            why,
        }
    }
}

/// The instance of that name, or the only one. One that has not greeted by `until` may be used nevertheless.
///
/// # Errors
/// Status 3 if there is none or more than one, 125 if it does not answer.
pub fn find(
    dirs: &SocketDirs,
    name: Option<&str>,
    until: Option<Instant>,
) -> Result<Instance, NoInstance> {
    let meet = |found| meet(found, until);
    let Candidates {
        mut greeted,
        mut mute,
        too_busy,
    } = match name {
        None => meet(dirs.all()),
        Some(path) if path.contains('/') => {
            let path = PathBuf::from(path);
            meet(Vec::from_iter(dirs.usable(&path, &path.to_string_lossy())))
        }
        Some(name) => meet(dirs.named(name)),
    };
    let are_mute = too_busy || !mute.is_empty();
    let is_waited_for = |one: &Instance| match until {
        Some(until) => until <= Instant::now() || one.stopped().is_some(),
        None => false,
    };
    if let Some(name) = name.filter(|_| greeted.is_empty() && !are_mute) {
        // One whose socket was put elsewhere under another name.
        greeted = meet(dirs.all()).greeted;
        greeted.retain(|instance| instance.name == name);
    }
    if greeted.len() > 1 && name.is_some() && greeted.iter().filter(|one| one.own).count() == 1 {
        greeted.retain(|instance| instance.own);
    }
    if greeted.is_empty() && mute.len() == 1 && mute.iter().all(is_waited_for) {
        greeted.append(&mut mute);
    }
    if greeted.len() > 1 {
        return Err(NoInstance::because(several(&greeted, name)));
    }
    if let Some(only) = greeted.pop() {
        return Ok(only);
    }
    if !are_mute {
        return Err(NoInstance::because(why_none(dirs, name)));
    }
    let silent = mute.first();
    let why = silent.map_or(String::new(), Instance::why_silent);
    let why = if why.is_empty() {
        format!(" within {}s", ANSWER_TIMEOUT.as_secs())
    } else {
        why
    };
    let name = name.or(silent.map(|one| one.name.as_str()));
    let name = name.unwrap_or("an instance");
    Err(NoInstance {
        status: LOST,
        why: format!("{name} does not answer{why}"),
    })
}

fn why_none(dirs: &SocketDirs, name: Option<&str>) -> String {
    let looked = format!("(looked in {})", dirs.places());
    let Some(name) = name else {
        return of_others(dirs).unwrap_or_else(|| format!("no instance is running {looked}"));
    };
    if name.contains('/') {
        return format!("you run no instance at {name}");
    }
    match others::owner_of(dirs, name) {
        Some(user) => format!(
            "you run no instance named {name}, but {user} may\ntry: sudo hotswap status {name}"
        ),
        None => format!("no instance named {name} is running {looked}\ntry: hotswap status"),
    }
}

/// The instance at exactly this path, whether it answers or not.
pub fn at(dirs: &SocketDirs, path: &Path, name: &str) -> Option<Instance> {
    let found = dirs.usable(path, name)?;
    let mut met = meet(vec![found], None);
    met.greeted.pop().or_else(|| met.mute.pop())
}

fn several(instances: &[Instance], name: Option<&str>) -> String {
    let list = |item: fn(&Instance) -> String| {
        let items: Vec<String> = instances.iter().map(item).collect();
        items.join(", ")
    };
    match name {
        Some(name) => format!(
            "{} instances are named {name}: {}\ntry: the path of one for NAME",
            instances.len(),
            list(|one| one.path.display().to_string())
        ),
        None => format!(
            "{} instances are running: {}\ntry: give the NAME of one",
            instances.len(),
            list(|one| one.name.clone())
        ),
    }
}

/// That only other users have instances, if they have any.
pub fn of_others(dirs: &SocketDirs) -> Option<String> {
    let others = others::in_words(dirs)?;
    Some(format!(
        "you run no instance; {others}\ntry: sudo hotswap status"
    ))
}

/// Every instance that runs and answers, and those that do not: of this user alone, or for root of all.
pub fn all(dirs: &SocketDirs, only_own: bool) -> (Vec<Instance>, Vec<Instance>) {
    let mut found = dirs.all();
    found.retain(|found| found.own || !only_own);
    let Candidates {
        mut greeted, mute, ..
    } = meet(found, None);
    greeted.sort_by(|a, b| (&a.name, &a.path).cmp(&(&b.name, &b.path)));
    (greeted, mute)
}

/// The instances at some sockets.
#[derive(Default)]
struct Candidates {
    greeted: Vec<Instance>,
    /// Those that accepted the connection and have not greeted.
    mute: Vec<Instance>,
    /// The queue of one was full.
    too_busy: bool,
}

/// Waits for greetings: for long only while there is none.
fn meet(found: Vec<FoundSocket>, until: Option<Instant>) -> Candidates {
    let patience = if found.len() == 1 {
        ANSWER_TIMEOUT
    } else {
        GREETING
    };
    let mut met = Candidates::default();
    // for all together: another user may have made many that never accept
    let by = Instant::now() + at_most(patience, until);
    for found in found {
        match Instance::connect(found, at_most(patience, Some(by))) {
            Ok(instance) => met.mute.push(instance),
            Err(error) => met.too_busy |= error.kind() == io::ErrorKind::WouldBlock,
        }
    }
    for patience in [GREETING, ANSWER_TIMEOUT] {
        if !met.greeted.is_empty() {
            break;
        }
        let until = Instant::now() + at_most(patience, until);
        for mut instance in std::mem::take(&mut met.mute) {
            let is_stopped = instance.stopped().is_some();
            let until = if is_stopped { Instant::now() } else { until };
            match instance.next(Some(until)) {
                Received::Said(Reply::Greeting { name, .. }) => {
                    met.greeted.push(Instance { name, ..instance });
                }
                Received::Said(_) | Received::Lost => {}
                Received::TimedOut => met.mute.push(instance),
            }
        }
    }
    met
}

fn at_most(patience: Duration, until: Option<Instant>) -> Duration {
    let left = until.map(|until| until.saturating_duration_since(Instant::now()));
    // Zero would mean no timeout.
    left.map_or(patience, |left| left.min(patience))
        .max(Duration::from_millis(1))
}

impl Instance {
    /// Waits this long if the queue is full; then it is `WouldBlock`.
    fn connect(found: FoundSocket, patience: Duration) -> io::Result<Self> {
        let FoundSocket { name, path, own } = found;
        let socket = unix_stream()?;
        let patience = i64::try_from(patience.as_micros()).unwrap_or(i64::MAX);
        setsockopt(&socket, SendTimeout, &TimeVal::microseconds(patience))?;
        connect(socket.as_raw_fd(), &UnixAddr::new(&path)?)?;
        let stream = UnixStream::from(socket);
        let us = Uid::effective();
        let peer = getsockopt(&stream, PeerCredentials)?;
        if peer.uid() != us.as_raw() && !us.is_root() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(Self {
            name,
            pid: Pid::from_raw(peer.pid()),
            path,
            own,
            has_answered: false,
            stream,
            input: Vec::new(),
        })
    }

    /// The process, if a signal has stopped it. One that a debugger holds may go on at any moment.
    pub fn stopped(&self) -> Option<Pid> {
        let is_stopped = Stat::of(self.pid)?.stopped_by().is_some();
        is_stopped.then_some(self.pid)
    }

    /// Readable once it has ended.
    pub fn death(&self) -> Option<OwnedFd> {
        sys::pidfd_open(self.pid, self.pid).ok()
    }

    /// It has said that it ends: until then its addresses and its name are in use.
    pub fn await_end(&self) {
        if let Some(death) = self.death() {
            let mut death = [PollFd::new(death.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut death, ENDING);
        }
    }

    /// Why it does not answer, as the end of a sentence, with what helps; empty if that is not known.
    pub fn why_silent(&self) -> String {
        self.stopped().map_or(String::new(), |pid| {
            format!(": hotswap (pid {pid}) is suspended\ntry: kill -CONT {pid}")
        })
    }

    pub fn ask(&mut self, what: &RequestKind) {
        // An error shows when the answer does not come.
        let _ = self.stream.write_all(&line_of(what));
    }

    /// Waits for the next message.
    pub fn next(&mut self, until: Option<Instant>) -> Received {
        loop {
            while let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.input.drain(..=end).collect();
                if let Ok(message) = serde_json::from_slice(&line) {
                    self.has_answered = true;
                    return Received::Said(message);
                }
            }
            if self.input.len() > LONGEST_LINE {
                return Received::Lost;
            }
            match self.receive(until) {
                Ok(0) => return Received::Lost,
                Ok(_) => {}
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                        return Received::TimedOut;
                    }
                    _ => return Received::Lost,
                },
            }
        }
    }

    /// Asks for its status or history.
    ///
    /// # Errors
    /// Why no answer came.
    pub fn answer(&mut self, what: &RequestKind) -> Result<Value, String> {
        self.ask(what);
        let until = Instant::now() + ANSWER_TIMEOUT;
        loop {
            return match self.next(Some(until)) {
                Received::Said(Reply::Status(state)) => Ok(state),
                Received::Said(Reply::Error(why) | Reply::Refused(why)) => Err(why),
                Received::Said(_) => continue,
                Received::TimedOut => {
                    let patience = ANSWER_TIMEOUT.as_secs();
                    let why = self.why_silent();
                    Err(format!("no answer within {patience}s{why}"))
                }
                Received::Lost => Err("the connection was lost".into()),
            };
        }
    }

    fn receive(&mut self, until: Option<Instant>) -> io::Result<usize> {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        // Zero would mean no timeout.
        let left = left.map(|left| left.max(Duration::from_millis(1)));
        self.stream.set_read_timeout(left)?;
        let mut buffer = [0; 16 * 1024];
        let bytes = self.stream.read(&mut buffer)?;
        self.input.extend(buffer.iter().take(bytes));
        Ok(bytes)
    }
}
