//! Keeps clients away from a candidate at an address that overlaps with one that is served.
//!
//! The kernel prefers the most specific address, and takes clients there from the moment of listen(2). So that they reach
//! the serving generation until the cut-over, the candidate's socket is bound to a network device that does not exist. Who
//! may not undo that lets the first packets of clients be dropped instead: they are sent again after a second.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::LazyLock;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use serde::{Deserialize, Serialize};

use super::ReuseportGroup;
use crate::socket::inet::{Family, InetAddress, SO_BINDTOIFINDEX};
use crate::sys;

/// No network device has this index.
const NO_DEVICE: u32 = i32::MAX as u32;
/// Packets whose time to live is below this are dropped: hosts send them with 64 as a rule.
const MOST_HOPS: i32 = 255;

/// How the sockets of a group are hidden.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum Hidden {
    /// They are bound to [`NO_DEVICE`] instead of this one.
    NoDevice(u32),
    /// Packets need [`MOST_HOPS`].
    Dropped,
}

/// Whether a socket can be freed of its device again, which needs `CAP_NET_RAW` where its network belongs.
static CAN_FREE_OF_DEVICE: LazyLock<bool> = LazyLock::new(|| {
    let flags = SockFlag::SOCK_CLOEXEC;
    let any = socket(AddressFamily::Inet, SockType::Stream, flags, None);
    let bind = |device| bind_to_device(any.as_ref().ok()?.as_fd(), device).ok();
    bind(NO_DEVICE).and_then(|()| bind(0)).is_some()
});

impl ReuseportGroup {
    /// From now on all sockets are hidden that join, of which `first` is to be the first.
    pub(super) fn begin_hidden(&mut self, first: BorrowedFd) -> io::Result<()> {
        self.hidden = if *CAN_FREE_OF_DEVICE {
            let own = std::mem::replace(&mut self.address.device, NO_DEVICE);
            Some(Hidden::NoDevice(own))
        } else {
            // one that its server has set is left alone
            (hop_limit(first)? == 0).then_some(Hidden::Dropped)
        };
        Ok(())
    }

    /// Clients that wait here stay; others come by an overlapping address from now on.
    pub(super) fn hide_all(&mut self) -> io::Result<()> {
        let has_others = !self.strangers.is_empty() || !self.orphans.is_empty();
        if self.hidden.is_some() || has_others || !*CAN_FREE_OF_DEVICE {
            return Ok(());
        }
        let own = std::mem::replace(&mut self.address.device, NO_DEVICE);
        self.hidden = Some(Hidden::NoDevice(own));
        let mut sockets = self.sockets.iter();
        sockets.try_for_each(|socket| self.hide_member(socket.fd()))
    }

    /// Where a member is bound before it is hidden: an IPv6 address cannot be bound on a device that does not exist.
    pub(super) fn bound_address(&self) -> InetAddress {
        match self.hidden {
            Some(Hidden::NoDevice(device)) => InetAddress {
                device,
                ..self.address
            },
            Some(Hidden::Dropped) | None => self.address,
        }
    }

    /// If the others are hidden.
    pub(super) fn hide_member(&self, socket: BorrowedFd) -> io::Result<()> {
        match self.hidden {
            Some(Hidden::NoDevice(_)) => bind_to_device(socket, NO_DEVICE),
            Some(Hidden::Dropped) => set_hop_limit(socket, MOST_HOPS),
            None => Ok(()),
        }
    }

    /// Clients that come by its address reach its target from now on.
    pub(super) fn show_all(&mut self) -> io::Result<()> {
        let mut sockets = self.sockets.iter();
        match self.hidden.take() {
            Some(Hidden::NoDevice(own)) => {
                self.address.device = own;
                sockets.try_for_each(|socket| bind_to_device(socket.fd(), own))
            }
            Some(Hidden::Dropped) => sockets.try_for_each(|socket| set_hop_limit(socket.fd(), 0)),
            None => Ok(()),
        }
    }
}

fn bind_to_device(socket: BorrowedFd, device: u32) -> io::Result<()> {
    let device = device.cast_signed();
    sys::set_socket_option(socket, libc::SOL_SOCKET, SO_BINDTOIFINDEX, device)
}

fn hop_limit(socket: BorrowedFd) -> io::Result<i32> {
    let v4 = sys::socket_option(socket, libc::IPPROTO_IP, libc::IP_MINTTL)?;
    Ok(match Family::of_socket(socket)? {
        Family::V4 => v4,
        Family::V6 => v4.max(sys::socket_option(
            socket,
            libc::IPPROTO_IPV6,
            libc::IPV6_MINHOPCOUNT,
        )?),
    })
}

/// An IPv6 socket may get IPv4 packets, too.
fn set_hop_limit(socket: BorrowedFd, limit: i32) -> io::Result<()> {
    sys::set_socket_option(socket, libc::IPPROTO_IP, libc::IP_MINTTL, limit)?;
    match Family::of_socket(socket)? {
        Family::V4 => Ok(()),
        Family::V6 => {
            sys::set_socket_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT, limit)
        }
    }
}
