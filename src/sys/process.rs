//! System calls that start and reap processes.

use std::ffi::{c_int, c_uint};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitStatus;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::{ForkResult, Pid};

use super::{check, check_long};

/// fork(2): `child` runs in a copy of this process that has this thread alone, and the copy ends with its status. Signals
/// do there what they do by default: no handler of ours runs.
///
/// # Errors
/// Those of fork(2).
pub fn fork(child: impl FnOnce() -> u8) -> io::Result<Pid> {
    let mut before = SigSet::empty();
    sigprocmask(
        SigmaskHow::SIG_SETMASK,
        Some(&SigSet::all()),
        Some(&mut before),
    )?;
    // SAFETY: the C library forks with the locks of its allocator in hand, so that the child has them; no other lock that
    // a thread of ours may hold is one that the stub takes.
    let forked = unsafe { nix::unistd::fork() };
    if matches!(forked, Ok(ForkResult::Child)) {
        reset_signal_dispositions();
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
        let status = catch_unwind(AssertUnwindSafe(child)).unwrap_or(125);
        // SAFETY: it ends here, without what the process that it is a copy of would do at its end.
        unsafe { libc::_exit(status.into()) }
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
    match forked? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => unreachable!("it has ended above"),
    }
}

/// Closes every descriptor from `first` to `last`.
///
/// Only for a process that owns none of them, such as the stub.
///
/// # Errors
/// Those of reading `/proc/self/fd` where the kernel has no close_range(2) (Linux 5.9).
pub fn close_range(first: RawFd, last: RawFd) -> io::Result<()> {
    if first > last {
        return Ok(());
    }
    let ends = (c_uint::try_from(first), c_uint::try_from(last));
    let (Ok(from), Ok(to)) = ends else {
        return Err(Errno::EINVAL.into());
    };
    // SAFETY: the caller owns none of them, so none is closed behind its owner's back.
    if unsafe { libc::close_range(from, to, 0) } == 0 {
        return Ok(());
    }
    let open: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for fd in open.into_iter().filter(|fd| (first..=last).contains(fd)) {
        // SAFETY: as above; the directory's own number is closed already, which is EBADF and no harm.
        unsafe { libc::close(fd) };
    }
    Ok(())
}

/// dup2(2) onto a number that is free, or that nobody uses any more; the duplicate survives exec.
///
/// Only for the stub, which gives its sockets the numbers that the server expects.
///
/// # Errors
/// `EBADF` for a number beyond the limit, else those of dup2(2).
pub fn place(fd: BorrowedFd, number: RawFd) -> io::Result<()> {
    // SAFETY: takes two integers; the stub has moved away every descriptor of its own that had the number.
    check(unsafe { libc::dup2(fd.as_raw_fd(), number) }).map(drop)
}

/// waitpid(2) for any child that has ended; `None` if none has. Unlike nix it also knows the real-time signals.
///
/// # Errors
/// `ECHILD` if there is no child at all.
pub fn reap() -> io::Result<Option<(Pid, ExitStatus)>> {
    let mut status: c_int = 0;
    // SAFETY: the kernel writes one int, which `status` is.
    let pid = check(unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) })?;
    Ok((pid > 0).then(|| (Pid::from_raw(pid), ExitStatus::from_raw(status))))
}

/// `_LINUX_CAPABILITY_VERSION_3` of capget(2), and the thread that calls.
const CAPABILITIES_OF_THIS_THREAD: [u32; 2] = [0x2008_0522, 0];

/// capset(2): this thread keeps only those of its effective capabilities that are in `these`.
///
/// # Errors
/// Those of capget(2).
pub fn keep_capabilities(these: u64) -> io::Result<()> {
    let mut header = CAPABILITIES_OF_THIS_THREAD;
    // effective, permitted and inheritable, the lower half of each before the upper ones
    let mut sets = [0_u32; 6];
    let call = |number, header: &mut [u32; 2], sets: &mut [u32; 6]| {
        // SAFETY: the kernel reads a header of two words, and reads or writes six more.
        let result = unsafe { libc::syscall(number, header.as_mut_ptr(), sets.as_mut_ptr()) };
        check_long(result).map(drop)
    };
    call(libc::SYS_capget, &mut header, &mut sets)?;
    let half = |shift: u32| u32::try_from(these >> shift & 0xffff_ffff).unwrap_or(0);
    sets[0] &= half(0);
    sets[3] &= half(32);
    call(libc::SYS_capset, &mut header, &mut sets)
}

/// As large as a signal set is to the kernel.
const SIGNAL_SET: usize = 8;

/// Resets every signal to its default; for the stub, which becomes another program.
///
/// By the system call itself: the C library reserves two signals, and leaves them ignored in what posix_spawn(3) starts.
pub fn reset_signal_dispositions() {
    // larger than the kernel's own structure on every architecture; all zeroes are SIG_DFL without flags
    let default = [0_u64; 8];
    for number in 1..=64 {
        // SAFETY: the kernel reads one sigaction, and the default runs no code of ours; KILL and STOP refuse.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                number,
                default.as_ptr(),
                std::ptr::null::<u64>(),
                SIGNAL_SET,
            )
        };
    }
}
