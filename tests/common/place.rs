//! Where a site is: what `--listen` is told, or what its server binds, and where its clients go.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
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
    /// Nothing is listened on: the server binds this address itself.
    Captured(SocketAddr),
    /// The same, with a unix path.
    CapturedUnix,
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
    pub fn captured() -> Place {
        Place::Captured(free_address())
    }

    /// What the server has to bind.
    pub fn bound(&self, dir: &Path) -> Option<String> {
        match self {
            Place::Captured(address) => Some(address.to_string()),
            Place::CapturedUnix => Some(format!("unix:{}", path(dir).display())),
            _ => None,
        }
    }

    /// What `--listen` gets; port 0, so that tests run side by side.
    pub fn listen(&self, dir: &Path) -> Option<String> {
        Some(match self {
            Place::Tcp4 => "127.0.0.1:0".to_owned(),
            Place::Tcp6 => "[::1]:0".to_owned(),
            Place::Dual => ":0".to_owned(),
            Place::Unix => format!("unix:{}", path(dir).display()),
            Place::Abstract => format!("unix:@{}", name(dir)),
            Place::Udp => "udp:127.0.0.1:0".to_owned(),
            Place::Captured(_)
            | Place::CapturedUnix
            | Place::Given(_)
            | Place::Inherited
            | Place::Nowhere => return None,
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
            Place::Unix | Place::CapturedUnix => vec![Target::Unix(path(dir))],
            Place::Captured(address) => vec![Target::Tcp(*address)],
            Place::Abstract => vec![Target::Abstract(name(dir))],
            Place::Udp => vec![Target::Udp(at(Ipv4Addr::LOCALHOST.into()))],
            Place::Given(target) => vec![target.clone()],
            Place::Nowhere => Vec::new(),
        }
    }
}

/// An address that nobody has at the moment. The kernel gives no client its port, as it would one that was just let go.
pub fn free_address() -> SocketAddr {
    loop {
        let random = RandomState::new().build_hasher().finish() % 20_000;
        let port = 10_000 + u16::try_from(random).expect("a port");
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return listener.local_addr().expect("its address");
        }
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join("site.sock")
}

fn name(dir: &Path) -> String {
    format!("hotswap-test{}", dir.display())
}
