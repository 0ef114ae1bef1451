//! Processes: which exist, how they are related, what they run, and what they wait for.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::{after, is_gone, number, open_directory, read, words};

/// An exec takes fewer looks than this.
const TRIES: usize = 200;

/// One line of /proc/PID/stat, as proc(5) has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    state: u8,
    pub parent: Pid,
    pub group: Pid,
    pub session: Pid,
    /// In clock ticks since the machine started: together with the pid it names one process for good.
    pub started: u64,
    /// Of the process.
    threads: u32,
    /// The signal that stopped it, while it is stopped; 0 on kernels that do not tell.
    code: i32,
}

impl Stat {
    /// Of a process or a thread; `None` if there is none.
    pub fn of(pid: Pid) -> Option<Self> {
        Self::parse(&read(format!("/proc/{pid}/stat")).ok()?)
    }

    /// `pid (name) state parent group session ...`: a name may hold anything, brackets too.
    fn parse(stat: &[u8]) -> Option<Self> {
        let end = stat.iter().rposition(|byte| *byte == b')')?;
        let fields: Vec<&[u8]> = words(stat.get(end + 1..)?).collect();
        // the state is field 3 of the line
        let field = |at: usize| fields.get(at - 3).copied();
        let pid = |at| Some(Pid::from_raw(number(field(at)?)?));
        Some(Self {
            state: *field(3)?.first()?,
            parent: pid(4)?,
            group: pid(5)?,
            session: pid(6)?,
            started: number(field(22)?)?,
            threads: field(20).and_then(number).unwrap_or(1),
            code: field(52).and_then(number).unwrap_or(0),
        })
    }

    /// It is a zombie. A process whose first thread has ended looks like one while another lives.
    pub fn has_ended(&self) -> bool {
        self.has_thread_ended() && self.threads <= 1
    }

    fn has_thread_ended(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }

    /// It is stopped by a signal or a debugger.
    pub fn is_stopped(&self) -> bool {
        matches!(self.state, b'T' | b't')
    }

    /// It uses a processor, or waits for one.
    pub fn is_running(&self) -> bool {
        self.state == b'R'
    }

    /// The signal that has stopped it, if one has; 0 if the kernel does not tell which.
    pub fn stopped_by(&self) -> Option<i32> {
        (self.state == b'T').then_some(self.code)
    }
}

/// How much a process, and the children that it has waited for, have written; see proc(5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BytesWritten {
    /// To files, sockets and pipes.
    pub in_all: u64,
    /// To files on a disk, in pages that were not written before.
    pub to_disk: u64,
}

impl BytesWritten {
    /// `None` if it may not be looked into; one that has ended has written nothing.
    pub fn by(pid: Pid) -> Option<Self> {
        match read(format!("/proc/{pid}/io")) {
            Ok(counts) => Some(Self {
                in_all: number(after(&counts, "wchar: ")?)?,
                to_disk: number(after(&counts, "write_bytes: ")?)?,
            }),
            Err(error) => is_gone(&error).then(Self::default),
        }
    }
}

/// A process that cannot be mistaken for a later one of the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "(i32, u64)", try_from = "(i32, u64)")]
pub struct ProcessId {
    pub pid: Pid,
    /// As in [`Stat`].
    pub started: u64,
}

impl ProcessId {
    /// `None` if it has ended.
    pub fn of(pid: Pid) -> Option<Self> {
        let stat = Stat::of(pid).filter(|stat| !stat.has_ended())?;
        let started = stat.started;
        Some(Self { pid, started })
    }

    pub fn lives(self) -> bool {
        Self::of(self.pid) == Some(self)
    }
}

impl From<ProcessId> for (i32, u64) {
    fn from(process: ProcessId) -> Self {
        (process.pid.as_raw(), process.started)
    }
}

impl TryFrom<(i32, u64)> for ProcessId {
    type Error = &'static str;

    fn try_from((pid, started): (i32, u64)) -> Result<Self, Self::Error> {
        // 0 and less mean whole groups to kill(2)
        if pid <= 0 {
            return Err("not the id of a process");
        }
        let pid = Pid::from_raw(pid);
        Ok(Self { pid, started })
    }
}

/// Every process that may be seen.
pub fn all() -> impl Iterator<Item = Pid> {
    numbered("/proc")
}

/// The threads of a process.
pub fn threads(pid: Pid) -> impl Iterator<Item = Pid> {
    numbered(format!("/proc/{pid}/task"))
}

/// A thread by which a process can be looked into whose first thread has ended: by its own pid nothing is to be seen.
pub(super) fn other_living_thread(process: Pid) -> Option<Pid> {
    let lives = |thread: Pid| Stat::of(thread).is_some_and(|stat| !stat.has_thread_ended());
    if lives(process) {
        return None;
    }
    threads(process).find(|thread| lives(*thread))
}

fn numbered(directory: impl AsRef<Path>) -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| number(entry.file_name().as_bytes()).map(Pid::from_raw))
}

/// The children of all threads of a process.
pub fn children(parent: Pid) -> Vec<Pid> {
    listed_children(parent).unwrap_or_else(|| searched_children(parent))
}

/// `None` where the kernel keeps no such lists (CONFIG_PROC_CHILDREN).
fn listed_children(parent: Pid) -> Option<Vec<Pid>> {
    let mut children = Vec::new();
    for thread in threads(parent) {
        let directory = format!("/proc/{parent}/task/{thread}");
        match read(format!("{directory}/children")) {
            Ok(list) => children.extend(words(&list).filter_map(number).map(Pid::from_raw)),
            Err(_) if Path::new(&directory).exists() => return None,
            Err(_) => {}
        }
    }
    Some(children)
}

fn searched_children(parent: Pid) -> Vec<Pid> {
    all()
        .filter(|pid| Stat::of(*pid).is_some_and(|stat| stat.parent == parent))
        .collect()
}

/// The variables that a process was started with, each ended by a NUL; `None` if it has ended.
pub fn environment(pid: Pid) -> Option<Vec<u8>> {
    for _ in 0..TRIES {
        let environment = read(format!("/proc/{pid}/environ")).ok()?;
        // during an exec nothing of a process can be seen, not even its arguments
        let in_exec = || arguments(pid).is_ok_and(|arguments| arguments.is_empty());
        if environment.is_empty()
            && let Some(thread) = other_living_thread(pid)
        {
            return read(format!("/proc/{thread}/environ")).ok();
        }
        if !environment.is_empty() || !in_exec() {
            return Some(environment);
        }
        if Stat::of(pid)?.has_ended() {
            return None;
        }
        std::thread::yield_now();
    }
    None
}

/// The arguments of a process, each ended by a NUL, unless it has overwritten them.
///
/// # Errors
/// Those of reading the file.
pub fn arguments(pid: Pid) -> io::Result<Vec<u8>> {
    read(format!("/proc/{pid}/cmdline"))
}

/// The file that a process runs.
///
/// # Errors
/// Those of stat(2).
pub fn image(pid: Pid) -> io::Result<Metadata> {
    fs::metadata(format!("/proc/{pid}/exe"))
}

/// The name of a process, cut to 15 bytes even within a character; empty if it has ended.
pub fn name(pid: Pid) -> OsString {
    let name = read(format!("/proc/{pid}/comm")).unwrap_or_default();
    OsString::from_vec(name.trim_ascii_end().to_vec())
}

/// The root directory of a thread.
///
/// # Errors
/// `EPERM` if it may not be read.
pub fn root(thread: Pid) -> io::Result<File> {
    open_directory(format!("/proc/{thread}/root"))
}

/// The working directory of a thread.
///
/// # Errors
/// As [`root`].
pub fn directory(thread: Pid) -> io::Result<File> {
    open_directory(format!("/proc/{thread}/cwd"))
}

/// The namespace of a kind (`net`, `user`, ...) that a thread is in; `None` if it may not be read.
pub fn namespace(thread: Pid, kind: &str) -> Option<PathBuf> {
    let of = |thread: Pid| fs::read_link(format!("/proc/{thread}/ns/{kind}")).ok();
    of(thread).or_else(|| of(other_living_thread(thread)?))
}

/// The system call that a thread is blocked in, and its first two arguments; `None` if it runs.
///
/// # Errors
/// Those of reading the file: `EPERM` if it may not be read.
pub fn blocked_in(thread: Pid) -> io::Result<Option<(i64, u64, u64)>> {
    Ok(parse_call(&read(format!("/proc/{thread}/syscall"))?))
}

/// A number in decimal and six arguments in hexadecimal, or `running`, or `-1` outside of any call.
fn parse_call(line: &[u8]) -> Option<(i64, u64, u64)> {
    let mut fields = words(line);
    let call = number(fields.next()?)?;
    let mut argument = || super::in_base(fields.next()?.strip_prefix(b"0x")?, 16);
    Some((call, argument()?, argument()?))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::{getpid, gettid};

    use super::*;

    #[test]
    fn lists_and_a_search_find_the_same_children() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        assert!(listed_children(getpid()).is_none_or(|listed| listed.contains(&pid)));
        assert!(searched_children(getpid()).contains(&pid));
        assert!(Stat::of(pid).is_some_and(|stat| !stat.has_ended() && stat.parent == getpid()));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_name_with_brackets_and_half_a_letter_does_not_confuse() {
        let line = b"42 (a) S 1 \xd1) R 7 9 8 0 -1 4194304 9 0 0 0 0 0 0 0 20 0 1 0 123 5 6";
        let stat = Stat::parse(line).unwrap();
        let ids = [stat.parent, stat.group, stat.session].map(Pid::as_raw);
        assert_eq!((stat.state, ids, stat.started), (b'R', [7, 9, 8], 123));
        assert_eq!(Stat::parse(b"42 (a"), None);
        assert_eq!(Stat::parse(b"42 (a) S 1 2"), None);
    }

    #[test]
    fn what_is_stopped_does_not_run_and_has_not_ended() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        kill(pid, Signal::SIGSTOP).unwrap();
        while !Stat::of(pid).unwrap().is_stopped() {
            std::thread::yield_now();
        }
        assert!(ProcessId::of(pid).unwrap().lives());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_thread_is_among_those_of_its_process() {
        assert!(threads(getpid()).any(|thread| thread == gettid()));
        assert!(!arguments(getpid()).unwrap().is_empty());
        assert_eq!(threads(Pid::from_raw(i32::MAX)).count(), 0);
    }

    #[test]
    fn a_blocked_call_is_read_with_its_arguments() {
        let call = parse_call(b"288 0x3 0x7ffc 0x0 0x80000 0x0 0x0 0x7ffc 0x7f12\n");
        assert_eq!(call, Some((288, 3, 0x7ffc)));
        for line in [
            "",
            "running\n",
            "-1 0x7ffc 0\n",
            "7",
            "7 0x",
            "7 1 2",
            "x 0x1",
        ] {
            assert_eq!(parse_call(line.as_bytes()), None, "{line:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_is_read_is_trusted(bytes: Vec<u8>) {
            Stat::parse(&bytes);
            parse_call(&bytes);
        }
    }
}
