//! Identity and capabilities of a thread: /proc/PID/status.

use std::io;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::{after, in_base, number, read, words};

/// Identity and capabilities of a thread; see proc(5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its thread group.
    pub process: Pid,
    /// What files it makes belong to (credentials(7)).
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub umask: u32,
    /// Those in effect (capabilities(7)).
    pub capabilities: u64,
}

impl Status {
    /// # Errors
    /// `ESRCH` and `ENOENT` if it has ended.
    pub fn of(thread: Pid) -> io::Result<Self> {
        let status = read(format!("/proc/{thread}/status"))?;
        Self::parse(&status).ok_or_else(|| Errno::ESRCH.into())
    }

    fn parse(status: &[u8]) -> Option<Self> {
        let field = |name| after(status, name);
        // real, effective, saved, file system
        let last = |name| number(words(field(name)?).nth(3)?);
        let bits = |name, base| in_base(field(name)?, base);
        Some(Self {
            process: Pid::from_raw(number(field("Tgid:")?)?),
            uid: last("Uid:")?,
            gid: last("Gid:")?,
            groups: words(field("Groups:")?).filter_map(number).collect(),
            umask: u32::try_from(bits("Umask:", 8)?).ok()?,
            capabilities: bits("CapEff:", 16)?,
        })
    }
}

/// Whether a seccomp filter watches its calls; false if that cannot be read.
pub fn is_filtered(process: Pid) -> bool {
    const FILTER: u32 = 2;
    let status = read(format!("/proc/{process}/status")).unwrap_or_default();
    after(&status, "Seccomp:").and_then(number) == Some(FILTER)
}

/// Whether the process has a handler of its own for the signal.
///
/// # Errors
/// `ESRCH` and `ENOENT` if it has ended.
pub fn catches(process: Pid, signal: Signal) -> io::Result<bool> {
    let status = read(format!("/proc/{process}/status"))?;
    let caught: u64 = after(&status, "SigCgt:")
        .and_then(|mask| in_base(mask, 16))
        .unwrap_or(0);
    Ok(caught & (1 << (signal as i32 - 1)) != 0)
}

#[cfg(test)]
mod tests {
    use nix::unistd::{geteuid, getpid, gettid};

    use super::*;

    #[test]
    fn identity_and_rights_are_read_below_a_name_of_any_bytes() {
        let status = b"Name:\t\xd1server\nUmask:\t0027\nTgid:\t41\nPid:\t42\nUid:\t1\t2\t3\t1000\nGid:\t1\t2\t3\t100\n\
                       Groups:\t4 24 27 \nCapEff:\t0000000000000400\n";
        let status = Status::parse(status).unwrap();
        assert_eq!(status.process, Pid::from_raw(41));
        assert_eq!((status.uid, status.gid), (1000, 100));
        assert_eq!(status.groups, [4, 24, 27]);
        assert_eq!((status.umask, status.capabilities), (0o027, 1 << 10));
    }

    #[test]
    fn a_signal_with_a_handler_is_caught() {
        let own = nix::unistd::getpid();
        // Rust's own runtime handles overflows of the stack
        assert!(catches(own, Signal::SIGSEGV).unwrap());
        assert!(!catches(own, Signal::SIGUSR1).unwrap());
    }

    #[test]
    fn a_status_without_its_fields_is_nobody() {
        assert_eq!(Status::parse(b"Name:\tserver\n"), None);
        assert!(Status::of(Pid::from_raw(i32::MAX)).is_err());
        let own = Status::of(gettid()).unwrap();
        assert_eq!((own.process, own.uid), (getpid(), geteuid().as_raw()));
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_is_read_is_trusted(bytes: Vec<u8>, fields in "((Tgid|Uid|Gid|Groups|Umask|CapEff):[\\t -]?[0-9a-fx]{0,20}[ \\n]){0,8}") {
            Status::parse(&bytes);
            Status::parse(fields.as_bytes());
        }
    }
}
