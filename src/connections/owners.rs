//! Which sockets a generation's processes hold, by /proc/PID/fd.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, ErrorKind};

use nix::fcntl::readlinkat;
use nix::unistd::Pid;

/// The sockets of some processes, remembered: reading 10,000 takes 60 ms, and seeing that they have not grown 10 µs.
#[derive(Debug, Default)]
pub struct Owners {
    processes: HashMap<Pid, Process>,
    complete: bool,
    /// Something was remembered at the last refresh, rather than read.
    remembered: bool,
}

#[derive(Debug)]
struct Process {
    /// How many descriptors it had; 0 where the kernel does not tell (before Linux 6.2).
    descriptors: u64,
    sockets: HashSet<u64>,
}

impl Owners {
    /// Reads the sockets of those that are new, or have more descriptors than they had.
    pub fn refresh(&mut self, pids: &[Pid]) {
        self.complete = true;
        self.remembered = false;
        self.processes.retain(|pid, _| pids.contains(pid));
        for pid in pids {
            let descriptors = fs::metadata(format!("/proc/{pid}/fd")).map_or(0, |fd| fd.len());
            let known = self.processes.get(pid).map_or(0, |known| known.descriptors);
            if descriptors > 0 && descriptors <= known {
                self.remembered = true;
                continue;
            }
            match sockets_of(*pid) {
                Ok(sockets) => {
                    let process = Process {
                        descriptors,
                        sockets,
                    };
                    self.processes.insert(*pid, process);
                }
                // It has ended meanwhile, and holds nothing.
                Err(error) if is_gone(&error) => {
                    self.processes.remove(pid);
                }
                Err(_) => self.complete = false,
            }
        }
    }

    /// Every process that is there could be looked into.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    pub fn have(&self, socket: u64) -> bool {
        self.processes
            .values()
            .any(|process| process.sockets.contains(&socket))
    }

    /// Forgets what is only remembered; false if all of it was read at the last refresh.
    pub fn forget(&mut self) -> bool {
        if self.remembered {
            self.processes.clear();
        }
        self.remembered
    }
}

/// The inodes of the sockets that one process holds.
fn sockets_of(pid: Pid) -> io::Result<HashSet<u64>> {
    let path = format!("/proc/{pid}/fd");
    let directory = File::open(&path)?;
    let mut sockets = HashSet::new();
    for entry in fs::read_dir(&path)? {
        let name = entry?.file_name();
        match readlinkat(&directory, name.as_os_str()).map_err(io::Error::from) {
            Ok(link) => sockets.extend(socket_inode(&link)),
            // One that is closed between the two calls is no socket of theirs any more.
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sockets)
}

/// What was to be looked at in /proc has ended meanwhile.
pub fn is_gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// The inode in `socket:[12345]`, as links in /proc/PID/fd name a socket.
pub fn socket_inode(link: &OsStr) -> Option<u64> {
    let link = link.to_str()?;
    link.strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsFd;

    use super::*;
    use crate::connections::inode_of;

    #[test]
    fn links_tell_the_inodes_of_sockets() {
        let inode = |link: &str| socket_inode(OsStr::new(link));
        assert_eq!(inode("socket:[4711]"), Some(4711));
        for link in [
            "pipe:[4711]",
            "socket:[]",
            "socket:[4711",
            "/tmp/socket:[1]",
            "",
        ] {
            assert_eq!(inode(link), None, "{link}");
        }
    }

    #[test]
    fn the_sockets_of_processes_are_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = inode_of(listener.as_fd()).unwrap();
        let nobody = Pid::from_raw(i32::MAX);
        let mut owners = Owners::default();
        owners.refresh(&[nobody, Pid::this()]);
        assert!(
            owners.is_complete(),
            "a process that has ended hides nothing"
        );
        assert!(owners.have(inode));
        owners.refresh(&[nobody]);
        assert!(!owners.have(inode), "another process has it");
    }
}
