//! A name that was asked for: one instance has it, and one that is stopping leaves it to the next.

use std::time::Duration;

use serde_json::Value;

use super::client::{self, Instance, queries};
use super::socket_dirs::{SocketDirs, file_of};

/// A moment after everything that is left should be gone.
const MARGIN: Duration = Duration::from_secs(1);

/// The instance that has the name: it listens where we would.
pub fn holder(name: &str) -> Option<Instance> {
    let dirs = SocketDirs::ours();
    let path = dirs.own_directory().ok()?.join(file_of(name));
    client::at(&dirs, &path, name)
}

/// When the holder will have stopped at the latest, if it is stopping.
pub fn stops_within(holder: &mut Instance) -> Option<Duration> {
    if !holder.has_answered {
        return None;
    }
    let state = queries::state_of(holder).ok()?;
    let left = |one: &Value| one["left_ms"].as_u64();
    let generations = state["generations"].as_array().into_iter().flatten();
    let left = generations.filter_map(left).max().unwrap_or(0);
    (state["state"] == "stopping").then_some(Duration::from_millis(left) + MARGIN)
}

/// Why an instance cannot have the name it was to have.
pub fn is_in_use(name: &str, holder: Option<&Instance>) -> String {
    if let Some(pid) = holder.and_then(Instance::stopped) {
        return format!(
            "cannot use the name {name}: it belongs to another hotswap (pid {pid}), which is suspended\n\
             try: kill -CONT {pid}, or another --name"
        );
    }
    let pid = holder.map_or(String::new(), |holder| format!(" (pid {})", holder.pid));
    format!(
        "cannot use the name {name}: it belongs to another hotswap{pid}\n\
         try: hotswap status {name}, hotswap stop {name}, or another --name"
    )
}
