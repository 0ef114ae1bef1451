//! The common ancestor of the processes that have bound a listener: the one that gets the stop signal.

use nix::unistd::{Pid, getpid};

use crate::proc::process::{ProcessId, Stat};

/// The one process, or the nearest ancestor of all: workers that bind themselves have a parent that restarts them. `None`
/// if all have ended, or only hotswap is above them.
pub fn common_ancestor(processes: &[ProcessId]) -> Option<Pid> {
    let living = processes.iter().filter(|process| process.lives());
    let mut lines = living.map(|process| line(process.pid));
    let first = lines.next()?;
    let others: Vec<Vec<Pid>> = lines.collect();
    first
        .into_iter()
        .find(|pid| others.iter().all(|line| line.contains(pid)))
}

/// A process and its ancestors, up to but without ourselves.
fn line(pid: Pid) -> Vec<Pid> {
    let ours = getpid();
    let mut line = Vec::new();
    let mut next = Some(pid);
    while let Some(pid) = next.filter(|pid| *pid != ours && pid.as_raw() > 1 && !line.contains(pid))
    {
        line.push(pid);
        next = Stat::of(pid).map(|stat| stat.parent);
    }
    line
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;
    use crate::proc::process;

    fn pid(child: &Child) -> Pid {
        Pid::from_raw(child.id().cast_signed())
    }

    /// A child of ours that waits until its standard input ends.
    fn waiting() -> Child {
        let mut command = Command::new("/bin/cat");
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        command.spawn().unwrap()
    }

    fn end(mut child: Child) {
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn one_process_stands_for_itself() {
        let child = waiting();
        let process = ProcessId::of(pid(&child)).unwrap();
        assert_eq!(common_ancestor(&[process]), Some(pid(&child)));
        end(child);
        assert_eq!(common_ancestor(&[process]), None);
    }

    #[test]
    fn two_children_of_ours_have_no_ancestor_but_us() {
        let (one, other) = (waiting(), waiting());
        let processes = [&one, &other].map(|child| ProcessId::of(pid(child)).unwrap());
        assert_eq!(common_ancestor(&processes), None);
        end(one);
        assert_eq!(common_ancestor(&processes), Some(pid(&other)));
        end(other);
    }

    #[test]
    fn workers_are_stood_for_by_their_parent() {
        let script = "exec 3<&0; cat <&3 & cat <&3 & wait";
        let mut shell = Command::new("/bin/sh");
        let mut shell = shell
            .args(["-c", script])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let parent = pid(&shell);
        let workers = loop {
            let children = process::children(parent).into_iter();
            let workers: Vec<ProcessId> = children.filter_map(ProcessId::of).collect();
            if workers.len() == 2 {
                break workers;
            }
            std::thread::yield_now();
        };
        assert_eq!(common_ancestor(&workers), Some(parent));
        drop(shell.stdin.take());
        shell.wait().unwrap();
    }
}
