//! Lines as users write them, good and bad.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid};

use super::options::{CaptureMode, LogFormat, Order, Restart, RunArgs, Stderr, Stdin};
use super::usage::{self, NotParsed};
use super::values;
use super::{ClientCommand, InstanceArg, Invocation, Usage, parse};
use crate::ready::ReadyMode;

mod documents;
mod refusals;

/// A line as typed, quotes aside, with no variable set.
fn line(words: &str) -> Result<Invocation, Usage> {
    line_with(words, &[])
}

fn line_with(words: &str, variables: &[(&str, &str)]) -> Result<Invocation, Usage> {
    let words: Vec<OsString> = words.split_whitespace().map(OsString::from).collect();
    parse(&words, |name| {
        let found = variables.iter().find(|(variable, _)| *variable == name);
        found.map(|(_, value)| OsString::from(value))
    })
}

fn run(words: &str) -> RunArgs {
    run_with(words, &[])
}

fn run_with(words: &str, variables: &[(&str, &str)]) -> RunArgs {
    match line_with(words, variables) {
        Ok(Invocation::Run(run)) => *run,
        other => panic!("{words:?} was read as {other:?}"),
    }
}

fn spellings(run: &RunArgs) -> Vec<&str> {
    run.listen
        .iter()
        .map(|listen| listen.as_given.as_str())
        .collect()
}

fn refused(words: &str) -> (u8, String) {
    refused_with(words, &[])
}

fn refused_with(words: &str, variables: &[(&str, &str)]) -> (u8, String) {
    match line_with(words, variables) {
        Err(usage) => (usage.status, usage.lines),
        Ok(read) => panic!("{words:?} was read as {read:?}"),
    }
}

#[test]
fn nothing_but_a_command_gets_every_default() {
    let run = run("-- ./server --port 80 -- -l");
    assert_eq!(run.command, ["./server", "--port", "80", "--", "-l"]);
    assert!(run.listen.is_empty() && run.watch.is_empty());
    assert_eq!(run.backlog, 4096);
    assert_eq!(run.capture, CaptureMode::Auto);
    assert_eq!(run.ready, ReadyMode::Auto);
    assert_eq!(run.ready_timeout, Duration::from_secs(30));
    assert_eq!(run.min_ready, Duration::ZERO);
    assert_eq!(run.stop_signal, None);
    assert_eq!(run.quiesce, Duration::from_secs(10));
    assert_eq!(run.drain_timeout, Duration::from_secs(30));
    assert_eq!(run.max_draining, 4);
    assert_eq!(run.order, Order::StartFirst);
    assert_eq!(run.restart, Restart::OnFailure);
    assert_eq!(run.debounce, Duration::from_millis(50));
    assert_eq!(run.poll, Duration::from_secs(1));
    assert_eq!(run.before_swap_timeout, Duration::from_secs(600));
    assert_eq!(run.stdin, Stdin::Null);
    assert_eq!(run.log_format, LogFormat::Text);
    assert_eq!(run.instance(), "server");
}

#[test]
fn every_option_is_read() {
    let run = run(
        "-l web=8080 --listen unix:/run/a.sock --backlog 9 --socket-mode 0660 --socket-owner 0:0 --share \
         --capture always --ready notify --ready-timeout 1m30s --min-ready 3s --stop-signal quit --quiesce 1.5s \
         --drain-timeout 2h --max-draining 1 --order stop-first --restart never -w src --watch=views --no-watch \
         --debounce 0 --poll 0 --before-swap make --before-swap-timeout 1m --on-event true --dev --hold --clear \
         --no-fallback --no-keeper --name api --control /run/api.sock --env-file .env --user root --group 0 --chdir / \
         --stdin open --stderr inherit --log-format json -q -- server",
    );
    assert_eq!(spellings(&run), ["8080", "/run/a.sock"]);
    assert_eq!(run.listen[0].name.as_deref(), Some("web"));
    assert_eq!(run.backlog, 9);
    assert_eq!(run.socket_mode, Some(0o660));
    let root = (Some(Uid::from_raw(0)), Some(Gid::from_raw(0)));
    assert_eq!(run.socket_owner, Some(root));
    assert_eq!(run.capture, CaptureMode::Always);
    assert_eq!(run.ready_timeout, Duration::from_secs(90));
    assert_eq!(run.stop_signal, Some(Signal::SIGQUIT as i32));
    assert_eq!(run.quiesce, Duration::from_millis(1500));
    assert_eq!(run.drain_timeout, Duration::from_secs(7200));
    assert_eq!(run.order, Order::StopFirst);
    assert_eq!(run.restart, Restart::Never);
    assert_eq!(run.watch.len(), 2);
    assert_eq!(run.poll, Duration::ZERO);
    assert_eq!(run.instance(), "api");
    assert_eq!(run.stdin, Stdin::Open);
    assert_eq!(run.stderr(), Stderr::Inherit);
    assert_eq!(run.log_format, LogFormat::Json);
    assert!(
        run.share
            && run.no_watch
            && run.dev
            && run.hold
            && run.clear
            && run.no_fallback
            && run.no_keeper
            && run.quiet
    );
}

#[test]
fn a_command_may_be_called_like_a_request() {
    assert_eq!(run("-- swap").command, ["swap"]);
    assert_eq!(run("-- help --version").command, ["help", "--version"]);
}

#[test]
fn the_last_of_two_wins() {
    let run = run("--name a --name b -q -v -- x");
    assert_eq!(run.name.as_deref(), Some("b"));
    assert!(run.verbose && !run.quiet);
}

#[test]
fn a_variable_stands_in_for_each_option() {
    let variables = [
        ("HOTSWAP_LISTEN", " 8080  unix:/a "),
        ("HOTSWAP_READY_TIMEOUT", "5s"),
        ("HOTSWAP_NO_WATCH", "yes"),
        ("HOTSWAP_SHARE", "0"),
        ("HOTSWAP_BEFORE_SWAP", "cargo build"),
        ("HOTSWAP_NAME", ""),
    ];
    let run = run_with("-- x", &variables);
    assert_eq!(spellings(&run), ["8080", "/a"]);
    assert_eq!(run.ready_timeout, Duration::from_secs(5));
    assert_eq!(run.before_swap.as_deref(), Some("cargo build"));
    assert!(run.no_watch && !run.share);
    assert_eq!(run.name, None);
}

#[test]
fn the_line_wins_over_a_variable() {
    let variables = [
        ("HOTSWAP_LISTEN", "1 2"),
        ("HOTSWAP_QUIET", "1"),
        ("HOTSWAP_READY", "nonsense, but never read"),
    ];
    let run = run_with("-l 8080 --ready tcp -v -- x", &variables);
    assert_eq!(spellings(&run), ["8080"]);
    assert_eq!(run.ready, ReadyMode::Tcp);
    assert!(run.verbose && !run.quiet);
}

#[test]
fn other_variables_and_those_of_requests_are_ignored() {
    let variables = [
        ("HOTSWAP_SOCKET", "/x"),
        ("HOTSWAP_TIMEOUT", "x"),
        ("HOTSWAP_BACKLOG", "x"),
        ("HOTSWAP_HELP", "1"),
    ];
    assert!(matches!(
        line_with("swap", &variables),
        Ok(Invocation::Client(ClientCommand::Swap {
            timeout: None,
            ..
        }))
    ));
    run_with("-- x", &variables[..2]);
    run_with("-- x", &variables[3..]);
}

#[test]
fn a_wrong_variable_is_called_by_its_name() {
    let (status, lines) = refused_with("-- x", &[("HOTSWAP_POLL", "5")]);
    assert_eq!(status, 125);
    assert_eq!(
        lines,
        "cannot use HOTSWAP_POLL=\"5\": a duration needs a unit\ntry: HOTSWAP_POLL=5s"
    );
    let (_, lines) = refused_with("-- x", &[("HOTSWAP_DEV", "maybe")]);
    assert_eq!(lines, "cannot use HOTSWAP_DEV=maybe: it must be 1 or 0");
    let given = [OsString::from_vec(b"--name=\xff".to_vec())];
    let said = NotParsed::Usage("an argument is not valid UTF-8".to_owned());
    let NotParsed::Usage(lines) = usage::blame_variable(said, &given) else {
        panic!("it is no answer");
    };
    assert_eq!(lines, "HOTSWAP_NAME is not valid UTF-8");
}

#[test]
fn dev_changes_what_was_not_said() {
    let dev = run("--dev -- x");
    assert_eq!(dev.drain_timeout, Duration::from_secs(2));
    assert_eq!(dev.quiesce, Duration::from_millis(200));
    assert_eq!(dev.restart, Restart::OnChange);

    let said = run_with(
        "--dev --drain-timeout 30s --restart on-failure -- x",
        &[("HOTSWAP_QUIESCE", "10s")],
    );
    assert_eq!(said.drain_timeout, Duration::from_secs(30));
    assert_eq!(said.quiesce, Duration::from_secs(10));
    assert_eq!(said.restart, Restart::OnFailure);
}

#[test]
fn a_client_asks_its_own_instance_unless_it_names_one() {
    let inside = [("HOTSWAP_INSTANCE", "api")];
    let name_of = |words| match line_with(words, &inside) {
        Ok(Invocation::Client(mut command)) => command.target().name.take(),
        other => panic!("{other:?}"),
    };
    assert_eq!(name_of("swap").as_deref(), Some("api"));
    assert_eq!(name_of("swap web").as_deref(), Some("web"));
    assert_eq!(
        name_of("swap /run/api.sock").as_deref(),
        Some("/run/api.sock")
    );
    assert_eq!(name_of("status").as_deref(), Some("api"));
    assert!(matches!(
        line("stop api --timeout 3s"),
        Ok(Invocation::Client(ClientCommand::Stop { target: InstanceArg { name: Some(_) }, timeout: Some(limit), .. }))
            if limit.as_secs() == 3
    ));
}

#[test]
fn help_version_completions_and_manual_are_answers() {
    for words in [
        "--help",
        "-h",
        "--version",
        "-V",
        "help",
        "swap --help",
        "help swap",
        "completions bash",
        "completions zsh",
        "completions fish",
        "man",
    ] {
        match line(words) {
            Ok(Invocation::Print(text) | Invocation::Manual(text)) => {
                assert!(text.ends_with('\n'), "{words}: {text}");
            }
            other => panic!("{words:?} was read as {other:?}"),
        }
    }
}

#[test]
fn durations_are_numbers_with_units() {
    let read = |text| values::duration(text).ok();
    assert_eq!(read("500ms"), Some(Duration::from_millis(500)));
    assert_eq!(read("2m"), Some(Duration::from_secs(120)));
    assert_eq!(read("1d2h"), Some(Duration::from_secs(93_600)));
    assert_eq!(read("0.25s"), Some(Duration::from_millis(250)));
    assert_eq!(read("0"), Some(Duration::ZERO));
    for nonsense in ["", "5", "s", "-5s", "1e9s", ".5s.", "5s5", "inf"] {
        assert_eq!(read(nonsense), None, "{nonsense:?}");
    }
}

#[test]
fn signals_go_by_name_or_number() {
    for text in ["TERM", "SIGTERM", "term", "15"] {
        assert_eq!(values::signal(text), Ok(Signal::SIGTERM as i32));
    }
    assert_eq!(values::signal("WINCH"), Ok(Signal::SIGWINCH as i32));
    for (text, number) in [
        ("RTMIN", 34),
        ("SIGRTMIN+3", 37),
        ("rtmin+30", 64),
        ("RTMAX", 64),
        ("SIGRTMAX-1", 63),
        ("34", 34),
        ("64", 64),
    ] {
        assert_eq!(values::signal(text), Ok(number), "{text}");
    }
    for text in [
        "RTMIN+31", "RTMIN-1", "RTMIN+", "RTMAX+1", "RTMIN3", "32", "65", "-1",
    ] {
        assert!(values::signal(text).is_err(), "{text}");
    }
    assert!(values::signal("SIGSIGTERM").is_err());
}

proptest::proptest! {
    #[test]
    fn every_duration_that_is_read_can_be_added_to_a_time(text in "[0-9]{0,20}(\\.[0-9]{0,20})?(ns|us|ms|s|m|h|d|w|M|y| )?[0-9]{0,20}y?") {
        let now = Duration::from_secs(1 << 40);
        if let Ok(duration) = values::duration(&text) {
            proptest::prop_assert!(now.checked_add(duration * 10).is_some());
        }
        if let Ok(ReadyMode::After(duration)) = format!("after:{text}").parse() {
            proptest::prop_assert!(now.checked_add(duration * 10).is_some(), "after:{}", text);
        }
    }

    #[test]
    fn no_value_gets_through_that_is_not_meant(text in "[+0o-]{0,2}[0-9a-z:./*\\[\\]]{0,8}\\PC{0,4}") {
        if let Ok(name) = values::name(&text) {
            proptest::prop_assert!(!name.contains(['/', ' ']) && name.len() <= 64);
        }
        if let Ok(mode) = values::mode(&text) {
            proptest::prop_assert!(mode <= 0o777);
        }
        if let Ok(owner) = values::owner(&text) {
            proptest::prop_assert!(owner != (None, None));
        }
        let _ = (values::signal(&text), values::glob(&text), values::ending(&text));
        let _ = values::switch(OsStr::new(&text));
    }

    #[test]
    fn no_line_is_too_odd_to_be_answered(words in proptest::collection::vec("-{0,2}(listen|ready|env-file|socket-owner|name|watch|dev)?[= ]?\\PC{0,8}", 0..6)) {
        let words: Vec<OsString> = words.into_iter().map(OsString::from).collect();
        let _ = parse(&words, |_| None);
    }
}
