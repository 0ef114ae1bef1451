//! bind(2): binds the server's own socket as a member of hotswap's listener, or replaces it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::socket::{SockaddrStorage, UnixAddr, bind};
use nix::sys::stat::fstat;

use super::bound_sockets::{BoundSocket, MOST_LISTENERS};
use super::caller::Caller;
use super::notification::{LONGEST_ADDRESS, Notification, read_value};
use super::server_socket::{ServerSocket, SocketType, make_ours};
use super::sockaddr::{self, RequestedAddress};
use super::{CallContext, CallResult, Capture, Warning, options, server_path};
use crate::listener::{BindPlan, CapturedAddress, Listeners, Replacement};
use crate::proc::net;
use crate::socket::set_nonblocking;
use crate::sys;

/// A bind(2) that may become a listener.
pub(super) struct BindRequest {
    fd: RawFd,
    pub(super) caller: Caller,
    pub(super) server_socket: ServerSocket,
    /// A unix path as the server knows it.
    pub(super) as_given: PathBuf,
    pub(super) address: CapturedAddress,
}

impl Capture {
    pub(super) fn bind(
        &mut self,
        call: &Notification,
        fd: RawFd,
        address: (u64, i32),
        context: &mut CallContext,
    ) -> io::Result<CallResult> {
        match self.understand(call, fd, address) {
            Ok(Some(request)) => {
                self.release_closed(|bound| bound.address.meets(&request.address), context);
                if request.is_left_to_server(context) {
                    return Ok(CallResult::Continue);
                }
                let listeners = &mut *context.listeners;
                let first = self.bound_sockets.at(&request.address);
                let was_unlinked = first.is_some_and(BoundSocket::has_left_its_path);
                let answer = self.grant(call, &request, listeners);
                let error = answer.as_ref().err().map(io::Error::kind);
                if error == Some(io::ErrorKind::AddrInUse) {
                    self.explain(&request.address, listeners);
                } else if was_unlinked {
                    self.bound_sockets.note_unlinked(&request.address, false);
                    listeners.put_paths_back();
                }
                answer
            }
            Ok(None) => Ok(CallResult::Continue),
            Err(error) => {
                self.could_not_look(&error);
                Ok(CallResult::Continue)
            }
        }
    }

    /// Finds out which socket is to be bound where; `None` if it cannot become a listener.
    fn understand(
        &mut self,
        call: &Notification,
        fd: RawFd,
        (address, length): (u64, i32),
    ) -> io::Result<Option<BindRequest>> {
        let asked = read_value(call.thread, address, length, LONGEST_ADDRESS)?;
        match asked.as_deref().and_then(sockaddr::read) {
            Some(asked) => self.request(call, fd, asked),
            None => Ok(None),
        }
    }

    pub(super) fn request(
        &mut self,
        call: &Notification,
        fd: RawFd,
        asked: RequestedAddress,
    ) -> io::Result<Option<BindRequest>> {
        let caller = Caller::of(call.thread)?;
        let Some(server_socket) = ServerSocket::of(&caller, fd, self.learned.as_ref())? else {
            return Ok(None);
        };
        let mut as_given = PathBuf::new();
        let address = match (asked, server_socket.kind) {
            (RequestedAddress::Inet(at), _) if at.is_ipv6() != server_socket.v6 => None,
            (RequestedAddress::Inet(at), SocketType::Tcp | SocketType::Mptcp) if at.port() == 0 => {
                self.bound_sockets.remember_port_zero(server_socket.inode);
                None
            }
            (RequestedAddress::Inet(at), SocketType::Tcp | SocketType::Mptcp) => {
                Some(CapturedAddress::Tcp {
                    at,
                    // the kernel takes any other address for IPv6 only
                    only_v6: server_socket.only_v6() && at.ip().is_unspecified(),
                    device: server_socket.device(),
                })
            }
            (RequestedAddress::Inet(at), SocketType::Udp) => Some(CapturedAddress::Udp(at)),
            (RequestedAddress::Path(path), SocketType::UnixStream | SocketType::UnixPacket) => {
                let entry = server_path::find(&caller, libc::AT_FDCWD, &path)?;
                as_given = path;
                entry.map(CapturedAddress::Path)
            }
            (RequestedAddress::Abstract(name), SocketType::UnixStream) => {
                Some(CapturedAddress::Abstract(name))
            }
            _ => None,
        };
        // what was read through its pid is the caller's only if that still waits
        Ok(address
            .filter(|_| call.is_valid())
            .map(|address| BindRequest {
                fd,
                caller,
                server_socket,
                as_given,
                address,
            }))
    }

    fn grant(
        &mut self,
        call: &Notification,
        request: &BindRequest,
        listeners: &mut Listeners,
    ) -> io::Result<CallResult> {
        if let Some(bound) = self.bound_sockets.of(request.server_socket.inode) {
            // a signal may have restarted the call; the kernel refuses another address
            let again = bound.address == request.address;
            return Ok(if again {
                CallResult::Succeed
            } else {
                CallResult::Continue
            });
        }
        if !self.check_network(request) {
            return Ok(CallResult::Continue);
        }
        let is_packet = request.server_socket.kind == SocketType::UnixPacket;
        if is_packet && !listeners.may_have_packets(&request.address) {
            return Ok(CallResult::Continue);
        }
        if let Some(listener) = listeners.covering(&request.address) {
            self.check_twice(request)?;
            let given = listeners.inherited_socket_of(self.generation, listener)?;
            return self.put_in_place(call, request, &given);
        }
        if let CapturedAddress::Udp(at) = request.address {
            self.warn_of_udp(request, at);
            return Ok(CallResult::Continue);
        }
        if let Some(why) = request.server_socket.lacks {
            self.leave_alone(request, why);
            return Ok(CallResult::Continue);
        }
        if let Err(error) = check_rights(request) {
            self.explain_rights(request);
            return Err(error);
        }
        if let Some(given) = self.first_one(request, listeners)? {
            return self.put_in_place(call, request, &given);
        }
        if self.bound_sockets.are_full() {
            let generation = self.generation;
            self.hint_once(
                Warning::TooMany,
                format!("{generation} has {MOST_LISTENERS} listeners: what it binds beyond them is not kept across a swap"),
            );
            return Ok(CallResult::Continue);
        }
        // an epoll set follows the server's own socket, not its replacement
        let is_attached = request
            .caller
            .waits_on_by_epoll(request.fd, request.server_socket.inode);
        match listeners.plan(self.generation, &request.address, is_attached)? {
            BindPlan::Instead(given) => self.put_in_place(call, request, &given),
            BindPlan::Join => self.bind_server_socket(call, request, false),
            BindPlan::Alone => {
                // without hotswap the sockets of other generations would not be there
                let address = &request.address;
                let overlaps = |bound: &BoundSocket| bound.address.overlaps(address);
                let alone = if self.bound_sockets.all.iter().any(overlaps) {
                    !request.server_socket.reuses_port()
                } else {
                    !listeners.have_overlapping(address)
                };
                self.bind_server_socket(call, request, alone)
            }
        }
    }

    /// The same address again: allowed if the server shares it by `SO_REUSEPORT`, or has unlinked the path, else in use as
    /// long as it holds the first. While that does not listen, as one that connects from there, the kernel decides.
    fn check_twice(&self, request: &BindRequest) -> io::Result<Option<&BoundSocket>> {
        let first = self.bound_sockets.at(&request.address);
        if request.server_socket.reuses_port() {
            return Ok(first);
        }
        match first {
            Some(first) if first.has_left_its_path() => Ok(Some(first)),
            Some(first) if first.listener.is_some() => Err(Errno::EADDRINUSE.into()),
            _ => Ok(None),
        }
    }

    /// The socket that the generation already has at that address.
    fn first_one(
        &mut self,
        request: &BindRequest,
        listeners: &mut Listeners,
    ) -> io::Result<Option<Replacement>> {
        let Some(first) = self.check_twice(request)? else {
            return Ok(None);
        };
        if let Some(listener) = first.listener {
            return listeners
                .inherited_socket_of(self.generation, listener)
                .map(Some);
        }
        let inode = first.inode;
        let Some(socket) = first.descriptor() else {
            self.bound_sockets.forget(inode);
            return Ok(None);
        };
        Ok(Some(Replacement {
            listener: None,
            socket,
            steered: true,
        }))
    }

    fn put_in_place(
        &mut self,
        call: &Notification,
        request: &BindRequest,
        given: &Replacement,
    ) -> io::Result<CallResult> {
        let own = &request.server_socket;
        let (socket, nonblocking) = (given.socket.as_fd(), own.is_nonblocking());
        if given.steered {
            options::copy(own.socket.as_fd(), socket);
        }
        // a server that made its own socket non-blocking would hang in accept(2) on a blocking one
        if given.steered || nonblocking {
            set_nonblocking(socket, nonblocking)?;
        }
        self.replace(call, request, socket)?;
        let mut bound = request.bound(socket)?;
        bound.listener = given.listener;
        self.bound_sockets.remember(bound);
        self.note_binder(request.caller.process());
        Ok(CallResult::Succeed)
    }

    fn replace(
        &mut self,
        call: &Notification,
        request: &BindRequest,
        other: BorrowedFd,
    ) -> io::Result<()> {
        if request
            .caller
            .waits_on_by_epoll(request.fd, request.server_socket.inode)
        {
            let generation = self.generation;
            self.warn_once(
                Warning::InEpoll,
                format!(
                    "{generation} registered its socket with epoll before binding it to {}, and gets a different socket \
                     there: it may never see a client",
                    request.address
                ),
            );
        }
        call.replace(other, request.fd, request.server_socket.flags)
    }

    /// Binds the server's own socket, so that its options and epoll registrations stay.
    fn bind_server_socket(
        &mut self,
        call: &Notification,
        request: &BindRequest,
        alone: bool,
    ) -> io::Result<CallResult> {
        let own = &request.server_socket;
        let mut socket = if own.kind == SocketType::Mptcp && !own.is_copy {
            own.another()?
        } else {
            own.socket.try_clone()?
        };
        if let Err(error) = make_ours(socket.as_fd()) {
            self.could_not_look(&error);
            return Ok(CallResult::Continue);
        }
        if request.server_socket.kind == SocketType::Mptcp {
            let (generation, address) = (self.generation, &request.address);
            let text = format!(
                "{generation} asks for multipath TCP on {address}, which cannot be steered: it gets plain TCP"
            );
            self.hint_once(Warning::Multipath, text);
        }
        let mut path = None;
        match &request.address {
            CapturedAddress::Tcp { at, .. } => {
                bind_in_group(socket.as_fd(), (*at).into(), alone)?;
            }
            CapturedAddress::Abstract(name) => {
                bind(socket.as_raw_fd(), &UnixAddr::new_abstract(name)?)?;
            }
            CapturedAddress::Path(_) => {
                let beside = (!alone).then_some(self.generation);
                let (back, bound) =
                    server_path::bind_to(&request.caller, &request.as_given, beside, socket)?;
                (socket, path) = (back, Some(bound));
            }
            CapturedAddress::Udp(_) => return Ok(CallResult::Continue),
        }
        let mut bound = request.bound(socket.as_fd())?;
        bound.path = path;
        if bound.inode != request.server_socket.inode {
            self.replace(call, request, socket.as_fd())?;
        }
        // a bound client socket must close when its owner closes it: it is not kept until it listens
        bound.kept = own.is_copy.then_some(socket);
        self.bound_sockets.remember(bound);
        Ok(CallResult::Succeed)
    }
}

impl BindRequest {
    pub(super) fn is_left_to_server(&self, context: &CallContext) -> bool {
        let (address, path) = (self.address.to_string(), self.as_given.to_string_lossy());
        let mut patterns = context.capture_not.iter();
        patterns.any(|pattern| {
            pattern.matches_in(context.directory, &address) || pattern.matches(&path)
        })
    }

    pub(super) fn bound(&self, socket: BorrowedFd) -> io::Result<BoundSocket> {
        Ok(BoundSocket {
            inode: fstat(socket)?.st_ino,
            address: self.address.clone(),
            process: self.caller.process(),
            fd: self.fd,
            kept: None,
            path: None,
            listener: None,
            unlinked: false,
        })
    }
}

/// A server may only have hotswap bind ports that it could bind itself.
fn check_rights(request: &BindRequest) -> io::Result<()> {
    let CapturedAddress::Tcp { at, .. } = &request.address else {
        return Ok(());
    };
    let first = net::first_unprivileged_port().unwrap_or(1024);
    if at.port() < first && !request.caller.may_bind_privileged_ports() {
        return Err(Errno::EACCES.into());
    }
    Ok(())
}

/// The first socket of a group is bound exclusively, and then opened to the others.
fn bind_in_group(socket: BorrowedFd, to: SockaddrStorage, alone: bool) -> io::Result<()> {
    let get = || sys::socket_option(socket, libc::SOL_SOCKET, libc::SO_REUSEPORT);
    let set = |value| sys::set_socket_option(socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, value);
    let before = get()?;
    set(i32::from(!alone))?;
    if let Err(error) = bind(socket.as_raw_fd(), &to) {
        set(before)?;
        return Err(error.into());
    }
    set(1)
}
