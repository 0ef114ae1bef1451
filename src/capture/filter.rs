//! The seccomp filter that a server runs under when its listeners are captured.
//!
//! It stops only the calls that make or remove a listener, for hotswap to answer. It is no sandbox: other instruction sets,
//! io_uring and future system calls bypass it.

use std::io;
use std::os::fd::OwnedFd;

use libc::sock_filter;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::learned;
use crate::sys::seccomp;

/// `__X32_SYSCALL_BIT`: calls of the x32 instruction set come under the same architecture.
const X32: u32 = 0x4000_0000;
/// `sizeof(struct sockaddr_nl)`: name look-ups bind such sockets all the time.
const NETLINK_ADDRESS: u32 = 12;

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const HAS_BIT: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const SHIFT_LEFT: u16 = 0x64; // BPF_ALU | BPF_LSH | BPF_K
const KEEP: u16 = 0x07; // BPF_MISC | BPF_TAX
const OR_KEPT: u16 = 0x4C; // BPF_ALU | BPF_OR | BPF_X
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// Offsets in `struct seccomp_data`; the lower half of an argument comes first.
const CALL: u32 = 0;
const ARCHITECTURE: u32 = 4;
const SECOND_ARGUMENT: u32 = 24;
const THIRD_ARGUMENT: u32 = 32;

const fn op(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// The numbers of a processor's calls.
struct Calls {
    /// `AUDIT_ARCH_*` of linux/audit.h.
    architecture: u32,
    bind: u32,
    listen: u32,
    /// Newer processors have [`Calls::unlinkat`] alone.
    unlink: Option<u32>,
    unlinkat: u32,
    setsockopt: u32,
}

/// What is stopped beside bind(2) and listen(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stops {
    /// Clients come by a unix path: unlink(2).
    pub paths: bool,
    /// hotswap cannot duplicate the server's sockets: setsockopt(2), for all options of [`learned`].
    pub options: bool,
}

const X86_64: Calls = Calls {
    architecture: 0xC000_003E,
    bind: 49,
    listen: 50,
    unlink: Some(87),
    unlinkat: 263,
    setsockopt: 54,
};
const AARCH64: Calls = Calls {
    architecture: 0xC000_00B7,
    bind: 200,
    listen: 201,
    unlink: None,
    unlinkat: 35,
    setsockopt: 208,
};

const OURS: Option<Calls> = if cfg!(target_arch = "x86_64") {
    Some(X86_64)
} else if cfg!(target_arch = "aarch64") {
    Some(AARCH64)
} else {
    None
};

const ALLOW: sock_filter = op(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0);
const STOP: sock_filter = op(RETURN, libc::SECCOMP_RET_USER_NOTIF, 0, 0);

/// Stops setsockopt(2) for a list of options: level and name in one word, as both are small.
fn options(all: &[(i32, i32)]) -> Vec<sock_filter> {
    let mut program = vec![
        op(LOAD, SECOND_ARGUMENT, 0, 0),
        op(SHIFT_LEFT, 16, 0, 0),
        op(KEEP, 0, 0, 0),
        op(LOAD, THIRD_ARGUMENT, 0, 0),
        op(OR_KEPT, 0, 0, 0),
    ];
    let words = all
        .iter()
        .map(|(level, name)| level.cast_unsigned() << 16 | name.cast_unsigned());
    // the last of them first: the way from each to the end
    let found = (1..=u8::MAX)
        .zip(words)
        .map(|(to_end, word)| op(EQUAL, word, to_end, 0));
    let mut found: Vec<_> = found.collect();
    found.reverse();
    program.extend(found);
    program.extend([ALLOW, STOP]);
    program
}

/// A call that is stopped is interrupted by a signal now and then, so as few as possible are.
///
/// Calls of which no argument is looked at are remembered by the kernel, which does not run the filter for them again
/// (Linux 5.11).
fn program(calls: &Calls, stops: Stops) -> Vec<sock_filter> {
    let mut program = vec![
        op(LOAD, ARCHITECTURE, 0, 0),
        op(EQUAL, calls.architecture, 1, 0),
        ALLOW,
        op(LOAD, CALL, 0, 0),
        op(AT_LEAST, X32, 0, 1),
        ALLOW,
    ];
    let unless = |code, k| {
        vec![
            op(LOAD, THIRD_ARGUMENT, 0, 0),
            op(code, k, 0, 1),
            ALLOW,
            STOP,
        ]
    };
    let removes_directory = libc::AT_REMOVEDIR.cast_unsigned();
    let stopped = if stops.options {
        [&learned::OPTIONS[..], &learned::NOT_TO_COPY].concat()
    } else {
        learned::OF_THE_GROUP.to_vec()
    };
    let mut rules = vec![
        (calls.listen, vec![STOP]),
        (calls.setsockopt, options(&stopped)),
    ];
    if stops.paths {
        rules.push((calls.bind, vec![STOP]));
        rules.extend(calls.unlink.map(|unlink| (unlink, vec![STOP])));
        rules.push((calls.unlinkat, unless(HAS_BIT, removes_directory)));
    } else {
        rules.push((calls.bind, unless(EQUAL, NETLINK_ADDRESS)));
    }
    for (call, answer) in rules {
        let length = u8::try_from(answer.len()).unwrap_or(u8::MAX);
        program.push(op(EQUAL, call, 0, length));
        program.extend(answer);
    }
    program.push(ALLOW);
    program
}

/// Puts the calling thread, and what it becomes or forks, under the filter; the descriptor that its notifications come
/// from. A thread that has no `CAP_SYS_ADMIN` gives up setuid programs for it (`PR_SET_NO_NEW_PRIVS`).
///
/// # Errors
/// `ENOSYS` on other processors, else those of seccomp(2): see [`why_not`].
pub fn install(stops: Stops) -> io::Result<OwnedFd> {
    let filter = program(&OURS.ok_or(Errno::ENOSYS)?, stops);
    match seccomp::install(&filter) {
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
            nix::sys::prctl::set_no_new_privs()?;
            seccomp::install(&filter)
        }
        other => other,
    }
}

/// What an error of [`install`] means to a user.
pub fn why_not(error: &io::Error) -> String {
    let Some(errno) = error.raw_os_error() else {
        return error.to_string();
    };
    match Errno::from_raw(errno) {
        Errno::EBUSY => {
            "another hotswap, or a sandbox, around this one watches system calls".to_owned()
        }
        Errno::ENOSYS if OURS.is_none() => {
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

    const PLAIN: Stops = Stops {
        paths: false,
        options: false,
    };
    const PATHS: Stops = Stops {
        paths: true,
        options: false,
    };
    const OPTIONS: Stops = Stops {
        paths: false,
        options: true,
    };

    /// Runs a filter as the kernel would, on a call with its second and third argument.
    fn verdict(filter: &[sock_filter], architecture: u32, call: u32, arguments: [u32; 2]) -> u32 {
        let (mut accumulator, mut kept) = (0, 0);
        let mut at = 0;
        loop {
            let op = filter[at];
            at += 1;
            let holds = match op.code {
                LOAD => {
                    accumulator = match op.k {
                        CALL => call,
                        ARCHITECTURE => architecture,
                        SECOND_ARGUMENT => arguments[0],
                        THIRD_ARGUMENT => arguments[1],
                        offset => panic!("nothing is at {offset}"),
                    };
                    continue;
                }
                SHIFT_LEFT => {
                    accumulator <<= op.k;
                    continue;
                }
                KEEP => {
                    kept = accumulator;
                    continue;
                }
                OR_KEPT => {
                    accumulator |= kept;
                    continue;
                }
                EQUAL => accumulator == op.k,
                AT_LEAST => accumulator >= op.k,
                HAS_BIT => accumulator & op.k != 0,
                RETURN => return op.k,
                code => panic!("no such instruction: {code:#x}"),
            };
            at += usize::from(if holds { op.jt } else { op.jf });
        }
    }

    fn stopped(filter: &[sock_filter], architecture: u32, third: u32) -> Vec<u32> {
        let is_stopped = |call: &u32| {
            verdict(filter, architecture, *call, [0, third]) != libc::SECCOMP_RET_ALLOW
        };
        let calls = (0..4096).chain(X32..X32 + 1024);
        calls.filter(is_stopped).collect()
    }

    #[test]
    fn only_bind_and_listen_are_stopped_until_a_unix_path_is_known() {
        for (calls, known) in [
            (X86_64, vec![49, 50, 87, 263]),
            (AARCH64, vec![35, 200, 201]),
        ] {
            let architecture = calls.architecture;
            let plain = program(&calls, PLAIN);
            assert_eq!(
                stopped(&plain, architecture, 16),
                [calls.bind, calls.listen]
            );
            assert_eq!(stopped(&program(&calls, PATHS), architecture, 0), known);
        }
    }

    #[test]
    fn neither_netlink_nor_directories_are_stopped() {
        let plain = program(&X86_64, PLAIN);
        assert_eq!(stopped(&plain, X86_64.architecture, NETLINK_ADDRESS), [50]);
        let removes_directory = libc::AT_REMOVEDIR.cast_unsigned();
        let with_paths = program(&X86_64, PATHS);
        let stopped = stopped(&with_paths, X86_64.architecture, removes_directory);
        assert_eq!(stopped, [49, 50, 87]);
    }

    #[test]
    fn options_are_learned_but_for_those_of_every_connection() {
        let filter = program(&X86_64, OPTIONS);
        let is_stopped = |level: i32, name: i32| {
            let arguments = [level, name].map(i32::cast_unsigned);
            let verdict = verdict(&filter, X86_64.architecture, 54, arguments);
            verdict == libc::SECCOMP_RET_USER_NOTIF
        };
        for (level, name) in learned::OPTIONS.into_iter().chain(learned::NOT_TO_COPY) {
            assert!(is_stopped(level, name), "{level} {name}");
        }
        for (level, name) in [
            (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
            (libc::SOL_SOCKET, libc::SO_LINGER),
            (libc::SOL_SOCKET, libc::SO_RCVBUF),
            (libc::IPPROTO_TCP, libc::TCP_NODELAY),
            (libc::IPPROTO_TCP, libc::TCP_QUICKACK),
            (libc::IPPROTO_IP, libc::IP_TOS),
        ] {
            assert!(!is_stopped(level, name), "{level} {name}");
        }
    }

    #[test]
    fn else_only_the_program_of_a_group_is() {
        let filter = program(&X86_64, PLAIN);
        let is_stopped = |(level, name): (i32, i32)| {
            let arguments = [level, name].map(i32::cast_unsigned);
            verdict(&filter, X86_64.architecture, 54, arguments) != libc::SECCOMP_RET_ALLOW
        };
        assert!(learned::OF_THE_GROUP.into_iter().all(is_stopped));
        assert!(!learned::OPTIONS.into_iter().any(is_stopped));
    }

    #[test]
    fn what_it_stops_it_notifies_of() {
        for (calls, call) in [(X86_64, 49), (AARCH64, 35)] {
            let filter = program(&calls, PATHS);
            let verdict = verdict(&filter, calls.architecture, call, [0, 0]);
            assert_eq!(verdict, libc::SECCOMP_RET_USER_NOTIF);
        }
    }

    #[test]
    fn lets_calls_of_foreign_instruction_sets_through() {
        let i386 = 0x4000_0003;
        let filter = program(&X86_64, PATHS);
        assert!(stopped(&filter, i386, 0).is_empty());
        assert!(stopped(&filter, AARCH64.architecture, 0).is_empty());
        let x32 = verdict(&filter, X86_64.architecture, X32 + 49, [0, 0]);
        assert_eq!(x32, libc::SECCOMP_RET_ALLOW);
    }

    #[test]
    fn knows_the_numbers_of_this_machine() {
        let Some(calls) = OURS else { return };
        let numbers = [
            (calls.bind, libc::SYS_bind),
            (calls.listen, libc::SYS_listen),
            (calls.unlinkat, libc::SYS_unlinkat),
            (calls.setsockopt, libc::SYS_setsockopt),
        ];
        for (number, system) in numbers {
            assert_eq!(libc::c_long::from(number), system);
        }
    }
}
