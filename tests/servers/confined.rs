//! Runs a program where pidfd_getfd(2) and unshare(2) are forbidden, as in containers with Docker's default profile.

#![allow(unsafe_code)]

use std::env;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::libc;

fn main() -> io::Result<()> {
    let op = |code: u16, k: u32, jt: u8| libc::sock_filter { code, jt, jf: 0, k };
    let number = |call: libc::c_long| u32::try_from(call).map_err(io::Error::other);
    let refusal = libc::SECCOMP_RET_ERRNO | u32::try_from(libc::EPERM).map_err(io::Error::other)?;
    let mut program = [
        op(0x20, 0, 0), // the number of the call
        op(0x15, number(libc::SYS_pidfd_getfd)?, 2),
        op(0x15, number(libc::SYS_unshare)?, 1),
        op(0x06, libc::SECCOMP_RET_ALLOW, 0),
        op(0x06, refusal, 0),
    ];
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(io::Error::other)?,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the kernel copies the program, which outlives both calls.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                0,
                &raw const filter,
            ) == 0
    };
    if !done {
        return Err(io::Error::last_os_error());
    }
    let mut arguments = env::args_os().skip(1);
    let name = arguments.next().ok_or(io::ErrorKind::InvalidInput)?;
    Err(Command::new(name).args(arguments).exec())
}
