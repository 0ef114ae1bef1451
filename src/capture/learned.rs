//! What servers set on their sockets before bind(2), learned from their calls of setsockopt(2).
//!
//! Only needed where hotswap may not duplicate their sockets: many containers forbid pidfd_getfd(2).

use std::io;
use std::os::fd::{BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::unistd::{Pid, gettid};
use serde::{Deserialize, Serialize};

use super::caller::Caller;
use super::notification::{Notification, read_value};
use super::{CallResult, Capture};
use crate::handoff;
use crate::listener::CapturedAddress;
use crate::proc::descriptor;
use crate::proc::status::Status;
use crate::socket::inet::SO_BINDTOIFINDEX;
use crate::sys;

/// The longest value that is learned: the name of a congestion control, of a device.
pub const LONGEST_VALUE: usize = 64;
/// Of how many sockets options are kept, and how many of each.
const MOST_SOCKETS: usize = 512;
const MOST_OPTIONS: usize = 64;

const SO_INCOMING_CPU: i32 = 49;
const TCP_FASTOPEN_NO_COOKIE: i32 = 34;
const TCP_AO_ADD_KEY: i32 = 38;
const IPV6_ADDRFORM: i32 = 1;
const IPV6_FREEBIND: i32 = 78;
const IPV6_MINHOPCOUNT: i32 = 73;
const SO_ATTACH_REUSEPORT_CBPF: i32 = 51;
const SO_ATTACH_REUSEPORT_EBPF: i32 = 52;
const IP_MINTTL: i32 = 21;
const IP_XFRM_POLICY: i32 = 17;
const IPV6_XFRM_POLICY: i32 = 35;

/// Options of a listening socket that setsockopt(2) is stopped for. None that servers set on every connection: they would
/// wait for hotswap each time.
pub const OPTIONS: [(i32, i32); 24] = [
    (libc::SOL_SOCKET, libc::SO_REUSEADDR),
    (libc::SOL_SOCKET, libc::SO_REUSEPORT),
    (libc::SOL_SOCKET, libc::SO_BINDTODEVICE),
    (libc::SOL_SOCKET, SO_BINDTOIFINDEX),
    (libc::SOL_SOCKET, libc::SO_DONTROUTE),
    (libc::SOL_SOCKET, libc::SO_MARK),
    (libc::SOL_SOCKET, libc::SO_PRIORITY),
    (libc::SOL_SOCKET, SO_INCOMING_CPU),
    (libc::SOL_SOCKET, libc::SO_PASSCRED),
    (libc::IPPROTO_IP, libc::IP_OPTIONS),
    (libc::IPPROTO_IP, libc::IP_FREEBIND),
    (libc::IPPROTO_IP, libc::IP_TRANSPARENT),
    (libc::IPPROTO_IP, IP_MINTTL),
    (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY),
    (libc::IPPROTO_IPV6, IPV6_FREEBIND),
    (libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT),
    (libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT),
    (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT),
    (libc::IPPROTO_TCP, libc::TCP_FASTOPEN),
    (libc::IPPROTO_TCP, libc::TCP_FASTOPEN_KEY),
    (libc::IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE),
    (libc::IPPROTO_TCP, libc::TCP_CONGESTION),
    (libc::IPPROTO_TCP, libc::TCP_SAVE_SYN),
    (libc::IPPROTO_TCP, libc::TCP_SYNCNT),
];

/// The program of a reuseport group: that of a captured address is hotswap's.
pub const OF_THE_GROUP: [(i32, i32); 2] = [
    (libc::SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF),
    (libc::SOL_SOCKET, SO_ATTACH_REUSEPORT_EBPF),
];

/// Options that hold pointers, descriptors or rules: no other socket can be given them from here.
pub const NOT_TO_COPY: [(i32, i32); 13] = [
    (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER),
    (libc::SOL_SOCKET, libc::SO_ATTACH_BPF),
    (libc::SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF),
    (libc::SOL_SOCKET, SO_ATTACH_REUSEPORT_EBPF),
    (libc::IPPROTO_IP, libc::IP_IPSEC_POLICY),
    (libc::IPPROTO_IP, IP_XFRM_POLICY),
    (libc::IPPROTO_IPV6, IPV6_ADDRFORM),
    (libc::IPPROTO_IPV6, libc::IPV6_IPSEC_POLICY),
    (libc::IPPROTO_IPV6, IPV6_XFRM_POLICY),
    (libc::IPPROTO_TCP, libc::TCP_REPAIR),
    (libc::IPPROTO_TCP, libc::TCP_MD5SIG),
    (libc::IPPROTO_TCP, libc::TCP_MD5SIG_EXT),
    (libc::IPPROTO_TCP, TCP_AO_ADD_KEY),
];

/// Options for which a server needs `CAP_NET_ADMIN` or `CAP_NET_RAW`: without it, it has not got them.
const PRIVILEGED: [(i32, i32); 3] = [
    (libc::SOL_SOCKET, libc::SO_MARK),
    (libc::IPPROTO_IP, libc::IP_TRANSPARENT),
    (libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT),
];
const CAP_NET_ADMIN_OR_RAW: u64 = 1 << 12 | 1 << 13;

/// One call of setsockopt(2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetOption {
    pub level: i32,
    pub name: i32,
    /// `None` if it could not be read or is longer than [`LONGEST_VALUE`].
    pub value: Option<Vec<u8>>,
}

impl SetOption {
    fn is_of(&self, options: &[(i32, i32)]) -> bool {
        options.contains(&(self.level, self.name))
    }
}

impl Capture {
    /// The kernel carries it out, and it is done again on the copy of the socket at its bind(2).
    pub(super) fn set_option(
        &mut self,
        call: &Notification,
        fd: RawFd,
        option: (i32, i32),
        value: (u64, i32),
    ) -> CallResult {
        if self.leads_clients(call, fd, option) {
            return CallResult::Succeed;
        }
        self.learn(call, fd, option, value);
        CallResult::Continue
    }

    /// A server's own program would lead clients to a candidate that is not ready. All its sockets at an address are one,
    /// so there is nothing for it to choose from.
    fn leads_clients(&mut self, call: &Notification, fd: RawFd, option: (i32, i32)) -> bool {
        let inode = descriptor::socket_inode(call.thread, fd);
        let bound = inode.and_then(|inode| self.bound_sockets.of(inode));
        let is_tcp =
            bound.is_some_and(|bound| matches!(bound.address, CapturedAddress::Tcp { .. }));
        OF_THE_GROUP.contains(&option) && is_tcp && call.is_valid()
    }

    fn learn(
        &mut self,
        call: &Notification,
        fd: RawFd,
        (level, name): (i32, i32),
        (value, length): (u64, i32),
    ) {
        let Some(learned) = &mut self.learned else {
            return;
        };
        let value = read_value(call.thread, value, length, LONGEST_VALUE);
        let caller = Caller::of(call.thread);
        let (Ok(caller), true) = (caller, call.is_valid()) else {
            return;
        };
        let value = match value {
            Ok(value) => value,
            // the kernel will refuse the call as well
            Err(error) if error.raw_os_error() == Some(libc::EFAULT) => return,
            Err(_) => None,
        };
        learned.learn(&caller, fd, SetOption { level, name, value });
    }
}

#[derive(Serialize, Deserialize)]
struct LearnedSocket {
    inode: u64,
    /// Where it was when its first option was set.
    #[serde(with = "handoff::pid")]
    process: Pid,
    fd: RawFd,
    options: Vec<SetOption>,
}

/// The options of a generation's sockets.
#[derive(Default, Serialize, Deserialize)]
pub struct LearnedOptions {
    sockets: Vec<LearnedSocket>,
    /// There were more than can be kept: what is not known of a socket may have been forgotten.
    overflowed: bool,
}

impl LearnedOptions {
    pub fn learn(&mut self, caller: &Caller, fd: RawFd, option: SetOption) {
        let Some(inode) = descriptor::socket_inode(caller.thread, fd) else {
            return;
        };
        if let Some(known) = self.sockets.iter_mut().find(|known| known.inode == inode) {
            if known.options.len() < MOST_OPTIONS {
                known.options.push(option);
            } else {
                self.overflowed = true;
            }
            return;
        }
        self.make_room();
        self.sockets.push(LearnedSocket {
            inode,
            process: caller.process(),
            fd,
            options: vec![option],
        });
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    fn make_room(&mut self) {
        if self.sockets.len() < MOST_SOCKETS {
            return;
        }
        let is_there = |known: &LearnedSocket| {
            descriptor::socket_inode(known.process, known.fd) == Some(known.inode)
        };
        self.sockets.retain(is_there);
        if self.sockets.len() >= MOST_SOCKETS {
            self.sockets.remove(0);
            self.overflowed = true;
        }
    }

    /// Sets the same on another socket, in the same order. Returns why that is not like the first one, if it is not.
    pub fn replay(
        &self,
        caller: &Caller,
        inode: u64,
        other: BorrowedFd,
    ) -> Result<(), &'static str> {
        if self.overflowed {
            return Err("it has set options on more sockets than can be remembered");
        }
        let known = self.sockets.iter().find(|known| known.inode == inode);
        let may_more = caller.status.capabilities & CAP_NET_ADMIN_OR_RAW != 0;
        for option in known.into_iter().flat_map(|known| &known.options) {
            let (Some(value), false) = (&option.value, option.is_of(&NOT_TO_COPY)) else {
                return Err("it has set an option that cannot be copied to another socket");
            };
            if option.is_of(&PRIVILEGED) && !may_more {
                continue;
            }
            let set = sys::set_socket_option_bytes(other, option.level, option.name, value);
            if set.is_err_and(|error| is_ours_alone(&error, caller)) {
                return Err("it has set an option that hotswap may not set");
            }
        }
        Ok(())
    }
}

/// Whether setsockopt(2) may have failed for hotswap without having failed for the server.
fn is_ours_alone(error: &io::Error, caller: &Caller) -> bool {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPERM | Errno::EACCES) => {
            let ours = Status::of(gettid()).map_or(0, |status| status.capabilities);
            caller.status.capabilities & !ours != 0
        }
        Some(Errno::ENOMEM | Errno::ENOBUFS) => true,
        _ => false,
    }
}
