//! Runs a program under a filter, as containers and services do.
//!
//! `confined PROGRAM ARGS...` forbids pidfd_getfd(2) and unshare(2), as docker's default profile does; `confined fatal ...`
//! ends what calls pidfd_getfd(2), as `SystemCallFilter=` of systemd does; `confined mute ...` never answers that call, as
//! a sandbox that hangs; `confined no-netlink ...` refuses sockets of AF_NETLINK, as `RestrictAddressFamilies=` does.

#![allow(unsafe_code)]

use std::env;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::libc;

const LOAD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
const NUMBER: u32 = 0;
const FIRST_ARGUMENT: u32 = 16;

fn op(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

fn main() -> io::Result<()> {
    let number = |call: libc::c_long| u32::try_from(call).map_err(io::Error::other);
    let refuse = |errno: Errno| libc::SECCOMP_RET_ERRNO | (errno as i32).cast_unsigned();
    let mut arguments = env::args_os().skip(1);
    let first = arguments.next().ok_or(io::ErrorKind::InvalidInput)?;
    let kind = first.to_str().unwrap_or_default();
    let mut program = match kind {
        "no-netlink" => vec![
            op(LOAD, NUMBER, 0, 0),
            op(JUMP_IF_EQUAL, number(libc::SYS_socket)?, 0, 3),
            op(LOAD, FIRST_ARGUMENT, 0, 0),
            op(JUMP_IF_EQUAL, libc::AF_NETLINK.cast_unsigned(), 0, 1),
            op(RETURN, refuse(Errno::EAFNOSUPPORT), 0, 0),
            op(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0),
        ],
        kind => {
            let verdict = match kind {
                "fatal" => libc::SECCOMP_RET_KILL_PROCESS,
                "mute" => libc::SECCOMP_RET_USER_NOTIF,
                _ => refuse(Errno::EPERM),
            };
            vec![
                op(LOAD, NUMBER, 0, 0),
                op(JUMP_IF_EQUAL, number(libc::SYS_pidfd_getfd)?, 2, 0),
                op(JUMP_IF_EQUAL, number(libc::SYS_unshare)?, 1, 0),
                op(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0),
                op(RETURN, verdict, 0, 0),
            ]
        }
    };
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(io::Error::other)?,
        filter: program.as_mut_ptr(),
    };
    let flags = match kind {
        "mute" => libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
        _ => 0,
    };
    // SAFETY: the kernel copies the program, which outlives both calls.
    let done = unsafe {
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
            return Err(io::Error::last_os_error());
        }
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const filter,
        )
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    if kind == "mute" {
        // the program holds it, and does not know: while it is open, the calls wait
        let listener = libc::c_int::try_from(done).map_err(io::Error::other)?;
        // SAFETY: it changes one flag of a descriptor that is ours.
        unsafe { libc::fcntl(listener, libc::F_SETFD, 0) };
    }
    let name = match kind {
        "fatal" | "mute" | "no-netlink" => arguments.next().ok_or(io::ErrorKind::InvalidInput)?,
        _ => first,
    };
    Err(Command::new(name).args(arguments).exec())
}
