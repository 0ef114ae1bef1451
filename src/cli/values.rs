//! Parses the values of options: durations, signals, modes, owners, names, switches.
//!
//! An error has a reason and, if possible, what to write instead; the caller names the option.

use std::ffi::OsStr;
use std::fmt;
use std::time::Duration;

use ignore::gitignore::GitignoreBuilder;
use nix::libc::{self, c_int};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Group, Uid, User};

use super::usage;

/// Beyond this a deadline would overflow before anybody had waited for it.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

/// An invalid value.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidValue {
    pub why: String,
    /// What the user probably wants to write instead.
    pub instead: Option<String>,
}

impl InvalidValue {
    fn new(why: impl Into<String>) -> Self {
        let why = why.into();
        Self { why, instead: None }
    }

    fn instead(self, instead: impl Into<String>) -> Self {
        let instead = Some(instead.into());
        Self { instead, ..self }
    }
}

impl fmt::Display for InvalidValue {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.why)?;
        self.instead
            .iter()
            .try_for_each(|instead| write!(f, "\ntry: {instead}"))
    }
}

impl std::error::Error for InvalidValue {}

/// A line of a .gitignore file. A bracket that is never closed would match nothing that anybody means.
pub fn glob(text: &str) -> Result<String, InvalidValue> {
    if text.trim().is_empty() || text.starts_with('#') {
        return Err(InvalidValue::new("not a glob").instead("'*.log'"));
    }
    let read = |text: &str| {
        let mut builder = GitignoreBuilder::new("/");
        builder.allow_unclosed_class(false);
        builder.add_line(None, text).map(|_| ())
    };
    let literal = text.replace('[', r"\[").replace('{', r"\{");
    read(text).map_err(|error| {
        let instead = match read(&literal) {
            Ok(()) => usage::quoted(OsStr::new(&literal)),
            Err(_) => "'*.log'".to_owned(),
        };
        let why = match error {
            ignore::Error::Glob { err, .. } => err,
            other => other.to_string(),
        };
        InvalidValue::new(format!("not a glob: {why}")).instead(instead)
    })?;
    Ok(text.to_owned())
}

/// How many: one at least.
pub fn count(text: &str) -> Result<u32, InvalidValue> {
    let count = text.parse().ok().filter(|count| *count > 0);
    let count = count.filter(|count| i32::try_from(*count).is_ok());
    count.ok_or_else(|| {
        InvalidValue::new(format!("not a whole number from 1 to {}", i32::MAX)).instead("10")
    })
}

/// `py`, `.py` or `*.py`.
pub fn ending(text: &str) -> Result<String, InvalidValue> {
    let ending = text.trim().trim_start_matches("*.").trim_start_matches('.');
    if ending.is_empty() || ending.contains(['/', '*', ' ']) {
        return Err(InvalidValue::new("not a file extension").instead("py,html"));
    }
    Ok(ending.to_owned())
}

/// `500ms`, `1.5s`, `1m30s`, and a plain `0`.
pub fn duration(text: &str) -> Result<Duration, InvalidValue> {
    let too_long = || InvalidValue::new("longer than 100 years").instead("30s");
    match humantime::parse_duration(text) {
        Ok(read) if read > LONGEST => Err(too_long()),
        Ok(read) => Ok(read),
        Err(humantime::DurationError::NumberOverflow) => Err(too_long()),
        Err(_) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => {
            let with_unit = format!("{text}s");
            duration(&with_unit)?;
            Err(InvalidValue::new("a duration needs a unit").instead(with_unit))
        }
        Err(_) => Err(InvalidValue::new("not a duration").instead("30s")),
    }
}

/// A duration that somebody has to get something done in.
pub fn patience(text: &str) -> Result<Duration, InvalidValue> {
    match duration(text)? {
        Duration::ZERO => Err(InvalidValue::new("it must be more than 0").instead("30s")),
        some => Ok(some),
    }
}

/// The number of `TERM`, `SIGTERM`, `term`, `15`, `RTMIN+3` or `RTMAX-1`.
pub fn signal(text: &str) -> Result<c_int, InvalidValue> {
    let unknown = || InvalidValue::new("unknown signal").instead("TERM");
    let (first, last) = (libc::SIGRTMIN(), libc::SIGRTMAX());
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let distance = |sign: &str, rest: &str| match rest.strip_prefix(sign) {
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok(),
        _ => rest.is_empty().then_some(0),
    };
    let real_time = if let Some(rest) = name.strip_prefix("RTMIN") {
        distance("+", rest).and_then(|above| first.checked_add(above))
    } else if let Some(rest) = name.strip_prefix("RTMAX") {
        distance("-", rest).and_then(|below| last.checked_sub(below))
    } else {
        text.parse().ok()
    };
    if let Some(number) = real_time.filter(|number| (first..=last).contains(number)) {
        return Ok(number);
    }
    let named = match text.parse::<c_int>() {
        Ok(number) => Signal::try_from(number),
        Err(_) => format!("SIG{name}").parse(),
    };
    named.map(|signal| signal as c_int).map_err(|_| unknown())
}

/// The permission bits of a socket, in octal.
pub fn mode(text: &str) -> Result<u32, InvalidValue> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    u32::from_str_radix(digits, 8)
        .ok()
        .filter(|mode| *mode <= 0o777 && !digits.starts_with('+'))
        .ok_or_else(|| InvalidValue::new("not an octal mode up to 0777").instead("0660"))
}

/// The owner of a unix socket: `USER`, `USER:GROUP` or `:GROUP`, by name or number.
pub fn owner(text: &str) -> Result<(Option<Uid>, Option<Gid>), InvalidValue> {
    let (user, group) = text.split_once(':').unwrap_or((text, ""));
    let user = some(user).map(uid).transpose()?;
    let group = some(group).map(gid).transpose()?;
    if user.is_none() && group.is_none() {
        return Err(InvalidValue::new("neither a user nor a group").instead("www-data:www-data"));
    }
    Ok((user, group))
}

fn some(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn uid(user: &str) -> Result<Uid, InvalidValue> {
    if let Ok(Some(found)) = User::from_name(user) {
        return Ok(found.uid);
    }
    number(user)
        .map(Uid::from_raw)
        .ok_or_else(|| InvalidValue::new(format!("there is no user {user:?}")))
}

fn gid(group: &str) -> Result<Gid, InvalidValue> {
    if let Ok(Some(found)) = Group::from_name(group) {
        return Ok(found.gid);
    }
    number(group)
        .map(Gid::from_raw)
        .ok_or_else(|| InvalidValue::new(format!("there is no group {group:?}")))
}

/// All ones means "leave it as it is" to chown(2) and setuid(2).
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id != u32::MAX)
}

pub fn user(text: &str) -> Result<String, InvalidValue> {
    uid(text).map(|_| text.to_owned())
}

pub fn group(text: &str) -> Result<String, InvalidValue> {
    gid(text).map(|_| text.to_owned())
}

/// An instance's name is a file's name, and a word on a command line.
pub fn name(text: &str) -> Result<String, InvalidValue> {
    let fits = |c: char| !c.is_control() && !c.is_whitespace() && c != '/';
    if text.is_empty() || text.starts_with(['.', '-']) || !text.chars().all(fits) {
        let why = "a name is one word without a slash, and begins with neither a dot nor a dash";
        return Err(InvalidValue::new(why).instead("api"));
    }
    if text.len() > 64 {
        return Err(InvalidValue::new("longer than 64 bytes").instead("api"));
    }
    Ok(text.to_owned())
}

/// An instance as a client calls it: by its name, or by the path of its control socket.
pub fn instance(text: &str) -> Result<String, InvalidValue> {
    if text.contains('/') {
        Ok(text.to_owned())
    } else {
        name(text)
    }
}

/// The variable of an option that takes no value.
pub fn switch(value: &OsStr) -> Result<bool, InvalidValue> {
    match value.to_string_lossy().to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err(InvalidValue::new("it must be 1 or 0")),
    }
}
