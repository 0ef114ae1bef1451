//! Which thread made a stopped call, and with what rights.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;

use nix::unistd::{Pid, gettid};

use crate::proc::status::Status;
use crate::proc::{descriptor, process};
use crate::sys;

const CAP_NET_BIND_SERVICE: u32 = 10;

/// A thread under the filter, and its rights.
#[derive(Clone, Debug)]
pub struct Caller {
    pub thread: Pid,
    pub status: Status,
}

impl Caller {
    /// # Errors
    /// `ESRCH` and `ENOENT` if it has gone.
    pub fn of(thread: Pid) -> io::Result<Self> {
        let status = Status::of(thread)?;
        Ok(Self { thread, status })
    }

    /// Its thread group.
    pub fn process(&self) -> Pid {
        self.status.process
    }

    /// A duplicate of its descriptor.
    ///
    /// # Errors
    /// Those of pidfd_open(2) and pidfd_getfd(2): `EPERM` in containers whose seccomp profile forbids the call.
    pub fn descriptor(&self, fd: RawFd) -> io::Result<OwnedFd> {
        let pidfd = sys::pidfd_open(self.thread, self.process())?;
        sys::pidfd_getfd(pidfd.as_fd(), fd)
    }

    /// Whether it may bind a privileged port.
    pub fn may_bind_privileged_ports(&self) -> bool {
        // capabilities in another user namespace do not count on our network
        self.status.capabilities & (1 << CAP_NET_BIND_SERVICE) != 0 && self.shares_with_us("user")
    }

    /// Whether its program gives it rights by its file (capabilities(7)), which do not count under `no_new_privs`.
    pub fn has_lost_rights_of_its_file(&self) -> bool {
        let program = format!("/proc/{}/exe", self.thread);
        let set_uid =
            std::fs::metadata(&program).is_ok_and(|file| file.mode() & libc::S_ISUID != 0);
        let name = CString::new(program).unwrap_or_default();
        let mut capabilities = [0; 64];
        set_uid || sys::extended_attribute(&name, c"security.capability", &mut capabilities).is_ok()
    }

    /// Whether it lives in the same namespace of that kind as hotswap.
    pub fn shares_with_us(&self, kind: &str) -> bool {
        let theirs = process::namespace(self.thread, kind);
        theirs.is_some() && theirs == process::namespace(gettid(), kind)
    }

    /// Whether its socket is in an epoll set already: a set follows the socket, not the descriptor, so it would not notice a
    /// replacement.
    pub fn waits_on_by_epoll(&self, fd: RawFd, inode: u64) -> bool {
        // a starting server has few; one with many must not make us read them all
        let sets = descriptor::epoll_sets(self.thread, 1024);
        let mut members = sets
            .into_iter()
            .flat_map(|set| descriptor::epoll_members(self.thread, set));
        members.any(|member| member.fd == fd && member.inode == inode)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;

    use super::*;
    use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
    use nix::sys::stat::fstat;

    fn myself() -> Caller {
        Caller::of(gettid()).unwrap()
    }

    #[test]
    fn this_thread_is_of_our_user_namespace() {
        assert!(myself().shares_with_us("user"));
    }

    #[test]
    fn duplicates_a_socket_and_tells_which_it_is() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let duplicate = myself().descriptor(listener.as_raw_fd()).unwrap();
        let inode = fstat(&duplicate).unwrap().st_ino;
        assert_eq!(inode, fstat(&listener).unwrap().st_ino);
    }

    #[test]
    fn sees_a_socket_in_an_epoll_set() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let fd = listener.as_raw_fd();
        let me = myself();
        let inode = fstat(&listener).unwrap().st_ino;
        assert!(!me.waits_on_by_epoll(fd, inode));
        let set = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        set.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, 7))
            .unwrap();
        assert!(me.waits_on_by_epoll(fd, inode));
        assert!(!me.waits_on_by_epoll(fd, inode + 1));
    }
}
