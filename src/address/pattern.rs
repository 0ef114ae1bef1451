//! An address as a user names one that is there already: `9090`, `127.0.0.1:9090`, `/run/api.sock`.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use super::{Address, Endpoint, Unreadable};

/// It matches addresses in the spelling of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressPattern {
    as_given: String,
    address: Address,
}

impl AddressPattern {
    pub fn matches(&self, address: &str) -> bool {
        let inet = address.parse::<SocketAddr>().ok();
        match &self.address {
            Address::Tcp(Endpoint::Any(port)) => inet.is_some_and(|inet| inet.port() == *port),
            Address::Tcp(Endpoint::At(at)) => inet == Some(*at),
            Address::Tcp(Endpoint::Named(host, port)) => inet.is_some_and(|inet| {
                host == "localhost" && inet.ip().is_loopback() && inet.port() == *port
            }),
            other @ (Address::Udp(_) | Address::Path(_) | Address::Abstract(_)) => {
                other.to_string() == address
            }
        }
    }
}

impl FromStr for AddressPattern {
    type Err = Unreadable;

    fn from_str(text: &str) -> Result<Self, Unreadable> {
        Ok(Self {
            as_given: text.to_owned(),
            address: text.parse()?,
        })
    }
}

impl fmt::Display for AddressPattern {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.as_given.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_named_by_its_port_or_in_full() {
        let matches = |pattern: &str, address: &str| {
            let pattern: AddressPattern = pattern.parse().unwrap();
            pattern.matches(address)
        };
        for pattern in ["9090", ":9090", "127.0.0.1:9090", "localhost:9090"] {
            assert!(matches(pattern, "127.0.0.1:9090"), "{pattern}");
            assert!(!matches(pattern, "127.0.0.1:9091"), "{pattern}");
        }
        assert!(matches("9090", "[::]:9090"));
        assert!(!matches("127.0.0.1:9090", "0.0.0.0:9090"));
        assert!(matches("/run/api.sock", "/run/api.sock"));
        assert!(matches("unix:/run/api.sock", "/run/api.sock"));
        assert!(matches("unix:@api", "unix:@api"));
        assert!(!matches("udp:127.0.0.1:53", "127.0.0.1:53"));
        assert!(matches("udp:127.0.0.1:53", "udp:127.0.0.1:53"));
    }
}
