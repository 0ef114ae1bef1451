//! Which process holds an address that cannot be bound, from /proc.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use nix::unistd::Pid;

use super::beside::BESIDE;
use super::captured_address::CapturedAddress;
use crate::address::{Address, Endpoint};
use crate::escape::escape;
use crate::proc::net::{self, InetSocket, LISTENING};
use crate::proc::{descriptor, process};

/// The processes that hold a socket at the address.
pub struct PortHolder {
    processes: Vec<HolderProcess>,
}

struct HolderProcess {
    pid: Pid,
    program: String,
    /// The generation and the name of its hotswap, if it belongs to another one.
    generation: Option<String>,
    instance: Option<String>,
}

/// Searches /proc/net and the descriptors of every process that may be read.
pub fn of(address: &Address) -> Option<PortHolder> {
    let inodes: HashSet<u64> = match address {
        Address::Tcp(endpoint) => inet(&["tcp", "tcp6"], endpoint.port(), Some(LISTENING)),
        Address::Udp(endpoint) => inet(&["udp", "udp6"], endpoint.port(), None),
        Address::Path(path) => unix(std::path::absolute(path).ok()?.as_os_str()),
        Address::Abstract(name) => unix(OsStr::new(&format!("@{name}"))),
    };
    if inodes.is_empty() {
        return None;
    }
    // hotswap itself may have another address of that port
    let ours = descriptor::sockets(Pid::this()).unwrap_or_default();
    let mut processes = holders(&inodes.difference(&ours).copied().collect());
    if processes.is_empty() {
        processes = holders(&inodes);
    }
    (!processes.is_empty()).then_some(PortHolder { processes })
}

/// Which process has this socket, in words.
pub fn holder_of(inode: u64) -> String {
    match holders(&HashSet::from([inode])).first() {
        Some(HolderProcess { pid, program, .. }) => format!("pid {pid} ({program})"),
        None => "another process".to_owned(),
    }
}

fn holders(inodes: &HashSet<u64>) -> Vec<HolderProcess> {
    let holders = process::all().filter(|pid| descriptor::holds_any(*pid, inodes, None));
    let mut processes: Vec<_> = holders.map(HolderProcess::look).collect();
    processes.sort_by_key(|process| process.pid);
    processes
}

fn inet(tables: &[&str], port: u16, state: Option<u8>) -> HashSet<u64> {
    let sockets = tables.iter().flat_map(|table| net::inet(table));
    let wanted = |socket: &InetSocket| {
        socket.port == port && state.is_none_or(|state| socket.state == state)
    };
    sockets.filter(wanted).map(|socket| socket.inode).collect()
}

/// The socket of a generation is bound to a name beside its path.
fn unix(path: &OsStr) -> HashSet<u64> {
    let path = path.as_bytes();
    let is_there = |name: &[u8]| {
        let rest = name.strip_prefix(path);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(BESIDE.as_bytes()))
    };
    net::unix(is_there).into_iter().collect()
}

impl HolderProcess {
    fn look(pid: Pid) -> Self {
        let environment = process::environment(pid).unwrap_or_default();
        let value = |name: &str| {
            let mut variables = environment.split(|byte| *byte == 0);
            let value = variables.find_map(|variable| variable.strip_prefix(name.as_bytes()));
            value.map(|value| String::from_utf8_lossy(value).into_owned())
        };
        Self {
            pid,
            program: escape(&process::name(pid).to_string_lossy()),
            generation: value("HOTSWAP_GENERATION=").as_deref().map(escape),
            instance: value("HOTSWAP_INSTANCE=").as_deref().map(escape),
        }
    }

    fn is_this(&self) -> bool {
        self.pid == Pid::this()
    }
}

/// Which other processes have what a server has asked for; `None` if only hotswap has it.
pub fn others_at(asked: &CapturedAddress) -> Option<PortHolder> {
    let address = match asked {
        CapturedAddress::Tcp { at, .. } => Address::Tcp(Endpoint::At(*at)),
        CapturedAddress::Abstract(name) => Address::Abstract(String::from_utf8(name.clone()).ok()?),
        CapturedAddress::Path(_) | CapturedAddress::Udp(_) => return None,
    };
    let holder = of(&address)?;
    let ours = holder.processes.iter().any(HolderProcess::is_this);
    (!ours).then_some(holder)
}

impl PortHolder {
    fn names(&self) -> String {
        let name = |process: &HolderProcess| {
            let HolderProcess { pid, program, .. } = process;
            match &process.generation {
                Some(number) => format!("pid {pid} ({program}, generation {number})"),
                None => format!("pid {pid} ({program})"),
            }
        };
        let names: Vec<String> = self.processes.iter().map(name).collect();
        names.join(", ")
    }
}

impl fmt::Display for PortHolder {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if self.processes.iter().all(HolderProcess::is_this) {
            return f.write_str("another address of this hotswap covers it\ntry: one of the two");
        }
        write!(f, "it is held by {}", self.names())?;
        f.write_str("\ntry: another address, or stop it first: ")?;
        let all = self.processes.iter();
        let (hotswaps, others): (Vec<_>, Vec<_>) = all.partition(|it| it.program == "hotswap");
        // what stops a hotswap stops its servers
        if !hotswaps.is_empty()
            && let Some(name) = others.iter().find_map(|it| it.instance.as_ref())
        {
            return write!(f, "hotswap stop {name}");
        }
        let wanted = if hotswaps.is_empty() {
            others
        } else {
            hotswaps
        };
        f.write_str("kill")?;
        wanted.iter().try_for_each(|it| write!(f, " {}", it.pid))
    }
}
