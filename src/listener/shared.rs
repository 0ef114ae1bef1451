//! One socket for all generations: abstract unix, UDP, what hotswap itself was given, and whatever `--share` asks for.
//!
//! Its flags are never changed, since whoever serves would see it.

mod hand_over;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, getsockname, socket};

use super::means::Means;
use super::path::unix_socket;
use super::place::{FileId, Place};
use super::socket::{Interest, Socket, bound_to, client_of, connect, connect_now, listens};
use super::steer::Inode;
use super::{Kind, Note};
use crate::supervisor::Generation;
use crate::sys;

/// The number of the name beside a shared path: no generation has it.
const NOBODYS: u32 = 0;

pub struct Shared {
    socket: Socket,
    at: At,
    /// A path of ours, and the file that is ours there.
    path: Option<(Place, FileId)>,
    had_by: BTreeSet<Generation>,
}

enum At {
    Tcp(SocketAddr),
    Udp(SocketAddr),
    Unix(UnixAddr),
    Unknown,
}

impl Shared {
    /// A bound socket of ours; a stream socket begins to listen.
    pub fn own(fd: OwnedFd, means: &Means) -> io::Result<Self> {
        let sort = sys::socket_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_TYPE)?;
        if sort == libc::SOCK_STREAM {
            sys::listen(fd.as_fd(), means.options.backlog)?;
        }
        Self::inherited(fd, means)
    }

    /// A path that is bound to as it is, so that a server finds there what it looks for.
    ///
    /// # Errors
    /// Those of [`super::path::UnixPath::open`].
    pub fn path(path: &Path, means: &Means) -> io::Result<Self> {
        let mut place = Place::of(path)?;
        place.lock()?;
        place.check_free()?;
        place.sweep();
        let (fd, file) = bind_at(&place, means)?;
        let mut shared = Self::own(fd, means)?;
        shared.path = Some((place, file));
        Ok(shared)
    }

    /// A socket that hotswap was given. What does not listen is kept as it is.
    pub fn inherited(fd: OwnedFd, means: &Means) -> io::Result<Self> {
        let at = At::of(fd.as_fd());
        let mut socket = Socket::new(fd, None, sys::now())?;
        if socket.listens {
            means.watch(&mut socket, Some(Interest::Shutdown))?;
        }
        Ok(Self {
            socket,
            at,
            path: None,
            had_by: BTreeSet::new(),
        })
    }

    pub fn kind(&self) -> Kind {
        match &self.at {
            At::Tcp(address) => Kind::Tcp {
                port: address.port(),
            },
            At::Udp(address) => Kind::Udp {
                port: address.port(),
            },
            At::Unix(address) if address.path().is_some() => Kind::Unix,
            At::Unix(_) => Kind::Abstract,
            At::Unknown => Kind::Other,
        }
    }

    pub fn addr(&self) -> String {
        self.at.to_string()
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

    /// A server has bound it to that path.
    pub fn keep_path(&mut self, place: Place) -> io::Result<()> {
        let file = place.file(place.name())?;
        keep_second_name(&place);
        self.path = Some((place, file));
        Ok(())
    }

    pub fn place(&self) -> Option<&Place> {
        self.path.as_ref().map(|(place, _)| place)
    }

    /// What clients reach, under all of its names.
    pub fn live_file(&self) -> Option<FileId> {
        self.path.as_ref().map(|(_, file)| *file)
    }

    pub fn address(&self) -> Option<SocketAddr> {
        match &self.at {
            At::Tcp(address) | At::Udp(address) => Some(*address),
            At::Unix(_) | At::Unknown => None,
        }
    }

    /// The name in the abstract namespace, if it is such a socket.
    pub fn abstract_name(&self) -> Option<&[u8]> {
        match &self.at {
            At::Unix(address) => address.as_abstract(),
            At::Tcp(_) | At::Udp(_) | At::Unknown => None,
        }
    }

    pub fn seat(&mut self, generation: Generation, means: &Means) -> io::Result<OwnedFd> {
        self.mend(means)?;
        let duplicate = self.socket.fd().try_clone_to_owned()?;
        self.had_by.insert(generation);
        Ok(duplicate)
    }

    pub fn leave(&mut self, generation: Generation) {
        self.had_by.remove(&generation);
    }

    pub fn is_unused(&self) -> bool {
        self.had_by.is_empty()
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.fd()
    }

    pub fn close(mut self, means: &Means) {
        if let Err(error) = means.watch(&mut self.socket, None) {
            log::debug!("cannot stop watching {}: {error}", self.addr());
        }
    }

    /// Puts back what one generation may have changed for all: the backlog, the path, and listening at all.
    pub fn mend(&mut self, means: &Means) -> io::Result<()> {
        if self.socket.listens {
            sys::listen(self.socket.fd(), means.options.backlog)?;
        } else if self.is_remade_alone() {
            self.remake(means)?;
        }
        let Some((place, file)) = &self.path else {
            return Ok(());
        };
        if place.file(place.name()).is_ok_and(|there| there == *file) {
            return Ok(());
        }
        let beside = place.beside(NOBODYS);
        if place.file(&beside).is_ok_and(|there| there == *file) {
            return place.publish(&beside);
        }
        self.remake(means)
    }

    /// An abstract name is free once nobody has the socket that was shut down.
    fn is_remade_alone(&self) -> bool {
        self.abstract_name().is_some() && self.had_by.is_empty()
    }

    /// A new socket at the same unix address; whoever had the old one keeps it, and hears nothing from it.
    fn remake(&mut self, means: &Means) -> io::Result<()> {
        means.watch(&mut self.socket, None)?;
        let fd = match (&mut self.path, &self.at) {
            (Some((place, file)), _) => {
                place.remove(place.name());
                let (fd, new) = bind_at(place, means)?;
                *file = new;
                fd
            }
            (None, At::Unix(address)) => {
                let fd = unix_socket()?;
                // the name goes with the last descriptor, which is this one
                self.socket = Socket::new(fd.try_clone()?, None, sys::now())?;
                bind(fd.as_raw_fd(), address)?;
                fd
            }
            (None, At::Tcp(_) | At::Udp(_) | At::Unknown) => return Err(Errno::EINVAL.into()),
        };
        sys::listen(fd.as_fd(), means.options.backlog)?;
        self.socket = Socket::new(fd, None, sys::now())?;
        means.watch(&mut self.socket, Some(Interest::Shutdown))
    }

    /// A plain connection: it reaches whichever generation accepts first.
    pub fn probe(&self, generation: Generation) -> io::Result<OwnedFd> {
        if !self.had_by.contains(&generation) {
            return Err(Errno::ENOENT.into());
        }
        match &self.at {
            At::Tcp(address) => {
                let (probe, to) = client_of(*address)?;
                connect_now(probe.as_fd(), to)?;
                Ok(probe)
            }
            At::Unix(address) => {
                let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
                let probe = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
                connect(probe.as_fd(), address)?;
                Ok(probe)
            }
            At::Udp(_) | At::Unknown => Err(Errno::EOPNOTSUPP.into()),
        }
    }

    /// Somebody has shut it down, for everybody.
    pub fn woken(&mut self, means: &mut Means) {
        if let Err(error) = means.watch(&mut self.socket, None) {
            log::debug!("cannot stop watching {}: {error}", self.addr());
        }
        self.socket.listens = self.abstract_name().is_none() && listens(self.socket.fd());
        if !means.repairs {
            return;
        }
        let listener = self.addr();
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
        if self.path.is_some() {
            return self.remake(means);
        }
        self.socket.listens = false;
        if matches!(self.at, At::Unix(_)) {
            return Err(Errno::EINVAL.into());
        }
        sys::listen(self.socket.fd(), means.options.backlog)?;
        self.socket.listens = true;
        means.watch(&mut self.socket, Some(Interest::Shutdown))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some((place, file)) = &self.path {
            place.remove_if(*file);
            place.remove(&place.beside(NOBODYS));
        }
    }
}

/// Binds to the path itself, and keeps a second name of it, for when a server has unlinked the first.
fn bind_at(place: &Place, means: &Means) -> io::Result<(OwnedFd, FileId)> {
    let fd = unix_socket()?;
    place.remove(place.name());
    bind(fd.as_raw_fd(), &UnixAddr::new(place.path())?)?;
    place.dress(place.name(), means.options.owner, means.options.mode)?;
    keep_second_name(place);
    Ok((fd, place.file(place.name())?))
}

fn keep_second_name(place: &Place) {
    let beside = place.beside(NOBODYS);
    place.remove(&beside);
    if let Err(error) = place.link(place.name(), &beside) {
        log::debug!("cannot link {}: {error}", place.path_of(&beside).display());
    }
}

impl At {
    fn of(fd: BorrowedFd) -> Self {
        let option = |name| sys::socket_option(fd, libc::SOL_SOCKET, name).unwrap_or(-1);
        let unix = || getsockname::<UnixAddr>(fd.as_raw_fd()).ok();
        let at = match (option(libc::SO_DOMAIN), option(libc::SO_TYPE)) {
            (libc::AF_INET | libc::AF_INET6, libc::SOCK_STREAM) => bound_to(fd).ok().map(Self::Tcp),
            (libc::AF_INET | libc::AF_INET6, libc::SOCK_DGRAM) => bound_to(fd).ok().map(Self::Udp),
            (libc::AF_UNIX, libc::SOCK_STREAM) => unix().map(Self::Unix),
            _ => None,
        };
        at.unwrap_or(Self::Unknown)
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
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
