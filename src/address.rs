//! The addresses of `--listen`: how they are written, and which socket addresses they mean.
//!
//! It opens no socket, and looks up host names only in [`Endpoint::resolve`], because that may take long.

mod pattern;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub use pattern::AddressPattern;

/// The longest path that fits into `sun_path` of unix(7) with its closing NUL.
pub const LONGEST_PATH: usize = 107;

/// An address that clients connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp(Endpoint),
    Udp(Endpoint),
    /// A unix stream socket in the file system.
    Path(PathBuf),
    /// A unix stream socket in the abstract namespace, without its leading NUL.
    Abstract(String),
}

/// A host and a port, before any lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Every address of this host, IPv4 and IPv6.
    Any(u16),
    At(SocketAddr),
    Named(String, u16),
}

impl Endpoint {
    /// Every socket address it means, each once; [`Endpoint::Any`] is the IPv6 wildcard.
    ///
    /// # Errors
    /// If the host name cannot be looked up.
    pub fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        match self {
            Self::Any(port) => Ok(vec![SocketAddr::from((Ipv6Addr::UNSPECIFIED, *port))]),
            Self::At(address) => Ok(vec![*address]),
            Self::Named(host, port) => {
                let mut all = Vec::new();
                for address in (host.as_str(), *port).to_socket_addrs()? {
                    if !all.contains(&address) {
                        all.push(address);
                    }
                }
                Ok(all)
            }
        }
    }

    pub fn port(&self) -> u16 {
        match self {
            Self::Any(port) | Self::Named(_, port) => *port,
            Self::At(address) => address.port(),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Any(port) => write!(f, ":{port}"),
            Self::At(address) => address.fmt(f),
            Self::Named(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Named(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Tcp(endpoint) => endpoint.fmt(f),
            Self::Udp(endpoint) => write!(f, "udp:{endpoint}"),
            Self::Path(path) => path.display().fmt(f),
            Self::Abstract(name) => write!(f, "unix:@{name}"),
        }
    }
}

impl FromStr for Address {
    type Err = Unreadable;

    fn from_str(text: &str) -> Result<Self, Unreadable> {
        if let Some(rest) = text.strip_prefix("unix:") {
            return unix(rest);
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            let host = rest.split('/').next().unwrap_or(rest);
            return unreadable("it is a URL", &host_of_url(scheme, host));
        }
        if let Some(rest) = text.strip_prefix("udp:") {
            if rest.contains(['/', '@']) {
                let path = rest.strip_prefix("unix:").unwrap_or(rest);
                return unreadable("UDP has no unix addresses", &format!("unix:{path}"));
            }
            let udp = endpoint(rest).map(Self::Udp);
            return udp.map_err(|error| error.behind("udp:"));
        }
        if text.starts_with('@') {
            let why = "an abstract address begins with unix:@";
            return unreadable(why, &format!("unix:{text}"));
        }
        if text.contains('/') {
            return unix(text);
        }
        endpoint(text).map(Self::Tcp)
    }
}

/// With the port of the scheme where the text has no port.
fn host_of_url(scheme: &str, host: &str) -> String {
    let udp = if scheme == "udp" { "udp:" } else { "" };
    let port = if scheme == "https" { 443 } else { 80 };
    let with_port = format!("{host}:{port}");
    let readable = [host, &with_port]
        .into_iter()
        .find(|text| endpoint(text).is_ok());
    format!("{udp}{}", readable.unwrap_or("127.0.0.1:8080"))
}

fn unix(text: &str) -> Result<Address, Unreadable> {
    if text.contains('\0') {
        return unreadable("a path holds no NUL", "unix:/run/api.sock");
    }
    if let Some(name) = text.strip_prefix('@') {
        return match name.len() {
            0 => unreadable("the name is missing", "unix:@name"),
            1..=LONGEST_PATH => Ok(Address::Abstract(name.to_owned())),
            _ => too_long("name"),
        };
    }
    let path = Path::new(text);
    if path.file_name().is_none() || text.ends_with('/') {
        return unreadable("it does not name a file", "unix:/run/api.sock");
    }
    if path.as_os_str().as_bytes().len() > LONGEST_PATH {
        return too_long("path");
    }
    Ok(Address::Path(path.to_owned()))
}

fn too_long(what: &str) -> Result<Address, Unreadable> {
    let why = format!("the {what} is longer than {LONGEST_PATH} bytes");
    unreadable(&why, &format!("a shorter {what}"))
}

fn endpoint(text: &str) -> Result<Endpoint, Unreadable> {
    // brackets that are not needed, as in [127.0.0.1]:8080
    if let Some((host, port)) = text
        .strip_prefix('[')
        .and_then(|text| text.split_once("]:"))
        && host.parse::<Ipv4Addr>().is_ok()
    {
        return endpoint(&format!("{host}:{port}"));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(Endpoint::At(address));
    }
    if let Some(scoped) = text.strip_prefix('[').and_then(scoped) {
        return scoped;
    }
    if let Ok(address) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        let instead = SocketAddr::new(address, 8080).to_string();
        return unreadable("the port is missing", &instead);
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, port),
        None if text.bytes().all(|byte| byte.is_ascii_digit()) => ("", text),
        None => {
            let host = if names_host(text) { text } else { "localhost" };
            return unreadable("the port is missing", &format!("{host}:8080"));
        }
    };
    let number = port.parse::<u16>().ok().filter(|_| !port.starts_with('+'));
    let Some(number) = number else {
        let host = if names_host(host) {
            format!("{host}:")
        } else {
            String::new()
        };
        let why = "the port is not a number from 0 to 65535";
        return unreadable(why, &format!("{host}8080"));
    };
    if host.is_empty() {
        return Ok(Endpoint::Any(number));
    }
    let without_interface = host.split('%').next().unwrap_or(host);
    if without_interface.parse::<Ipv6Addr>().is_ok() {
        let instead = format!("[{host}]:{port}");
        return unreadable("an IPv6 address wants brackets", &instead);
    }
    if host == "*" {
        return unreadable("the host is not a name", &format!(":{number}"));
    }
    if !is_host(host) {
        return unreadable("the host is not a name", "127.0.0.1:8080");
    }
    if !names_host(host) {
        return unreadable("the host is not an IPv4 address", "127.0.0.1:8080");
    }
    Ok(Endpoint::Named(host.to_owned(), number))
}

/// `fe80::1%eth0]:8080`: the name of an interface behind an IPv6 address, which is looked up with it.
fn scoped(text: &str) -> Option<Result<Endpoint, Unreadable>> {
    let (host, port) = text.split_once("]:")?;
    let (address, interface) = host.split_once('%')?;
    let (address, port) = (address.parse::<Ipv6Addr>().ok()?, port.parse::<u16>().ok()?);
    let plain = SocketAddr::from((address, port)).to_string();
    Some(if !address.is_unicast_link_local() {
        let why = "an interface belongs to an address that begins with fe80";
        unreadable(why, &plain)
    } else if is_host(interface) {
        Ok(Endpoint::Named(host.to_owned(), port))
    } else {
        let instead = format!("[{address}%eth0]:{port}");
        unreadable("the interface is not a name", &instead)
    })
}

/// 1.2.3.400 and 127.1 are mistakes, not names: a resolver may read something else into them.
fn names_host(text: &str) -> bool {
    let is_number = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    is_host(text) && (!is_number || text.parse::<Ipv4Addr>().is_ok())
}

fn is_host(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
}

/// One `--listen`: an address as given, and its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    pub name: Option<String>,
    /// Without the name; a path without its `unix:`. This is the key in `SERVER_STARTER_PORT`.
    pub as_given: String,
    pub address: Address,
}

impl FromStr for Listen {
    type Err = Unreadable;

    fn from_str(text: &str) -> Result<Self, Unreadable> {
        let (name, address) = match text.split_once('=') {
            Some((name, address)) if !name.contains(['/', ':', '@']) => (Some(name), address),
            _ => (None, text),
        };
        if name.is_some_and(|name| !is_name(name)) {
            let why = "a name has only a-z, A-Z, 0-9, '.', '-', and '_'";
            return unreadable(why, &format!("web={address}"));
        }
        if let Some(number) = name.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) {
            let why = format!("the name {number} is a number");
            let instead = if address.contains([':', '/']) {
                format!("web={address}")
            } else {
                format!("127.0.0.1:{number}")
            };
            return unreadable(&why, &instead);
        }
        let as_given = address.strip_prefix("unix:").unwrap_or(address);
        Ok(Self {
            name: name.map(str::to_owned),
            as_given: as_given.to_owned(),
            address: address.parse().map_err(|error: Unreadable| match name {
                Some(name) => error.behind(&format!("{name}=")),
                None => error,
            })?,
        })
    }
}

/// Allowed in `LISTEN_FDNAMES`, whose separator is the colon, and in `{fd:NAME}`.
fn is_name(text: &str) -> bool {
    is_host(text) && text.len() <= 255
}

/// Why a text is not an address, and one that would be.
#[derive(Debug)]
pub struct Unreadable {
    why: String,
    instead: String,
}

impl Unreadable {
    /// What was written before the part that cannot be read.
    fn behind(self, before: &str) -> Self {
        if self.instead.contains(' ') {
            return self;
        }
        let instead = format!("{before}{}", self.instead);
        Self { instead, ..self }
    }
}

fn unreadable<T>(why: &str, instead: &str) -> Result<T, Unreadable> {
    Err(Unreadable {
        why: why.to_owned(),
        instead: instead.to_owned(),
    })
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}\ntry: {}", self.why, self.instead)
    }
}

impl std::error::Error for Unreadable {}

/// Whether a socket that listens on `one` also gets clients of `other`, at the same port.
///
/// `dual` says that an IPv6 wildcard accepts IPv4 clients too.
pub fn covers(one: SocketAddr, dual: bool, other: SocketAddr) -> bool {
    if one.port() != other.port() {
        return false;
    }
    // a runtime with dual-stack sockets (Java) writes 127.0.0.1 as ::ffff:127.0.0.1
    match (one.ip().to_canonical(), other.ip().to_canonical()) {
        (IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V4(_)) => dual,
        (IpAddr::V6(one), IpAddr::V6(other)) => one.is_unspecified() || one == other,
        (IpAddr::V4(one), IpAddr::V4(other)) => one.is_unspecified() || one == other,
        (IpAddr::V4(_) | IpAddr::V6(_), IpAddr::V6(_) | IpAddr::V4(_)) => false,
    }
}

/// Where to connect to reach a socket that listens at this address: the loopback for a wildcard, and that of IPv4 where
/// a host has no other.
pub fn ways_to(address: SocketAddr) -> Vec<SocketAddr> {
    let port = address.port();
    match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => vec![(Ipv4Addr::LOCALHOST, port).into()],
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => vec![
            (Ipv6Addr::LOCALHOST, port).into(),
            (Ipv4Addr::LOCALHOST, port).into(),
        ],
        IpAddr::V4(_) | IpAddr::V6(_) => vec![address],
    }
}

#[cfg(test)]
mod tests;
