//! Names in any script, with line breaks and escapes in them: shown on one line each, and nothing is let through to the
//! terminal.

use std::fs;

use crate::commands::{run, said};
use crate::common::place::Place;
use crate::common::plan::Plan;
use crate::common::program::{Server, install};

const PROGRAM: &str = "сервер 服务\n\u{1b}[31m\u{9b}7m";
const SETTINGS: &str = "настройки 设置\r\n\u{1b}]0;title\u{7}";
const SOCKET: &str = "сокет 套\n\u{1b}c";

/// As they have to be shown.
fn expect_plain(text: &str, names: &[&str]) {
    for line in text.lines() {
        assert!(!line.contains(char::is_control), "{line:?}");
    }
    for name in names {
        assert!(text.contains(name), "{name} is not in {text:?}");
    }
}

#[test]
fn names_are_shown_on_one_line_and_without_escapes() {
    let plan = Plan::at(Place::Tcp4).watching();
    let [program, settings, socket] = [PROGRAM, SETTINGS, SOCKET].map(|name| plan.dir().join(name));
    install(&program, Server::hello().script("v1").as_bytes(), 0o755);
    fs::write(&settings, "1").expect("a file");
    let listen = format!("unix:{}", socket.display());
    let options = [
        "--name",
        "odd",
        "--listen",
        &listen,
        "--watch",
        settings.to_str().expect("text"),
    ];
    let site = plan
        .with(&options)
        .by_program(program.clone(), &[])
        .serving("v1");
    fs::write(&settings, "2").expect("a file");
    site.log.wait_for("generation 2 is serving");
    install(&program, b"#!/bin/sh\nexit 3\n", 0o755);
    site.log
        .wait_for("generation 3 aborted: exited with status 3");
    let lines = site.log.lines("");
    assert!(
        lines.iter().all(|line| line.starts_with("hotswap: ")),
        "{lines:?}"
    );
    expect_plain(
        &lines.join("\n"),
        &["сервер 服务\\n", "настройки 设置\\r\\n", "сокет 套\\n"],
    );
    for words in [
        &["status", "odd"][..],
        &["history", "odd"],
        &["swap", "odd"],
    ] {
        expect_plain(&said(&run(&site, words)), &[]);
    }
    let status = said(&run(&site, &["status", "odd"]));
    expect_plain(&status, &["сокет 套"]);
    for words in [
        &["status", PROGRAM][..],
        &[SETTINGS],
        &["--listen", SOCKET, "--", "true"],
        &["--ready", SOCKET, "--", "true"],
    ] {
        expect_plain(&said(&run(&site, words)), &[]);
    }
}
