//! listen(2): a bound socket becomes a listener, at a known index in its group.

use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::sys::stat::fstat;
use nix::unistd::Pid;

use super::bound_sockets::BoundSocket;
use super::caller::Caller;
use super::new_listeners::NewListener;
use super::notification::Notification;
use super::server_socket::{ServerSocket, SocketType};
use super::sockaddr::{self, RequestedAddress};
use super::{CallContext, CallResult, Capture, Warning, server_path};
use crate::listener::CapturedAddress;
use crate::proc::descriptor;
use crate::sys;

/// Whether one of the numbers in the path or name is the pid of one of these.
fn names_one(name: &[u8], processes: &[Pid]) -> bool {
    let mut numbers = name
        .split(|byte| !byte.is_ascii_digit())
        .filter_map(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    numbers.any(|number| processes.contains(&Pid::from_raw(number)))
}

impl Capture {
    pub(super) fn listen(
        &mut self,
        call: &Notification,
        fd: RawFd,
        context: &mut CallContext,
    ) -> io::Result<CallResult> {
        let listeners = &mut *context.listeners;
        let caller = match Caller::of(call.thread) {
            Ok(caller) if call.is_valid() => caller,
            _ => return Ok(CallResult::Continue),
        };
        let Some(inode) = descriptor::socket_inode(caller.thread, fd) else {
            return Ok(CallResult::Continue);
        };
        // every worker may listen on what its master has bound
        if let Some(done) = listeners.listen_again(inode) {
            return done.map(|_| CallResult::Succeed);
        }
        if self.bound_sockets.of(inode).is_none()
            && let Err(error) = self.meet_bound_path(call, fd, context)
        {
            log::debug!("cannot see what {} listens on: {error}", self.generation);
        }
        // they were bound at once, and without hotswap only one of them listens there
        if self.another_listens_where(inode, context) {
            return Err(Errno::EADDRINUSE.into());
        }
        let listeners = &mut *context.listeners;
        let Some(bound) = self.bound_sockets.of(inode) else {
            self.warn_of_port_zero(&caller, fd);
            return Ok(CallResult::Continue);
        };
        let kept = bound.kept.as_ref().map(OwnedFd::try_clone);
        let socket = match kept.unwrap_or_else(|| caller.descriptor(fd)) {
            Ok(socket) if call.is_valid() => socket,
            Ok(_) => return Ok(CallResult::Continue),
            Err(error) => {
                self.could_not_look(&error);
                return Ok(CallResult::Continue);
            }
        };
        // another thread may have replaced the descriptor
        if fstat(&socket)?.st_ino != inode {
            return Ok(CallResult::Continue);
        }
        let path = bound.path.take();
        let name = match &bound.address {
            CapturedAddress::Path(entry) => entry.path.as_os_str().as_bytes(),
            CapturedAddress::Abstract(name) => name,
            CapturedAddress::Tcp { .. } | CapturedAddress::Udp(_) => &[],
        };
        let names_process = !name.is_empty() && names_one(name, &(context.processes)());
        if path.as_ref().is_some_and(|path| !path.is_there()) {
            let (generation, address) = (self.generation, bound.address.to_string());
            self.bound_sockets.forget(inode);
            self.hint_once(
                Warning::PathMoved,
                format!("{generation} moves {address} before it listens there: that is not kept across a swap"),
            );
            return Ok(CallResult::Continue);
        }
        let (listener, first) = listeners.listen(self.generation, &bound.address, socket, path)?;
        if first && names_process {
            listeners.names_process(listener);
        }
        bound.kept = None;
        bound.listener = Some(listener);
        let (as_given, process) = (bound.address.to_string(), bound.process);
        self.note_binder(process);
        if first {
            self.new_listeners.push(NewListener {
                id: listener,
                since: context.now,
                as_given,
            });
        }
        Ok(CallResult::Succeed)
    }

    /// The filter lets bind(2) through if the address is as long as one of netlink: a unix path of that length which nobody
    /// knew of, with its last NUL or without, is met when the server listens there.
    fn meet_bound_path(
        &mut self,
        call: &Notification,
        fd: RawFd,
        context: &CallContext,
    ) -> io::Result<()> {
        let socket = Caller::of(call.thread)?.descriptor(fd)?;
        let name = sys::socket_name(socket.as_fd())?;
        // the kernel adds the NUL
        let was_let_through = matches!(name.len(), 12 | 13);
        let Some(asked @ RequestedAddress::Path(_)) = sockaddr::read(&name) else {
            return Ok(());
        };
        let Some(request) = self.request(call, fd, asked)?.filter(|_| was_let_through) else {
            return Ok(());
        };
        if request.server_socket.kind == SocketType::UnixStream
            && !request.is_left_to_server(context)
            && context.listeners.covering(&request.address).is_none()
            && self.bound_sockets.at(&request.address).is_none()
            && !self.bound_sockets.are_full()
            && self.check_network(&request)
        {
            let mut bound = request.bound(socket.as_fd())?;
            bound.path = Some(server_path::bound_at(&request.caller, &request.as_given)?);
            self.bound_sockets.remember(bound);
        }
        Ok(())
    }

    /// Whether a socket of the generation listens at the address that this other one is bound to.
    fn another_listens_where(&mut self, inode: u64, context: &mut CallContext) -> bool {
        let bound = self.bound_sockets.of(inode);
        let Some(address) = bound.map(|bound| bound.address.clone()) else {
            return false;
        };
        let is_another = |bound: &BoundSocket| {
            bound.listener.is_some() && bound.inode != inode && bound.address == address
        };
        let exists = |capture: &Self| capture.bound_sockets.all.iter().any(is_another);
        if exists(self) {
            self.release_closed(is_another, context);
        }
        exists(self)
    }

    /// A port that the kernel chooses for every generation cannot be kept.
    fn warn_of_port_zero(&mut self, caller: &Caller, fd: RawFd) {
        let Ok(Some(server_socket)) = ServerSocket::of(caller, fd, self.learned.as_ref()) else {
            return;
        };
        if !matches!(server_socket.kind, SocketType::Tcp | SocketType::Mptcp) {
            return;
        }
        let bound = sys::socket_name(server_socket.socket.as_fd());
        let has_port = bound.is_ok_and(|name| !matches!(name[..], [_, _, 0, 0, ..]));
        if !(has_port || server_socket.is_copy)
            || self.bound_sockets.has_port_zero(server_socket.inode)
        {
            let generation = self.generation;
            self.bound_sockets.listens_on_chosen_port = true;
            self.hint_once(
                Warning::PortZero,
                format!("{generation} listens on port 0, which gives it a different port after every swap\ntry: a fixed port"),
            );
        }
    }
}
