//! bind(2): the server's own socket is bound into hotswap's listener, or another takes its place.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, UnixAddr, bind, socket,
};
use nix::sys::stat::fstat;

use super::asked::{self, Asked};
use super::bound::{Bound, MOST_LISTENERS};
use super::caller::Caller;
use super::notification::{Notification, read_address};
use super::theirs::{Sort, Theirs, make_ours, set_nonblocking};
use super::{Answer, Capture, Remark, options, path};
use crate::listener::{CapturedAddress, Given, Listeners, Plan, holders_of_port, listens};
use crate::proc::net;
use crate::sys;

/// A bind(2) that may become a listener.
struct Wish {
    fd: RawFd,
    caller: Caller,
    theirs: Theirs,
    /// A unix path as the server knows it.
    spelled: PathBuf,
    address: CapturedAddress,
}

impl Capture {
    pub(super) fn bind(
        &mut self,
        call: &Notification,
        fd: RawFd,
        (address, length): (u64, i32),
        listeners: &mut Listeners,
    ) -> io::Result<Answer> {
        let asked = read_address(call.thread, address, length);
        let asked = asked.map(|bytes| bytes.as_deref().and_then(asked::read));
        let wish = match asked {
            Ok(Some(asked)) => self.understand(call, fd, asked),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        match wish {
            Ok(Some(mut wish)) => {
                let mut answer = self.grant(call, &wish, listeners);
                if is_in_use(&answer) && wish.leave_ipv4_out() {
                    answer = self.grant(call, &wish, listeners);
                }
                if is_in_use(&answer) {
                    self.explain(&wish.address, listeners);
                }
                answer
            }
            Ok(None) => Ok(Answer::GoOn),
            Err(error) => {
                self.could_not_look(&error);
                Ok(Answer::GoOn)
            }
        }
    }

    /// Finds out who wants which socket bound; `None` for what is no listener in the making.
    fn understand(
        &mut self,
        call: &Notification,
        fd: RawFd,
        asked: Asked,
    ) -> io::Result<Option<Wish>> {
        let caller = Caller::of(call.thread)?;
        let Some(theirs) = Theirs::of(&caller, fd)? else {
            return Ok(None);
        };
        let mut spelled = PathBuf::new();
        let address = match (asked, theirs.sort) {
            (Asked::Inet(at), _) if at.is_ipv6() != theirs.v6 => None,
            (Asked::Inet(at), Sort::Tcp | Sort::Mptcp) if at.port() == 0 => {
                self.bounds.remember_port_zero(theirs.inode);
                None
            }
            (Asked::Inet(at), Sort::Tcp | Sort::Mptcp) => Some(CapturedAddress::Tcp {
                at,
                only_v6: theirs.only_v6(),
                device: theirs.device(),
            }),
            (Asked::Inet(at), Sort::Udp) => Some(CapturedAddress::Udp(at)),
            (Asked::Path(path), Sort::UnixStream) => {
                let spot = path::find(&caller, libc::AT_FDCWD, &path)?;
                spelled = path;
                spot.map(CapturedAddress::Path)
            }
            (Asked::Abstract(name), Sort::UnixStream) => Some(CapturedAddress::Abstract(name)),
            _ => None,
        };
        // what was read through its pid belongs to the caller only if that still waits
        Ok(address.filter(|_| call.is_valid()).map(|address| Wish {
            fd,
            caller,
            theirs,
            spelled,
            address,
        }))
    }

    fn grant(
        &mut self,
        call: &Notification,
        wish: &Wish,
        listeners: &mut Listeners,
    ) -> io::Result<Answer> {
        if let Some(bound) = self.bounds.of(wish.theirs.inode) {
            // a signal may have restarted the call; another address is the kernel's to refuse
            let again = bound.address == wish.address;
            return Ok(if again { Answer::Succeed } else { Answer::GoOn });
        }
        if !self.is_of_our_network(wish) {
            return Ok(Answer::GoOn);
        }
        if let Some(listener) = listeners.covering(&wish.address) {
            self.check_twice(wish)?;
            let given = listeners.seat_of(self.generation, listener)?;
            return self.put_in_place(call, wish, &given);
        }
        if matches!(wish.address, CapturedAddress::Udp(_)) {
            return Ok(Answer::GoOn);
        }
        check_rights(wish)?;
        if let Some(given) = self.first_one(wish, listeners)? {
            return self.put_in_place(call, wish, &given);
        }
        if self.bounds.are_full() {
            let generation = self.generation;
            self.remark(
                Remark::TooMany,
                format!("{generation} has {MOST_LISTENERS} listeners: what it binds beyond is not kept over a swap"),
            );
            return Ok(Answer::GoOn);
        }
        // an epoll set follows the server's own socket, whatever is put in its place
        let is_attached = wish.caller.waits_on_by_epoll(wish.fd, wish.theirs.inode);
        match listeners.plan(self.generation, &wish.address, is_attached)? {
            Plan::Instead(given) => self.put_in_place(call, wish, &given),
            Plan::Join => self.bind_theirs(call, wish, false),
            Plan::Alone => self.bind_theirs(call, wish, true),
        }
    }

    /// A socket of another network cannot be in one group with those that hotswap makes.
    fn is_of_our_network(&mut self, wish: &Wish) -> bool {
        let socket = wish.theirs.socket.as_ref();
        let theirs = socket.and_then(|socket| sys::network_of(socket.as_fd()).ok());
        let same = theirs.is_none() || theirs == our_network();
        if !same {
            let generation = self.generation;
            self.remark(
                Remark::OtherNetwork,
                format!("{generation} listens in another network namespace: that is not kept over a swap"),
            );
        }
        same
    }

    /// The same address once more: one more of the same where the server means to share it, else in use for as long as
    /// it still holds the first.
    fn check_twice(&self, wish: &Wish) -> io::Result<Option<&Bound>> {
        let first = self.bounds.at(&wish.address);
        if first.is_some_and(Bound::is_held) && !wish.theirs.reuses_port() {
            return Err(Errno::EADDRINUSE.into());
        }
        Ok(first)
    }

    /// What the generation has at that address already.
    fn first_one(&mut self, wish: &Wish, listeners: &mut Listeners) -> io::Result<Option<Given>> {
        let Some(first) = self.check_twice(wish)? else {
            return Ok(None);
        };
        if let Some(listener) = first.listener {
            return listeners.seat_of(self.generation, listener).map(Some);
        }
        let inode = first.inode;
        let Some(socket) = first.descriptor() else {
            self.bounds.forget(inode);
            return Ok(None);
        };
        Ok(Some(Given {
            listener: None,
            socket,
            steered: true,
        }))
    }

    fn put_in_place(
        &mut self,
        call: &Notification,
        wish: &Wish,
        given: &Given,
    ) -> io::Result<Answer> {
        let (socket, flags) = (given.socket.as_fd(), wish.theirs.flags);
        if let Some(theirs) = wish.theirs.socket.as_ref().filter(|_| given.steered) {
            options::copy(theirs.as_fd(), socket);
        }
        // a server that has made its own socket non-blocking would hang in accept(2) on one that is not
        if given.steered || flags & libc::O_NONBLOCK != 0 {
            set_nonblocking(socket, flags)?;
        }
        self.replace(call, wish, socket)?;
        let mut bound = wish.bound(socket)?;
        bound.listener = given.listener;
        self.bounds.remember(bound);
        self.note_binder(wish.caller.process());
        if given.listener.is_some() && listens(socket) {
            self.note_listening(wish.address.to_string(), false);
        }
        Ok(Answer::Succeed)
    }

    fn replace(&mut self, call: &Notification, wish: &Wish, other: BorrowedFd) -> io::Result<()> {
        if wish.caller.waits_on_by_epoll(wish.fd, wish.theirs.inode) {
            let generation = self.generation;
            self.remark(
                Remark::InEpoll,
                format!(
                    "{generation} has put its socket into an epoll set before binding it to {}, where another takes its \
                     place: it may never see a client",
                    wish.address
                ),
            );
        }
        call.replace(other, wish.fd, wish.theirs.flags)
    }

    /// Binds the server's own socket: what it has set on it, and every epoll set it is in, stay as they are.
    fn bind_theirs(&mut self, call: &Notification, wish: &Wish, alone: bool) -> io::Result<Answer> {
        let own = wish.theirs.socket.as_ref();
        let (mut socket, keep) = match own.filter(|_| wish.theirs.sort != Sort::Mptcp) {
            Some(own) => (own.try_clone()?, false),
            None => (wish.theirs.another()?, own.is_none()),
        };
        if let Err(error) = make_ours(socket.as_fd()) {
            self.could_not_look(&error);
            return Ok(Answer::GoOn);
        }
        let mut path = None;
        match &wish.address {
            CapturedAddress::Tcp { at, only_v6, .. } => {
                if own.is_none() && *only_v6 {
                    let (level, name) = (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY);
                    sys::set_socket_option(socket.as_fd(), level, name, 1)?;
                }
                bind_in_group(socket.as_fd(), (*at).into(), alone)?;
            }
            CapturedAddress::Abstract(name) => {
                bind(socket.as_raw_fd(), &UnixAddr::new_abstract(name)?)?;
            }
            CapturedAddress::Path(_) => {
                let beside = (!alone).then_some(self.generation);
                let (back, bound) = path::bind_to(&wish.caller, &wish.spelled, beside, socket)?;
                (socket, path) = (back, Some(bound));
            }
            CapturedAddress::Udp(_) => return Ok(Answer::GoOn),
        }
        let mut bound = wish.bound(socket.as_fd())?;
        bound.path = path;
        if bound.inode != wish.theirs.inode {
            self.replace(call, wish, socket.as_fd())?;
        }
        // a client socket that is bound to a port must close when its owner closes it: it is let go until it listens
        bound.kept = keep.then_some(socket);
        self.bounds.remember(bound);
        Ok(Answer::Succeed)
    }

    /// Why the server has met with `EADDRINUSE`: because of its own earlier generation, or of somebody else.
    fn explain(&mut self, asked: &CapturedAddress, listeners: &Listeners) {
        let generation = self.generation;
        if let Some(there) = listeners.conflicting(generation, asked) {
            self.remark(
                Remark::AddressChanged,
                format!(
                    "address changed: {generation} asks for {asked}, while {there} is still served\n\
                     try: stop hotswap, and start it again"
                ),
            );
        } else if let CapturedAddress::Tcp { at, .. } = asked
            && let Some(holders) = holders_of_port(*at)
        {
            let text = format!("{generation} cannot bind {asked}: it is held by {holders}");
            self.remark(Remark::InUse, text);
        }
    }
}

impl Wish {
    /// Where the server's socket cannot be asked whether it leaves IPv4 clients out, it does if it must.
    fn leave_ipv4_out(&mut self) -> bool {
        match &mut self.address {
            CapturedAddress::Tcp { at, only_v6, .. } if self.theirs.socket.is_none() => {
                let may = at.is_ipv6() && at.ip().is_unspecified() && !*only_v6;
                *only_v6 |= may;
                may
            }
            _ => false,
        }
    }

    fn bound(&self, socket: BorrowedFd) -> io::Result<Bound> {
        let inode = fstat(socket)?.st_ino;
        Ok(Bound::new(
            inode,
            &self.address,
            self.caller.process(),
            self.fd,
        ))
    }
}

/// No server is to have hotswap bind a port that it could not bind itself.
fn check_rights(wish: &Wish) -> io::Result<()> {
    let CapturedAddress::Tcp { at, .. } = &wish.address else {
        return Ok(());
    };
    let first = net::first_unprivileged_port().unwrap_or(1024);
    if at.port() < first && !wish.caller.may_bind_privileged_ports() {
        return Err(Errno::EACCES.into());
    }
    Ok(())
}

/// The first socket of a group is bound so that nobody else can be there; it is opened to the others after.
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

fn is_in_use(answer: &io::Result<Answer>) -> bool {
    let error = answer.as_ref().err().and_then(io::Error::raw_os_error);
    error == Some(libc::EADDRINUSE)
}

fn our_network() -> Option<u64> {
    let any = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .ok()?;
    sys::network_of(any.as_fd()).ok()
}
