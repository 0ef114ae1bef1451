//! The options of `hotswap smoke`: its own, and those of the hotswap that it tries.

use std::ffi::{OsStr, OsString};
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::options::RunArgs;
use super::usage::{self, NotParsed};
use super::values::count;
use crate::address::AddressPattern;

/// What the user wants of `hotswap smoke`.
#[derive(Debug, Args)]
pub struct Trial {
    /// How many swaps to do
    #[arg(long, value_name = "N", default_value = "20", value_parser = count)]
    pub swaps: u32,
    /// Send requests to this address only: a port, address, path, or glob; may be repeated
    #[arg(long, value_name = "ADDR")]
    pub ask: Vec<AddressPattern>,
    /// The path that clients request
    #[arg(long, value_name = "P", default_value = "/", value_parser = url_path)]
    pub path: String,
    /// A path that takes a while to answer, for the slow clients
    #[arg(long, value_name = "P", value_parser = url_path)]
    pub slow_path: Option<String>,
    /// The statuses that count as success
    #[arg(long, value_name = "LIST", default_value = "2xx,3xx", value_delimiter = ',', value_parser = expected)]
    pub expect: Vec<RangeInclusive<u16>>,
    /// Count a request that takes more than N milliseconds as failed
    #[arg(long, value_name = "N", value_parser = count)]
    max_ms: Option<u32>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Write a JUnit file
    #[arg(long, value_name = "F", value_hint = clap::ValueHint::FilePath)]
    pub junit: Option<PathBuf>,
    #[command(flatten)]
    pub run: RunArgs,
    /// For the hotswap that is tried.
    #[arg(skip)]
    pub options: Vec<OsString>,
}

/// The long options above that take a value.
const WITH_VALUE: [&str; 7] = [
    "swaps",
    "ask",
    "path",
    "slow-path",
    "expect",
    "max-ms",
    "junit",
];

impl Trial {
    /// With the options that are not its own.
    ///
    /// # Errors
    /// When the command does not stand behind `--`.
    pub(super) fn with_options(self, arguments: &[OsString]) -> Result<Self, NotParsed> {
        usage::expect_command_behind_dashes("hotswap smoke", arguments, &self.run.command)?;
        let dashes = arguments.len() - self.run.command.len() - 1;
        let options = without_own(arguments.get(..dashes).unwrap_or_default());
        Ok(Self { options, ..self })
    }

    /// How long a request may take.
    pub fn longest(&self) -> Option<Duration> {
        self.max_ms.map(|ms| Duration::from_millis(ms.into()))
    }
}

/// The options that are for the hotswap that is tried.
fn without_own(options: &[OsString]) -> Vec<OsString> {
    let mut rest = Vec::new();
    let mut options = options.iter();
    while let Some(option) = options.next() {
        let Some(long) = option.as_bytes().strip_prefix(b"--") else {
            rest.push(option.clone());
            continue;
        };
        let name = long.split(|byte| *byte == b'=').next().unwrap_or_default();
        let name = OsStr::from_bytes(name);
        if WITH_VALUE.iter().any(|own| name == *own) {
            if name.len() == long.len() {
                options.next();
            }
        } else if name != "json" {
            rest.push(option.clone());
        }
    }
    rest
}

fn url_path(given: &str) -> Result<String, String> {
    let fits = |c: char| !c.is_control() && !c.is_whitespace();
    if given.starts_with('/') && given.chars().all(fits) {
        Ok(given.to_owned())
    } else {
        Err("a path begins with / and has no spaces\ntry: /health".to_owned())
    }
}

/// `2xx`, or `404`.
fn expected(given: &str) -> Result<RangeInclusive<u16>, String> {
    let hundred = given.strip_suffix("xx");
    let number = hundred.unwrap_or(given).parse::<u16>();
    let first = number.map(|number| match hundred {
        Some(_) => number.saturating_mul(100),
        None => number,
    });
    match first {
        Ok(first @ 100..=599) if hundred.is_some() => Ok(first..=first + 99),
        Ok(only @ 100..=599) => Ok(only..=only),
        Ok(_) | Err(_) => Err("not a status\ntry: 2xx,3xx".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_own_options_are_not_passed_on() {
        let given = [
            "--swaps",
            "3",
            "--listen",
            "127.0.0.1:0",
            "--json",
            "--path=/x",
            "-v",
            "--junit",
            "--out",
        ];
        let given: Vec<OsString> = given.iter().map(OsString::from).collect();
        assert_eq!(without_own(&given), ["--listen", "127.0.0.1:0", "-v"]);
    }

    proptest::proptest! {
        #[test]
        fn nothing_ends_the_line_of_a_request(text in "/?\\PC{0,8}[\\x00-\\x20]{0,2}\\PC{0,4}", status in "[0-9]{0,6}(xx)?") {
            if let Ok(path) = url_path(&text) {
                proptest::prop_assert!(path.starts_with('/') && !path.contains(['\r', '\n', ' ']));
            }
            if let Ok(expected) = expected(&status) {
                proptest::prop_assert!((100..=599).contains(expected.end()));
            }
        }
    }

    #[test]
    fn statuses_come_alone_or_by_the_hundred() {
        assert_eq!(expected("404"), Ok(404..=404));
        assert_eq!(expected("2xx"), Ok(200..=299));
        for wrong in ["", "xx", "9xx", "20", "2xxx", "ok", "-1"] {
            assert!(expected(wrong).is_err(), "{wrong}");
        }
    }
}
