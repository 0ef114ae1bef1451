//! Which processes belong to a generation: read from /proc, as of now.
//!
//! Those that descend from its main process do. Those whose parent has ended become hotswap's own children (it is a
//! subreaper), and are known by their process group or by the variables they were started with.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::sys::signal::killpg;
use nix::unistd::{Pid, getpid};

use super::environment::Variables;

/// Variables of commands that hotswap runs for itself, whose leftovers are no server's.
const OF_A_COMMAND: [&[u8]; 2] = [b"HOTSWAP_EVENT=", b"HOTSWAP_PID="];

/// Ancestors change while they are followed: no chain is longer.
const DEEPEST: usize = 1000;

/// What the processes of one generation have in common.
#[derive(Clone, Debug, Default)]
pub struct Mark {
    /// `NAME=VALUE`, all of them.
    variables: Vec<Vec<u8>>,
}

impl Mark {
    pub fn new(variables: Variables) -> Self {
        let written = |(name, value)| [name, value].join(OsStr::new("=")).as_bytes().to_vec();
        // a server may well take NOTIFY_SOCKET away from its children
        let lasting = variables
            .into_iter()
            .filter(|(name, _)| name != "NOTIFY_SOCKET");
        Self {
            variables: lasting.map(written).collect(),
        }
    }

    pub fn of_written(variables: Vec<Vec<u8>>) -> Self {
        Self { variables }
    }

    pub fn written(&self) -> &[Vec<u8>] {
        &self.variables
    }

    fn is_in(&self, environment: &[u8]) -> bool {
        let carried: HashSet<&[u8]> = environment.split(|byte| *byte == 0).collect();
        let of_a_command =
            |variable: &&[u8]| OF_A_COMMAND.iter().any(|own| variable.starts_with(own));
        self.variables
            .iter()
            .all(|own| carried.contains(own.as_slice()))
            && !carried.iter().any(of_a_command)
    }
}

/// The main process as long as it lives, all that descends from it, and its orphans.
pub fn processes(main: Pid, main_lives: bool, mark: &Mark) -> Vec<Pid> {
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    let mut left: Vec<Pid> = orphans(main, mark);
    left.extend(main_lives.then_some(main));
    while let Some(pid) = left.pop() {
        if seen.insert(pid) {
            found.push(pid);
            left.extend(children(pid));
        }
    }
    found
}

/// Whether it is one of those: by its ancestors, without looking at any other process.
pub fn has(main: Pid, main_lives: bool, mark: &Mark, process: Pid) -> bool {
    let own = getpid();
    let mut process = process;
    for _ in 0..DEEPEST {
        match Stat::of(process).map(|stat| stat.parent) {
            _ if process == main => return main_lives,
            Some(parent) if parent == own => return is_orphan(process, main, mark),
            Some(parent) => process = parent,
            None => return false,
        }
    }
    false
}

/// Children of hotswap that belong to the generation without being its main process.
pub fn orphans(main: Pid, mark: &Mark) -> Vec<Pid> {
    let mut orphans = children(getpid());
    orphans.retain(|pid| is_orphan(*pid, main, mark));
    orphans
}

fn is_orphan(child: Pid, main: Pid, mark: &Mark) -> bool {
    let carries_mark = || {
        let environment = fs::read(format!("/proc/{child}/environ"));
        environment.is_ok_and(|environment| mark.is_in(&environment))
    };
    child != main && (group(child) == Some(main) || carries_mark())
}

/// Whether the group has a member, a zombie included.
pub fn group_exists(group: Pid) -> bool {
    // EPERM: a member that hotswap may not signal
    !matches!(killpg(group, None), Err(Errno::ESRCH))
}

fn group(pid: Pid) -> Option<Pid> {
    Stat::of(pid).map(|stat| stat.group)
}

struct Stat {
    parent: Pid,
    group: Pid,
}

impl Stat {
    fn of(pid: Pid) -> Option<Self> {
        Self::read(&fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    /// `pid (name) state parent group ...`; a name may hold anything, brackets too.
    fn read(stat: &[u8]) -> Option<Self> {
        let end = stat.iter().rposition(|byte| *byte == b')')?;
        let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
        let mut fields = rest.split_ascii_whitespace().skip(1);
        let mut pid = || Some(Pid::from_raw(fields.next()?.parse().ok()?));
        Some(Self {
            parent: pid()?,
            group: pid()?,
        })
    }
}

fn children(parent: Pid) -> Vec<Pid> {
    listed_children(parent).unwrap_or_else(|| searched_children(parent))
}

/// `None` where the kernel keeps no such lists (CONFIG_PROC_CHILDREN).
fn listed_children(parent: Pid) -> Option<Vec<Pid>> {
    let mut children = Vec::new();
    let Ok(threads) = fs::read_dir(format!("/proc/{parent}/task")) else {
        return Some(children); // it is gone
    };
    for thread in threads.flatten() {
        match fs::read_to_string(thread.path().join("children")) {
            Ok(list) => children.extend(pids(&list)),
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
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A process that waits for its end, with a child that does, too.
    fn family() -> (Child, Pid) {
        let child = Command::new("sh")
            .args(["-c", "cat & echo; wait"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh is there");
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
        (child, pid)
    }

    #[test]
    fn lists_and_a_search_find_the_same_children() {
        let (mut child, pid) = family();
        let mut listed = listed_children(getpid()).unwrap_or_default();
        let mut searched = searched_children(getpid());
        assert!(listed.contains(&pid) && searched.contains(&pid));
        // tests that run beside this one have children of their own, which come and go
        listed.retain(|child| *child == pid);
        searched.retain(|child| *child == pid);
        assert_eq!(listed, searched);
        child.kill().expect("it lives");
        child.wait().expect("it is ours");
    }

    #[test]
    fn a_name_with_brackets_does_not_confuse() {
        let stat = Stat::read(b"42 (a) S 1 (b) S 7 9 0").expect("a line of stat");
        assert_eq!((stat.parent.as_raw(), stat.group.as_raw()), (7, 9));
        assert!(Stat::read(b"42 (a").is_none());
    }

    #[test]
    fn an_orphan_is_known_by_all_of_the_variables() {
        let mark = Mark::new(vec![
            ("HOTSWAP_GENERATION".into(), "1".into()),
            ("HOTSWAP_INSTANCE".into(), "api".into()),
            ("NOTIFY_SOCKET".into(), "@1".into()),
        ]);
        assert!(mark.is_in(b"PATH=/bin\0HOTSWAP_INSTANCE=api\0HOTSWAP_GENERATION=1\0"));
        assert!(!mark.is_in(b"HOTSWAP_INSTANCE=other\0HOTSWAP_GENERATION=1\0"));
        assert!(!mark.is_in(b"HOTSWAP_INSTANCE=api\0HOTSWAP_GENERATION=11\0"));
        assert!(
            !mark.is_in(b"HOTSWAP_INSTANCE=api\0HOTSWAP_GENERATION=1\0HOTSWAP_EVENT=gone\0"),
            "a command that hotswap ran"
        );
    }
}
