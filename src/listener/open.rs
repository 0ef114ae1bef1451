//! How a `--listen` becomes sockets: host names, both families, port 0, and what to say when it cannot be had.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use anyhow::anyhow;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, UnixAddr, bind, socket,
};

use super::context::ListenerContext;
use super::listening_socket::bound_to;
use super::port_holder;
use super::reuseport::ReuseportGroup;
use super::shared::SharedSocket;
use super::unix_path::{UnixPath, unix_socket};
use super::{Listener, ListenerId, ListenerKind};
use crate::address::{Address, Endpoint, Listen};
use crate::connections::inet;
use crate::sys;

/// `SO_BINDTOIFINDEX` of socket(7), which libc does not name.
pub const SO_BINDTOIFINDEX: i32 = 62;

/// What a TCP or UDP socket is made of before it has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketFamily {
    V4,
    /// `V6ONLY`, or as the system has it.
    V6 {
        only: Option<bool>,
    },
}

impl SocketFamily {
    pub fn of(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(_) => Self::V4,
            SocketAddr::V6(_) => Self::V6 { only: None },
        }
    }

    /// The kernel's table that lists such sockets.
    pub fn table(self) -> inet::Family {
        match self {
            Self::V4 => inet::Family::V4,
            Self::V6 { .. } => inet::Family::V6,
        }
    }

    /// A stream socket, non-blocking.
    pub fn socket(self) -> io::Result<OwnedFd> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        Ok(socket(self.into(), SockType::Stream, flags, None)?)
    }
}

impl From<SocketFamily> for AddressFamily {
    fn from(family: SocketFamily) -> Self {
        match family {
            SocketFamily::V4 => Self::Inet,
            SocketFamily::V6 { .. } => Self::Inet6,
        }
    }
}

/// A TCP socket bound to the address; `join` says that the group has members already. The first is bound alone, so that
/// nobody else can be there, and opened to the others after.
pub fn tcp_socket(
    family: SocketFamily,
    address: SocketAddr,
    device: u32,
    join: bool,
) -> io::Result<OwnedFd> {
    let fd = inet_socket(family, SockType::Stream)?;
    if let Ok(device @ 1..) = i32::try_from(device) {
        sys::set_socket_option(fd.as_fd(), libc::SOL_SOCKET, SO_BINDTOIFINDEX, device)?;
    }
    let reuse_port = || sys::set_socket_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEPORT, 1);
    if join {
        reuse_port()?;
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    if !join {
        reuse_port()?;
    }
    Ok(fd)
}

fn inet_socket(family: SocketFamily, sort: SockType) -> io::Result<OwnedFd> {
    let fd = socket(family.into(), sort, SockFlag::SOCK_CLOEXEC, None)?;
    if sort == SockType::Stream {
        sys::set_socket_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    }
    if let SocketFamily::V6 { only: Some(only) } = family {
        let (level, name) = (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY);
        sys::set_socket_option(fd.as_fd(), level, name, only.into())?;
    }
    Ok(fd)
}

/// Every listener of the command line and of whoever started hotswap, and warnings.
pub fn all(
    listens: &[Listen],
    inherited: Vec<(OwnedFd, String)>,
    context: &mut ListenerContext,
) -> anyhow::Result<(Vec<Listener>, Vec<String>)> {
    let mut opening = Opening {
        listens,
        all: Vec::new(),
        unnamed: 0,
        warnings: Vec::new(),
        context,
    };
    for (fd, name) in inherited {
        let shared = SharedSocket::inherited(fd, opening.context)?;
        let name = Some(name).filter(|name| !name.is_empty());
        let as_given = shared.addr();
        opening.add(name, as_given, ListenerKind::Shared(shared));
    }
    for listen in listens {
        opening.listen(listen).map_err(|error| {
            let as_given = &listen.as_given;
            let hint = hint(&error, listen);
            anyhow!("cannot listen on {as_given}: {error}{hint}")
        })?;
    }
    Ok((opening.all, opening.warnings))
}

struct Opening<'a> {
    listens: &'a [Listen],
    all: Vec<Listener>,
    unnamed: usize,
    warnings: Vec<String>,
    context: &'a mut ListenerContext,
}

impl Opening<'_> {
    fn listen(&mut self, listen: &Listen) -> io::Result<()> {
        match &listen.address {
            Address::Tcp(endpoint) => self.inet(listen, endpoint, SockType::Stream),
            Address::Udp(endpoint) => self.inet(listen, endpoint, SockType::Datagram),
            Address::Abstract(name) => {
                let address = UnixAddr::new_abstract(name.as_bytes())?;
                let fd = unix_socket()?;
                bind(fd.as_raw_fd(), &address)?;
                self.share(listen, fd)
            }
            Address::Path(path) => self.path(listen, path),
        }
    }

    fn path(&mut self, listen: &Listen, path: &Path) -> io::Result<()> {
        let absolute = std::path::absolute(path)?;
        let sort = if self.context.options.share {
            ListenerKind::Shared(SharedSocket::path(&absolute, self.context)?)
        } else if UnixPath::has_room(&absolute) {
            ListenerKind::Path(UnixPath::open(&absolute, self.context)?)
        } else {
            self.warnings.push(format!(
                "{} is too long for a socket beside it: all generations share one\ntry: a shorter path",
                path.display()
            ));
            ListenerKind::Shared(SharedSocket::path(&absolute, self.context)?)
        };
        self.add(listen.name.clone(), listen.as_given.clone(), sort);
        Ok(())
    }

    fn share(&mut self, listen: &Listen, fd: OwnedFd) -> io::Result<()> {
        let shared = SharedSocket::own(fd, self.context)?;
        self.add(
            listen.name.clone(),
            listen.as_given.clone(),
            ListenerKind::Shared(shared),
        );
        Ok(())
    }

    /// A name of several addresses is as many listeners; one that this host lacks is left out, with a warning.
    fn inet(&mut self, listen: &Listen, endpoint: &Endpoint, sort: SockType) -> io::Result<()> {
        let addresses = endpoint.resolve()?;
        let mut missing: Option<io::Error> = None;
        let mut port = endpoint.port();
        let before = self.all.len();
        for mut address in addresses {
            address.set_port(port);
            match self.inet_at(endpoint, address, sort) {
                Ok((listener, bound)) => {
                    port = bound.port();
                    let as_given = spelling(listen, bound, self.all.len() > before);
                    self.add(listen.name.clone(), as_given, listener);
                }
                Err(error) if is_lacking(&error) && matches!(endpoint, Endpoint::Named(..)) => {
                    let as_given = &listen.as_given;
                    self.warnings.push(format!(
                        "cannot listen on {address} for {as_given}: {error}"
                    ));
                    missing = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        match missing {
            Some(error) if self.all.len() == before => Err(error),
            _ => Ok(()),
        }
    }

    fn inet_at(
        &mut self,
        endpoint: &Endpoint,
        address: SocketAddr,
        sort: SockType,
    ) -> io::Result<(ListenerKind, SocketAddr)> {
        let wildcard = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
        let (family, result) = match endpoint {
            Endpoint::Any(_) => {
                let dual = SocketFamily::V6 { only: Some(false) };
                match bind_inet(dual, address, sort) {
                    Err(error) if is_lacking(&error) => (
                        SocketFamily::V4,
                        bind_inet(SocketFamily::V4, wildcard, sort),
                    ),
                    other => (dual, other),
                }
            }
            Endpoint::At(_) | Endpoint::Named(..) => {
                let family = match SocketFamily::of(address) {
                    // as nginx has it: the pair of wildcards is two listeners
                    SocketFamily::V6 { .. } if self.lists(wildcard) => {
                        SocketFamily::V6 { only: Some(true) }
                    }
                    family => family,
                };
                (family, bind_inet(family, address, sort))
            }
        };
        let fd = result?;
        let bound = bound_to(fd.as_fd())?;
        if sort == SockType::Datagram {
            return Ok((
                ListenerKind::Shared(SharedSocket::own(fd, self.context)?),
                bound,
            ));
        }
        if self.context.options.share {
            return Ok((
                ListenerKind::Shared(SharedSocket::own(fd, self.context)?),
                bound,
            ));
        }
        sys::listen(fd.as_fd(), self.context.options.backlog)?;
        let group = ReuseportGroup::new(fd, family, self.context)?;
        Ok((ListenerKind::Group(group), bound))
    }

    fn lists(&self, wanted: SocketAddr) -> bool {
        self.listens
            .iter()
            .any(|listen| listen.address == Address::Tcp(Endpoint::At(wanted)))
    }

    fn add(&mut self, name: Option<String>, as_given: String, sort: ListenerKind) {
        let wanted = name.unwrap_or_else(|| {
            self.unnamed += 1;
            format!("listen{}", self.unnamed)
        });
        let taken = |name: &str| self.all.iter().any(|listener| listener.name == name);
        let mut name = wanted.clone();
        let mut number = 2;
        while taken(&name) {
            name = format!("{wanted}-{number}");
            number += 1;
        }
        self.all.push(Listener {
            id: ListenerId(self.all.len()),
            name,
            as_given,
            captured: None,
            sort,
        });
    }
}

/// The user's own, as long as it tells the listeners apart and has a port.
fn spelling(listen: &Listen, bound: SocketAddr, further: bool) -> String {
    let as_given = &listen.as_given;
    if further {
        return bound.to_string();
    }
    match as_given.strip_suffix('0') {
        Some(host) if host.is_empty() || host.ends_with(':') => {
            format!("{host}{}", bound.port())
        }
        _ => as_given.clone(),
    }
}

/// The address or its family is not this host's.
fn is_lacking(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT | libc::ENODEV)
    )
}

fn bind_inet(family: SocketFamily, address: SocketAddr, sort: SockType) -> io::Result<OwnedFd> {
    if sort == SockType::Datagram {
        let fd = inet_socket(family, sort)?;
        bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
        return Ok(fd);
    }
    if address.port() != 0 {
        return tcp_socket(family, address, 0, false);
    }
    // A port that the kernel chose is lost by shutdown(2), one that was asked for is not: so ask for what it would choose.
    let mut last = io::Error::from(Errno::EADDRINUSE);
    for _ in 0..64 {
        let chosen = inet_socket(family, sort)?;
        bind(chosen.as_raw_fd(), &SockaddrStorage::from(address))?;
        let bound = bound_to(chosen.as_fd())?;
        drop(chosen);
        match tcp_socket(family, bound, 0, false) {
            Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => last = error,
            other => return other,
        }
    }
    Err(last)
}

/// What the user can do about it.
fn hint(error: &io::Error, listen: &Listen) -> String {
    let port = match &listen.address {
        Address::Tcp(endpoint) | Address::Udp(endpoint) => Some(endpoint.port()),
        Address::Path(_) | Address::Abstract(_) => None,
    };
    match (error.raw_os_error(), port) {
        (Some(libc::EADDRINUSE), _) => {
            let owner = port_holder::of(&listen.address);
            let stranger = "\ntry: another address; ss -lp, as root, tells who has this one";
            owner.map_or(stranger.into(), |owner| format!(": {owner}"))
        }
        (Some(libc::EPERM), None) => "\ntry: --socket-owner as root, or without a user".into(),
        (Some(libc::EEXIST), None) => {
            ", and it is no socket\ntry: another path, or remove it if nobody needs it".into()
        }
        (Some(libc::ENOENT), None) => parent(listen).map_or(String::new(), |parent| {
            format!("\ntry: mkdir -p {}", parent.display())
        }),
        (Some(libc::EACCES), Some(1..1024)) => {
            "\ntry: a port above 1023, or root, or setcap cap_net_bind_service=+ep on hotswap"
                .into()
        }
        (Some(libc::EADDRNOTAVAIL), Some(port)) => {
            format!("\ntry: 127.0.0.1:{port}, or an address of this host")
        }
        _ => String::new(),
    }
}

fn parent(listen: &Listen) -> Option<&Path> {
    match &listen.address {
        Address::Path(path) => path.parent(),
        Address::Tcp(_) | Address::Udp(_) | Address::Abstract(_) => None,
    }
}
