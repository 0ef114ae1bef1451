//! An address as a user names one that is there already: `9090`, `127.0.0.1:9090`, `/run/api.sock`, `/tmp/*.sock`.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::str::FromStr;

use super::{Address, Endpoint, Unreadable};

/// It matches addresses in the spelling of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressPattern {
    as_given: String,
    wanted: PatternKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum PatternKind {
    Address(Address),
    /// `*` and `?` stand for anything but a `/`, and `**` for that as well.
    Glob(String),
}

impl AddressPattern {
    /// The same for a relative path, which is relative to this directory.
    pub fn matches_in(&self, directory: &Path, address: &str) -> bool {
        let path = Path::new(address).strip_prefix(directory);
        let path = path.ok().and_then(Path::to_str);
        let is_like_path = |path: &str| match &self.wanted {
            PatternKind::Address(Address::Path(wanted)) => {
                wanted
                    .strip_prefix(".")
                    .is_ok_and(|wanted| wanted == Path::new(path))
                    || *wanted == Path::new(path)
            }
            PatternKind::Glob(glob) => {
                let glob = glob.strip_prefix("./").unwrap_or(glob);
                is_like(glob.as_bytes(), path.as_bytes())
            }
            PatternKind::Address(_) => false,
        };
        self.matches(address) || path.is_some_and(is_like_path)
    }

    pub fn matches(&self, address: &str) -> bool {
        let inet = address.parse::<SocketAddr>().ok();
        let wanted = match &self.wanted {
            PatternKind::Address(wanted) => wanted,
            PatternKind::Glob(glob) => return is_like(glob.as_bytes(), address.as_bytes()),
        };
        match wanted {
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

fn is_like(glob: &[u8], text: &[u8]) -> bool {
    match (glob, text) {
        ([], []) => true,
        ([b'*', b'*', rest @ ..], _) => (0..=text.len()).any(|from| is_like(rest, &text[from..])),
        ([b'*', rest @ ..], _) => {
            let to_slash = text.iter().position(|byte| *byte == b'/');
            (0..=to_slash.unwrap_or(text.len())).any(|from| is_like(rest, &text[from..]))
        }
        ([b'?', glob @ ..], [byte, text @ ..]) => *byte != b'/' && is_like(glob, text),
        ([one, glob @ ..], [other, text @ ..]) => one == other && is_like(glob, text),
        ([_, ..], []) | ([], [_, ..]) => false,
    }
}

impl FromStr for AddressPattern {
    type Err = Unreadable;

    fn from_str(text: &str) -> Result<Self, Unreadable> {
        Ok(Self {
            as_given: text.to_owned(),
            wanted: if text.contains(['*', '?']) {
                let path = text
                    .strip_prefix("unix:")
                    .filter(|path| !path.starts_with('@'));
                PatternKind::Glob(path.unwrap_or(text).to_owned())
            } else {
                PatternKind::Address(text.parse()?)
            },
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

    fn matches(pattern: &str, address: &str) -> bool {
        let pattern: AddressPattern = pattern.parse().unwrap();
        pattern.matches(address)
    }

    #[test]
    fn a_relative_path_is_one_below_the_directory() {
        let matches = |pattern: &str, address: &str| {
            let pattern: AddressPattern = pattern.parse().unwrap();
            pattern.matches_in(Path::new("/srv/app"), address)
        };
        for pattern in [
            "./r.sock",
            "unix:r.sock",
            "*.sock",
            "./*.sock",
            "/srv/app/r.sock",
        ] {
            assert!(matches(pattern, "/srv/app/r.sock"), "{pattern}");
            assert!(!matches(pattern, "/srv/r.sock"), "{pattern}");
            assert!(!matches(pattern, "127.0.0.1:8080"), "{pattern}");
        }
        assert!(matches("8080", "127.0.0.1:8080"));
        assert!(matches("run/*", "/srv/app/run/r.sock"));
        assert!(!matches("*.sock", "/srv/app/run/r.sock"));
    }

    #[test]
    fn an_address_is_named_by_its_port_or_in_full() {
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

    proptest::proptest! {
        #[test]
        fn no_text_upsets_it(text in "(unix:|udp:)?[/a*?.:0-9]{0,12}", address in "(udp:)?[/a.:0-9]{0,12}") {
            if let Ok(pattern) = text.parse::<AddressPattern>() {
                proptest::prop_assert_eq!(pattern.to_string(), text);
                let _ = pattern.matches(&address);
            }
            if let Ok(own) = address.parse::<AddressPattern>() && address.starts_with('/') {
                proptest::prop_assert!(own.matches(&address));
            }
        }
    }

    #[test]
    fn a_glob_stands_for_many() {
        assert!(matches("/tmp/*.sock", "/tmp/api.sock"));
        assert!(matches("unix:/tmp/*.sock", "/tmp/api.sock"));
        assert!(!matches("/tmp/*.sock", "/tmp/a/b.sock"));
        assert!(matches("/tmp/**.sock", "/tmp/a/b.sock"));
        assert!(matches("/tmp/a?c", "/tmp/abc"));
        assert!(!matches("/tmp/a?c", "/tmp/a/c"));
        assert!(matches("127.0.0.1:90*", "127.0.0.1:9090"));
        assert!(matches("unix:@api-*", "unix:@api-1"));
        assert!(!matches("*.sock", "/tmp/api.sock"));
    }
}
