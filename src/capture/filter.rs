//! The seccomp filter that a server runs under when its listeners are captured.
//!
//! It stops only the calls that make or remove a listener, for hotswap to answer. It is no sandbox: other instruction sets,
//! io_uring and future system calls bypass it.

use std::io;
use std::os::fd::OwnedFd;

use libc::sock_filter;
use nix::errno::Errno;

use crate::sys::seccomp;

/// `AUDIT_ARCH_X86_64` of linux/audit.h.
const X86_64: u32 = 0xC000_003E;
/// `AUDIT_ARCH_AARCH64` of linux/audit.h.
const AARCH64: u32 = 0xC000_00B7;
/// `__X32_SYSCALL_BIT`: calls of the x32 instruction set come under the same architecture.
const X32: u32 = 0x4000_0000;

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// Offsets in `struct seccomp_data`.
const CALL: u32 = 0;
const ARCHITECTURE: u32 = 4;

const fn op(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// bind 49, listen 50, unlink 87, unlinkat 263. The filter depends only on the number and the architecture, so the kernel
/// caches which calls always pass and does not run the filter for them (Linux 5.11).
const FOR_X86_64: &[sock_filter] = &[
    op(LOAD, ARCHITECTURE, 0, 0),
    op(EQUAL, X86_64, 0, 6),
    op(LOAD, CALL, 0, 0),
    op(AT_LEAST, X32, 4, 0),
    op(EQUAL, 49, 4, 0),
    op(EQUAL, 50, 3, 0),
    op(EQUAL, 87, 2, 0),
    op(EQUAL, 263, 1, 0),
    op(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0),
    op(RETURN, libc::SECCOMP_RET_USER_NOTIF, 0, 0),
];

/// bind 200, listen 201, unlinkat 35; there is no unlink.
const FOR_AARCH64: &[sock_filter] = &[
    op(LOAD, ARCHITECTURE, 0, 0),
    op(EQUAL, AARCH64, 0, 4),
    op(LOAD, CALL, 0, 0),
    op(EQUAL, 200, 3, 0),
    op(EQUAL, 201, 2, 0),
    op(EQUAL, 35, 1, 0),
    op(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0),
    op(RETURN, libc::SECCOMP_RET_USER_NOTIF, 0, 0),
];

const FILTER: Option<&[sock_filter]> = if cfg!(target_arch = "x86_64") {
    Some(FOR_X86_64)
} else if cfg!(target_arch = "aarch64") {
    Some(FOR_AARCH64)
} else {
    None
};

/// Puts the calling thread, and what it becomes or forks, under the filter, and returns the notification descriptor.
/// Without `CAP_SYS_ADMIN` setuid programs no longer work after it (`PR_SET_NO_NEW_PRIVS`).
///
/// # Errors
/// `ENOSYS` on other processors, else those of seccomp(2): see [`why_not`].
pub fn install() -> io::Result<OwnedFd> {
    let filter = FILTER.ok_or(Errno::ENOSYS)?;
    match seccomp::install(filter) {
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
            nix::sys::prctl::set_no_new_privs()?;
            seccomp::install(filter)
        }
        other => other,
    }
}

/// What an error of [`install`] means to a user.
pub fn why_not(errno: i32) -> String {
    match Errno::from_raw(errno) {
        Errno::EBUSY => "another hotswap or sandbox around it watches its system calls".to_owned(),
        Errno::ENOSYS if FILTER.is_none() => {
            "this processor is neither x86-64 nor aarch64".to_owned()
        }
        Errno::EINVAL | Errno::ENOSYS => {
            "this kernel has no seccomp notifications, or is older than 5.9".to_owned()
        }
        Errno::EPERM | Errno::EACCES => "a sandbox forbids seccomp filters".to_owned(),
        errno => io::Error::from(errno).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a filter as the kernel would, on one call.
    fn verdict(filter: &[sock_filter], architecture: u32, call: u32) -> u32 {
        let mut accumulator = 0;
        let mut at = 0;
        loop {
            let op = filter[at];
            at += 1;
            let holds = match op.code {
                LOAD if op.k == CALL => {
                    accumulator = call;
                    continue;
                }
                LOAD if op.k == ARCHITECTURE => {
                    accumulator = architecture;
                    continue;
                }
                EQUAL => accumulator == op.k,
                AT_LEAST => accumulator >= op.k,
                RETURN => return op.k,
                code => panic!("no such instruction: {code:#x}"),
            };
            at += usize::from(if holds { op.jt } else { op.jf });
        }
    }

    fn stopped(filter: &[sock_filter], architecture: u32) -> Vec<u32> {
        (0..4096)
            .chain(X32..X32 + 1024)
            .filter(|call| verdict(filter, architecture, *call) != libc::SECCOMP_RET_ALLOW)
            .collect()
    }

    #[test]
    fn stops_four_calls_on_x86_64_and_three_on_aarch64() {
        assert_eq!(stopped(FOR_X86_64, X86_64), [49, 50, 87, 263]);
        assert_eq!(stopped(FOR_AARCH64, AARCH64), [35, 200, 201]);
    }

    #[test]
    fn what_it_stops_it_notifies_of() {
        assert_eq!(
            verdict(FOR_X86_64, X86_64, 49),
            libc::SECCOMP_RET_USER_NOTIF
        );
        assert_eq!(
            verdict(FOR_AARCH64, AARCH64, 35),
            libc::SECCOMP_RET_USER_NOTIF
        );
    }

    #[test]
    fn lets_calls_of_foreign_instruction_sets_through() {
        let i386 = 0x4000_0003;
        assert!(stopped(FOR_X86_64, i386).is_empty());
        assert!(stopped(FOR_X86_64, AARCH64).is_empty());
        assert!(stopped(FOR_AARCH64, X86_64).is_empty());
        assert_eq!(
            verdict(FOR_X86_64, X86_64, X32 + 49),
            libc::SECCOMP_RET_ALLOW
        );
    }

    #[test]
    fn knows_the_numbers_of_this_machine() {
        let Some(filter) = FILTER else { return };
        let architecture = filter[1].k;
        for call in [libc::SYS_bind, libc::SYS_listen, libc::SYS_unlinkat] {
            let call = u32::try_from(call).unwrap();
            assert_eq!(
                verdict(filter, architecture, call),
                libc::SECCOMP_RET_USER_NOTIF
            );
        }
    }
}
