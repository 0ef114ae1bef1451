//! A group goes on with a socket that a service manager has kept.
//!
//! While that socket lives, so do the group and its program, whatever dies. An index beyond the members is hashed over
//! them, so the one that is left alone gets every client.

use std::io;
use std::os::fd::OwnedFd;

use super::ReuseportGroup;
use super::orphans::members;
use crate::listener::context::ListenerContext;
use crate::listener::listening_socket::{Interest, ListeningSocket};
use crate::listener::member_index::MemberRole;
use crate::socket::inet::InetAddress;
use crate::sys;

impl ReuseportGroup {
    /// Clients wait in it for the next generation, as in that of a generation that is dead.
    ///
    /// # Errors
    /// Those of listen(2) and setsockopt(2), and of [`Self::join_as_last`].
    pub fn kept(
        address: InetAddress,
        is_captured: bool,
        socket: OwnedFd,
        context: &mut ListenerContext,
    ) -> io::Result<Self> {
        let mut group = Self::without_members(address);
        group.is_captured = is_captured;
        let mut kept = ListeningSocket::new(socket, None)?;
        // it may have been shut down
        sys::listen(kept.fd(), context.options.backlog)?;
        kept.listens = true;
        let inode = kept.inode;
        // where the kernel does not show who is there, nobody else is likely to be
        if members(&address).map_or(1, |members| members.len()) == 1 {
            context.watcher.watch(&mut kept, Some(Interest::Shutdown))?;
            group.members.append(inode, MemberRole::Spare);
            group.sockets.push(kept);
            group.steer(inode)?;
        } else {
            // the order of those that are there is unknown: clients come to one of ours that is not, until it is
            let mut others = group.join_as_last(context)?;
            others.remove(&inode);
            group.add_kept(kept, context)?;
            group.meet_strangers(others, context);
            group.wait_in_spare(context);
            group.find_out(context);
        }
        group.see_members(context);
        group.update_interests(context);
        Ok(group)
    }

    /// It was there before us, at an index that is found out when it is needed.
    pub(super) fn add_kept(
        &mut self,
        mut kept: ListeningSocket,
        context: &ListenerContext,
    ) -> io::Result<()> {
        let interest = Some(Interest::Shutdown);
        context.watcher.watch(&mut kept, interest)?;
        self.members.set_role(kept.inode, MemberRole::Spare);
        self.sockets.push(kept);
        Ok(())
    }
}
