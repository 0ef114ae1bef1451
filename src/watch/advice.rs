//! Advice before the first change: which files cannot be watched, and which are not.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Programs that run other files; a version may follow the name (`python3.12`).
const INTERPRETERS: &str = "
    awk bash bun bundle cargo dash deno dotnet env erl escript fish guile java julia ksh lua
    luajit make node nodejs npm npx perl php pypy python ruby sh zsh";
/// Interpreters that are usually given the name of a task or module instead of a file.
const RUNNERS: &str = "
    go pipenv pnpm poetry Rscript tclsh tsx uv wish yarn";

/// Programs that are watched themselves, but load what matters from other files.
const TOOLS: &str = "
    artisan bootRun daphne django-admin fastapi flask granian gunicorn hanami hypercorn manage
    mix nest next nuxt passenger puma rackup rails shotgun streamlit thin ts-node unicorn
    uvicorn vite waitress-serve";

/// Whether a word is in a list of words.
pub fn is_among(list: &str, word: &str) -> bool {
    list.split_ascii_whitespace().any(|one| one == word)
}

/// The name of `program`, if it is an interpreter.
pub fn interpreter(program: &Path) -> Option<&str> {
    let name = program.file_name()?.to_str()?;
    let plain = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
    let is_one = is_among(INTERPRETERS, plain) || is_among(RUNNERS, plain);
    is_one.then_some(name)
}

/// The first argument that is a file: what an interpreter runs.
pub fn script(arguments: &[OsString], directory: Option<&Path>) -> Option<PathBuf> {
    let from =
        |argument: &OsString| directory.map_or_else(|| argument.into(), |at| at.join(argument));
    let is_file = |path: &PathBuf| fs::metadata(path).is_ok_and(|found| found.is_file());
    arguments.iter().map(from).find(is_file)
}

/// Says that the interpreter is not watched, and which option watches what it runs.
pub fn about_interpreter(name: &str, script: Option<&Path>, is_watched: bool) -> String {
    let path = script.map_or("PATH".into(), |script| script.to_string_lossy());
    if is_watched {
        format!(
            "{name} is an interpreter: {path} is watched, and what it loads is not\ntry: --watch ."
        )
    } else {
        format!("{name} is an interpreter and is not watched\ntry: --watch {path}")
    }
}

/// Whether it is known to run other files.
pub fn is_tool(program: &Path) -> bool {
    let name = program.file_name().and_then(OsStr::to_str);
    name.is_some_and(|name| is_among(TOOLS, name) || is_among(TOOLS, name.trim_end_matches(".py")))
}

/// Says that what this tool runs is not watched, if it is one that runs other files.
pub fn about_tool(
    program: &Path,
    arguments: &[OsString],
    directory: Option<&Path>,
) -> Option<String> {
    let name = program.file_name()?.to_str()?;
    let is_one = is_tool(program);
    let at = |path: &str| directory.map_or_else(|| path.into(), |at| at.join(path));
    // shop.app:create() is in shop/app.py or in shop/
    let module = arguments.iter().find_map(|argument| {
        let (module, _) = argument.to_str()?.split_once(':')?;
        let path = module.replace('.', "/");
        let package = path.split('/').next()?.to_owned();
        let file = at(&format!("{path}.py"));
        let is_in_package = at(&package).is_dir();
        (is_in_package || file.is_file()).then(|| if is_in_package { at(&package) } else { file })
    });
    let path = module.unwrap_or_else(|| at("."));
    let path = path.display();
    is_one.then(|| format!("{name} runs files that are not watched\ntry: --watch {path}"))
}

/// Warns if a file is a mount point: a new file that replaces it outside is never seen here.
pub fn about_mount(path: &Path) -> Option<String> {
    let real = fs::canonicalize(path).ok()?;
    let mounts = fs::read("/proc/self/mountinfo").ok()?;
    let is_mount = real.is_file() && mount_points(&mounts).any(|point| point == real);
    is_mount.then(|| {
        let path = path.display();
        format!("{path} is mounted by itself, so that a new file in its place is not seen\ntry: mount its directory")
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
        let script = script(&arguments, Some(home.path()));
        let advice = about_interpreter("python3", script.as_deref(), false);
        assert!(
            advice.ends_with(&format!("--watch {}/app.py", home.path().display())),
            "{advice}"
        );
        assert!(about_interpreter("sh", None, false).ends_with("--watch PATH"));
    }

    #[test]
    fn what_a_known_tool_loads_should_be_watched() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("shop")).unwrap();
        fs::write(home.path().join("app.py"), "").unwrap();
        let advice = |program: &str, argument: &str| {
            about_tool(Path::new(program), &[argument.into()], Some(home.path()))
        };
        for (program, argument, watched) in [
            ("/usr/bin/gunicorn", "app:app", "/app.py"),
            ("uvicorn", "shop.web:create", "/shop"),
            ("./manage.py", "runserver", "/."),
            ("bin/rails", "server", "/."),
        ] {
            let advice = advice(program, argument).unwrap();
            let expected = format!("--watch {}{watched}", home.path().display());
            assert!(advice.ends_with(&expected), "{advice}");
        }
        assert_eq!(advice("./server", "app:app"), None);
    }

    #[test]
    fn mount_points_are_read_with_their_escapes() {
        let mounts =
            b"36 35 98:0 /a /mnt/my\\040disk rw - ext3 /dev/root rw\n37 35 0:1 / /x rw - t t t\n";
        let points: Vec<PathBuf> = mount_points(mounts).collect();
        assert_eq!(points, [PathBuf::from("/mnt/my disk"), PathBuf::from("/x")]);
    }
}
