//! A name that was asked for: one instance has it, and one that is stopping leaves it to the next.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::unistd::Pid;
use serde_json::Value;

use super::client::{self, Instance, queries};
use super::socket_dirs::{SocketDirs, file_of};
use crate::proc::process::Stat;
use crate::sys;

/// A moment after everything that is left should be gone.
const MARGIN: Duration = Duration::from_secs(1);

/// The instance that has the name.
pub struct NameHolder {
    pub pid: Pid,
    instance: Instance,
}

impl NameHolder {
    /// Who listens where we would; `None` if nobody does.
    pub fn of(name: &str) -> Option<Self> {
        let dirs = SocketDirs::ours();
        let path = dirs.own_directory().ok()?.join(file_of(name));
        let instance = client::at(&dirs, &path, name)?;
        let pid = getsockopt(instance.stream(), PeerCredentials).ok()?.pid();
        let pid = Pid::from_raw(pid);
        Some(Self { pid, instance })
    }

    /// When it will have stopped at the latest, if it is stopping.
    pub fn stops_within(&mut self) -> Option<Duration> {
        if !self.instance.has_answered {
            return None;
        }
        let state = queries::state_of(&mut self.instance).ok()?;
        let left = |one: &Value| one["left_ms"].as_u64();
        let generations = state["generations"].as_array().into_iter().flatten();
        let left = generations.filter_map(left).max().unwrap_or(0);
        (state["state"] == "stopping").then_some(Duration::from_millis(left) + MARGIN)
    }

    /// Readable once it has ended.
    ///
    /// # Errors
    /// Those of pidfd_open(2).
    pub fn death(&self) -> io::Result<OwnedFd> {
        sys::pidfd_open(self.pid, self.pid)
    }
}

/// Why an instance cannot have the name it was to have.
pub fn is_in_use(name: &str, holder: Option<Pid>) -> String {
    let is_stopped = |pid: &Pid| Stat::of(*pid).is_some_and(|stat| stat.stopped_by().is_some());
    if let Some(pid) = holder.filter(is_stopped) {
        return format!(
            "cannot use the name {name}: it belongs to another hotswap (pid {pid}), which is suspended\n\
             try: kill -CONT {pid}, or another --name"
        );
    }
    let pid = holder.map_or(String::new(), |pid| format!(" (pid {pid})"));
    format!(
        "cannot use the name {name}: it belongs to another hotswap{pid}\n\
         try: hotswap status {name}, hotswap stop {name}, or another --name"
    )
}
