//! The processes of one site, wherever they went: found by a variable that all of them inherit.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::eventually;

/// Every process of a site has it in its environment, be it orphaned, in a session of its own, or a zombie's child.
pub const MARK: &str = "SITE_OF_A_TEST";

/// hotswap, its servers and its commands: the processes of the site in `dir`, without the keeper.
pub fn of_site(dir: &Path) -> Vec<Pid> {
    let mut processes = all_of_site(dir);
    processes.retain(|pid| !is_keeper(*pid));
    processes
}

/// The living processes that carry the mark of the site in `dir`.
pub fn all_of_site(dir: &Path) -> Vec<Pid> {
    let dir = dir.display().to_string();
    let carries = |pid: &i32| variable(Pid::from_raw(*pid), MARK).is_some_and(|mark| mark == dir);
    let names = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = names.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(carries).map(Pid::from_raw).collect()
}

/// What a process found in its environment when it began.
pub fn variable(pid: Pid, name: &str) -> Option<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let environment = String::from_utf8_lossy(&environment).into_owned();
    let mut variables = environment
        .split('\0')
        .filter_map(|variable| variable.split_once('='));
    variables.find_map(|(key, value)| (key == name).then(|| value.to_owned()))
}

/// Leaves none of them.
pub fn kill_all_of_site(dir: &Path) {
    eventually("the end of a site's processes", || {
        let left = all_of_site(dir);
        for &pid in &left {
            let _ = kill(pid, Signal::SIGKILL);
        }
        left.is_empty().then_some(())
    });
}

/// The one that holds what a server needs if hotswap is killed.
pub fn is_keeper(pid: Pid) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.starts_with(b"hotswap-keeper\0")
}

/// A figure of `/proc/PID/status`.
pub fn status(pid: Pid, field: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.map(|value| value.trim().to_owned())
}

/// What it has in memory.
pub fn kilobytes(pid: Pid) -> u32 {
    let resident = status(pid, "VmRSS").expect("its memory");
    let number = resident.split(' ').next().map(str::parse);
    number.expect("a number").expect("a number")
}

/// SIGSTOP, and it has come to every thread.
pub fn stop(pid: Pid) {
    kill(pid, Signal::SIGSTOP).expect("a signal");
    let is_stopped = |task: PathBuf| {
        let stat = fs::read_to_string(task.join("stat")).unwrap_or_default();
        let state = stat.rsplit(')').next().map(str::trim_start);
        state.is_some_and(|state| state.starts_with('T'))
    };
    eventually("a process that stands still", || {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
        let mut tasks = tasks.flatten().map(|task| task.path());
        tasks.all(is_stopped).then_some(())
    });
}

/// Whether one of its threads lives: those of a killed process may accept a client after its main thread is dead.
pub fn is_alive(pid: Pid) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    threads > 1 || status(pid, "State").is_some_and(|state| !state.starts_with('Z'))
}

/// What its main thread has spent of a processor.
pub fn cpu(pid: Pid) -> Duration {
    let spent = fs::read_to_string(format!("/proc/{pid}/schedstat")).expect("its schedstat");
    let nanoseconds = spent.split(' ').next().map(str::parse);
    Duration::from_nanos(nanoseconds.expect("a number").expect("a number"))
}
