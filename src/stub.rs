//! The process that becomes the server: a child of hotswap, until it calls exec.
//!
//! It has one thread, and hotswap's memory or a copy of that, so everything before the exec is plain code that reads its
//! request as it stands. It writes no log, for another thread may have the lock of that. What it has to say goes through
//! the channel; whatever becomes of hotswap, it becomes the server or ends.

pub mod channel;
pub mod credentials;
pub mod oom_score;
pub mod open_files;
pub mod request;

use std::ffi::{CStr, OsStr, OsString};
use std::fmt::Display;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::poll::PollTimeout;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::wait::waitpid;
use nix::unistd::{
    Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, fchdir, getpid, pipe2, setpgid,
};

use crate::capture::filter;
use crate::sys;
use crate::sys::process::{self, ChildMemory, Execution};
use crate::{proc, program};
use channel::{StubChannel, StubEnd};
use credentials::Credentials;
use request::{StubRequest, c_string, c_strings};

/// The first number that a server looks for its sockets at (sd_listen_fds(3)).
pub const FIRST: RawFd = 3;

/// The variable of processes that hotswap runs for itself, and of what they leave behind: not a server's.
pub const OF_A_COMMAND: &str = "HOTSWAP_COMMAND";

/// What runs a script that names no interpreter, as execvp(3) has it.
const SHELL: &CStr = c"/bin/sh";

/// How often a program that is still being written is tried, and the milliseconds in between: 1 s in all.
const TRIES: u32 = 100;
const BETWEEN: u8 = 10;

/// Starts a process that becomes what is asked for, in a process group of its own.
///
/// It shares hotswap's memory until its exec, which saves a third of the time, unless it may have to wait (for a name
/// service, or for somebody who still writes the program) or changes its user, which the C library does to all threads
/// that it knows: hotswap's.
///
/// # Errors
/// A text with a NUL in it, and those of socketpair(2) and clone(2); then nothing is left of it.
pub fn start(request: &StubRequest) -> io::Result<(Pid, StubChannel)> {
    request.check()?;
    expect_descriptors_for_a_look()?;
    let needs_a_copy = request.user.is_some() || request.group.is_some();
    if !needs_a_copy && let Some(started) = start_with(ChildMemory::Shared, request)? {
        return Ok(started);
    }
    // in a copy it waits itself, so there is one
    let started = start_with(ChildMemory::Copied, request)?;
    started.ok_or_else(|| Errno::ETXTBSY.into())
}

/// Without descriptors to look at the server nobody would ever see it accept.
fn expect_descriptors_for_a_look() -> io::Result<()> {
    let pipes = [pipe2(OFlag::O_CLOEXEC), pipe2(OFlag::O_CLOEXEC)];
    let pipes: nix::Result<Vec<_>> = pipes.into_iter().collect();
    let error = pipes.err().map(io::Error::from);
    error.map_or(Ok(()), |error| {
        let why = format!("cannot look at what is started: {error}");
        Err(io::Error::new(error.kind(), why))
    })
}

/// `None` if it would have had to wait, which it does only in memory of its own.
fn start_with(
    memory: ChildMemory,
    request: &StubRequest,
) -> io::Result<Option<(Pid, StubChannel)>> {
    let (channel, end) = channel::open()?;
    // here, and not in the process: what it leaves in shared memory is freed when this returns
    let mut prepared = None;
    // set in shared memory alone
    let mut would_wait = false;
    let pid = process::spawn(memory, &mut || {
        let Ok(mut line) = end.in_child() else {
            return 125;
        };
        let refusal = become_server(memory, request, &mut line, &mut prepared);
        would_wait = refusal.is_none();
        refusal.map_or(126, |refusal| {
            line.cannot(refusal.status, &refusal.reason);
            refusal.status
        })
    })
    .map_err(|error| io::Error::new(error.kind(), format!("cannot start a process: {error}")))?;
    if would_wait {
        waitpid(pid, None)?;
        return Ok(None);
    }
    // as it does itself: a signal to the group may come before it has
    let _ = setpgid(pid, pid);
    Ok(Some((pid, channel)))
}

/// Why this process does not become the server.
struct StubError {
    /// 126 it cannot be run, 127 it is not there, 125 hotswap's own failure.
    status: u8,
    reason: String,
}

impl StubError {
    fn ours(reason: String) -> Self {
        let status = 125;
        Self { status, reason }
    }
}

fn cannot<E: Into<io::Error>>(what: impl Display) -> impl FnOnce(E) -> StubError {
    move |error| StubError::ours(format!("cannot {what}: {}", error.into()))
}

/// Returns only on failure; `None` if it would have to wait.
fn become_server(
    memory: ChildMemory,
    request: &StubRequest,
    line: &mut StubEnd,
    prepared: &mut Option<PreparedProgram>,
) -> Option<StubError> {
    match prepare(request, line) {
        Ok(program) => prepared.insert(program).execute(memory, line),
        Err(refusal) => Some(refusal),
    }
}

/// Everything but the exec.
fn prepare(request: &StubRequest, line: &mut StubEnd) -> Result<PreparedProgram, StubError> {
    let own_group = Pid::from_raw(0);
    setpgid(own_group, own_group).map_err(cannot("make its process group"))?;
    if let Some(directory) = request.directory {
        fchdir(directory).map_err(cannot("change to the last directory that worked"))?;
    }
    // before anything may wait: what waits must hold nobody else's descriptors
    let program = take_descriptors(request, line).map_err(cannot("take its sockets"))?;
    // Looked up before the filter and the loss of privileges: the name service may not work after them.
    let identity = Credentials::find(request.user.as_deref(), request.group.as_deref())
        .map_err(StubError::ours)?;

    let stdin = stdin(request.open_stdin).map_err(cannot("open its stdin"))?;
    dup2_stdin(&stdin).map_err(cannot("put its stdin in its place"))?;
    drop(stdin);
    open_files::put_back();
    oom_score::put_back();

    // While it still may: without CAP_SYS_ADMIN the filter costs the server its setuid programs. From here to the exec
    // nothing may call what the filter stops: in shared memory hotswap waits, and could not answer.
    if let Some(stops) = request.capture {
        match filter::install(stops) {
            Ok(notifications) => line.captured(notifications.as_fd()),
            Err(error) => line.not_captured(error.raw_os_error().unwrap_or(libc::EINVAL)),
        }
    }
    let mut environment = request.environment.clone();
    if let Some(identity) = &identity {
        identity.take().map_err(StubError::ours)?;
        environment = identity.in_environment(environment);
    }
    // As the server's own user: what that may not enter, the server shall not start in.
    let named = request.chdir.as_ref();
    if let Some(directory) = named.filter(|_| request.directory.is_none()) {
        let change = format!("change to {}", directory.display());
        chdir(directory.as_os_str()).map_err(cannot(change))?;
    }
    PreparedProgram::new(request, &environment, program)
}

/// /dev/null, or a pipe that the server itself holds open for writing, so that it never ends.
fn stdin(open: bool) -> io::Result<File> {
    if !open {
        return File::open("/dev/null");
    }
    let (pipe, _) = pipe2(OFlag::O_CLOEXEC)?;
    File::options()
        .read(true)
        .write(true)
        .open(proc::path_of(&pipe))
}

/// Closes all but what is this one's: the server gets nothing that hotswap has, or was started with. The program, if it
/// is executed by its descriptor.
fn take_descriptors(request: &StubRequest, line: &mut StubEnd) -> io::Result<Option<OwnedFd>> {
    request.stdout.map_or(Ok(()), dup2_stdout)?;
    request.stderr.map_or(Ok(()), dup2_stderr)?;
    let handed = request.descriptors.iter();
    let handed = handed.map(|(descriptor, _)| sys::adopt(descriptor.as_raw_fd()));
    let handed: Vec<OwnedFd> = handed.collect::<io::Result<_>>()?;
    let program = request.program;
    let mut program = program
        .map(|program| sys::adopt(program.as_raw_fd()))
        .transpose()?;
    let own = handed.iter().chain(&program);
    let mut own: Vec<RawFd> = own.map(AsRawFd::as_raw_fd).collect();
    own.push(line.descriptor().as_raw_fd());
    own.sort_unstable();
    let mut from = FIRST;
    for number in own {
        process::close_range(from, number - 1)?;
        from = number + 1;
    }
    process::close_range(from, RawFd::MAX)?;
    let numbers: Vec<RawFd> = request.descriptors.iter().map(|one| one.1).collect();
    arrange(handed, &numbers, line, &mut program)?;
    Ok(program)
}

/// Gives each descriptor its number, to keep across exec. Our own descriptors make way.
fn arrange(
    handed: Vec<OwnedFd>,
    numbers: &[RawFd],
    line: &mut StubEnd,
    program: &mut Option<OwnedFd>,
) -> io::Result<()> {
    let mut handed: Vec<Option<OwnedFd>> = handed.into_iter().map(Some).collect();
    for (at, &number) in numbers.iter().enumerate() {
        let Some(descriptor) = handed.get_mut(at).and_then(Option::take) else {
            continue;
        };
        let waiting = handed.iter_mut().flatten();
        for other in waiting.chain(program.as_mut()).chain([line.descriptor()]) {
            if other.as_raw_fd() == number {
                *other = other.try_clone()?;
            }
        }
        if descriptor.as_raw_fd() == number {
            fcntl(&descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
            // it belongs to the server from here on
            let _ = descriptor.into_raw_fd();
        } else {
            process::place(descriptor.as_fd(), number)?;
        }
    }
    Ok(())
}

/// A program with its arguments and variables as execve(2) takes them.
struct PreparedProgram {
    /// As given.
    command: OsString,
    path: OsString,
    execution: Execution,
    /// The same by a shell, if it names no interpreter.
    by_shell: Execution,
}

impl PreparedProgram {
    fn new(
        request: &StubRequest,
        environment: &[(OsString, OsString)],
        program: Option<OwnedFd>,
    ) -> Result<Self, StubError> {
        let command = request.command.first().cloned().unwrap_or_default();
        let bad = || cannot::<io::Error>("pass its arguments on");
        let path = match program {
            Some(program) => {
                let path = proc::path_of(&program).into_os_string();
                // it stays open until the exec
                let _ = program.into_raw_fd();
                path
            }
            None => program::find(&command, None, request.variable("PATH"))
                .map_err(|error| cannot_run(&command, &error, None))?
                .into_os_string(),
        };
        let mut environment: Vec<OsString> = environment
            .iter()
            .filter(|(name, _)| !request.listen_pid || name != "LISTEN_PID")
            .map(|(name, value)| [name.as_os_str(), value].join(OsStr::new("=")))
            .collect();
        if request.listen_pid {
            environment.push(format!("LISTEN_PID={}", getpid()).into());
        }
        let arguments = c_strings(&request.command).map_err(bad())?;
        let environment = c_strings(&environment).map_err(bad())?;
        let name = c_string(&path).map_err(bad())?;
        let rest = arguments.iter().skip(1).cloned();
        let of_shell = [SHELL.to_owned(), name.clone()].into_iter().chain(rest);
        Ok(Self {
            command,
            path,
            by_shell: Execution::new(SHELL.to_owned(), of_shell.collect(), environment.clone()),
            execution: Execution::new(name, arguments, environment),
        })
    }

    /// Returns only on failure; `None` if it would have to wait for somebody who writes the program.
    fn execute(&self, memory: ChildMemory, line: &StubEnd) -> Option<StubError> {
        // A stop signal that came meanwhile ends the server now, before it has begun.
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
        // nothing would ever stop it
        if !line.holds_for(PollTimeout::ZERO) {
            return Some(StubError::ours("hotswap has gone".to_owned()));
        }
        let mut error = self.execution.execute();
        for _ in 1..TRIES {
            if error != Errno::ETXTBSY {
                break;
            }
            if memory == ChildMemory::Shared {
                return None;
            }
            if !line.holds_for(BETWEEN.into()) {
                break;
            }
            error = self.execution.execute();
        }
        if error == Errno::ENOEXEC && program::is_for_the_shell(&self.path) {
            error = self.by_shell.execute();
        }
        Some(cannot_run(&self.command, &error.into(), Some(&self.path)))
    }
}

/// The statuses of a shell: 127 not found, 126 cannot run.
fn cannot_run(command: &OsStr, error: &io::Error, path: Option<&OsStr>) -> StubError {
    let missing = error.raw_os_error() == Some(libc::ENOENT);
    let interpreter = path
        .filter(|_| missing)
        .and_then(program::interpreter)
        .map(|interpreter| format!(" with {interpreter}"))
        .unwrap_or_default();
    let advice = path.and_then(program::advice).unwrap_or_default();
    // as somebody types it who has just built it
    let is_here = missing && path.is_none() && Path::new(command).is_file();
    let command = String::from_utf8_lossy(command.as_bytes());
    let advice = if is_here {
        format!("\ntry: ./{command}")
    } else {
        advice
    };
    StubError {
        status: if missing { 127 } else { 126 },
        reason: format!("cannot run {command}{interpreter}: {error}{advice}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_is_here_and_not_in_path_is_given_its_path() {
        let missing = Errno::ENOENT.into();
        let here = cannot_run(OsStr::new("Cargo.toml"), &missing, None);
        assert!(
            here.reason.ends_with("\ntry: ./Cargo.toml"),
            "{}",
            here.reason
        );
        let nowhere = cannot_run(OsStr::new("no such program"), &missing, None);
        assert!(!nowhere.reason.contains("try:"), "{}", nowhere.reason);
    }
}
