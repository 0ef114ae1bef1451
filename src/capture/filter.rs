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

/// `AUDIT_ARCH_*` of linux/audit.h; `None` where nothing can be captured.
const ARCHITECTURE_HERE: Option<u32> = if cfg!(target_arch = "x86_64") {
    Some(0xC000_003E)
} else if cfg!(target_arch = "aarch64") {
    Some(0xC000_00B7)
} else {
    None
};

/// Newer processors have unlinkat(2) alone.
const UNLINK: &[libc::c_long] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
];

/// What is stopped beside bind(2) and listen(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stops {
    /// Clients come by a unix path: unlink(2).
    pub paths: bool,
    /// hotswap cannot duplicate the server's sockets: setsockopt(2), for all options of [`learned`].
    pub options: bool,
}

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
fn program(architecture: u32, stops: Stops) -> Vec<sock_filter> {
    let mut program = vec![
        op(LOAD, ARCHITECTURE, 0, 0),
        op(EQUAL, architecture, 1, 0),
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
        (libc::SYS_listen, vec![STOP]),
        (libc::SYS_setsockopt, options(&stopped)),
    ];
    if stops.paths {
        rules.push((libc::SYS_bind, vec![STOP]));
        rules.extend(UNLINK.iter().map(|unlink| (*unlink, vec![STOP])));
        rules.push((libc::SYS_unlinkat, unless(HAS_BIT, removes_directory)));
    } else {
        rules.push((libc::SYS_bind, unless(EQUAL, NETLINK_ADDRESS)));
    }
    for (call, answer) in rules {
        let length = u8::try_from(answer.len()).unwrap_or(u8::MAX);
        let call = u32::try_from(call).unwrap_or(u32::MAX);
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
    let filter = program(ARCHITECTURE_HERE.ok_or(Errno::ENOSYS)?, stops);
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
        Errno::ENOSYS if ARCHITECTURE_HERE.is_none() => {
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
    use libc::{SYS_bind, SYS_listen, SYS_setsockopt, SYS_unlinkat};

    use super::*;

    const HERE: u32 = ARCHITECTURE_HERE.unwrap();

    fn number(call: libc::c_long) -> u32 {
        u32::try_from(call).unwrap()
    }

    fn numbers(calls: &[libc::c_long]) -> Vec<u32> {
        let mut numbers: Vec<u32> = calls.iter().map(|call| number(*call)).collect();
        numbers.sort_unstable();
        numbers
    }

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

    fn stopped(filter: &[sock_filter], third: u32) -> Vec<u32> {
        let is_stopped =
            |call: &u32| verdict(filter, HERE, *call, [0, third]) != libc::SECCOMP_RET_ALLOW;
        let calls = (0..4096).chain(X32..X32 + 1024);
        calls.filter(is_stopped).collect()
    }

    #[test]
    fn only_bind_and_listen_are_stopped_until_a_unix_path_is_known() {
        let plain = program(HERE, PLAIN);
        assert_eq!(stopped(&plain, 16), numbers(&[SYS_bind, SYS_listen]));
        let known = [&[SYS_bind, SYS_listen, SYS_unlinkat], UNLINK].concat();
        assert_eq!(stopped(&program(HERE, PATHS), 0), numbers(&known));
    }

    #[test]
    fn neither_netlink_nor_directories_are_stopped() {
        let plain = program(HERE, PLAIN);
        assert_eq!(stopped(&plain, NETLINK_ADDRESS), numbers(&[SYS_listen]));
        let removes_directory = libc::AT_REMOVEDIR.cast_unsigned();
        let with_paths = program(HERE, PATHS);
        let known = [&[SYS_bind, SYS_listen], UNLINK].concat();
        assert_eq!(stopped(&with_paths, removes_directory), numbers(&known));
    }

    #[test]
    fn options_are_learned_but_for_those_of_every_connection() {
        let filter = program(HERE, OPTIONS);
        let is_stopped = |level: i32, name: i32| {
            let arguments = [level, name].map(i32::cast_unsigned);
            let verdict = verdict(&filter, HERE, number(SYS_setsockopt), arguments);
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
        let filter = program(HERE, PLAIN);
        let is_stopped = |(level, name): (i32, i32)| {
            let arguments = [level, name].map(i32::cast_unsigned);
            verdict(&filter, HERE, number(SYS_setsockopt), arguments) != libc::SECCOMP_RET_ALLOW
        };
        assert!(learned::OF_THE_GROUP.into_iter().all(is_stopped));
        assert!(!learned::OPTIONS.into_iter().any(is_stopped));
    }

    #[test]
    fn what_it_stops_it_notifies_of() {
        let filter = program(HERE, PATHS);
        for call in numbers(&[SYS_bind, SYS_unlinkat]) {
            let verdict = verdict(&filter, HERE, call, [0, 0]);
            assert_eq!(verdict, libc::SECCOMP_RET_USER_NOTIF);
        }
    }

    #[test]
    fn lets_calls_of_foreign_instruction_sets_through() {
        let filter = program(HERE, PATHS);
        for architecture in [0x4000_0003, HERE + 1] {
            let call = number(SYS_bind);
            let verdict = verdict(&filter, architecture, call, [0, 0]);
            assert_eq!(verdict, libc::SECCOMP_RET_ALLOW);
        }
        let x32 = verdict(&filter, HERE, X32 + number(SYS_bind), [0, 0]);
        assert_eq!(x32, libc::SECCOMP_RET_ALLOW);
    }
}
