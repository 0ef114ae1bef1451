//! One socket for all generations: abstract unix, UDP, what hotswap itself was given, and whatever `--share` asks for.
//!
//! Its flags are never changed, since whoever serves would see it.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, getsockname, socket};

use super::group::{bound_to, connect_now};
use super::means::Means;
use super::socket::{Interest, Socket, connect, listens};
use super::steer::Inode;
use super::{Kind, Note};
use crate::address::reachable;
use crate::supervisor::Generation;
use crate::sys;

pub struct Shared {
    socket: Socket,
    place: Place,
    addr: String,
    had_by: BTreeSet<Generation>,
}

enum Place {
    Tcp(SocketAddr),
    Udp(SocketAddr),
    Unix(UnixAddr),
    Unknown,
}

impl Shared {
    /// A bound socket of ours; a stream socket begins to listen.
    pub fn own(fd: OwnedFd, means: &Means) -> io::Result<Self> {
        let stream = sys::socket_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_TYPE)?;
        if stream == libc::SOCK_STREAM {
            sys::listen(fd.as_fd(), means.options.backlog)?;
        }
        Self::inherited(fd, means)
    }

    /// A socket that hotswap was given. What does not listen is kept as it is.
    pub fn inherited(fd: OwnedFd, means: &Means) -> io::Result<Self> {
        let place = Place::of(fd.as_fd());
        let mut socket = Socket::new(fd, None, sys::now())?;
        if socket.listens {
            means.watch(&mut socket, Some(Interest::Shutdown))?;
        }
        Ok(Self {
            addr: place.to_string(),
            socket,
            place,
            had_by: BTreeSet::new(),
        })
    }

    pub fn kind(&self) -> Kind {
        match &self.place {
            Place::Tcp(address) => Kind::Tcp {
                port: address.port(),
            },
            Place::Udp(address) => Kind::Udp {
                port: address.port(),
            },
            Place::Unix(address) if address.path().is_some() => Kind::Unix,
            Place::Unix(_) => Kind::Abstract,
            Place::Unknown => Kind::Other,
        }
    }

    pub fn addr(&self) -> &str {
        &self.addr
    }

    pub fn inode(&self) -> Inode {
        self.socket.inode
    }

    pub fn listens(&self) -> bool {
        self.socket.listens
    }

    pub fn fd_of(&self, generation: Generation) -> Option<BorrowedFd<'_>> {
        let has = self.had_by.contains(&generation);
        has.then(|| self.socket.fd())
    }

    pub fn seat(&mut self, generation: Generation) -> io::Result<OwnedFd> {
        let duplicate = self.socket.fd().try_clone_to_owned()?;
        self.had_by.insert(generation);
        Ok(duplicate)
    }

    pub fn leave(&mut self, generation: Generation) {
        self.had_by.remove(&generation);
    }

    /// At a swap: what one generation has made of the backlog is the next one's no longer.
    pub fn restore(&mut self, means: &Means) -> io::Result<()> {
        if self.socket.listens {
            sys::listen(self.socket.fd(), means.options.backlog)?;
        }
        Ok(())
    }

    /// A plain connection: it reaches whichever generation accepts first.
    pub fn probe(&self, generation: Generation) -> io::Result<OwnedFd> {
        if !self.had_by.contains(&generation) {
            return Err(Errno::ENOENT.into());
        }
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        match &self.place {
            Place::Tcp(address) => {
                let to = reachable(*address);
                let probe = super::open::Family::of(to).socket()?;
                connect_now(probe.as_fd(), to)?;
                Ok(probe)
            }
            Place::Unix(address) => {
                let probe = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
                connect(probe.as_fd(), address)?;
                Ok(probe)
            }
            Place::Udp(_) | Place::Unknown => Err(Errno::EOPNOTSUPP.into()),
        }
    }

    /// Somebody has shut it down, for everybody.
    pub fn woken(&mut self, means: &mut Means) {
        if let Err(error) = means.watch(&mut self.socket, None) {
            log::debug!("cannot stop watching {}: {error}", self.addr);
        }
        self.socket.listens = listens(self.socket.fd());
        if !means.repairs {
            return;
        }
        let listener = self.addr.clone();
        let again = self.listen_again(means);
        means.note(match again {
            Ok(()) => Note::Repaired { listener },
            Err(error) => Note::Broken {
                listener,
                why: error.to_string(),
            },
        });
    }

    fn listen_again(&mut self, means: &Means) -> io::Result<()> {
        // a unix socket that was shut down stays so, whatever listen(2) says
        if matches!(self.place, Place::Unix(_)) {
            self.socket.listens = false;
            return Err(Errno::EINVAL.into());
        }
        sys::listen(self.socket.fd(), means.options.backlog)?;
        self.socket.listens = true;
        means.watch(&mut self.socket, Some(Interest::Shutdown))
    }
}

impl Place {
    fn of(fd: BorrowedFd) -> Self {
        let option = |name| sys::socket_option(fd, libc::SOL_SOCKET, name).unwrap_or(-1);
        let unix = || getsockname::<UnixAddr>(fd.as_raw_fd()).ok();
        let place = match (option(libc::SO_DOMAIN), option(libc::SO_TYPE)) {
            (libc::AF_INET | libc::AF_INET6, libc::SOCK_STREAM) => bound_to(fd).ok().map(Self::Tcp),
            (libc::AF_INET | libc::AF_INET6, libc::SOCK_DGRAM) => bound_to(fd).ok().map(Self::Udp),
            (libc::AF_UNIX, libc::SOCK_STREAM) => unix().map(Self::Unix),
            _ => None,
        };
        place.unwrap_or(Self::Unknown)
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Udp(address) => write!(f, "udp:{address}"),
            Self::Unix(address) => match (address.path(), address.as_abstract()) {
                (Some(path), _) => path.display().fmt(f),
                (None, Some(name)) => write!(f, "unix:@{}", String::from_utf8_lossy(name)),
                (None, None) => f.write_str("a unix socket"),
            },
            Self::Unknown => f.write_str("a descriptor"),
        }
    }
}
