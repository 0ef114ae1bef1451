//! What an invalid command line is told.

use super::{refused, refused_with};
use crate::cli::parse;

#[test]
fn a_command_without_dashes_is_shown_with_them() {
    let (status, lines) = refused("./server");
    assert_eq!(status, 125);
    assert!(lines.ends_with("\ntry: hotswap -- ./server"), "{lines}");

    let (_, lines) = refused("--listen 8080 --name swap ./server -p $x");
    let line = "\ntry: hotswap --listen 8080 --name swap -- ./server -p '$x'";
    assert!(lines.ends_with(line), "{lines}");

    let (_, lines) = refused("./server -- --flag");
    assert!(lines.contains("try: hotswap -- ./server"), "{lines}");
}

#[test]
fn a_glob_that_the_shell_has_expanded_is_told_as_such() {
    let (status, lines) = refused("--watch a.py b.py c.py -- python3 app.py");
    assert_eq!(status, 125);
    assert!(lines.contains("b.py comes before --"), "{lines}");
    assert!(lines.contains("try: --watch '*.py'"), "{lines}");
}

#[test]
fn who_turns_an_option_off_is_not_told_to_turn_it_on() {
    let (_, lines) = refused("--no-watch=0 -- x");
    assert_eq!(lines, "--no-watch takes no value\ntry: to leave it out");
    let (_, lines) = refused("--dev=1 -- x");
    assert_eq!(lines, "--dev takes no value\ntry: --dev");
}

#[test]
fn an_unknown_word_gets_the_nearest_command() {
    for (words, meant) in [
        ("statsu", "status"),
        ("swpa api", "swap"),
        ("evnets --json", "events"),
        ("list", "status"),
        ("reload api", "swap"),
        ("dev", "--dev -- ./server"),
        ("version", "--version"),
        ("log", "events"),
        ("hist", "history"),
        ("stpo api", "stop"),
        ("sto", "stop"),
        // a guess must not stop a server, and one that is far off helps nobody
        ("stpoo", "--help"),
        ("xtp", "--help"),
        ("nonsense", "--help"),
    ] {
        let word = words.split(' ').next().unwrap();
        let said = format!("unknown command {word:?}\ntry: hotswap {meant}");
        assert_eq!(refused(words), (2, said));
    }
    // what there is to be run wants its dashes
    let (status, lines) = refused_with("env X=1 server", &[("PATH", "/usr/bin:/bin")]);
    assert_eq!(status, 125);
    assert!(lines.ends_with("try: hotswap -- env X=1 server"), "{lines}");
}

#[test]
fn a_word_too_many_and_an_empty_command_are_told_as_such() {
    let (_, lines) = refused("man x");
    assert!(
        lines.starts_with("cannot use \"x\": no argument is allowed there\n"),
        "{lines}"
    );
    let (_, lines) = refused("status api x");
    assert!(
        lines.starts_with("cannot use \"x\": only one name is allowed\n"),
        "{lines}"
    );
    let usage = parse(&["--".into(), "".into()], |_| None).unwrap_err();
    assert_eq!(
        (usage.status, usage.lines.as_str()),
        (
            125,
            "the command is an empty word\ntry: hotswap -- ./server"
        )
    );
}

#[test]
fn every_bad_line_gets_one_clear_line() {
    for words in [
        "",
        "--",
        "-l 8080",
        "./server",
        "--nonsense -- x",
        "--lisen 8080 -- x",
        "-x -- x",
        "-l 80x -- x",
        "-l ::1 -- x",
        "-l http://a -- x",
        "-l unix: -- x",
        "-l 127.0.0.1:99999 -- x",
        "--listen",
        "--backlog 0 -- x",
        "--backlog x -- x",
        "--backlog -1 -- x",
        "--backlog 99999999999 -- x",
        "--socket-mode 999 -- x",
        "--socket-mode 10000 -- x",
        "--socket-owner nobody-at-all -- x",
        "--socket-owner : -- x",
        "--share=1 -- x",
        "--capture maybe -- x",
        "--capture",
        "--ready-timeout 0s -- x",
        "--ready-timeout 30 -- x",
        "--ready-timeout soon -- x",
        "--min-ready -1s -- x",
        "--quiesce 5x -- x",
        "--ready soon -- x",
        "--ready fd:1 -- x",
        "--ready http:x -- x",
        "--ready after:2 -- x",
        "--quiesce 1..5s -- x",
        "--drain-timeout 99999999999999999999d -- x",
        "--drain-timeout 40000d -- x",
        "--debounce 5sx -- x",
        "--stop-signal NONE -- x",
        "--stop-signal 0 -- x",
        "--stop-signal 99 -- x",
        "--max-draining 0 -- x",
        "--order both -- x",
        "--restart on-change -- x",
        "--name a/b -- x",
        "--name .. -- x",
        "--name= -- x",
        "--user nobody-at-all -- x",
        "--group nobody-at-all -- x",
        "--hold -- x",
        "--stderr x -- x",
        "--log-format xml -- x",
        "--ready after:30s -- x",
        "--share --ready tcp -- x",
        "--capture never --ready http:/ -- x",
        "-l 80 swap",
    ] {
        let (status, lines) = refused(words);
        assert_eq!(status, 125, "{words:?}: {lines}");
        is_one_clear_line(words, &lines);
    }
}

#[test]
fn every_bad_request_gets_one_clear_line_and_2() {
    for words in [
        "swap --nonsense",
        "swap a b",
        "swap --timeout",
        "swap --timeout 5",
        "swap --all api",
        "swap .a",
        "status --jsn",
        "stop --timeout x",
        "events a b",
        "upgrade --all",
        "completions",
        "completions csh",
        "man x",
        "swap --drained=1",
        "help nonsense",
        "swpa x",
        "start ./server",
    ] {
        let (status, lines) = refused(words);
        assert_eq!(status, 2, "{words:?}: {lines}");
        is_one_clear_line(words, &lines);
    }
}

fn is_one_clear_line(words: &str, lines: &str) {
    let mut each = lines.lines();
    let first = each.next().unwrap_or_default();
    assert!(
        first.len() > 10 && !first.ends_with('.'),
        "{words:?}: {lines}"
    );
    assert!(
        !first.starts_with("error") && !first.contains("  "),
        "{words:?}: {lines}"
    );
    assert!(
        each.all(|line| line.starts_with("try: ")),
        "{words:?}: {lines}"
    );
    assert!(lines.lines().count() <= 2, "{words:?}: {lines}");
}

#[test]
fn a_near_miss_is_told_what_was_meant() {
    assert_eq!(
        refused("--lisen 8080 -- x").1,
        "unknown option --lisen\ntry: --listen"
    );
    // one that is far off helps nobody
    assert_eq!(
        refused("--nope -- x").1,
        "unknown option --nope\ntry: hotswap --help"
    );
    assert_eq!(
        refused("--ignore [ -- x").1,
        "cannot use --ignore \"[\": not a glob: unclosed character class; missing ']'\ntry: --ignore '\\['"
    );
    assert_eq!(
        refused("swap --all api").1,
        "cannot use --all together with NAME\ntry: hotswap --help"
    );
    assert_eq!(
        refused("--drain-timeout 30 -- x").1,
        "cannot use --drain-timeout \"30\": a duration needs a unit\ntry: --drain-timeout 30s"
    );
    for wrong in ["x", "0", "-1", "1.5", "4294967296"] {
        assert_eq!(
            refused(&format!("--backlog={wrong} -- x")).1,
            format!(
                "cannot use --backlog {wrong:?}: not a whole number from 1 to 2147483647\ntry: --backlog 10"
            )
        );
    }
    assert_eq!(
        refused("--ready after:x -- x").1,
        "cannot use --ready \"after:x\": \"x\" is not a duration\ntry: --ready after:2s"
    );
    assert_eq!(
        refused("--order sideways -- x").1,
        "cannot use --order \"sideways\": unknown value\ntry: one of start-first, stop-first"
    );
}
