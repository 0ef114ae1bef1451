//! Runs the code of the README and of the recipes, and looks up what the README refers to.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::common::crowd::Habit;
use crate::common::place::Place;
use crate::common::plan::hotswap;
use crate::common::site::Site;
use crate::common::{hotswap_program, skipped};

const README: &str = include_str!("../README.md");
const RECIPES: &str = include_str!("servers/README.md");

/// What a language needs around the lines of the recipes to be a server of the kind that the clients know.
struct Language {
    /// As its block is marked.
    name: &'static str,
    file: &'static str,
    program: &'static str,
    /// Run in the site's directory.
    compile: &'static [&'static str],
    run: &'static str,
}

const C: Language = Language {
    name: "c",
    file: "server.c",
    program: r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int listen_on(const char *host, int port) {
	fprintf(stderr, "%s:%d was to be inherited\n", host, port);
	exit(1);
}

int main(void) {
	README
	char body[64], answer[256], request[4096];
	sprintf(body, "hello from c, generation %s\n", getenv("HOTSWAP_GENERATION"));
	int length = sprintf(answer, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s", strlen(body), body);
	for (;;) {
		int client = accept(fd, NULL, NULL);
		if (client < 0) continue;
		if (read(client, request, sizeof request) > 0 && write(client, answer, length) < 0) perror("write");
		close(client);
	}
}
"#,
    compile: &["cc", "-Wall", "-Werror", "-o", "program", "server.c"],
    run: "./program",
};

const GO: Language = Language {
    name: "go",
    file: "server.go",
    program: r#"
package main

import (
	"fmt"
	"net"
	"os"
)

README

func main() {
	listener, err := listen()
	if err != nil {
		panic(err)
	}
	body := fmt.Sprintf("hello from go, generation %s\n", os.Getenv("HOTSWAP_GENERATION"))
	for {
		client, err := listener.Accept()
		if err != nil {
			panic(err)
		}
		go func() {
			client.Read(make([]byte, 4096))
			fmt.Fprintf(client, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
			client.Close()
		}()
	}
}
"#,
    compile: &["go", "build", "-o", "program", "server.go"],
    run: "./program",
};

const NODE: Language = Language {
    name: "js",
    file: "server.js",
    program: r#"
const body = `hello from node, generation ${process.env.HOTSWAP_GENERATION}\n`;
const server = require("http").createServer((_, answer) => answer.end(body));
README
"#,
    compile: &["node", "--check", "server.js"],
    run: "node server.js",
};

const PYTHON: Language = Language {
    name: "python",
    file: "server.py",
    program: r#"
import os
import socket
README
body = f"hello from python, generation {os.environ['HOTSWAP_GENERATION']}\n"
while True:
    client, _ = listener.accept()
    client.recv(4096)
    client.sendall(f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    client.close()
"#,
    compile: &["python3", "-m", "py_compile", "server.py"],
    run: "python3 server.py",
};

const RUBY: Language = Language {
    name: "ruby",
    file: "server.rb",
    program: r#"
require "socket"
README
body = "hello from ruby, generation #{ENV["HOTSWAP_GENERATION"]}\n"
loop do
  client = listener.accept
  begin
    client.readpartial(4096)
  rescue EOFError # a probe says nothing
    next client.close
  end
  client.write "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: #{body.length}\r\n\r\n#{body}"
  client.close
end
"#,
    compile: &["ruby", "-c", "server.rb"],
    run: "ruby server.rb",
};

const RUST: Language = Language {
    name: "rust",
    file: "server.rs",
    program: r#"
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::FromRawFd;

fn main() -> std::io::Result<()> {
    README
    let body = format!("hello from rust, generation {}\n", std::env::var("HOTSWAP_GENERATION").unwrap());
    for client in listener.incoming() {
        let mut client = client?;
        client.read(&mut [0; 4096])?;
        write!(client, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    }
    Ok(())
}
"#,
    compile: &["rustc", "--edition", "2024", "-o", "program", "server.rs"],
    run: "./program",
};

/// The block of a text that is marked with this word.
fn block(text: &'static str, mark: &str) -> &'static str {
    let (_, behind) = text
        .split_once(&format!("\n```{mark}\n"))
        .unwrap_or_else(|| panic!("no {mark} block"));
    behind.split("```").next().unwrap_or_default()
}

/// Whether the program is there, whatever it makes of the question.
fn is_there(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .output();
    found.is_ok_and(|found| found.status.success())
}

/// The lines as they stand take the socket over, and no client is lost in three swaps of a server without a graceful stop.
fn takes_its_socket(language: &Language) {
    let compiler = language.compile[0];
    if !is_there(compiler) {
        skipped(
            &format!("the {} of the recipes", language.name),
            &format!("no {compiler} here"),
        );
        return;
    }
    let plan = Site::at(Place::Tcp4).with(&["--capture", "never"]);
    let dir = plan.dir().to_owned();
    let whole = language
        .program
        .replace("README", block(RECIPES, language.name));
    fs::write(dir.join(language.file), whole).expect("a program");
    compile(language.compile, &dir);

    let script = format!(
        "#!/bin/sh\ncd '{}' && exec {}\n",
        dir.display(),
        language.run
    );
    let site = plan.by_script(&script, &[]).serving("");
    let mut clients = site.guests().and(2, Habit::default()).come();
    for _ in 0..3 {
        clients.until_answered(10);
        site.swap();
    }
    clients.until_answered(10);
    let tally = clients.expect_no_failure();
    assert!(tally.generations.contains_key(&4), "{tally}");
}

fn compile(line: &[&str], dir: &Path) {
    let mut command = Command::new(line[0]);
    let output = command.args(&line[1..]).current_dir(dir).output();
    let output = output.expect("a compiler");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line:?}: {said}");
}

#[test]
fn c_takes_its_socket() {
    takes_its_socket(&C);
}

#[test]
fn go_takes_its_socket() {
    takes_its_socket(&GO);
}

#[test]
fn node_takes_its_socket() {
    takes_its_socket(&NODE);
}

#[test]
fn python_takes_its_socket() {
    takes_its_socket(&PYTHON);
}

#[test]
fn ruby_takes_its_socket() {
    takes_its_socket(&RUBY);
}

#[test]
fn rust_takes_its_socket() {
    takes_its_socket(&RUST);
}

#[test]
fn the_unit_file_is_one_that_systemd_takes() {
    if !is_there("systemd-analyze") {
        skipped("the README's unit file", "no systemd-analyze here");
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let unit = dir.path().join("api.service");
    let program = hotswap_program().display().to_string();
    let text = block(README, "ini").replace("=hotswap ", &format!("={program} "));
    fs::write(&unit, text).expect("a unit file");
    let said = said_by(
        Command::new("systemd-analyze")
            .args(["verify", "--man=no"])
            .arg(&unit),
    );
    assert!(!said.contains("api.service"), "{said}");
}

#[test]
fn every_promise_names_a_test_that_exists() {
    let (_, promises) = README.split_once("\n## Promises\n").expect("promises");
    let promises = promises.split("\n## ").next().unwrap_or_default();
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let names = promises.split('`').filter(|code| code.contains("::"));
    let names: Vec<&str> = names.collect();
    assert!(names.len() > 8, "{names:?}");
    for name in names {
        let (file, test) = name.rsplit_once("::").expect("a file and a test");
        let path = tests.join(file.replace("::", "/")).with_extension("rs");
        let source = fs::read_to_string(path);
        let source = source.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(source.contains(&format!("fn {test}(")), "{name}");
    }
}

#[test]
fn every_link_of_the_readme_leads_to_a_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let links = README.split("](").skip(1);
    let links = links.filter_map(|link| link.split([')', '#']).next());
    for link in links.filter(|link| !link.is_empty() && !link.contains("://")) {
        assert!(root.join(link).exists(), "{link}");
    }
}

/// The manual promises which keys there are.
#[test]
fn every_key_of_the_status_is_in_the_manual() {
    let site = Site::serving("v1");
    site.publish("v2").swap();
    let status = said_by(
        hotswap(hotswap_program(), site.dir())
            .args(["status", "server", "--json"])
            .stdout(Stdio::piped()),
    );
    let status: Value = serde_json::from_str(&status).expect("an object");
    let (_, manual) = include_str!("../man/hotswap.1")
        .split_once(".Sh JSON")
        .expect("a section");
    let (manual, _) = manual.split_once("\n.Sh ").expect("another section");
    let words: Vec<&str> = manual.split_whitespace().collect();
    for key in keys(&status) {
        assert!(words.contains(&key), "{key}: {status}");
    }
}

fn keys(value: &Value) -> Vec<&str> {
    match value {
        Value::Object(pairs) => (pairs.iter())
            .flat_map(|(key, value)| [vec![key.as_str()], keys(value)].concat())
            .collect(),
        Value::Array(values) => values.iter().flat_map(keys).collect(),
        _ => Vec::new(),
    }
}

fn said_by(command: &mut Command) -> String {
    let output = command.output().expect("a command");
    let both = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&both).into_owned()
}
