//! Whether COMMAND's program only runs other files: kept open, it would bring no old version back.
//!
//! In doubt it does.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use super::{advice, launcher};
use crate::program;

/// Further programs that run what they are told; a version may follow the name.
const OTHERS: &str = "
    ant beam.smp busybox bwrap capsh cgexec chroot chronic dart docker elixir entr expect
    fakeroot find firejail flock foreman frankenphp gdb gjs gradle groovy iex ip just kotlin
    ltrace mono mvn ninja nodemon nsenter octave parallel perf php-cgi php-fpm podman proot pwsh
    qjs R racket rake rlwrap runcon runghc sbcl scala screen script setarch ssh su swift
    systemd-run task tmux toybox unshare uwsgi valgrind wasmer wasmtime watch watchexec wine
    xargs";

/// How files of code end that are no programs themselves.
const CODE: &str = "
    beam cjs dll ex exe exs jar jl js lua mjs php pl py R rb scm sh tcl ts war wasm";

/// Why a program that is run with these arguments is not itself what changes from one version to the next.
pub fn runs_others(
    program: &Path,
    arguments: &[OsString],
    directory: Option<&Path>,
) -> Option<String> {
    let real = fs::canonicalize(program).ok();
    let mut names = [Some(program), real.as_deref()].into_iter().flatten();
    if let Some(name) = names.find_map(known) {
        return Some(format!(
            "{name} runs other files, which cannot be kept open"
        ));
    }
    let files = arguments.iter().filter_map(|argument| {
        let text = argument.to_str()?;
        let name = text.split_once('=').map_or(text, |(_, value)| value);
        Some((
            name,
            directory.map_or_else(|| name.into(), |at| at.join(name)),
        ))
    });
    let mut code = files.filter(|(_, path)| is_code(path) && !is_same(program, path));
    let (name, _) = code.next()?;
    Some(format!("it runs {name}, too, which cannot be kept open"))
}

fn known(program: &Path) -> Option<&str> {
    let name = program.file_name()?.to_str()?;
    let plain = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
    let is_loader = name.starts_with("ld") && name.contains(".so");
    let is_one = is_loader
        || advice::interpreter(program).is_some()
        || advice::is_tool(program)
        || launcher::is_one(program)
        || advice::is_among(OTHERS, plain);
    is_one.then_some(name)
}

fn is_code(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str());
    let is_named_so = ending.is_some_and(|ending| advice::is_among(CODE, ending));
    // a pipe would be waited for
    path.is_file() && (is_named_so || program::begins_as_program(path))
}

fn is_same(one: &Path, other: &Path) -> bool {
    matches!((fs::canonicalize(one), fs::canonicalize(other)), (Ok(one), Ok(other)) if one == other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(line: &str, directory: &Path) -> Option<String> {
        let mut words = line.split(' ').map(OsString::from);
        let program = words.next().unwrap();
        let arguments: Vec<OsString> = words.collect();
        runs_others(Path::new(&program), &arguments, Some(directory))
    }

    #[test]
    fn what_runs_other_files_is_known_by_its_name_or_by_its_arguments() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("cs"), b"\x7fELF and more").unwrap();
        fs::write(home.path().join("app.js"), "").unwrap();
        fs::write(home.path().join("server.conf"), "").unwrap();
        for line in [
            "/usr/bin/python3.11 -m app",
            "node app.js",
            "/bin/sh run.sh",
            "nice cs",
            "/usr/bin/xargs cs",
            "make serve",
            "/lib64/ld-linux-x86-64.so.2 cs",
            "busybox httpd",
            "./own-launcher cs",
            "./own-launcher --run=cs",
            "./own-runtime app.js",
        ] {
            assert!(why(line, home.path()).is_some(), "{line}");
        }
        for line in [
            "./server --config server.conf",
            "/usr/sbin/nginx -c server.conf",
            "./server 127.0.0.1:80 python3 nice",
        ] {
            assert_eq!(why(line, home.path()), None, "{line}");
        }
    }
}
