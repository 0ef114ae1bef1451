//! The descriptors of a process or thread, and the sockets among them.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::readlinkat;
use nix::unistd::Pid;

use super::process::other_living_thread;
use super::{USUAL_SIZE, after, in_base, is_gone, lines, net, number, words};

/// The most that is read about one descriptor: an epoll set has a line for each member.
const DESCRIPTION: u64 = 1 << 20;

/// A path to what a descriptor is open on.
pub fn path(process: Pid, fd: RawFd) -> PathBuf {
    format!("/proc/{process}/fd/{fd}").into()
}

/// The inode of the socket behind a descriptor; `None` if it is not a socket.
pub fn socket_inode(process: Pid, fd: RawFd) -> Option<u64> {
    let link = fs::read_link(path(process, fd)).ok()?;
    inode_in(link.as_os_str())
}

/// The inode in `socket:[12345]`.
fn inode_in(link: &OsStr) -> Option<u64> {
    let link = link.as_bytes().strip_prefix(b"socket:[")?;
    number(link.strip_suffix(b"]")?)
}

/// The inodes of all sockets that a process holds.
///
/// # Errors
/// If it may not be read, or has ended ([`is_gone`]).
pub fn sockets(process: Pid) -> io::Result<HashSet<u64>> {
    let mut sockets = HashSet::new();
    each_link(process, |_, link| {
        sockets.extend(inode_in(link));
        true
    })?;
    Ok(sockets)
}

/// Which of these sockets a process holds, and by which descriptor.
///
/// # Errors
/// If it may not be read, or has ended ([`is_gone`]).
pub fn places_of(process: Pid, inodes: &HashSet<u64>) -> io::Result<Vec<(u64, RawFd)>> {
    let mut places = Vec::new();
    each_link(process, |fd, link| {
        let inode = inode_in(link).filter(|inode| inodes.contains(inode));
        places.extend(inode.map(|inode| (inode, fd)));
        true
    })?;
    Ok(places)
}

/// Whether a process holds one of these sockets or this pipe, by their inodes; false if it may not be read.
pub fn holds_any(process: Pid, sockets: &HashSet<u64>, pipe: Option<u64>) -> bool {
    let pipe = pipe.map(|inode| format!("pipe:[{inode}]"));
    let mut found = false;
    let _ = each_link(process, |_, link| {
        let is_socket = inode_in(link).is_some_and(|inode| sockets.contains(&inode));
        found = is_socket || pipe.as_ref().is_some_and(|pipe| *link == **pipe);
        !found
    });
    found
}

/// The epoll sets among its first `most` descriptors.
pub fn epoll_sets(process: Pid, most: usize) -> Vec<RawFd> {
    let mut sets = Vec::new();
    let mut left = most;
    let _ = each_link(process, |fd, link| {
        if link == "anon_inode:[eventpoll]" {
            sets.push(fd);
        }
        left = left.saturating_sub(1);
        left > 0
    });
    sets
}

/// Passes every descriptor to `look`, until it returns false.
fn each_link(process: Pid, mut look: impl FnMut(RawFd, &OsStr) -> bool) -> io::Result<()> {
    let mut is_empty = true;
    each_link_of(process, |fd, link| {
        is_empty = false;
        look(fd, link)
    })?;
    if is_empty && let Some(thread) = other_living_thread(process) {
        each_link_of(thread, look)?;
    }
    Ok(())
}

fn each_link_of(thread: Pid, mut look: impl FnMut(RawFd, &OsStr) -> bool) -> io::Result<()> {
    let path = format!("/proc/{thread}/fd");
    let directory = File::open(&path)?;
    for entry in fs::read_dir(&path)? {
        let name = entry?.file_name();
        let Some(fd) = number(name.as_bytes()) else {
            continue;
        };
        match readlinkat(&directory, name.as_os_str()).map_err(io::Error::from) {
            Ok(link) if !look(fd, &link) => break,
            Ok(_) => {}
            // one that is closed between the two calls no longer counts
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The files that a process has open for writing, of those whose path is `wanted`. `left` is how many descriptors may still
/// be looked at.
pub fn open_for_writing(
    process: Pid,
    left: &mut usize,
    wanted: impl Fn(&Path) -> bool,
) -> Vec<Metadata> {
    let mut files = Vec::new();
    let _ = each_link(process, |fd, link| {
        let is_wanted = wanted(Path::new(link));
        if is_wanted && flags(process, fd) & libc::O_ACCMODE != libc::O_RDONLY {
            files.extend(fs::metadata(path(process, fd)));
        }
        *left = left.saturating_sub(1);
        *left > 0
    });
    files
}

/// Whether descriptors are on their way to one of these processes: in messages that wait on its unix sockets (since Linux
/// 5.6), or false if it may not be read. What is said of a descriptor takes ten times as long to read as its link.
pub fn are_on_the_way(processes: &[Pid]) -> bool {
    let unix = net::all_unix().ok();
    let may_be_unix = |inode| unix.as_ref().is_none_or(|unix| unix.contains(&inode));
    processes.iter().any(|process| {
        let mut found = false;
        let _ = each_link(*process, |fd, link| {
            let is_unix = inode_in(link).is_some_and(may_be_unix);
            found = is_unix && awaits_descriptors(&description(*process, fd));
            !found
        });
        found
    })
}

fn awaits_descriptors(description: &[u8]) -> bool {
    let count = after(description, "scm_fds:").and_then(|count| in_base(count, 10));
    count.is_some_and(|count| count > 0)
}

/// How many descriptors a process has; 0 where the kernel does not tell (before Linux 6.2).
pub fn count(process: Pid) -> u64 {
    fs::metadata(format!("/proc/{process}/fd")).map_or(0, |fd| fd.len())
}

/// The status flags of a descriptor (open(2)), with `O_CLOEXEC` where it is set.
pub fn flags(process: Pid, fd: RawFd) -> i32 {
    let flags = after(&description(process, fd), "flags:").and_then(|flags| in_base(flags, 8));
    flags
        .and_then(|flags| i32::try_from(flags).ok())
        .unwrap_or(0)
}

/// What an epoll set waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The number it had when it was added.
    pub fd: RawFd,
    /// As of epoll_ctl(2).
    pub events: u32,
    pub inode: u64,
}

pub fn epoll_members(process: Pid, set: RawFd) -> Vec<Member> {
    lines(&description(process, set))
        .filter_map(member)
        .collect()
}

/// `tfd: 6 events: 19 data: 6 pos:0 ino:2f1a sdev:9`: the descriptor is in decimal, the rest in hexadecimal.
fn member(line: &[u8]) -> Option<Member> {
    let mut words = words(line.strip_prefix(b"tfd:")?);
    let fd = number(words.next()?)?;
    words.find(|word| *word == b"events:")?;
    let events = in_base(words.next()?, 16)?;
    let inode = words.find_map(|word| word.strip_prefix(b"ino:"))?;
    Some(Member {
        fd,
        events: u32::try_from(events).ok()?,
        inode: in_base(inode, 16)?,
    })
}

fn description(process: Pid, fd: RawFd) -> Vec<u8> {
    let mut text = Vec::with_capacity(USUAL_SIZE);
    if let Ok(file) = File::open(format!("/proc/{process}/fdinfo/{fd}")) {
        // what was read before an error is enough
        let _ = file.take(DESCRIPTION).read_to_end(&mut text);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::net::TcpListener;
    use std::os::fd::{AsFd, AsRawFd};

    use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    use nix::sys::stat::fstat;

    use super::*;

    #[test]
    fn links_tell_the_inodes_of_sockets() {
        let inode = |link: &str| inode_in(OsStr::new(link));
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
    fn the_sockets_of_this_process_are_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (me, fd) = (Pid::this(), listener.as_raw_fd());
        let inode = fstat(listener.as_fd()).unwrap().st_ino;
        assert_eq!(socket_inode(me, fd), Some(inode));
        assert!(sockets(me).unwrap().contains(&inode));
        assert!(holds_any(me, &HashSet::from([inode]), None));
        assert!(!holds_any(me, &HashSet::from([0]), Some(0)));
        assert_ne!(flags(me, fd) & libc::O_CLOEXEC, 0);
        let nobody = Pid::from_raw(i32::MAX);
        assert!(is_gone(&sockets(nobody).unwrap_err()));
        assert_eq!((socket_inode(nobody, fd), count(nobody)), (None, 0));
    }

    #[test]
    fn a_descriptor_in_a_message_is_on_its_way() {
        let (here, there) = std::os::unix::net::UnixStream::pair().unwrap();
        let is_on_the_way = || awaits_descriptors(&description(Pid::this(), there.as_raw_fd()));
        assert!(!is_on_the_way());
        let sent = [here.as_raw_fd()];
        let message = [ControlMessage::ScmRights(&sent)];
        let bytes = [IoSlice::new(b"x")];
        let flags = MsgFlags::empty();
        sendmsg::<()>(here.as_raw_fd(), &bytes, &message, flags, None).unwrap();
        assert!(is_on_the_way());
        assert!(are_on_the_way(&[Pid::this()]));
    }

    #[test]
    fn the_members_of_an_epoll_set_are_read() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (me, fd) = (Pid::this(), listener.as_raw_fd());
        let set = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        let event = EpollEvent::new(EpollFlags::EPOLLIN, 7);
        set.add(&listener, event).unwrap();
        let number = set.0.as_raw_fd();
        assert!(epoll_sets(me, usize::MAX).contains(&number));
        let members = epoll_members(me, number);
        assert_eq!(members.len(), 1);
        assert_eq!(members[0].fd, fd);
        assert_eq!(Some(members[0].inode), socket_inode(me, fd));
        assert_ne!(members[0].events & libc::EPOLLIN as u32, 0);
    }

    #[test]
    fn a_line_of_an_epoll_set_is_read() {
        let line = b"tfd:        7 events: 80002019 data: ffffffffffffffff  pos:0 ino:1a2d sdev:8";
        let expected = Member {
            fd: 7,
            events: 0x8000_2019,
            inode: 0x1a2d,
        };
        assert_eq!(member(line), Some(expected));
    }

    #[test]
    fn a_line_of_another_shape_is_no_member() {
        for line in [
            "",
            "pos:\t0",
            "tfd:        x events: 19",
            "tfd: 4 events:",
            "tfd: 4 events: 19 data: 4",
        ] {
            assert_eq!(member(line.as_bytes()), None, "{line:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_is_read_is_trusted(bytes: Vec<u8>) {
            member(&bytes);
            inode_in(OsStr::from_bytes(&bytes));
        }
    }
}
