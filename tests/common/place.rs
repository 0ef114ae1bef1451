//! Where a site is: what `--listen` is told, and where its clients go.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    Tcp4,
    Tcp6,
    /// All addresses of both families.
    Dual,
    Unix,
    Abstract,
    Udp,
    /// The test says itself what hotswap listens on; its clients go there.
    Given(Target),
    /// A TCP socket that hotswap is given by who starts it.
    Inherited,
    /// Without a listener.
    Nowhere,
}

/// One address that a client connects to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    Tcp(SocketAddr),
    Udp(SocketAddr),
    Unix(PathBuf),
    Abstract(String),
}

impl Place {
    /// What `--listen` gets; port 0, so that tests run side by side.
    pub fn listen(&self, dir: &Path) -> Option<String> {
        Some(match self {
            Place::Tcp4 => "127.0.0.1:0".to_owned(),
            Place::Tcp6 => "[::1]:0".to_owned(),
            Place::Dual => ":0".to_owned(),
            Place::Unix => format!("unix:{}", path(dir).display()),
            Place::Abstract => format!("unix:@{}", name(dir)),
            Place::Udp => "udp:127.0.0.1:0".to_owned(),
            Place::Given(_) | Place::Inherited | Place::Nowhere => return None,
        })
    }

    /// Where it is, once hotswap has said `announced`.
    pub fn targets(&self, dir: &Path, announced: &str) -> Vec<Target> {
        let port = announced
            .rsplit(':')
            .next()
            .and_then(|port| port.parse().ok());
        let at = |ip: IpAddr| {
            SocketAddr::new(ip, port.unwrap_or_else(|| panic!("no port in {announced}")))
        };
        match self {
            Place::Tcp4 | Place::Inherited => vec![Target::Tcp(at(Ipv4Addr::LOCALHOST.into()))],
            Place::Tcp6 => vec![Target::Tcp(at(Ipv6Addr::LOCALHOST.into()))],
            Place::Dual => vec![
                Target::Tcp(at(Ipv4Addr::LOCALHOST.into())),
                Target::Tcp(at(Ipv6Addr::LOCALHOST.into())),
            ],
            Place::Unix => vec![Target::Unix(path(dir))],
            Place::Abstract => vec![Target::Abstract(name(dir))],
            Place::Udp => vec![Target::Udp(at(Ipv4Addr::LOCALHOST.into()))],
            Place::Given(target) => vec![target.clone()],
            Place::Nowhere => Vec::new(),
        }
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join("site.sock")
}

fn name(dir: &Path) -> String {
    format!("hotswap-test{}", dir.display())
}
