//! Advice before the first change: which files cannot be watched, and which are not.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Programs that run other files; a version may follow the name (`python3.12`).
const INTERPRETERS: [&str; 30] = [
    "awk", "bash", "bun", "bundle", "cargo", "dash", "deno", "dotnet", "env", "erl", "escript",
    "fish", "guile", "java", "julia", "ksh", "lua", "luajit", "make", "node", "nodejs", "npm",
    "npx", "perl", "php", "pypy", "python", "ruby", "sh", "zsh",
];
/// Interpreters that are usually given the name of a task or module instead of a file.
const RUNNERS: [&str; 10] = [
    "go", "pipenv", "pnpm", "poetry", "Rscript", "tclsh", "tsx", "uv", "wish", "yarn",
];

/// The name of `program`, if it is an interpreter.
pub fn interpreter(program: &Path) -> Option<&str> {
    let name = program.file_name()?.to_str()?;
    let plain = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
    let is_one = INTERPRETERS.contains(&plain) || RUNNERS.contains(&plain);
    is_one.then_some(name)
}

/// Says that the interpreter is not watched, and which option watches what it runs.
pub fn about_interpreter(name: &str, arguments: &[OsString], directory: Option<&Path>) -> String {
    let is_file = |argument: &&OsString| {
        let path = Path::new(argument);
        let path = directory.map_or_else(|| path.to_owned(), |directory| directory.join(path));
        fs::metadata(path).is_ok_and(|metadata| metadata.is_file())
    };
    let path = arguments.iter().find(is_file).map_or_else(
        || "PATH".into(),
        |argument| {
            let path =
                directory.map_or_else(|| argument.into(), |directory| directory.join(argument));
            path.display().to_string()
        },
    );
    format!("{name} is an interpreter and is not watched; try: --watch {path}")
}

/// Warns if a file is a mount point: a new file that replaces it outside is never seen here.
pub fn about_mount(path: &Path) -> Option<String> {
    let real = fs::canonicalize(path).ok()?;
    let mounts = fs::read("/proc/self/mountinfo").ok()?;
    let is_mount = real.is_file() && mount_points(&mounts).any(|point| point == real);
    is_mount.then(|| {
        let path = path.display();
        format!("{path} is mounted by itself, so that a new file in its place is not seen; try: mount its directory")
    })
}

/// The fifth field of each line of proc_pid_mountinfo(5), without its escapes.
fn mount_points(mounts: &[u8]) -> impl Iterator<Item = PathBuf> {
    let lines = mounts.split(|&byte| byte == b'\n');
    lines
        .filter_map(|line| line.split(|&byte| byte == b' ').nth(4))
        .map(|field| PathBuf::from(OsString::from_vec(unescaped(field))))
}

/// Blanks, newlines and backslashes are written as a backslash and three octal digits.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let code = tail.get(..3).filter(|_| byte == b'\\').and_then(octal);
        bytes.push(code.unwrap_or(byte));
        rest = tail
            .get(if code.is_some() { 3 } else { 0 }..)
            .unwrap_or_default();
    }
    bytes
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(OsStr::from_bytes(digits).to_str()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpreters_are_known_by_name_with_or_without_a_version() {
        for program in [
            "/usr/bin/python3.12",
            "python",
            "/bin/sh",
            "node",
            "perl5.36",
            "java",
        ] {
            assert!(interpreter(Path::new(program)).is_some(), "{program}");
        }
        for program in [
            "./server",
            "/usr/sbin/nginx",
            "gunicorn",
            "pythonista",
            "target/debug/shop",
        ] {
            assert_eq!(interpreter(Path::new(program)), None, "{program}");
        }
    }

    #[test]
    fn the_script_of_an_interpreter_is_what_should_be_watched() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("app.py"), "").unwrap();
        let arguments = ["-u".into(), "app.py".into(), "--port".into()];
        let advice = about_interpreter("python3", &arguments, Some(home.path()));
        assert!(
            advice.ends_with(&format!("--watch {}/app.py", home.path().display())),
            "{advice}"
        );
        assert!(about_interpreter("sh", &["-c".into()], None).ends_with("--watch PATH"));
    }

    #[test]
    fn mount_points_are_read_with_their_escapes() {
        let mounts =
            b"36 35 98:0 /a /mnt/my\\040disk rw - ext3 /dev/root rw\n37 35 0:1 / /x rw - t t t\n";
        let points: Vec<PathBuf> = mount_points(mounts).collect();
        assert_eq!(points, [PathBuf::from("/mnt/my disk"), PathBuf::from("/x")]);
    }
}
