//! Whether some thread of a generation waits for a client: the strong rule.
//!
//! It waits if it is blocked in accept on the socket, in poll or select with the socket in the set, or in epoll_wait on
//! a set that holds it. A socket that listens, or is registered in an epoll set, proves nothing: the runtimes of Go and of
//! tokio register each socket when they make it, and wait for all of them, whether the program accepts yet or not. All of this is read from
//! /proc and from the arguments of the blocked calls; the server notices nothing.

use std::collections::HashSet;
use std::io;
use std::os::fd::RawFd;

use libc::c_long;
use nix::unistd::Pid;

use crate::proc::process::{self, Stat};
use crate::proc::{descriptor, is_gone, memory};

/// `epoll_pwait2`, which libc does not define on every architecture.
const EPOLL_PWAIT2: c_long = 441;
/// POLLIN and POLLRDNORM; EPOLLIN and EPOLLRDNORM are the same bits.
const READABLE: u32 = 0x41;
/// EPOLLET and EPOLLOUT, which nobody asks for who means to accept: a runtime has registered it, whatever it is.
const BY_RUNTIME: u32 = 0x8000_0004;
/// How many descriptors of a poll or select are looked at.
const SET: usize = 4096;

/// The result of one look at the processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockedThreads {
    /// The inodes of the sockets on which a thread waits.
    pub waiting: HashSet<u64>,
    /// Of those on which none waits: a thread of a runtime would hear of a client, and perhaps let it wait.
    pub registered: HashSet<u64>,
    /// Some process could not be inspected, so its threads were not seen.
    pub blind: bool,
}

impl BlockedThreads {
    /// Whether a thread would hear of a client there.
    pub fn would_hear_on(&self, inode: u64) -> bool {
        self.waiting.contains(&inode) || self.registered.contains(&inode)
    }
}

/// A socket to look for, by inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoughtSocket {
    pub inode: u64,
    /// It takes datagrams: a thread that receives is ready.
    pub datagrams: bool,
}

/// Looks at the threads of these processes, until a waiting thread has been found for every socket.
pub fn look(pids: &[Pid], sought: &[SoughtSocket]) -> BlockedThreads {
    let mut seen = BlockedThreads::default();
    for pid in pids {
        if seen.waiting.len() == sought.len() {
            break;
        }
        seen.blind |= look_into(*pid, sought, &mut seen).is_err();
    }
    seen.registered
        .retain(|inode| !seen.waiting.contains(inode));
    seen
}

/// Looks at the threads of one process.
///
/// # Errors
/// If that is not permitted.
fn look_into(pid: Pid, sought: &[SoughtSocket], seen: &mut BlockedThreads) -> io::Result<()> {
    for thread in process::threads(pid) {
        match process::blocked_in(thread) {
            Ok(call) => {
                let found = call.map(|call| waited_for(call, thread, sought));
                // A stopped thread still shows the call it was stopped in.
                let found = found.filter(|found| !found.is_empty() && runs(thread));
                for (inode, by_runtime) in found.unwrap_or_default() {
                    if by_runtime {
                        seen.registered.insert(inode);
                    } else {
                        seen.waiting.insert(inode);
                    }
                }
            }
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether the thread is stopped by neither a signal nor a debugger.
fn runs(thread: Pid) -> bool {
    Stat::of(thread).is_some_and(|stat| !stat.is_stopped())
}

/// The sockets that would end the wait of a thread that is blocked in this system call, and whether only a runtime has
/// registered them.
fn waited_for(
    (number, first, second): (c_long, u64, u64),
    thread: Pid,
    sought: &[SoughtSocket],
) -> Vec<(u64, bool)> {
    let of = |fd: u64, what: fn(&SoughtSocket) -> bool| {
        let inode = descriptor::socket_inode(thread, RawFd::try_from(fd).ok()?);
        let sought = sought
            .iter()
            .filter(|one| Some(one.inode) == inode && what(one));
        sought.map(|one| (one.inode, false)).next()
    };
    let any_of = |set: Vec<u64>| set.into_iter().filter_map(|fd| of(fd, |_| true)).collect();
    let at_most = |length: u64| usize::try_from(length).unwrap_or(SET).min(SET);
    let read = |set, bytes| memory::read(thread, set, bytes).unwrap_or_default();
    let poll = |set, length| any_of(polled(&read(set, at_most(length) * 8)));
    let select = |set, length| {
        let length = at_most(length);
        any_of(selected(&read(set, length.div_ceil(64) * 8), length))
    };
    match number {
        libc::SYS_accept | libc::SYS_accept4 => Vec::from_iter(of(first, |one| !one.datagrams)),
        libc::SYS_recvfrom
        | libc::SYS_recvmsg
        | libc::SYS_recvmmsg
        | libc::SYS_read
        | libc::SYS_readv => Vec::from_iter(of(first, |one| one.datagrams)),
        libc::SYS_epoll_pwait | EPOLL_PWAIT2 => registered(first, thread, sought),
        libc::SYS_ppoll => poll(first, second),
        libc::SYS_pselect6 => select(second, first),
        // newer architectures lack these
        #[cfg(target_arch = "x86_64")]
        libc::SYS_epoll_wait => registered(first, thread, sought),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_poll => poll(first, second),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_select => select(second, first),
        _ => Vec::new(),
    }
}

/// The same of a set of epoll(7).
fn registered(set: u64, thread: Pid, sought: &[SoughtSocket]) -> Vec<(u64, bool)> {
    let members = RawFd::try_from(set).map(|set| descriptor::epoll_members(thread, set));
    let members = members.unwrap_or_default().into_iter();
    let readable = members.filter(|member| member.events & READABLE != 0);
    let by_runtime = |events: u32| events & BY_RUNTIME == BY_RUNTIME;
    let readable = readable.map(|member| (member.inode, by_runtime(member.events)));
    let is_sought = |inode: u64| sought.iter().any(|one| one.inode == inode);
    readable.filter(|(inode, _)| is_sought(*inode)).collect()
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

#[cfg(test)]
mod tests;
