//! The only unsafe code: system calls that neither std nor nix offers safely, one to a function.
//!
//! Nothing here decides anything. Every function takes and gives owned or borrowed descriptors, reports the errno of the
//! call it names, and says in its `SAFETY` line who keeps the promise that the call asks for.
#![allow(unsafe_code)]

pub mod clock;
pub mod memory;
pub mod message;
pub mod process;
pub mod seccomp;

use std::ffi::{CStr, c_int, c_void};
use std::io;
use std::mem::{MaybeUninit, size_of, size_of_val};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal};
use nix::unistd::Pid;

use crate::retry::retry;
pub use clock::{cpu_time, cpu_time_of, file_time, now, wall_time};

/// `SO_ATTACH_REUSEPORT_CBPF` of socket(7), which libc does not name.
const SO_ATTACH_REUSEPORT_CBPF: c_int = 51;
/// `PIDFD_THREAD` of pidfd_open(2) (Linux 6.9).
const PIDFD_THREAD: c_int = libc::O_EXCL;

fn check(result: impl Into<libc::c_long>) -> io::Result<c_int> {
    let result = result.into();
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    c_int::try_from(result).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

fn length<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(libc::socklen_t::MAX)
}

/// Takes ownership of a descriptor that this process was given by number (socket activation, re-execution).
///
/// # Errors
/// `EBADF` if it is not open.
pub fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD reads no memory; it tells whether the number is open at all.
    check(unsafe { libc::fcntl(fd, libc::F_GETFD) })?;
    // SAFETY: the number is open, and the caller names each number once, at the start, before anything else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// listen(2) with any backlog; the kernel cuts it to net.core.somaxconn.
///
/// # Errors
/// Those of listen(2).
pub fn listen(socket: BorrowedFd, backlog: u32) -> io::Result<()> {
    let backlog = c_int::try_from(backlog).unwrap_or(c_int::MAX);
    // SAFETY: takes two integers.
    check(unsafe { libc::listen(socket.as_raw_fd(), backlog) }).map(drop)
}

/// accept4(2): the next connection, close-on-exec and non-blocking.
///
/// # Errors
/// `EAGAIN` when none waits and the socket is non-blocking, `EINVAL` when it does not listen.
pub fn accept(socket: BorrowedFd) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: the address is not asked for, so that nothing is written.
    let fd = check(unsafe {
        libc::accept4(
            socket.as_raw_fd(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            flags,
        )
    })?;
    // SAFETY: the kernel has just made it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// getsockname(2) as bytes.
///
/// # Errors
/// Those of getsockname(2).
pub fn socket_name(socket: BorrowedFd) -> io::Result<Vec<u8>> {
    let mut storage = [0_u8; size_of::<libc::sockaddr_storage>()];
    let mut bytes = length::<libc::sockaddr_storage>();
    // SAFETY: the buffer is `bytes` long, and the kernel writes no more than that.
    check(unsafe {
        libc::getsockname(
            socket.as_raw_fd(),
            storage.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    })?;
    Ok(storage[..storage.len().min(bytes as usize)].to_vec())
}

/// An integer option of getsockopt(2).
///
/// # Errors
/// Those of getsockopt(2).
pub fn socket_option(socket: BorrowedFd, level: c_int, name: c_int) -> io::Result<c_int> {
    // Whether a socket listens is worth a second look.
    // SAFETY: it is an integer.
    retry(|| unsafe { option(socket, level, name) }).map(|(value, _)| value)
}

/// Any option of getsockopt(2) that is not longer than 64 bytes, as the kernel writes it.
///
/// # Errors
/// Those of getsockopt(2).
pub fn socket_option_bytes(socket: BorrowedFd, level: c_int, name: c_int) -> io::Result<Vec<u8>> {
    // SAFETY: bytes may have any value.
    let (value, length) = unsafe { option::<[u8; 64]>(socket, level, name) }?;
    Ok(value[..value.len().min(length as usize)].to_vec())
}

/// Any option of getsockopt(2), and its length.
///
/// # Safety
/// Whatever bytes the kernel writes, and zeroes, must be a valid `T`.
///
/// # Errors
/// Those of getsockopt(2).
unsafe fn option<T>(
    socket: BorrowedFd,
    level: c_int,
    name: c_int,
) -> io::Result<(T, libc::socklen_t)> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut bytes = length::<T>();
    // SAFETY: the kernel writes at most `bytes` bytes into `value`.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    })?;
    // SAFETY: the caller promises it.
    Ok((unsafe { value.assume_init() }, bytes))
}

/// An integer option of setsockopt(2).
///
/// # Errors
/// Those of setsockopt(2).
pub fn set_socket_option(
    socket: BorrowedFd,
    level: c_int,
    name: c_int,
    value: c_int,
) -> io::Result<()> {
    set_socket_option_bytes(socket, level, name, &value.to_ne_bytes())
}

/// Any option of setsockopt(2) whose value holds no pointers.
///
/// # Errors
/// Those of setsockopt(2).
pub fn set_socket_option_bytes(
    socket: BorrowedFd,
    level: c_int,
    name: c_int,
    value: &[u8],
) -> io::Result<()> {
    let length = libc::socklen_t::try_from(value.len()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the kernel reads `length` bytes, which `value` has; values with pointers in them are not passed here.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            length,
        )
    })
    .map(drop)
}

/// `TCP_INFO` of tcp(7). Of a listening socket, `tcpi_unacked` is the length of its accept queue.
///
/// # Errors
/// Those of getsockopt(2).
pub fn tcp_info(socket: BorrowedFd) -> io::Result<libc::tcp_info> {
    // SAFETY: it is made of integers.
    unsafe { option(socket, libc::IPPROTO_TCP, libc::TCP_INFO) }.map(|(info, _)| info)
}

/// Attaches a classic BPF program that picks the member of the socket's reuseport group for each new connection.
///
/// # Errors
/// `EOPNOTSUPP` for MPTCP, else those of setsockopt(2).
pub fn attach_reuseport_program(
    socket: BorrowedFd,
    program: &[libc::sock_filter],
) -> io::Result<()> {
    attach(socket, SO_ATTACH_REUSEPORT_CBPF, program)
}

/// Attaches a classic BPF program that says how much of each packet the socket gets; 0 drops it.
///
/// # Errors
/// `EPERM` if the one that is there is locked, else those of setsockopt(2).
pub fn attach_packet_filter(socket: BorrowedFd, program: &[libc::sock_filter]) -> io::Result<()> {
    attach(socket, libc::SO_ATTACH_FILTER, program)
}

fn attach(socket: BorrowedFd, option: c_int, program: &[libc::sock_filter]) -> io::Result<()> {
    let filter = sock_fprog(program)?;
    // SAFETY: the kernel copies `len` instructions out of the slice, which outlives the call.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const filter).cast(),
            length::<libc::sock_fprog>(),
        )
    })
    .map(drop)
}

fn sock_fprog(program: &[libc::sock_filter]) -> io::Result<libc::sock_fprog> {
    let len = u16::try_from(program.len()).map_err(|_| Errno::EINVAL)?;
    Ok(libc::sock_fprog {
        len,
        filter: program.as_ptr().cast_mut(),
    })
}

/// pidfd_open(2) of a thread, or of its process where the kernel cannot name threads.
///
/// # Errors
/// Those of pidfd_open(2).
pub fn pidfd_open(thread: Pid, process: Pid) -> io::Result<OwnedFd> {
    let open = |pid: Pid, flags: c_int| {
        // SAFETY: takes two integers and makes a descriptor.
        check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), flags) })
    };
    let of_process = || open(process, 0);
    let fd = if thread == process {
        of_process()?
    } else {
        open(thread, PIDFD_THREAD).or_else(|_| of_process())?
    };
    // SAFETY: the kernel has just made it, and close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// pidfd_getfd(2): a duplicate of another process's descriptor, close-on-exec.
///
/// # Errors
/// Those of pidfd_getfd(2).
pub fn pidfd_getfd(pidfd: BorrowedFd, fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes integers and makes a descriptor.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) })?;
    // SAFETY: the kernel has just made it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// flock(2), exclusive and without waiting; closing the file releases it.
///
/// nix's own guard panics if unlocking fails.
///
/// # Errors
/// `EAGAIN` if another has it.
pub fn lock(file: BorrowedFd) -> io::Result<()> {
    // SAFETY: takes two integers.
    check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }).map(drop)
}

/// `F_SETLEASE` of fcntl(2): `F_RDLCK` fails with `EAGAIN` while somebody has the file open for writing.
///
/// # Errors
/// `EAGAIN` for a writer, `EACCES` for a file of another owner, `EINVAL` where the file system has no leases.
pub fn set_lease(file: BorrowedFd, kind: c_int) -> io::Result<()> {
    // SAFETY: takes integers.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) }).map(drop)
}

/// getxattr(2) into a buffer; the number of bytes.
///
/// # Errors
/// Those of getxattr(2).
pub fn extended_attribute(path: &CStr, name: &CStr, value: &mut [u8]) -> io::Result<usize> {
    // SAFETY: both strings end in NUL, and the kernel writes at most the length of the buffer.
    let bytes = unsafe {
        libc::getxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_mut_ptr().cast::<c_void>(),
            size_of_val(value),
        )
    };
    usize::try_from(bytes).map_err(|_| io::Error::last_os_error())
}

extern "C" fn take_note_of_nothing(_signal: c_int) {}

/// Installs a handler that does nothing, so that the signal shows as caught (SigCgt) to service managers.
///
/// # Errors
/// Those of sigaction(2).
pub fn catch_and_ignore(signal: Signal) -> io::Result<()> {
    let action = SigAction::new(
        SigHandler::Handler(take_note_of_nothing),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    // SAFETY: the handler does nothing, which is async-signal-safe.
    unsafe { nix::sys::signal::sigaction(signal, &action) }?;
    Ok(())
}

/// Tells the kernel to keep what ended children leave until it is asked for. It does not where SIGCHLD is ignored, and who
/// starts a program may have it so.
pub fn keep_ended_children() {
    // Else a SIGCHLD that is pending would be lost, of a child that has died during an upgrade.
    if !is_ignored(Signal::SIGCHLD) {
        return;
    }
    // SAFETY: the default runs no code.
    let set = unsafe { nix::sys::signal::signal(Signal::SIGCHLD, SigHandler::SigDfl) };
    set.expect("SIGCHLD is a signal that may be set");
}

/// A set of signals by their numbers: nix does not name real-time ones.
pub fn signal_set(numbers: impl IntoIterator<Item = c_int>) -> SigSet {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the call only writes the set, and makes it an empty one.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for number in numbers {
        // SAFETY: the set has been initialized; a number that is no signal is refused.
        unsafe { libc::sigaddset(set.as_mut_ptr(), number) };
    }
    // SAFETY: it was initialized above, and holds nothing but signals.
    unsafe { SigSet::from_sigset_t_unchecked(set.assume_init()) }
}

/// kill(2) with any signal: nix does not name real-time ones.
///
/// # Errors
/// `EPERM`, `ESRCH`.
pub fn send_signal(process: Pid, number: c_int) -> io::Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::kill(process.as_raw(), number) }).map(drop)
}

/// Whether the signal is ignored, as nohup(1) and other parents request.
pub fn is_ignored(signal: Signal) -> bool {
    let mut old = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: with no new action the call only writes the old one into the buffer.
    let result = unsafe { libc::sigaction(signal as c_int, std::ptr::null(), old.as_mut_ptr()) };
    // SAFETY: zeroes are a valid sigaction, whatever the kernel wrote.
    result == 0 && unsafe { old.assume_init() }.sa_sigaction == libc::SIG_IGN
}

/// `SO_NETNS_COOKIE`: which network a socket belongs to (Linux 5.14).
///
/// # Errors
/// Those of getsockopt(2).
pub fn network_of(socket: BorrowedFd) -> io::Result<u64> {
    // SAFETY: it is an integer.
    unsafe { option(socket, libc::SOL_SOCKET, libc::SO_NETNS_COOKIE) }.map(|(cookie, _)| cookie)
}

/// setgroups(2) for this thread alone; the C library's own function changes every thread of the process.
///
/// # Errors
/// `EPERM` without `CAP_SETGID`.
pub fn set_groups_of_thread(groups: &[libc::gid_t]) -> io::Result<()> {
    // SAFETY: the kernel reads as many group ids as the slice has.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

/// A multipath TCP socket, which nix does not know.
///
/// # Errors
/// Those of socket(2): `EPROTONOSUPPORT` or `ENOPROTOOPT` where the kernel has none.
#[cfg(test)]
pub fn multipath_socket() -> io::Result<OwnedFd> {
    let sort = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    // SAFETY: takes integers and makes a descriptor.
    let fd = check(unsafe { libc::socket(libc::AF_INET, sort, libc::IPPROTO_MPTCP) })?;
    // SAFETY: the kernel has just made it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
