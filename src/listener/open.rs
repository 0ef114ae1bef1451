//! Opens `--listen`: host names, both families, port 0, and the error if an address cannot be bound.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use anyhow::anyhow;
use nix::errno::Errno;
use nix::sys::socket::{SockType, UnixAddr, bind};

use super::context::ListenerContext;
use super::orphan::Orphans;
use super::port_holder;
use super::reuseport::ReuseportGroup;
use super::shared::SharedSocket;
use super::unix_dir::UnixDir;
use super::unix_path::UnixPath;
use super::{Listener, ListenerId, ListenerKind, Listeners};
use crate::address::{Address, Endpoint, Listen};
use crate::socket::client::unix_client;
use crate::socket::inet::InetAddress;
use crate::socket::{bound_to, unix_stream};

impl Listeners {
    /// Opens the addresses of `--listen`, and takes over inherited sockets with their names. Also returns warnings.
    ///
    /// # Errors
    /// The address that cannot be bound, why, and which process has it, if /proc shows that.
    pub fn open(
        listens: &[Listen],
        context: ListenerContext,
        inherited: Vec<(OwnedFd, String)>,
        orphans: Option<&Orphans>,
    ) -> anyhow::Result<(Self, Vec<String>)> {
        let mut opening = Opening {
            listens,
            orphans,
            all: Vec::new(),
            unnamed: 0,
            warnings: Vec::new(),
            context,
        };
        for (fd, name) in inherited {
            let steering = ListenerKind::Shared(SharedSocket::inherited(fd, &opening.context)?);
            let name = Some(name).filter(|name| !name.is_empty());
            let as_given = steering.address();
            opening.add(name, as_given, steering);
        }
        for listen in listens {
            opening.listen(listen).map_err(|error| {
                let as_given = &listen.as_given;
                let hint = hint(&error, listen);
                anyhow!("cannot listen on {as_given}: {error}{hint}")
            })?;
        }
        let listeners = Self {
            given_out: opening.all.len(),
            all: opening.all,
            ..Self::new(opening.context)
        };
        Ok((listeners, opening.warnings))
    }
}

struct Opening<'a> {
    listens: &'a [Listen],
    orphans: Option<&'a Orphans<'a>>,
    all: Vec<Listener>,
    unnamed: usize,
    warnings: Vec<String>,
    context: ListenerContext,
}

impl Opening<'_> {
    fn listen(&mut self, listen: &Listen) -> io::Result<()> {
        match &listen.address {
            Address::Tcp(endpoint) => self.inet(listen, endpoint, SockType::Stream),
            Address::Udp(endpoint) => self.inet(listen, endpoint, SockType::Datagram),
            Address::Abstract(name) => {
                let address = UnixAddr::new_abstract(name.as_bytes())?;
                let fd = unix_stream()?;
                bind(fd.as_raw_fd(), &address)?;
                let steering = ListenerKind::Shared(SharedSocket::own(fd, &self.context)?);
                self.add(listen.name.clone(), listen.as_given.clone(), steering);
                Ok(())
            }
            Address::Path(path) => self.path(listen, path),
        }
    }

    fn path(&mut self, listen: &Listen, path: &Path) -> io::Result<()> {
        let absolute = std::path::absolute(path)?;
        let has_room = UnixPath::has_room(&absolute);
        if !has_room && !self.context.options.share {
            self.warnings.push(format!(
                "{} is too long for a socket beside it: all generations share one\ntry: a shorter path",
                path.display()
            ));
        }
        let steering = if has_room && !self.context.options.share {
            ListenerKind::Path(self.unix_path(&absolute)?)
        } else {
            ListenerKind::Shared(SharedSocket::path(&absolute, &self.context)?)
        };
        self.add(listen.name.clone(), listen.as_given.clone(), steering);
        Ok(())
    }

    /// Its own, that of servers which have lost their hotswap, or one that was kept.
    fn unix_path(&mut self, path: &Path) -> io::Result<UnixPath> {
        let kept = self.context.kept.take_path(path);
        let orphans = self.orphans.map(|orphans| orphans.at_path(path));
        let orphans = orphans.unwrap_or_default();
        if (kept.is_some() || !orphans.is_empty()) && !is_free(path) {
            let dir = UnixDir::take_over(path)?;
            return UnixPath::taken_over(dir, false, &orphans, kept, &mut self.context);
        }
        let mut opened = UnixPath::open(path, &self.context)?;
        if let Some(kept) = kept {
            opened.add_kept(kept, false, &mut self.context)?;
        }
        Ok(opened)
    }

    /// A name of several addresses is as many listeners; one that this host lacks is left out, with a warning.
    fn inet(&mut self, listen: &Listen, endpoint: &Endpoint, steering: SockType) -> io::Result<()> {
        let addresses = endpoint.resolve()?;
        let mut missing: Option<io::Error> = None;
        let mut port = endpoint.port();
        if let (0, Some(orphans)) = (port, self.orphans) {
            let host = listen.as_given.strip_suffix('0').unwrap_or_default();
            port = orphans.port_of(host).unwrap_or(0);
        }
        if let (0, SockType::Stream, Some(first)) = (port, steering, addresses.first()) {
            let given: Vec<u16> = self.listens.iter().filter_map(port_of).collect();
            port = self.context.kept.port_of(first.ip(), &given).unwrap_or(0);
        }
        let before = self.all.len();
        for mut address in addresses {
            address.set_port(port);
            match self.inet_at(endpoint, address, steering) {
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
        steering: SockType,
    ) -> io::Result<(ListenerKind, SocketAddr)> {
        let is_steered = steering == SockType::Stream && !self.context.options.share;
        let wildcard = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
        let mut at = |at, only_v6| {
            let address = InetAddress::new(at, only_v6);
            let kept = &mut self.context.kept;
            match is_steered.then(|| kept.take_tcp(&address)).flatten() {
                Some(kept) => (address, Ok(Found::Kept(kept))),
                None => (address, bind_inet(&address, steering).map(Found::New)),
            }
        };
        let (address, bound) = match endpoint {
            Endpoint::Any(_) => match at(address, Some(false)) {
                (_, Err(error)) if is_lacking(&error) => at(wildcard, None),
                other => other,
            },
            // as in nginx: the pair of wildcards is two listeners
            Endpoint::At(_) | Endpoint::Named(..) => {
                let is_pair = address.is_ipv6() && lists(self.listens, wildcard);
                at(address, is_pair.then_some(true))
            }
        };
        let there = |orphans: &&Orphans| is_steered && !orphans.at(&address).is_empty();
        let context = &mut self.context;
        let group = match (bound, self.orphans.filter(there)) {
            (Ok(Found::New(fd)), _) => {
                let bound = bound_to(fd.as_fd())?;
                let listener = if is_steered {
                    ListenerKind::Group(ReuseportGroup::new(fd, None, false, context)?)
                } else {
                    ListenerKind::Shared(SharedSocket::own(fd, context)?)
                };
                return Ok((listener, bound));
            }
            (Ok(Found::Kept(kept)), None) => ReuseportGroup::kept(address, false, kept, context)?,
            (Ok(Found::Kept(kept)), Some(orphans)) => {
                ReuseportGroup::beside(address, false, orphans, Some(kept), context)?
            }
            (Err(error), Some(orphans)) if error.kind() == io::ErrorKind::AddrInUse => {
                ReuseportGroup::beside(address, false, orphans, None, context)?
            }
            (Err(error), _) => return Err(error),
        };
        Ok((ListenerKind::Group(group), address.at))
    }

    fn add(&mut self, name: Option<String>, as_given: String, steering: ListenerKind) {
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
            path_use: None,
            awaits_start: false,
            steering,
        });
    }
}

/// What there is at an address.
enum Found {
    New(OwnedFd),
    /// A socket in which clients may wait.
    Kept(OwnedFd),
}

fn lists(listens: &[Listen], wanted: SocketAddr) -> bool {
    let mut listens = listens.iter();
    listens.any(|listen| listen.address == Address::Tcp(Endpoint::At(wanted)))
}

fn port_of(listen: &Listen) -> Option<u16> {
    match &listen.address {
        Address::Tcp(endpoint) | Address::Udp(endpoint) => Some(endpoint.port()),
        Address::Path(_) | Address::Abstract(_) => None,
    }
}

/// The address as given, if it is unique and has a port.
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

fn is_free(path: &Path) -> bool {
    let Ok(path) = UnixAddr::new(path) else {
        return false;
    };
    // one that is full is there
    unix_client(&path).is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock)
}

/// This host lacks the address or its family.
fn is_lacking(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT | libc::ENODEV)
    )
}

fn bind_inet(address: &InetAddress, steering: SockType) -> io::Result<OwnedFd> {
    if steering == SockType::Datagram {
        return address.bind(steering);
    }
    if address.at.port() != 0 {
        return address.bind_in_group(false);
    }
    // shutdown(2) loses a port that the kernel chose, but not one that was requested: so request what it would choose.
    let mut last = io::Error::from(Errno::EADDRINUSE);
    for _ in 0..64 {
        let at = bound_to(address.bind(steering)?.as_fd())?;
        match (InetAddress { at, ..*address }).bind_in_group(false) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
            other => return other,
        }
    }
    Err(last)
}

/// What the user can try.
fn hint(error: &io::Error, listen: &Listen) -> String {
    let port = port_of(listen);
    match (error.raw_os_error(), port) {
        (Some(libc::EADDRINUSE), _) => {
            let owner = port_holder::of(&listen.address);
            let stranger =
                "\ntry: another address; as root, ss -lp shows which process uses this one";
            owner.map_or(stranger.into(), |owner| format!(": {owner}"))
        }
        (Some(libc::EPERM), None) => "\ntry: --socket-owner as root, or without a user".into(),
        (Some(libc::EEXIST), None) => {
            ", and it is not a socket\ntry: another path, or remove it if nobody needs it".into()
        }
        (Some(libc::ENOENT), None) => match &listen.address {
            Address::Path(path) => path.parent().map_or(String::new(), |parent| {
                format!("\ntry: mkdir -p {}", parent.display())
            }),
            Address::Tcp(_) | Address::Udp(_) | Address::Abstract(_) => String::new(),
        },
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
