//! What /proc tells of one process.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use nix::unistd::Pid;

/// Most files in /proc fit, so that they take one read and one that finds nothing more; they do not tell their length.
const MOST: usize = 4096;
/// An exec lasts less than so many looks.
const TRIES: usize = 200;

pub struct Stat {
    has_ended: bool,
    pub parent: Pid,
    pub group: Pid,
    pub session: Pid,
    /// In ticks since the machine started: with the pid it names one process for good.
    pub started: u64,
}

impl Stat {
    pub fn of(pid: Pid) -> Option<Self> {
        Self::read(&whole(format!("/proc/{pid}/stat")).ok()?)
    }

    /// `pid (name) state parent group session ...`, as proc(5) has it; a name may hold anything, brackets too.
    fn read(stat: &[u8]) -> Option<Self> {
        let end = stat.iter().rposition(|byte| *byte == b')')?;
        let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
        let mut fields = rest.split_ascii_whitespace();
        let has_ended = matches!(fields.next()?, "Z" | "X");
        let mut pid = || Some(Pid::from_raw(fields.next()?.parse().ok()?));
        Some(Self {
            has_ended,
            parent: pid()?,
            group: pid()?,
            session: pid()?,
            // field 22, and six have been read
            started: fields.nth(15)?.parse().ok()?,
        })
    }
}

fn whole(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let mut content = Vec::with_capacity(MOST);
    File::open(path)?.read_to_end(&mut content)?;
    Ok(content)
}

/// The variables that a process was started with; `None` of one that has ended.
pub fn environment(pid: Pid) -> Option<Vec<u8>> {
    for _ in 0..TRIES {
        let environment = whole(format!("/proc/{pid}/environ")).ok()?;
        // nothing at all is to be seen of a process in the middle of an exec, not even its arguments
        let in_exec = || fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|read| read.is_empty());
        if !environment.is_empty() || !in_exec() {
            return Some(environment);
        }
        if Stat::of(pid)?.has_ended {
            return None;
        }
        std::thread::yield_now();
    }
    None
}

pub fn children(parent: Pid) -> Vec<Pid> {
    listed_children(parent).unwrap_or_else(|| searched_children(parent))
}

/// `None` where the kernel keeps no such lists (CONFIG_PROC_CHILDREN).
fn listed_children(parent: Pid) -> Option<Vec<Pid>> {
    let mut children = Vec::new();
    let Ok(threads) = fs::read_dir(format!("/proc/{parent}/task")) else {
        return Some(children); // it is gone
    };
    for thread in threads.flatten() {
        match whole(thread.path().join("children")) {
            Ok(list) => children.extend(pids(&String::from_utf8_lossy(&list))),
            Err(_) if thread.path().exists() => return None,
            Err(_) => {}
        }
    }
    Some(children)
}

fn searched_children(parent: Pid) -> Vec<Pid> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let named = all.filter_map(|entry| pids(entry.file_name().to_str()?).next());
    named
        .filter(|pid| Stat::of(*pid).is_some_and(|stat| stat.parent == parent))
        .collect()
}

fn pids(text: &str) -> impl Iterator<Item = Pid> {
    let numbers = text.split_ascii_whitespace().map(str::parse);
    numbers.filter_map(Result::ok).map(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use nix::unistd::getpid;

    use super::*;

    #[test]
    fn lists_and_a_search_find_the_same_children() {
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .spawn()
            .expect("cat is there");
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
        assert!(listed_children(getpid()).is_none_or(|listed| listed.contains(&pid)));
        assert!(searched_children(getpid()).contains(&pid));
        assert!(Stat::of(pid).is_some_and(|stat| !stat.has_ended && stat.parent == getpid()));
        child.kill().expect("it lives");
        child.wait().expect("it is ours");
    }

    #[test]
    fn a_name_with_brackets_does_not_confuse() {
        let line = b"42 (a) S 1 (b) S 7 9 8 0 -1 4194304 9 0 0 0 0 0 0 0 20 0 1 0 123 5 6";
        let stat = Stat::read(line).expect("a line of stat");
        let ids = [stat.parent, stat.group, stat.session].map(Pid::as_raw);
        assert_eq!((ids, stat.started), ([7, 9, 8], 123));
        assert!(Stat::read(b"42 (a").is_none());
    }
}
