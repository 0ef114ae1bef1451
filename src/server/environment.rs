//! The variables and arguments a generation is started with.
//!
//! It reads the env file and nothing else; it opens no socket and starts nothing.

mod env_file;

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::Recipe;
use crate::listener::{Kind, Seat};
use crate::stub::FIRST;
use crate::supervisor::Generation;

/// What depends on the user.
pub const WHOSE: [&str; 3] = ["HOME", "USER", "LOGNAME"];

pub type Variables = Vec<(OsString, OsString)>;

/// What is meant for hotswap itself and would mislead a server (sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3)).
/// Other names with these prefixes are the user's.
const FOR_HOTSWAP: [&str; 7] = [
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
];

fn is_for_hotswap(name: &OsStr) -> bool {
    FOR_HOTSWAP.iter().any(|known| name == *known) || name.as_bytes().starts_with(b"HOTSWAP_")
}

/// hotswap's own variables and those of the env file, without what is meant for hotswap. `whose` are told by the stub, which knows the
/// server's user.
///
/// # Errors
/// What is wrong with the env file.
pub fn inherited(env_file: Option<&Path>, whose: &[&str]) -> io::Result<Variables> {
    let own: Variables = std::env::vars_os().collect();
    let said = env_file
        .map(|file| env_file::read(file, &own))
        .transpose()?;
    let mut variables = own;
    variables.retain(|(name, _)| whose.iter().all(|whose| name != *whose));
    for (name, value) in said.unwrap_or_default() {
        set(&mut variables, &name, value);
    }
    variables.retain(|(name, _)| !is_for_hotswap(name));
    Ok(variables)
}

pub fn set(variables: &mut Variables, name: impl AsRef<OsStr>, value: impl Into<OsString>) {
    let name = name.as_ref();
    variables.retain(|(known, _)| known != name);
    variables.push((name.to_owned(), value.into()));
}

/// All variables of one generation but LISTEN_PID, which only the stub knows.
///
/// # Errors
/// What is wrong with the env file.
pub fn variables(
    recipe: &Recipe,
    generation: Generation,
    seats: &[Seat],
    notify: &str,
) -> io::Result<Variables> {
    let whose: &[&str] = if recipe.user.is_some() { &WHOSE } else { &[] };
    let mut variables = inherited(recipe.env_file.as_deref(), whose)?;
    let own = of_hotswap(recipe, generation, notify);
    for (name, value) in own.into_iter().chain(of_sockets(recipe, generation, seats)) {
        set(&mut variables, name, value);
    }
    let port = seats.iter().find_map(tcp_port);
    if let Some(port) = port.filter(|_| variables.iter().all(|(name, _)| name != "PORT")) {
        set(&mut variables, "PORT", port.to_string());
    }
    Ok(variables)
}

/// What every process of a generation carries, and no other: by it an adopted orphan is known.
pub fn of_hotswap(recipe: &Recipe, generation: Generation, notify: &str) -> Variables {
    let mut own: Variables = vec![
        ("HOTSWAP_GENERATION".into(), generation.0.to_string().into()),
        ("HOTSWAP_INSTANCE".into(), recipe.name.clone().into()),
        ("NOTIFY_SOCKET".into(), notify.into()),
    ];
    if let Some(control) = &recipe.control {
        own.push(("HOTSWAP_SOCKET".into(), control.into()));
    }
    own
}

fn of_sockets(recipe: &Recipe, generation: Generation, seats: &[Seat]) -> Variables {
    let mut variables = Variables::new();
    let mut put = |name: &str, value: String| variables.push((name.into(), value.into()));
    if seats.is_empty() {
        return variables;
    }
    let numbered = || (FIRST..).zip(seats);
    put("LISTEN_FDS", seats.len().to_string());
    put("LISTEN_FDNAMES", names(seats).join(":"));
    let spelled = |(fd, seat): (RawFd, &Seat)| format!("{}={fd}", bare(&seat.spelled));
    put("SERVER_STARTER_PORT", join(numbered().map(spelled), ";"));
    put("SERVER_STARTER_GENERATION", generation.0.to_string());
    if super::profile::is_nginx(&recipe.command) {
        put(
            "NGINX",
            join(numbered().map(|(fd, _)| format!("{fd};")), ""),
        );
    }
    if super::profile::is_php_fpm(&recipe.command) {
        let bound = |(fd, seat): (RawFd, &Seat)| format!("{}={fd}", seat.addr);
        put("FPM_SOCKETS", join(numbered().map(bound), ","));
    }
    variables
}

fn join(parts: impl Iterator<Item = String>, between: &str) -> String {
    parts.collect::<Vec<_>>().join(between)
}

/// Server::Starter knows addresses and paths, without the words that `--listen` puts before some.
fn bare(spelled: &str) -> &str {
    let path = spelled.strip_prefix("unix:");
    path.or_else(|| spelled.strip_prefix("udp:"))
        .unwrap_or(spelled)
}

fn tcp_port(seat: &Seat) -> Option<u16> {
    match seat.kind {
        Kind::Tcp { port } => Some(port),
        Kind::Udp { .. } | Kind::Unix | Kind::Abstract | Kind::Other => None,
    }
}

/// Each name once: a server that asks by name gets one socket for it.
fn names(seats: &[Seat]) -> Vec<String> {
    let mut taken = HashSet::new();
    let unique = |seat: &Seat| {
        let mut name = seat.name.clone();
        let mut count = 1;
        while !taken.insert(name.clone()) {
            count += 1;
            name = format!("{}-{count}", seat.name);
        }
        name
    };
    seats.iter().map(unique).collect()
}

/// The command with every placeholder replaced in its arguments.
///
/// # Errors
/// One that stands for a listener there is not.
pub fn arguments(
    command: &[OsString],
    generation: Generation,
    seats: &[Seat],
) -> io::Result<Vec<OsString>> {
    let mut out = Vec::from_iter(command.first().cloned());
    for argument in command.iter().skip(1) {
        out.push(replace(argument, generation, seats)?);
    }
    Ok(out)
}

fn replace(argument: &OsStr, generation: Generation, seats: &[Seat]) -> io::Result<OsString> {
    let mut out = OsString::new();
    let mut rest = argument.as_bytes();
    while let Some(at) = rest.iter().position(|byte| *byte == b'{') {
        let (before, from) = rest.split_at(at);
        out.push(OsStr::from_bytes(before));
        let (put, length) = if let Some(token) = token(&from[1..]).filter(|_| is_escaped(from)) {
            // {{fd}} is {fd}
            (format!("{{{token}}}"), token.len() + 4)
        } else if let Some(token) = self::token(from) {
            let value = value(token, generation, seats)?;
            (value, token.len() + 2)
        } else {
            ("{".to_owned(), 1)
        };
        out.push(put);
        rest = &from[length..];
    }
    out.push(OsStr::from_bytes(rest));
    Ok(out)
}

/// What is between the braces that `text` begins with, if it is one of our tokens.
fn token(text: &[u8]) -> Option<&str> {
    let inner = text.strip_prefix(b"{")?;
    let end = inner.iter().position(|byte| *byte == b'}')?;
    let inner = std::str::from_utf8(&inner[..end]).ok()?;
    let named = inner
        .strip_prefix("fd:")
        .is_some_and(|name| !name.is_empty() && !name.contains(['{', ' ', '"']));
    (named || ["fd", "addr", "port", "generation"].contains(&inner)).then_some(inner)
}

fn is_escaped(text: &[u8]) -> bool {
    let Some(inner) = text.strip_prefix(b"{") else {
        return false;
    };
    token(inner).is_some_and(|token| inner[token.len() + 2..].starts_with(b"}"))
}

fn value(token: &str, generation: Generation, seats: &[Seat]) -> io::Result<String> {
    let first = seats.first();
    let found = match token {
        "generation" => Some(generation.0.to_string()),
        "fd" => first.map(|_| FIRST.to_string()),
        "addr" => first.map(|seat| seat.addr.clone()),
        "port" => first
            .and_then(|seat| seat.port)
            .map(|port| port.to_string()),
        named => {
            let name = named.strip_prefix("fd:").unwrap_or_default();
            let known = names(seats);
            let mut numbered = (FIRST..).zip(&known);
            numbered
                .find(|(_, known)| known.as_str() == name)
                .map(|(fd, _)| fd.to_string())
        }
    };
    found.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, missing(token, seats)))
}

fn missing(token: &str, seats: &[Seat]) -> String {
    let literally = format!("{{{{{token}}}}} for the text itself");
    match (token.strip_prefix("fd:"), seats.first()) {
        (Some(name), Some(_)) => format!(
            "cannot replace {{{token}}}: no listener has that name (there are: {})\n\
             try: --listen {name}=ADDR, or {literally}",
            names(seats).join(", ")
        ),
        (Some(name), None) => format!(
            "cannot replace {{{token}}}: there is no listener\ntry: --listen {name}=ADDR, or {literally}"
        ),
        (None, Some(seat)) => format!(
            "cannot replace {{{token}}}: the first listener, {}, has none\n\
             try: a TCP address as the first --listen, or {literally}",
            seat.addr
        ),
        (None, None) => format!(
            "cannot replace {{{token}}}: there is no listener\n\
             try: --listen 127.0.0.1:8080, or {literally}"
        ),
    }
}

#[cfg(test)]
mod tests;
