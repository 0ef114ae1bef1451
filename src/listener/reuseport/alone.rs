//! Leaves the target alone in its group, once no other server needs a socket there.
//!
//! The kernel closes the sockets of a hotswap that is killed one after another. With two spares before the target, it
//! moves to another index when the first of them goes, and until the last has gone new connections are hashed over what
//! is left: those that come to a spare are reset a moment later. A target that is alone gets them all, whatever the
//! program says.

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{Shutdown, shutdown};

use super::ReuseportGroup;
use crate::listener::context::ListenerContext;
use crate::listener::member_index::no_packet;
use crate::socket::Inode;
use crate::sys;

impl ReuseportGroup {
    /// Whether only the target has a server, and where each socket is is known.
    pub(super) fn may_leave_target_alone(&self) -> bool {
        let target = self.members.target();
        let mut sockets = self.sockets.iter();
        sockets.all(|one| one.owner.is_some() == (Some(one.inode) == target))
            && target.is_some_and(|target| self.is_member(target))
            && self.sockets.len() > 1
            && self.strangers.is_empty()
            && !self.is_wary
            && self.members.uncertain_indexes().is_empty()
    }

    /// Closes all others of ours. Those behind the target do not move it, and the first one before it moves it to the
    /// front. Where that takes it past another one, this one is made deaf before: a client that comes just then sends its
    /// first packet again after a second.
    pub(super) fn leave_target_alone(&mut self, context: &ListenerContext) {
        let target = self.members.target();
        let members: Vec<Inode> = self.members.members().collect();
        let at = members.iter().position(|inode| Some(*inode) == target);
        let (Some(target), Some(at)) = (target, at) else {
            return;
        };
        let (before, behind) = members.split_at(at);
        for inode in behind[1..].iter().rev() {
            self.remove(*inode, context);
        }
        if before.len() > 1 {
            let passed = self.sockets.iter();
            let passed = passed.filter(|socket| before.contains(&socket.inode));
            for socket in passed {
                self.or_tell(sys::attach_packet_filter(socket.fd(), &no_packet()));
            }
        }
        for inode in before {
            self.remove(*inode, context);
            let steered = self.steer(target);
            self.or_tell(steered);
        }
    }

    /// It leaves at once, even if somebody else has a duplicate of it, as a child of hotswap may until its program runs.
    pub(super) fn remove(&mut self, inode: Inode, context: &ListenerContext) {
        let Some(at) = self.position(inode) else {
            return;
        };
        let mut socket = self.sockets.remove(at);
        self.or_tell(context.watcher.watch(&mut socket, None));
        if socket.owner.is_none() {
            let shut = shutdown(socket.fd().as_raw_fd(), Shutdown::Both);
            self.or_tell(shut.map_err(Into::into));
        }
        self.members.leave(inode);
    }

    fn or_tell(&self, done: io::Result<()>) {
        if let Err(error) = done {
            let address = self.address.at;
            log::debug!("cannot close the other sockets of {address}: {error}");
        }
    }
}
