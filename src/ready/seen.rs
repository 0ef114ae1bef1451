//! Whether some thread of a generation waits for a client: the strong rule.
//!
//! It waits if it is blocked in accept on the socket, in poll or select with the socket in the set, or in epoll_wait on
//! a set that holds it. A socket that listens, or is registered in an epoll set, proves nothing. All of this is read from
//! /proc and from the arguments of the blocked calls; the server notices nothing.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, IoSliceMut, Read};

use libc::c_long;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use crate::connections::owners::{is_gone, socket_inode};

/// `epoll_pwait2`, which libc does not define on every architecture.
const EPOLL_PWAIT2: c_long = 441;
/// POLLIN and POLLRDNORM; EPOLLIN and EPOLLRDNORM are the same bits.
const READABLE: u32 = 0x41;
/// How many descriptors of a poll or select are looked at.
const SET: usize = 4096;
/// How much of an epoll set's fdinfo is read.
const DESCRIPTION: u64 = 1 << 20;

/// The result of one look at the processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The inodes of the sockets on which a thread waits.
    pub waiting: HashSet<u64>,
    /// Some process could not be inspected, so its threads were not seen.
    pub blind: bool,
}

/// A socket to look for, by inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sought {
    pub inode: u64,
    /// It takes datagrams: a thread that receives is ready.
    pub datagrams: bool,
}

/// What a blocked thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    Accept { fd: u64 },
    Receive { fd: u64 },
    Epoll { fd: u64 },
    Poll { set: u64, length: u64 },
    Select { set: u64, length: u64 },
}

/// Looks at the threads of these processes, until a waiting thread has been found for every socket.
pub fn look(pids: &[Pid], sought: &[Sought]) -> Seen {
    let mut seen = Seen::default();
    for pid in pids {
        if seen.waiting.len() == sought.len() {
            break;
        }
        seen.blind |= look_into(*pid, sought, &mut seen.waiting).is_err();
    }
    seen
}

/// Looks at the threads of one process.
///
/// # Errors
/// If that is not permitted.
fn look_into(pid: Pid, sought: &[Sought], waiting: &mut HashSet<u64>) -> io::Result<()> {
    for thread in threads(pid) {
        let task = format!("/proc/{pid}/task/{thread}");
        match fs::read_to_string(format!("{task}/syscall")) {
            Ok(call) => {
                let waits = blocked_in(&call).map(|wait| waited_for(wait, &task, pid, sought));
                // A stopped thread still shows the call it was stopped in.
                if let Some(found) = waits.filter(|found| !found.is_empty() && runs(&task)) {
                    waiting.extend(found);
                }
            }
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn threads(pid: Pid) -> Vec<String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    names.filter_map(|name| name.into_string().ok()).collect()
}

/// Whether the thread is stopped by neither a signal nor a debugger: the letter after the name, which may contain
/// parentheses itself.
fn runs(task: &str) -> bool {
    let stat = fs::read_to_string(format!("{task}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    !state.starts_with(['T', 't'])
}

/// Parses /proc/PID/task/TID/syscall: a number in decimal and six arguments in hexadecimal, `running`, or `-1` outside
/// of any call.
fn blocked_in(line: &str) -> Option<Wait> {
    let mut fields = line.split_ascii_whitespace();
    let number: c_long = fields.next()?.parse().ok()?;
    let mut argument = || u64::from_str_radix(fields.next()?.strip_prefix("0x")?, 16).ok();
    let (first, second) = (argument()?, argument()?);
    match number {
        libc::SYS_accept | libc::SYS_accept4 => Some(Wait::Accept { fd: first }),
        libc::SYS_recvfrom
        | libc::SYS_recvmsg
        | libc::SYS_recvmmsg
        | libc::SYS_read
        | libc::SYS_readv => Some(Wait::Receive { fd: first }),
        libc::SYS_epoll_pwait | EPOLL_PWAIT2 => Some(Wait::Epoll { fd: first }),
        libc::SYS_ppoll => Some(Wait::Poll {
            set: first,
            length: second,
        }),
        libc::SYS_pselect6 => Some(Wait::Select {
            set: second,
            length: first,
        }),
        other => blocked_in_older(other, first, second),
    }
}

/// The calls that newer architectures lack.
#[cfg(target_arch = "x86_64")]
fn blocked_in_older(number: c_long, first: u64, second: u64) -> Option<Wait> {
    match number {
        libc::SYS_epoll_wait => Some(Wait::Epoll { fd: first }),
        libc::SYS_poll => Some(Wait::Poll {
            set: first,
            length: second,
        }),
        libc::SYS_select => Some(Wait::Select {
            set: second,
            length: first,
        }),
        _ => None,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn blocked_in_older(_number: c_long, _first: u64, _second: u64) -> Option<Wait> {
    None
}

/// The sockets that would end this wait.
fn waited_for(wait: Wait, task: &str, pid: Pid, sought: &[Sought]) -> Vec<u64> {
    let of = |fd: u64, what: fn(&Sought) -> bool| {
        let inode = socket_at(task, fd);
        let sought = sought
            .iter()
            .filter(|one| Some(one.inode) == inode && what(one));
        sought.map(|one| one.inode).next()
    };
    match wait {
        Wait::Accept { fd } => of(fd, |one| !one.datagrams).into_iter().collect(),
        Wait::Receive { fd } => of(fd, |one| one.datagrams).into_iter().collect(),
        Wait::Epoll { fd } => {
            let registered = epoll_inodes(&description(task, fd));
            let sought = sought.iter().map(|one| one.inode);
            sought.filter(|inode| registered.contains(inode)).collect()
        }
        Wait::Poll { set, length } => {
            let length = usize::try_from(length).unwrap_or(SET).min(SET);
            let set = polled(&memory(pid, set, length * 8));
            set.into_iter().filter_map(|fd| of(fd, |_| true)).collect()
        }
        Wait::Select { set, length } => {
            let length = usize::try_from(length).unwrap_or(SET).min(SET);
            let set = selected(&memory(pid, set, length.div_ceil(64) * 8), length);
            set.into_iter().filter_map(|fd| of(fd, |_| true)).collect()
        }
    }
}

fn socket_at(task: &str, fd: u64) -> Option<u64> {
    let link = fs::read_link(format!("{task}/fd/{fd}")).ok()?;
    socket_inode(link.as_os_str())
}

fn description(task: &str, fd: u64) -> String {
    let mut text = String::new();
    if let Ok(file) = File::open(format!("{task}/fdinfo/{fd}")) {
        // What was read before an error is used.
        let _ = file.take(DESCRIPTION).read_to_string(&mut text);
    }
    text
}

/// The inodes that an epoll set waits to read from, parsed from its fdinfo.
fn epoll_inodes(description: &str) -> HashSet<u64> {
    let line = |line: &str| {
        line.strip_prefix("tfd:")?;
        let after = |key| line.split_once(key)?.1.split_ascii_whitespace().next();
        let events = u32::from_str_radix(after("events:")?, 16).ok()?;
        let inode = u64::from_str_radix(after("ino:")?, 16).ok()?;
        (events & READABLE != 0).then_some(inode)
    };
    description.lines().filter_map(line).collect()
}

/// The descriptors in an array of pollfd that are polled for reading.
fn polled(array: &[u8]) -> Vec<u64> {
    let (entries, _) = array.as_chunks::<8>();
    let entry = |[a, b, c, d, low, high, ..]: &[u8; 8]| {
        let events = u32::from(u16::from_ne_bytes([*low, *high]));
        let fd = i32::from_ne_bytes([*a, *b, *c, *d]);
        u64::try_from(fd).ok().filter(|_| events & READABLE != 0)
    };
    entries.iter().filter_map(entry).collect()
}

/// The descriptors below `length` in a set of select(2).
fn selected(set: &[u8], length: usize) -> Vec<u64> {
    let (words, _) = set.as_chunks::<8>();
    let has = |fd: &u64| {
        let word = usize::try_from(fd / 64).ok().and_then(|at| words.get(at));
        word.is_some_and(|word| u64::from_ne_bytes(*word) >> (fd % 64) & 1 == 1)
    };
    (0..u64::try_from(length).unwrap_or_default())
        .filter(has)
        .collect()
}

/// A piece of another process's memory; empty if it cannot be read.
fn memory(pid: Pid, base: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let Ok(base) = usize::try_from(base) else {
        return Vec::new();
    };
    let remote = [RemoteIoVec { base, len: length }];
    let read = process_vm_readv(pid, &mut [IoSliceMut::new(&mut bytes)], &remote).unwrap_or(0);
    bytes.truncate(read);
    bytes
}

#[cfg(test)]
mod tests;
