//! listen(2): what was bound becomes a listener, at a place in its group that hotswap knows.

use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};

use nix::sys::stat::fstat;

use super::caller::Caller;
use super::notification::Notification;
use super::theirs::{Sort, Theirs};
use super::{Answer, Capture, Remark};
use crate::listener::Listeners;
use crate::proc::descriptor;
use crate::sys;

impl Capture {
    pub(super) fn listen(
        &mut self,
        call: &Notification,
        fd: RawFd,
        listeners: &mut Listeners,
    ) -> io::Result<Answer> {
        let caller = match Caller::of(call.thread) {
            Ok(caller) if call.is_valid() => caller,
            _ => return Ok(Answer::GoOn),
        };
        let Some(inode) = descriptor::socket_inode(caller.thread, fd) else {
            return Ok(Answer::GoOn);
        };
        // every worker of a server may listen on what its master has bound
        if let Some(done) = listeners.listen_again(inode) {
            return done.map(|_| Answer::Succeed);
        }
        let Some(bound) = self.bounds.of(inode) else {
            self.mind_port_zero(&caller, fd);
            return Ok(Answer::GoOn);
        };
        let kept = bound.kept.as_ref().map(OwnedFd::try_clone);
        let socket = match kept.unwrap_or_else(|| caller.descriptor(fd)) {
            Ok(socket) if call.is_valid() => socket,
            Ok(_) => return Ok(Answer::GoOn),
            Err(error) => {
                self.could_not_look(&error);
                return Ok(Answer::GoOn);
            }
        };
        // another thread of it may have put another socket there meanwhile
        if fstat(&socket)?.st_ino != inode {
            return Ok(Answer::GoOn);
        }
        let path = bound.path.take();
        if path.as_ref().is_some_and(|path| !path.is_there()) {
            let (generation, address) = (self.generation, bound.address.to_string());
            self.bounds.forget(inode);
            self.remark(
                Remark::PathMoved,
                format!("{generation} moves {address} before it listens there: that is not kept over a swap"),
            );
            return Ok(Answer::GoOn);
        }
        let (listener, first) = listeners.listen(self.generation, &bound.address, socket, path)?;
        bound.kept = None;
        bound.listener = Some(listener);
        let (address, process) = (bound.address.to_string(), bound.process);
        self.note_binder(process);
        self.note_listening(address, first);
        Ok(Answer::Succeed)
    }

    /// A port that the kernel chooses anew for every generation cannot be kept.
    fn mind_port_zero(&mut self, caller: &Caller, fd: RawFd) {
        let Ok(Some(theirs)) = Theirs::of(caller, fd) else {
            return;
        };
        if !matches!(theirs.sort, Sort::Tcp | Sort::Mptcp) {
            return;
        }
        let bound = theirs
            .socket
            .and_then(|socket| sys::socket_name(socket.as_fd()).ok());
        let port = match bound.as_deref() {
            Some([_, _, high, low, ..]) => u16::from_be_bytes([*high, *low]),
            _ => 0,
        };
        if port == 0 || self.bounds.has_port_zero(theirs.inode) {
            let generation = self.generation;
            self.remark(
                Remark::PortZero,
                format!("{generation} listens on a port of the kernel's choice, which is another with every swap\ntry: a fixed port"),
            );
        }
    }
}
