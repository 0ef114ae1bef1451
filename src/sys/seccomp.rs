//! System calls of seccomp_unotify(2).

use std::ffi::{c_int, c_ulong};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::without_provenance_mut;

use nix::errno::Errno;

use super::{check, sock_fprog};

/// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`: the notifier runs on the waiting thread's processor (Linux 6.6).
const SYNC_WAKE_UP: usize = 1;

/// seccomp(2) with a filter and a listener for its notifications; for this thread and what it becomes or forks.
///
/// # Errors
/// `EBUSY` under another listener, `EINVAL` where notifications are unknown, `EACCES` without `no_new_privs`.
pub fn install(program: &[libc::sock_filter]) -> io::Result<OwnedFd> {
    let filter = sock_fprog(program)?;
    let try_with = |flags: c_ulong| {
        // SAFETY: the kernel copies `len` instructions out of the slice, which outlives the call.
        check(unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                flags,
                &raw const filter,
            )
        })
    };
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    let fd = match try_with(flags | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => try_with(flags)?,
        other => other?,
    };
    // SAFETY: the kernel has just made it, and close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `SECCOMP_IOCTL_NOTIF_RECV` of seccomp_unotify(2).
///
/// # Errors
/// `ENOENT` if the caller has died or was interrupted, `EAGAIN` and `EINTR` where nothing waits.
pub fn receive(listener: BorrowedFd) -> io::Result<libc::seccomp_notif> {
    let mut notification = MaybeUninit::<libc::seccomp_notif>::zeroed();
    let request = libc::SECCOMP_IOCTL_NOTIF_RECV as _;
    // SAFETY: the kernel wants a zeroed seccomp_notif and fills it.
    unsafe { ioctl(listener, request, notification.as_mut_ptr()) }?;
    // SAFETY: zeroes are a valid seccomp_notif, whatever the kernel wrote.
    Ok(unsafe { notification.assume_init() })
}

/// `SECCOMP_IOCTL_NOTIF_ID_VALID`: the caller still waits for this notification.
pub fn is_valid(listener: BorrowedFd, mut id: u64) -> bool {
    let request = libc::SECCOMP_IOCTL_NOTIF_ID_VALID as _;
    // SAFETY: the kernel reads one u64.
    unsafe { ioctl(listener, request, &raw mut id) }.is_ok()
}

/// `SECCOMP_IOCTL_NOTIF_SEND`: the call returns 0, or fails with `errno`, or is carried out by the kernel (`continue_call`).
///
/// # Errors
/// `ENOENT` if the caller has gone.
pub fn answer(listener: BorrowedFd, id: u64, errno: c_int, continue_call: bool) -> io::Result<()> {
    let flags = if continue_call {
        libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE
    } else {
        0
    };
    let flags = u32::try_from(flags).map_err(|_| Errno::EINVAL)?;
    let mut response = libc::seccomp_notif_resp {
        id,
        val: 0,
        error: -errno,
        flags,
    };
    let request = libc::SECCOMP_IOCTL_NOTIF_SEND as _;
    // SAFETY: the kernel reads one seccomp_notif_resp.
    unsafe { ioctl(listener, request, &raw mut response) }
}

/// `SECCOMP_IOCTL_NOTIF_ADDFD` with `SETFD`: puts a duplicate of `source` in the place of the caller's descriptor `target`.
///
/// # Errors
/// `ENOENT` if the caller has gone, `EMFILE` beyond its limit.
pub fn replace_descriptor(
    listener: BorrowedFd,
    id: u64,
    source: BorrowedFd,
    target: RawFd,
    close_on_exec: bool,
) -> io::Result<()> {
    let number = |fd: RawFd| u32::try_from(fd).map_err(|_| Errno::EBADF);
    let mut addfd = libc::seccomp_notif_addfd {
        id,
        flags: u32::try_from(libc::SECCOMP_ADDFD_FLAG_SETFD).map_err(|_| Errno::EINVAL)?,
        srcfd: number(source.as_raw_fd())?,
        newfd: number(target)?,
        newfd_flags: if close_on_exec {
            number(libc::O_CLOEXEC)?
        } else {
            0
        },
    };
    let request = libc::SECCOMP_IOCTL_NOTIF_ADDFD as _;
    // SAFETY: the kernel reads one seccomp_notif_addfd.
    unsafe { ioctl(listener, request, &raw mut addfd) }
}

/// `SECCOMP_IOCTL_NOTIF_SET_FLAGS`: wake the notifier on the caller's own processor; older kernels refuse it, at no loss.
pub fn wake_synchronously(listener: BorrowedFd) {
    let request = libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS as _;
    // SAFETY: its argument is a plain integer in the place of a pointer.
    let _ = unsafe {
        ioctl(
            listener,
            request,
            without_provenance_mut::<()>(SYNC_WAKE_UP),
        )
    };
}

/// An ioctl(2) of a listener.
///
/// # Safety
/// `argument` must be what the request reads and fills.
///
/// # Errors
/// Those of the request.
unsafe fn ioctl<T>(listener: BorrowedFd, request: libc::Ioctl, argument: *mut T) -> io::Result<()> {
    // SAFETY: the caller promises it.
    check(unsafe { libc::ioctl(listener.as_raw_fd(), request, argument) }).map(drop)
}
