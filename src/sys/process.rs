//! System calls that start and reap processes.

use std::ffi::{CString, c_char, c_int, c_uint};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitStatus};

use nix::errno::Errno;
use nix::sched::{CloneFlags, clone};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::{ForkResult, Pid};

use super::check;

/// What a new process has of our memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildMemory {
    /// All of it, but descriptors, working directory, limits and signals of its own. This thread waits until the process
    /// has called exec or ended, as with vfork(2).
    Shared,
    /// A copy of its own, as with fork(2).
    Copied,
}

/// Of a process that shares our memory.
const STACK: usize = 96 * 1024;

/// Starts a process that has this thread alone, runs `child`, and ends with its status. Until `child` says otherwise all
/// signals are blocked in it, and do what they do by default.
///
/// # Errors
/// Those of clone(2).
pub fn spawn(memory: ChildMemory, child: &mut dyn FnMut() -> u8) -> io::Result<Pid> {
    let mut before = SigSet::empty();
    let (all, set) = (SigSet::all(), SigmaskHow::SIG_SETMASK);
    sigprocmask(set, Some(&all), Some(&mut before))?;
    let mut run = || {
        reset_signal_dispositions();
        catch_unwind(AssertUnwindSafe(&mut *child)).unwrap_or(125)
    };
    let started = match memory {
        ChildMemory::Shared => {
            let mut stack = vec![0; STACK];
            let flags = CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK;
            let run = Box::new(|| isize::from(run()));
            // SAFETY: this thread does not go on before the child is done with its memory, so the two are as one thread,
            // and the stack outlives the child's use of it.
            unsafe { clone(run, &mut stack, flags, Some(libc::SIGCHLD)) }
        }
        // SAFETY: the C library forks with the locks of its allocator in hand, so that the child has them; no other lock
        // that a thread of ours may hold is one that the stub takes.
        ChildMemory::Copied => match unsafe { nix::unistd::fork() } {
            // SAFETY: it ends here, without what the process that it is a copy of would do at its end.
            Ok(ForkResult::Child) => unsafe { libc::_exit(run().into()) },
            Ok(ForkResult::Parent { child }) => Ok(child),
            Err(error) => Err(error),
        },
    };
    sigprocmask(set, Some(&before), None)?;
    Ok(started?)
}

/// A child that this thread spawns from `command` gets SIGTERM when this thread ends, however it ends.
pub fn tie_to_this_thread(command: &mut Command) {
    let parent = nix::unistd::getpid();
    let tie = move || {
        // SAFETY: takes two integers.
        check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) })?;
        // it may have ended before that
        if nix::unistd::getppid() == parent {
            Ok(())
        } else {
            Err(Errno::ESRCH.into())
        }
    };
    // SAFETY: it makes two system calls, allocates nothing and takes no lock.
    unsafe { command.pre_exec(tie) };
}

/// What execve(2) takes, ready for it: an exec out of shared memory frees nothing, so that none of it may be made then.
pub struct Execution {
    path: CString,
    /// The strings that the pointers lead to.
    _strings: Vec<CString>,
    arguments: Vec<*const c_char>,
    environment: Vec<*const c_char>,
}

impl Execution {
    pub fn new(path: CString, arguments: Vec<CString>, environment: Vec<CString>) -> Self {
        let pointers = |strings: &[CString]| {
            let pointers = strings.iter().map(|string| string.as_ptr());
            pointers.chain([std::ptr::null()]).collect()
        };
        let (argv, envp) = (pointers(&arguments), pointers(&environment));
        Self {
            path,
            _strings: arguments.into_iter().chain(environment).collect(),
            arguments: argv,
            environment: envp,
        }
    }

    /// Returns only on failure: the errno.
    pub fn execute(&self) -> Errno {
        // SAFETY: both lists end with a null pointer, and their strings live as long as they do.
        unsafe {
            libc::execve(
                self.path.as_ptr(),
                self.arguments.as_ptr(),
                self.environment.as_ptr(),
            )
        };
        Errno::last()
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
        check(result).map(drop)
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
