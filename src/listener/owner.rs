//! Who has an address that we cannot have, as far as /proc tells.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::net::SocketAddr;

use super::place::BESIDE;
use crate::address::{Address, Endpoint};
use crate::plain::plain;

/// The processes that hold a socket at the address.
pub struct Owner {
    processes: Vec<Process>,
}

struct Process {
    pid: u32,
    program: String,
    /// Of which generation of another hotswap.
    generation: Option<String>,
}

/// Looks through /proc/net and the descriptors of every process that we may look at.
pub fn of(address: &Address) -> Option<Owner> {
    let inodes: HashSet<u64> = match address {
        Address::Tcp(endpoint) => inet(&["tcp", "tcp6"], endpoint.port(), Some("0A")),
        Address::Udp(endpoint) => inet(&["udp", "udp6"], endpoint.port(), None),
        Address::Path(path) => unix(&std::path::absolute(path).ok()?.to_string_lossy()),
        Address::Abstract(name) => unix(&format!("@{name}")),
    };
    if inodes.is_empty() {
        return None;
    }
    let processes = holders(&inodes);
    (!processes.is_empty()).then_some(Owner { processes })
}

/// Who has this socket, in words.
pub fn holder_of(inode: u64) -> String {
    match holders(&HashSet::from([inode])).first() {
        Some(Process { pid, program, .. }) => format!("pid {pid} ({program})"),
        None => "another process".to_owned(),
    }
}

fn holders(inodes: &HashSet<u64>) -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let holders = pids.filter(|pid| has_one(*pid, inodes));
    let mut processes: Vec<_> = holders.map(Process::look).collect();
    processes.sort_by_key(|process| process.pid);
    processes
}

fn inet(tables: &[&str], port: u16, state: Option<&str>) -> HashSet<u64> {
    let port = format!(":{port:04X}");
    let mut inodes = HashSet::new();
    for table in tables {
        let text = fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let mut fields = line.split_ascii_whitespace().skip(1);
            let local = fields.next().unwrap_or_default();
            let wanted = state.is_none_or(|state| fields.nth(1) == Some(state));
            let mut fields = line.split_ascii_whitespace();
            if local.ends_with(&port) && wanted {
                inodes.extend(fields.nth(9).and_then(|inode| inode.parse::<u64>().ok()));
            }
        }
    }
    inodes
}

/// A generation's socket is bound to a name beside its path.
fn unix(path: &str) -> HashSet<u64> {
    let text = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let beside = format!("{path}{BESIDE}");
    let named = text.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let inode = fields.nth(6)?.parse().ok()?;
        let name = fields.next()?;
        (name == path || name.starts_with(&beside)).then_some(inode)
    });
    named.collect()
}

fn has_one(pid: u32, inodes: &HashSet<u64>) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    let mut links = entries
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok());
    links.any(|link| {
        let link = link.to_string_lossy();
        let inode = link
            .strip_prefix("socket:[")
            .and_then(|rest| rest.strip_suffix(']'));
        inode
            .and_then(|inode| inode.parse().ok())
            .is_some_and(|inode| inodes.contains(&inode))
    })
}

impl Process {
    fn look(pid: u32) -> Self {
        let program = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let value = |name: &str| {
            let mut variables = environment.split(|byte| *byte == 0);
            let value = variables.find_map(|variable| variable.strip_prefix(name.as_bytes()));
            value.map(|value| String::from_utf8_lossy(value).into_owned())
        };
        Self {
            pid,
            program: plain(program.trim()),
            generation: value("HOTSWAP_GENERATION=").as_deref().map(plain),
        }
    }
}

/// Who has the port that a server has asked for, in words; nobody if we have it ourselves, as the server then knows.
pub fn holders_of_port(at: SocketAddr) -> Option<String> {
    let owner = of(&Address::Tcp(Endpoint::At(at)))?;
    let we = |process: &Process| process.pid == std::process::id();
    (!owner.processes.iter().any(we)).then(|| owner.names())
}

impl Owner {
    fn names(&self) -> String {
        let name = |process: &Process| {
            let Process { pid, program, .. } = process;
            match &process.generation {
                Some(number) => format!("pid {pid} ({program}, generation {number})"),
                None => format!("pid {pid} ({program})"),
            }
        };
        let names: Vec<String> = self.processes.iter().map(name).collect();
        names.join(", ")
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "it is held by {}", self.names())?;
        f.write_str("\ntry: another address, or stop it first: kill")?;
        // a hotswap among them takes its servers with it
        let hotswap = |process: &&Process| process.program == "hotswap";
        let all = self.processes.iter();
        let first: Vec<_> = all.clone().filter(hotswap).collect();
        let wanted = if first.is_empty() {
            all.collect()
        } else {
            first
        };
        wanted
            .iter()
            .try_for_each(|process| write!(f, " {}", process.pid))
    }
}
