//! Programs that only start another one: the server behind `nice`, `env`, `timeout` and the like is what is watched.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// How a launcher is used before the command it starts.
struct Launcher {
    /// Options that are followed by a value.
    valued: Vec<&'static str>,
    /// What it takes before the command: a duration, a user.
    words: usize,
    /// It starts a command only after this word.
    verb: Option<&'static str>,
}

/// One a line: its name, how many words it takes or after which it starts a command, and its options with a value.
const LAUNCHERS: &str = "
    nice 0 -n --adjustment
    env 0 -u --unset -C --chdir
    timeout 1 -k --kill-after -s --signal
    setsid 0
    nohup 0
    exec 0 -a
    time 0 -f -o
    ionice 0 -c -n --class --classdata
    chrt 1 -T -P -D
    taskset 1
    numactl 0 -m -N -C -i -p
    stdbuf 0 -i -o -e
    unbuffer 0
    prlimit 0
    setpriv 0 --reuid --regid --groups
    setarch 1
    linux64 0
    sudo 0 -u -g -h -p -C -D -T
    doas 0 -u -C
    runuser 0 -u -g -G
    su-exec 1
    gosu 1
    setuidgid 1
    chpst 0 -u -U -e -n -l -L -m -o -p -f -c -t -/
    softlimit 0 -m -o -p -f -c -t -d -s
    envdir 1
    s6-envdir 1
    s6-setuidgid 1
    tini 0 -p -e
    dumb-init 0 -r
    catatonit 0
    catchsegv 0
    dotenv 0 -f -e -c
    dotenvx 0 -f
    strace 0 -o -e -s -p
    flock 1 -w --timeout -E --conflict-exit-code
    choom 0 -n --adjust
    faketime 1 -p
    fakeroot 0 -l -s -i -b
    eatmydata 0
    proxychains4 0 -f
    dbus-run-session 0 --config-file
    ddtrace-run 0
    opentelemetry-instrument 0
    xvfb-run 0 -n -s -e -f -p -w
    doppler run -p -c --project --config -t --token
    op run --env-file --account
    infisical run --env --path --projectId
    newrelic-admin run-program
    mise exec -C --cd
    chamber exec -b
    aws-vault exec -d";

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

fn known(program: &Path) -> Option<Launcher> {
    let name = program.file_name()?.to_str()?;
    let mut usages = LAUNCHERS.lines().map(str::split_ascii_whitespace);
    let mut usage = usages.find_map(|mut usage| (usage.next() == Some(name)).then_some(usage))?;
    let before = usage.next()?;
    Some(Launcher {
        valued: usage.collect(),
        words: before.parse().unwrap_or(0),
        verb: Some(before).filter(|before| before.parse::<usize>().is_err()),
    })
}

/// Where the command stands that the launcher at the beginning starts.
fn started_by(command: &[OsString]) -> Option<usize> {
    let launcher = Path::new(command.first()?);
    let Launcher {
        valued,
        mut words,
        mut verb,
    } = known(launcher)?;
    let takes_variables = launcher.ends_with("env") || launcher.ends_with("sudo");
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
            is_value = valued.contains(&text.as_ref());
        } else if let Some(expected) = verb {
            verb = verb.filter(|_| text != expected);
        } else if words > 0 {
            words -= 1;
        } else if !takes_variables || !text.contains('=') {
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
            "setarch x86_64 -R",
            "flock -n /run/lock",
            "choom -n 100 --",
            "mise exec -- ddtrace-run",
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
