//! Who made a stopped call, as /proc tells it.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::unistd::Pid;

use crate::connections::owners;
use crate::sys;

const CAP_NET_BIND_SERVICE: u32 = 10;

/// A thread under the filter, with what decides about its rights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub thread: Pid,
    /// Its thread group: the process.
    pub process: Pid,
    /// What files it makes belong to (credentials(7)).
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub umask: u32,
    /// Those in effect (capabilities(7)).
    pub capabilities: u64,
}

impl Caller {
    /// # Errors
    /// `ESRCH` and `ENOENT` if it has gone.
    pub fn of(thread: Pid) -> io::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{thread}/status"))?;
        Self::parse(thread, &status).ok_or_else(|| Errno::ESRCH.into())
    }

    fn parse(thread: Pid, status: &str) -> Option<Self> {
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(str::trim)
        };
        // real, effective, saved, file system
        let last = |name| field(name)?.split_whitespace().nth(3)?.parse().ok();
        Some(Self {
            thread,
            process: Pid::from_raw(field("Tgid")?.parse().ok()?),
            uid: last("Uid")?,
            gid: last("Gid")?,
            groups: field("Groups")?
                .split_whitespace()
                .filter_map(|group| group.parse().ok())
                .collect(),
            umask: u32::from_str_radix(field("Umask")?, 8).ok()?,
            capabilities: u64::from_str_radix(field("CapEff")?, 16).ok()?,
        })
    }

    /// A duplicate of its descriptor.
    ///
    /// # Errors
    /// Those of pidfd_open(2) and pidfd_getfd(2): `EPERM` in containers whose seccomp profile forbids the call.
    pub fn descriptor(&self, fd: RawFd) -> io::Result<OwnedFd> {
        let pidfd = sys::pidfd_open(self.thread, self.process)?;
        sys::pidfd_getfd(pidfd.as_fd(), fd)
    }

    /// The inode of the socket behind its descriptor; `None` if that is no socket.
    pub fn socket_inode(&self, fd: RawFd) -> Option<u64> {
        socket_inode(self.thread, fd)
    }

    /// The status flags of its descriptor (open(2)), with `O_CLOEXEC` where it is set.
    pub fn descriptor_flags(&self, fd: RawFd) -> i32 {
        let thread = self.thread;
        let info = fs::read_to_string(format!("/proc/{thread}/fdinfo/{fd}")).unwrap_or_default();
        info.lines()
            .find_map(|line| line.strip_prefix("flags:"))
            .and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok())
            .unwrap_or(0)
    }

    /// Whether the kernel would let it bind a port of the privileged range.
    pub fn may_bind_privileged_ports(&self) -> bool {
        // capabilities in a user namespace of its own do not count on our network
        self.capabilities & (1 << CAP_NET_BIND_SERVICE) != 0 && self.shares_with_us("user")
    }

    /// Whether it lives in the same namespace of that kind as hotswap.
    pub fn shares_with_us(&self, kind: &str) -> bool {
        let theirs = fs::read_link(format!("/proc/{}/ns/{kind}", self.thread));
        let ours = fs::read_link(format!("/proc/thread-self/ns/{kind}"));
        matches!((theirs, ours), (Ok(theirs), Ok(ours)) if theirs == ours)
    }

    /// Whether it has given its socket to an epoll set already: a set follows the socket, not the descriptor, so it
    /// would not notice another put in its place.
    pub fn waits_on_by_epoll(&self, fd: RawFd, inode: u64) -> bool {
        let Ok(entries) = fs::read_dir(format!("/proc/{}/fd", self.thread)) else {
            return false;
        };
        // at a server's start there are few; a server that has many must not make us read them all
        entries.flatten().take(1024).any(|entry| {
            let is_set = fs::read_link(entry.path())
                .is_ok_and(|target| target.as_os_str() == "anon_inode:[eventpoll]");
            let set = entry.file_name().to_string_lossy().into_owned();
            is_set
                && fs::read_to_string(format!("/proc/{}/fdinfo/{set}", self.thread))
                    .is_ok_and(|info| has_member(&info, fd, inode))
        })
    }
}

/// The inode of the socket behind a descriptor of any process or thread.
pub fn socket_inode(process: Pid, fd: RawFd) -> Option<u64> {
    let target = fs::read_link(format!("/proc/{process}/fd/{fd}")).ok()?;
    owners::socket_inode(target.as_os_str())
}

/// Looks into what /proc says about an epoll set: `tfd: 6 events: 19 data: 6 pos:0 ino:2f1a sdev:9`.
fn has_member(info: &str, fd: RawFd, inode: u64) -> bool {
    info.lines()
        .filter_map(|line| line.strip_prefix("tfd:"))
        .any(|line| {
            let words = line.split_whitespace();
            let same_fd = words.clone().next().and_then(|word| word.parse().ok()) == Some(fd);
            let same_inode = words
                .filter_map(|word| word.strip_prefix("ino:"))
                .any(|hex| u64::from_str_radix(hex, 16) == Ok(inode));
            same_fd && same_inode
        })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;

    use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
    use nix::sys::stat::fstat;
    use nix::unistd::{geteuid, getpid, gettid};

    use super::*;

    fn myself() -> Caller {
        Caller::of(gettid()).unwrap()
    }

    #[test]
    fn reads_identity_and_rights() {
        let status = "Name:\tserver\nUmask:\t0027\nTgid:\t41\nPid:\t42\nUid:\t1\t2\t3\t1000\nGid:\t1\t2\t3\t100\n\
                      Groups:\t4 24 27 \nCapEff:\t0000000000000400\n";
        let caller = Caller::parse(Pid::from_raw(42), status).unwrap();
        assert_eq!(caller.process, Pid::from_raw(41));
        assert_eq!((caller.uid, caller.gid), (1000, 100));
        assert_eq!(caller.groups, [4, 24, 27]);
        assert_eq!(caller.umask, 0o027);
        assert_eq!(caller.capabilities, 1 << CAP_NET_BIND_SERVICE);
    }

    #[test]
    fn a_status_without_its_fields_is_nobody() {
        assert_eq!(Caller::parse(Pid::from_raw(42), "Name:\tserver\n"), None);
        assert!(Caller::of(Pid::from_raw(i32::MAX)).is_err());
    }

    #[test]
    fn knows_this_thread() {
        let me = myself();
        assert_eq!(me.process, getpid());
        assert_eq!(me.uid, geteuid().as_raw());
        assert!(me.shares_with_us("user"));
    }

    #[test]
    fn duplicates_a_socket_and_tells_which_it_is() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let me = myself();
        let duplicate = me.descriptor(listener.as_raw_fd()).unwrap();
        let inode = fstat(&duplicate).unwrap().st_ino;
        assert_eq!(me.socket_inode(listener.as_raw_fd()), Some(inode));
        assert_ne!(
            me.descriptor_flags(listener.as_raw_fd()) & libc::O_CLOEXEC,
            0
        );
    }

    #[test]
    fn sees_a_socket_in_an_epoll_set() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let fd = listener.as_raw_fd();
        let me = myself();
        let inode = me.socket_inode(fd).unwrap();
        assert!(!me.waits_on_by_epoll(fd, inode));
        let set = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        set.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, 7))
            .unwrap();
        assert!(me.waits_on_by_epoll(fd, inode));
        assert!(!me.waits_on_by_epoll(fd, inode + 1));
    }
}
