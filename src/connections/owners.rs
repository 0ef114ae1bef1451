//! Which sockets a generation's processes hold, by /proc/PID/fd.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind};

use nix::fcntl::readlinkat;
use nix::unistd::Pid;

/// The sockets that some processes hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owned {
    pub inodes: HashSet<u64>,
    /// Every process that is there could be looked into.
    pub complete: bool,
}

/// The inodes of all sockets that these processes hold.
pub fn sockets_of(pids: &[Pid]) -> Owned {
    let mut inodes = HashSet::new();
    let mut complete = true;
    for pid in pids {
        match add_sockets(*pid, &mut inodes) {
            // It has ended meanwhile, and holds nothing.
            Err(error) if is_gone(&error) => (),
            Err(_) => complete = false,
            Ok(()) => (),
        }
    }
    Owned { inodes, complete }
}

fn add_sockets(pid: Pid, inodes: &mut HashSet<u64>) -> io::Result<()> {
    let path = format!("/proc/{pid}/fd");
    let directory = File::open(&path)?;
    for entry in std::fs::read_dir(&path)? {
        // One that is closed between the two calls is no socket of theirs any more.
        let name = entry?.file_name();
        match readlinkat(&directory, name.as_os_str()) {
            Ok(link) => inodes.extend(socket_inode(&link)),
            Err(error) => {
                let error = io::Error::from(error);
                if !is_gone(&error) {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

fn is_gone(error: &io::Error) -> bool {
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
        let owned = sockets_of(&[nobody, Pid::this()]);
        assert!(owned.complete, "a process that has ended hides nothing");
        assert!(owned.inodes.contains(&inode));
    }
}
