//! The modes of `--ready`, and how they are written.

use std::os::fd::RawFd;
use std::str::FromStr;
use std::time::Duration;

/// The most that `after:` waits.
const LONGEST: Duration = Duration::from_secs(86_400);

/// How a new generation shows that it is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadyMode {
    Auto,
    Notify,
    /// A newline on this descriptor.
    Fd(RawFd),
    /// A GET of this path is answered with 2xx or 3xx; `host` is for the header of that name.
    Http {
        host: Option<String>,
        path: String,
    },
    Tcp,
    /// This command exits with 0.
    Exec(String),
    After(Duration),
}

impl ReadyMode {
    /// It works only with a listener where the candidate has a socket of its own.
    pub fn needs_steered_listener(&self) -> bool {
        matches!(self, Self::Tcp | Self::Http { .. })
    }
}

impl FromStr for ReadyMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = match text.split_once(':') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        match (name, value) {
            ("auto", None) => Ok(Self::Auto),
            ("notify", None) => Ok(Self::Notify),
            ("tcp", None) => Ok(Self::Tcp),
            ("fd", Some(number)) => match number.parse() {
                Ok(number @ 3..) => Ok(Self::Fd(number)),
                _ => Err(format!(
                    "{number:?} is not a descriptor number of 3 or more\ntry: fd:3"
                )),
            },
            ("http", Some(target)) => http(target),
            ("https", Some(_)) => Err(
                "hotswap does not speak TLS\ntry: http:/health, tcp, or exec:COMMAND".to_owned(),
            ),
            ("exec", Some(command)) if !command.trim().is_empty() => {
                Ok(Self::Exec(command.to_owned()))
            }
            ("exec", Some(_)) => Err("the command is empty\ntry: exec:./is-ready".to_owned()),
            ("after", Some(duration)) => match humantime::parse_duration(duration) {
                Ok(longer) if longer > LONGEST => {
                    Err(format!("{duration:?} is longer than a day\ntry: after:2s"))
                }
                Ok(duration) => Ok(Self::After(duration)),
                Err(_) => Err(format!("{duration:?} is not a duration\ntry: after:2s")),
            },
            _ => Err(format!(
                "unknown mode {text:?}\ntry: auto, notify, fd:N, http:PATH, http://HOST/PATH, tcp, exec:COMMAND, or after:2s"
            )),
        }
    }
}

/// `/PATH` or `//HOST/PATH`.
fn http(target: &str) -> Result<ReadyMode, String> {
    let (host, path) = match target.strip_prefix("//") {
        Some(rest) => match rest.split_once('/') {
            Some((host, path)) => (Some(host), format!("/{path}")),
            None => (Some(rest), "/".to_owned()),
        },
        None => (None, target.to_owned()),
    };
    if !path.starts_with('/') || !is_plain(&path) {
        return Err(format!("{target:?} is not a path\ntry: http:/health"));
    }
    if host.is_some_and(|host| host.is_empty() || !is_plain(host)) {
        let host = host.unwrap_or_default();
        return Err(format!(
            "{host:?} is not a host\ntry: http://example.org/health"
        ));
    }
    let host = host.map(str::to_owned);
    Ok(ReadyMode::Http { host, path })
}

/// It can be put into a request unchanged.
fn is_plain(path: &str) -> bool {
    path.chars().all(|character| character.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_mode_is_accepted() {
        let mode = |text: &str| text.parse::<ReadyMode>().unwrap();
        assert_eq!(mode("auto"), ReadyMode::Auto);
        assert_eq!(mode("notify"), ReadyMode::Notify);
        assert_eq!(mode("fd:5"), ReadyMode::Fd(5));
        let http = |host: Option<&str>, path: &str| ReadyMode::Http {
            host: host.map(str::to_owned),
            path: path.to_owned(),
        };
        let (shop, path) = (Some("shop.example:8080"), "/health?deep=1");
        assert_eq!(mode("http:/health?deep=1"), http(None, path));
        assert_eq!(
            mode("http://shop.example:8080/health?deep=1"),
            http(shop, path)
        );
        assert_eq!(mode("http://shop.example:8080"), http(shop, "/"));
        assert_eq!(mode("tcp"), ReadyMode::Tcp);
        assert_eq!(
            mode("exec:nc -z : 80"),
            ReadyMode::Exec("nc -z : 80".into())
        );
        assert_eq!(
            mode("after:1500ms"),
            ReadyMode::After(Duration::from_millis(1500))
        );
    }

    #[test]
    fn an_invalid_mode_is_rejected_with_a_suggestion() {
        for text in [
            "",
            "Auto",
            "auto:",
            "tcp:80",
            "fd",
            "fd:",
            "fd:2",
            "fd:-1",
            "fd:x",
            "http",
            "http:",
            "http:health",
            "http:///",
            "http://a b/",
            "https://shop.example/",
            "http:/a b",
            "http:/a\r\nX: y",
            "exec:",
            "exec: ",
            "after",
            "after:",
            "after:2",
            "after:-1s",
        ] {
            let error = text.parse::<ReadyMode>().unwrap_err();
            assert!(error.contains("\ntry: "), "{text:?}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_upsets_it(text in "(auto|tcp|fd|http|exec|after|notify)?:?\\PC{0,20}") {
            if let Ok(ReadyMode::Http { path, .. }) = text.parse() {
                proptest::prop_assert!(is_plain(&path), "{}", path);
            }
        }
    }
}
