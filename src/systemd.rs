//! hotswap as a systemd service: the sockets it inherits, what it reports (`sd_notify(3)`), and what is kept for the next
//! hotswap.
//!
//! It waits for no answer, and no failure here stops anything: what cannot be sent is dropped.

mod message;
mod sd_notify;
pub mod store;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::os::fd::{OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::unistd::Pid;

use crate::sys;

pub use sd_notify::ServiceManager;

/// The first descriptor of `sd_listen_fds(3)`.
const FIRST: RawFd = 3;

/// The descriptors that the service manager has passed, with their names; an unnamed one has an empty name.
///
/// Call it once, at the start, before anything else is opened.
pub fn inherited() -> Vec<(OwnedFd, String)> {
    let names = inherited_names(|name| std::env::var_os(name), Pid::this());
    let numbered = (FIRST..).zip(names);
    numbered
        .filter_map(|(number, name)| {
            let fd = sys::adopt(number).ok()?;
            fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok()?;
            Some((fd, name))
        })
        .collect()
}

/// A name for each descriptor that is meant for this process.
fn inherited_names(variable: impl Fn(&str) -> Option<OsString>, us: Pid) -> Vec<String> {
    let text = |name| variable(name)?.into_string().ok();
    let number = |name| text(name)?.parse().ok();
    if number("LISTEN_PID") != Some(us.as_raw()) {
        return Vec::new();
    }
    // More than a process may have open is no number of descriptors.
    let count = number("LISTEN_FDS").and_then(|count| usize::try_from(count).ok());
    let count = count.filter(|count| *count <= 4096).unwrap_or(0);
    let names = text("LISTEN_FDNAMES").unwrap_or_default();
    let mut names: Vec<String> = names.split(':').map(str::to_owned).collect();
    if names.len() != count {
        names = vec![String::new(); count];
    }
    names
}
