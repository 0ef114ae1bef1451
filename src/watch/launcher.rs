//! Programs that only start another one: the server behind `nice`, `env`, `timeout` and the like is what is watched.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// How a launcher is used before the command it starts.
struct Launcher {
    name: &'static str,
    /// Options that are followed by a value.
    valued: &'static [&'static str],
    /// What it takes before the command: a duration, a user.
    words: usize,
    /// It starts a command only after this word.
    verb: Option<&'static str>,
}

const fn launcher(name: &'static str, valued: &'static [&'static str], words: usize) -> Launcher {
    Launcher {
        name,
        valued,
        words,
        verb: None,
    }
}

const fn with_verb(
    name: &'static str,
    verb: &'static str,
    valued: &'static [&'static str],
) -> Launcher {
    Launcher {
        name,
        valued,
        words: 0,
        verb: Some(verb),
    }
}

const LAUNCHERS: [Launcher; 41] = [
    launcher("nice", &["-n", "--adjustment"], 0),
    launcher("env", &["-u", "--unset", "-C", "--chdir"], 0),
    launcher("timeout", &["-k", "--kill-after", "-s", "--signal"], 1),
    launcher("setsid", &[], 0),
    launcher("nohup", &[], 0),
    launcher("exec", &["-a"], 0),
    launcher("time", &["-f", "-o"], 0),
    launcher("ionice", &["-c", "-n", "--class", "--classdata"], 0),
    launcher("chrt", &["-T", "-P", "-D"], 1),
    launcher("taskset", &[], 1),
    launcher("numactl", &["-m", "-N", "-C", "-i", "-p"], 0),
    launcher("stdbuf", &["-i", "-o", "-e"], 0),
    launcher("unbuffer", &[], 0),
    launcher("prlimit", &[], 0),
    launcher("setpriv", &["--reuid", "--regid", "--groups"], 0),
    launcher("setarch", &[], 0),
    launcher("linux64", &[], 0),
    launcher("sudo", &["-u", "-g", "-h", "-p", "-C", "-D", "-T"], 0),
    launcher("doas", &["-u", "-C"], 0),
    launcher("runuser", &["-u", "-g", "-G"], 0),
    launcher("su-exec", &[], 1),
    launcher("gosu", &[], 1),
    launcher("setuidgid", &[], 1),
    launcher(
        "chpst",
        &[
            "-u", "-U", "-e", "-n", "-l", "-L", "-m", "-o", "-p", "-f", "-c", "-t", "-/",
        ],
        0,
    ),
    launcher(
        "softlimit",
        &["-m", "-o", "-p", "-f", "-c", "-t", "-d", "-s"],
        0,
    ),
    launcher("envdir", &[], 1),
    launcher("s6-envdir", &[], 1),
    launcher("s6-setuidgid", &[], 1),
    launcher("tini", &["-p", "-e"], 0),
    launcher("dumb-init", &["-r"], 0),
    launcher("catatonit", &[], 0),
    launcher("catchsegv", &[], 0),
    launcher("dotenv", &["-f", "-e", "-c"], 0),
    launcher("dotenvx", &["-f"], 0),
    launcher("strace", &["-o", "-e", "-s", "-p"], 0),
    launcher("xvfb-run", &["-n", "-s", "-e", "-f", "-p", "-w"], 0),
    with_verb(
        "doppler",
        "run",
        &["-p", "-c", "--project", "--config", "-t", "--token"],
    ),
    with_verb("op", "run", &["--env-file", "--account"]),
    with_verb("infisical", "run", &["--env", "--path", "--projectId"]),
    with_verb("chamber", "exec", &["-b"]),
    with_verb("aws-vault", "exec", &["-d"]),
];

/// How many launchers start one another at most.
const DEEPEST: usize = 8;

/// Where in `command` the program stands that is neither a launcher nor its option, and which file it is. `find` says
/// where a name leads.
pub fn behind(
    command: &[OsString],
    find: impl Fn(&OsStr) -> Option<PathBuf>,
) -> (usize, Option<PathBuf>) {
    let mut at = 0;
    for _ in 0..DEEPEST {
        let next = command.get(at..).and_then(started_by);
        let Some((skip, path)) = next.and_then(|skip| {
            let program = command.get(at + skip)?;
            Some((skip, find(program)?))
        }) else {
            break;
        };
        at += skip;
        if known(&path).is_none() {
            return (at, Some(path));
        }
    }
    let program = command.get(at).and_then(|program| find(program));
    (at, program)
}

/// Whether it only starts another program.
pub fn is_one(program: &Path) -> bool {
    known(program).is_some()
}

fn known(program: &Path) -> Option<&'static Launcher> {
    let name = program.file_name()?;
    LAUNCHERS.iter().find(|launcher| name == launcher.name)
}

/// Where the command stands that the launcher at the beginning starts.
fn started_by(command: &[OsString]) -> Option<usize> {
    let launcher = known(Path::new(command.first()?))?;
    let mut words = launcher.words;
    let mut verb = launcher.verb;
    let mut is_value = false;
    for (at, word) in command.iter().enumerate().skip(1) {
        let text = word.to_string_lossy();
        if std::mem::take(&mut is_value) {
            continue;
        }
        if word == "--" {
            return Some(at + 1);
        }
        if text.starts_with('-') {
            is_value = launcher.valued.contains(&text.as_ref());
        } else if let Some(expected) = verb {
            verb = verb.filter(|_| text != expected);
        } else if words > 0 {
            words -= 1;
        } else if launcher.name != "env" && launcher.name != "sudo" || !text.contains('=') {
            return Some(at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn what_is_found_is_a_word_of_the_command(words in proptest::collection::vec("(env|nice|timeout|sudo|-n|--|A=b|5|\\PC{0,3})", 0..8)) {
            let command: Vec<OsString> = words.into_iter().map(OsString::from).collect();
            let (at, _) = behind(&command, |name| Some(PathBuf::from(name)));
            proptest::prop_assert!(at == 0 || at < command.len());
        }
    }

    fn program(line: &str) -> String {
        let command: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let (at, _) = behind(&command, |name| Some(PathBuf::from(name)));
        command[at..].join(OsStr::new(" ")).into_string().unwrap()
    }

    #[test]
    fn the_server_behind_launchers_is_found() {
        for launched in [
            "nice",
            "nice -n 5",
            "nice -5",
            "env A=1 B=2",
            "env -u HOME -i A=1",
            "timeout 10m",
            "timeout -k 5 --preserve-status 10m",
            "setsid -w",
            "/usr/bin/nohup",
            "doppler run --",
            "doppler run -p shop --",
            "op run --env-file=.env --",
            "sudo -u www -E",
            "gosu www",
            "tini -g --",
            "nice env A=1 timeout 5 setsid",
        ] {
            let line = format!("{launched} ./server --port 1");
            assert_eq!(program(&line), "./server --port 1", "{line}");
        }
    }

    #[test]
    fn a_program_that_starts_nothing_is_itself() {
        for line in [
            "./server nice x",
            "nice",
            "env",
            "timeout 5",
            "doppler setup",
        ] {
            assert_eq!(program(line), line);
        }
    }
}
