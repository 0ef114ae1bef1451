//! The variables and arguments that a generation is started with.
//!
//! It reads the env file and nothing else; it opens no socket and starts nothing.

mod env_file;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::ServerConfig;
use crate::listener::InheritedSocket;
use crate::stub::FIRST;
use crate::supervisor::Generation;

/// What the stub sets, since it depends on the server's user.
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
/// An error in the env file.
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

/// What a generation has from hotswap's environment and the env file.
///
/// # Errors
/// An error in the env file.
pub fn inherited_by(server_config: &ServerConfig) -> io::Result<Variables> {
    let whose: &[&str] = if server_config.user.is_some() {
        &WHOSE
    } else {
        &[]
    };
    inherited(server_config.env_file.as_deref(), whose)
}

/// All variables of one generation except LISTEN_PID, which only the stub knows: what it inherits, and what is its own.
pub fn variables(
    mut variables: Variables,
    server_config: &ServerConfig,
    generation: Generation,
    sockets: &[InheritedSocket],
    notify: &str,
) -> Variables {
    let own = of_hotswap(server_config, generation, notify);
    for (name, value) in own
        .into_iter()
        .chain(of_sockets(server_config, generation, sockets))
    {
        set(&mut variables, name, value);
    }
    let port = sockets.iter().find_map(|socket| socket.kind.tcp_port());
    if let Some(port) = port.filter(|_| variables.iter().all(|(name, _)| name != "PORT")) {
        set(&mut variables, "PORT", port.to_string());
    }
    variables
}

/// The variables that every process of a generation has, and no other: they identify adopted orphans.
pub fn of_hotswap(server_config: &ServerConfig, generation: Generation, notify: &str) -> Variables {
    let mut own: Variables = vec![
        ("HOTSWAP_GENERATION".into(), generation.0.to_string().into()),
        ("HOTSWAP_INSTANCE".into(), server_config.name.clone().into()),
        ("NOTIFY_SOCKET".into(), notify.into()),
    ];
    if let Some(control) = &server_config.control {
        own.push(("HOTSWAP_SOCKET".into(), control.into()));
    }
    own
}

fn of_sockets(
    server_config: &ServerConfig,
    generation: Generation,
    sockets: &[InheritedSocket],
) -> Variables {
    let mut variables = Variables::new();
    let mut put = |name: &str, value: String| variables.push((name.into(), value.into()));
    if sockets.is_empty() {
        return variables;
    }
    let numbered = || (FIRST..).zip(sockets);
    put("LISTEN_FDS", sockets.len().to_string());
    put("LISTEN_FDNAMES", names(sockets).join(":"));
    let as_given = |(fd, inherited_socket): (RawFd, &InheritedSocket)| {
        format!("{}={fd}", bare(&inherited_socket.as_given))
    };
    put("SERVER_STARTER_PORT", join(numbered().map(as_given), ";"));
    put("SERVER_STARTER_GENERATION", generation.0.to_string());
    if super::profile::is_nginx(&server_config.command) {
        put(
            "NGINX",
            join(numbered().map(|(fd, _)| format!("{fd};")), ""),
        );
    }
    if super::profile::is_php_fpm(&server_config.command) {
        let bound = |(fd, inherited_socket): (RawFd, &InheritedSocket)| {
            format!("{}={fd}", inherited_socket.addr)
        };
        put("FPM_SOCKETS", join(numbered().map(bound), ","));
    }
    variables
}

fn join(parts: impl Iterator<Item = String>, between: &str) -> String {
    parts.collect::<Vec<_>>().join(between)
}

/// Server::Starter uses plain addresses and paths, without the prefixes of `--listen`.
fn bare(as_given: &str) -> &str {
    let path = as_given.strip_prefix("unix:");
    path.or_else(|| as_given.strip_prefix("udp:"))
        .unwrap_or(as_given)
}

/// The listeners have seen to it that no two are the same.
fn names(sockets: &[InheritedSocket]) -> Vec<&str> {
    sockets.iter().map(|socket| socket.name.as_str()).collect()
}

/// The command with every placeholder replaced in its arguments.
///
/// # Errors
/// A placeholder for a listener that does not exist.
pub fn arguments(
    command: &[OsString],
    generation: Generation,
    sockets: &[InheritedSocket],
) -> io::Result<Vec<OsString>> {
    let mut out = Vec::from_iter(command.first().cloned());
    for argument in command.iter().skip(1) {
        out.push(replace(argument, generation, sockets)?);
    }
    Ok(out)
}

fn replace(
    argument: &OsStr,
    generation: Generation,
    sockets: &[InheritedSocket],
) -> io::Result<OsString> {
    let mut out = OsString::new();
    let mut rest = argument.as_bytes();
    while let Some(at) = rest.iter().position(|byte| *byte == b'{') {
        let (before, from) = rest.split_at(at);
        out.push(OsStr::from_bytes(before));
        let (put, length) = if let Some(token) = token(&from[1..]).filter(|_| is_escaped(from)) {
            // {{fd}} is {fd}
            (format!("{{{token}}}"), token.len() + 4)
        } else if let Some(token) = self::token(from) {
            let value = value(token, generation, sockets)?;
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

fn value(token: &str, generation: Generation, sockets: &[InheritedSocket]) -> io::Result<String> {
    let first = sockets.first();
    let found = match token {
        "generation" => Some(generation.0.to_string()),
        "fd" => first.map(|_| FIRST.to_string()),
        "addr" => first.map(|inherited_socket| inherited_socket.addr.clone()),
        "port" => first
            .and_then(|inherited_socket| inherited_socket.kind.tcp_port())
            .map(|port| port.to_string()),
        named => {
            let name = named.strip_prefix("fd:").unwrap_or_default();
            let mut numbered = (FIRST..).zip(names(sockets));
            numbered
                .find(|(_, known)| *known == name)
                .map(|(fd, _)| fd.to_string())
        }
    };
    found.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, missing(token, sockets)))
}

fn missing(token: &str, sockets: &[InheritedSocket]) -> String {
    let literally = format!("{{{{{token}}}}} for the text itself");
    match (token.strip_prefix("fd:"), sockets.first()) {
        (Some(name), Some(_)) => format!(
            "cannot replace {{{token}}}: no listener has that name (there are: {})\n\
             try: --listen {name}=ADDR, or {literally}",
            names(sockets).join(", ")
        ),
        (Some(name), None) => format!(
            "cannot replace {{{token}}}: there is no listener\ntry: --listen {name}=ADDR, or {literally}"
        ),
        (None, Some(inherited_socket)) => format!(
            "cannot replace {{{token}}}: the first listener, {}, has no TCP port\n\
             try: a TCP address as the first --listen, or {literally}",
            inherited_socket.addr
        ),
        (None, None) => format!(
            "cannot replace {{{token}}}: there is no listener\n\
             try: --listen 127.0.0.1:8080, or {literally}"
        ),
    }
}

#[cfg(test)]
mod tests;
