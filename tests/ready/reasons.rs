//! A verdict on a candidate that did not get ready says what was seen of it last.

use crate::common::place::Place;
use crate::common::site::Site;

/// The second generation misbehaves so, and this is said of it; the whole verdict.
fn says(mode: &str, good: &str, bad: &str, expected: &str) -> String {
    let flags = ["--ready", mode, "--ready-timeout", "2500ms"];
    let site = Site::at(Place::Tcp4)
        .with(&flags)
        .by_odd(good)
        .serving("v1");
    site.publish_odd("v2", bad);
    let verdict = site.swap_in_vain();
    let expected = format!("aborted: not ready within 2.5s: {expected}");
    assert!(verdict.contains(&expected), "{verdict}");
    assert!(
        verdict.contains("; generation 1 keeps serving"),
        "{verdict}"
    );
    verdict
}

#[test]
fn the_last_status_is_named() {
    says(
        "http:/x",
        "",
        "status=503",
        "answers GET /x with status 503",
    );
}

#[test]
fn tls_is_named() {
    says("http:/", "", "tls", "answers with TLS");
}

#[test]
fn another_protocol_is_named() {
    says("http:/", "", "garbage", "does not answer with HTTP");
}

#[test]
fn one_that_hangs_up_is_named() {
    let closed = "closed the connection without an answer";
    says("http:/", "", "closes", closed);
}

#[test]
fn one_that_never_answers_is_named() {
    says("http:/", "", "think=1h", "does not answer GET /");
}

#[test]
fn one_that_never_accepts_is_named() {
    for mode in ["auto", "tcp"] {
        says(mode, "", "hang", "does not accept on 127.0.0.1:");
    }
}

#[test]
fn a_command_that_failed_is_named_with_its_status() {
    let command = "exec:test $HOTSWAP_GENERATION = 1 || exit 7";
    says(command, "", "", "the command exited with status 7");
}

#[test]
fn a_command_that_still_runs_is_named() {
    let command = "exec:test $HOTSWAP_GENERATION = 1 || exec sleep 600";
    says(command, "", "", "the command is still running");
}

#[test]
fn what_was_never_said_is_named() {
    says("notify", "ready", "", "READY=1 was never sent");
    says(
        "auto",
        "ready",
        "",
        "READY=1 was not sent, although an earlier version sent it",
    );
    says("fd:9", "newline=9", "", "no newline on descriptor 9");
}

#[test]
fn the_last_words_of_one_that_did_not_get_ready_are_named() {
    let never = "READY=1 was never sent (STATUS=warming-up)";
    says("notify", "ready", "notify=STATUS=warming-up", never);
    let hangs = "hang notify=STATUS=no-database";
    let verdict = says("auto", "", hangs, "does not accept on 127.0.0.1:");
    assert!(verdict.contains(" (STATUS=no-database); "), "{verdict}");
}
