//! A changed file is a swap: what compilers, shells and deploy tools do to a program that serves, under load.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::common::crowd::Habit;
use crate::common::place::Place;
use crate::common::plan::Plan;
use crate::common::program::install;
use crate::common::site::Site;
use crate::common::{eventually, server, skipped};

/// Far more than a debounce time: what has not come by then does not come.
pub const QUIET: Duration = Duration::from_millis(600);

/// The example server itself; another version has something at its end that no loader reads.
pub fn binary(version: u32) -> Vec<u8> {
    let mut content = fs::read(server("hello")).expect("the example server");
    if version > 1 {
        content.extend(format!("version {version}").bytes());
    }
    content
}

/// On 127.0.0.1, watching its program.
pub fn watching() -> Plan {
    Site::at(Place::Tcp4).watching()
}

pub fn swaps(site: &Site) -> usize {
    site.log.count(" started, pid ") - 1
}

/// A script in that directory for `sh` to run, and how to write a version of it: the first one is there.
pub fn shell_script(dir: &Path) -> (String, impl Fn(&str) + use<>) {
    let path = dir.join("app.sh");
    let as_text = path.to_str().expect("a path").to_owned();
    let write = move |version: &str| {
        let line = format!("VERSION={version} exec {}\n", server("hello").display());
        fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        fs::write(&path, line).expect("a script");
    };
    write("v1");
    (as_text, write)
}

/// Does something, and counts the swaps that follow; nothing else is started.
pub fn expect_swaps<T>(site: &Site, count: usize, what: impl FnOnce() -> T) {
    let serving = || site.log.count(" is serving");
    let (before, served) = (swaps(site), serving());
    what();
    eventually("a swap", || (serving() >= served + count).then_some(()));
    sleep(QUIET);
    assert_eq!((swaps(site) - before, serving() - served), (count, count));
}

/// Runs a script in the site's directory, and counts the swaps that follow.
pub fn run(site: &Site, count: usize, script: &str) {
    expect_swaps(site, count, || {
        let output = Command::new("sh")
            .args(["-ec", script])
            .current_dir(site.dir())
            .output();
        let output = output.expect("a shell");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}: {said}");
    });
}

pub fn has(test: &str, tool: &str) -> bool {
    let found = Command::new(tool)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if found.is_err() {
        skipped(test, &format!("{tool} is not installed"));
    }
    found.is_ok()
}

#[test]
fn each_new_program_is_one_swap_however_it_is_put_there() {
    let site = watching().by_binary(binary(1)).serving("v1");
    for version in 2..9 {
        install(
            &site.dir().join(format!("v{version}")),
            &binary(version),
            0o755,
        );
    }
    let mut clients = site
        .guests()
        .arriving(300, Habit::default())
        .and(4, Habit::slow())
        .come();
    for script in [
        "cp --remove-destination v2 server",
        "mv v3 server",
        "install -m755 v4 server",
        "ln -f v5 server",
        "rm server; sleep 0.1; cp v6 server",
        "cp -f v7 server",
        "mv server old; cat v8 > new; sleep 0.1; mv new server; sleep 0.1; chmod 755 server",
    ] {
        run(&site, 1, script);
    }
    for script in [
        "touch server",
        "chmod -x server; sleep 0.1; chmod +x server",
        "mv server old; sleep 0.1; mv old server",
        "rm server; sleep 0.1; cp v8 server 2>/dev/null || cp old server 2>/dev/null || true",
        "cp --remove-destination v7 server.new; rm server.new",
    ] {
        run(&site, 0, script);
    }
    clients.expect_no_failure();
}

#[test]
fn a_broken_program_is_no_swap_and_the_next_whole_one_is() {
    let site = watching().by_binary(binary(1)).serving("v1");
    install(&site.dir().join("v2"), &binary(2), 0o755);
    let mut clients = site.clients(8);
    for script in [
        "rm server; : > server; chmod +x server",
        "head -c 100000 v2 > half; chmod +x half; mv half server",
        "echo hello > text; chmod +x text; mv text server",
        "cp v2 dull; chmod -x dull; mv dull server",
        "rm server; mkdir server",
        "rmdir server; ln -s nowhere server",
    ] {
        run(&site, 0, script);
    }
    run(&site, 1, "mv v2 server");
    clients.expect_no_failure();
}

#[test]
fn a_program_is_not_run_while_somebody_writes_it() {
    let site = watching().by_binary(binary(1)).serving("v1");
    let mut clients = site.clients(8);
    let content = binary(2);
    let (half, rest) = content.split_at(content.len() / 2);
    fs::remove_file(site.program()).expect("the old one");
    let mut writer = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(site.program())
        .expect("a new one");
    let mode = fs::Permissions::from_mode(0o755);
    writer.set_permissions(mode).expect("its mode");
    // As rsync --inplace does: complete by its size all the time.
    writer.set_len(content.len() as u64).expect("its size");
    for piece in [half, rest] {
        expect_swaps(&site, 0, || writer.write_all(piece).expect("written"));
    }
    expect_swaps(&site, 1, || drop(writer));
    clients.expect_no_failure();
}

#[test]
fn a_script_that_is_edited_in_place_is_one_swap() {
    let site = watching().with(&["--debounce", "300ms"]).serving("v1");
    let mut clients = site.clients(8);
    run(&site, 1, "sed -i s/VERSION=v1/VERSION=v2/ server");
    clients.until_all_see("v2");
    run(
        &site,
        1,
        "sed s/VERSION=v2/VERSION=v3/ server > new; cat new > server",
    );
    clients.until_all_see("v3");
    run(
        &site,
        1,
        "head -n1 server > new; tail -n1 server > rest; cat new > server; sleep 0.01; sed s/v3/v4/ rest >> server",
    );
    clients.until_all_see("v4");
    run(&site, 0, "sed -i s/VERSION=v1/VERSION=v2/ server");
    clients.expect_no_failure();
}

#[test]
fn another_release_behind_a_link_is_one_swap() {
    let plan = watching();
    let dir = plan.dir().to_owned();
    for release in ["1", "2", "3"] {
        fs::create_dir_all(dir.join("releases").join(release)).expect("a release");
        let version: u32 = release.parse().expect("a number");
        install(
            &dir.join("releases").join(release).join("api"),
            &binary(version),
            0o755,
        );
    }
    symlink("releases/1", dir.join("current")).expect("a link");
    let site = plan.by_program(dir.join("current/api"), &[]).serving("v1");
    let mut clients = site.clients(8);
    run(&site, 1, "ln -sfn releases/2 current");
    run(&site, 1, "ln -s releases/3 next; mv -T next current");
    run(&site, 0, "touch releases/1/api; rm -r releases/2");
    run(&site, 1, "ln -sfn releases/1 current");
    clients.expect_no_failure();
}

#[test]
fn rsync_is_one_swap() {
    if !has("rsync_is_one_swap", "rsync") {
        return;
    }
    let site = watching().by_binary(binary(1)).serving("v1");
    install(&site.dir().join("v2"), &binary(2), 0o755);
    run(&site, 1, "rsync -t v2 server");
    install(&site.dir().join("v3"), &binary(3), 0o755);
    run(
        &site,
        1,
        "rm server; rsync --inplace --bwlimit=2000 v3 server",
    );
}

const C: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(void) {
	char body[64], answer[256], request[4096];
	sprintf(body, "hello from VERSION, generation %s\n", getenv("HOTSWAP_GENERATION"));
	int length = sprintf(answer, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s", strlen(body), body);
	for (;;) {
		int client = accept(3, NULL, NULL);
		if (client < 0) continue;
		if (read(client, request, sizeof request) > 0 && write(client, answer, length) < 0) perror("write");
		shutdown(client, SHUT_WR);
		close(client);
	}
}
"#;

#[test]
fn a_compiler_makes_one_swap_for_each_program() {
    let test = "a_compiler_makes_one_swap_for_each_program";
    if !has(test, "cc") {
        return;
    }
    let plan = watching();
    let program = plan.dir().join("api");
    let compile = |dir: &Path, version: &str| {
        fs::write(dir.join("api.c"), C.replace("VERSION", version)).expect("the source");
    };
    compile(plan.dir(), "v1");
    let built = Command::new("cc")
        .args(["-g", "-o", "api", "api.c"])
        .current_dir(plan.dir())
        .status();
    assert!(built.expect("cc").success());
    let site = plan.by_program(program, &[]).serving("v1");
    let mut clients = site.guests().and(4, Habit::default()).come();
    for (version, linker) in [("v2", "bfd"), ("v3", "gold"), ("v4", "lld"), ("v5", "mold")] {
        let name = if linker == "mold" {
            linker.to_owned()
        } else {
            format!("ld.{linker}")
        };
        if has(test, &name) {
            compile(site.dir(), version);
            run(&site, 1, &format!("cc -g -fuse-ld={linker} -o api api.c"));
            clients.until_all_see(version);
        }
    }
    compile(site.dir(), "v6");
    run(&site, 0, "echo '#error' >> api.c; ! cc -o api.o api.c");
    compile(site.dir(), "v7");
    run(&site, 0, "cc -g -o built api.c");
    run(&site, 1, "strip -o stripped built; cp -f stripped api");
    clients.until_all_see("v7");
    clients.expect_no_failure();
}

const RUST: &str = r#"
use std::io::{Read, Write};
use std::os::fd::FromRawFd;
fn main() {
    let listener = unsafe { std::net::TcpListener::from_raw_fd(3) };
    let body = format!("hello from VERSION, generation {}\n", std::env::var("HOTSWAP_GENERATION").unwrap());
    let answer = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    while let Ok((mut client, _)) = listener.accept() {
        let mut request = [0; 4096];
        if client.read(&mut request).is_ok_and(|n| n > 0) {
            let _ = client.write_all(answer.as_bytes());
        }
    }
}
"#;

/// A crate of its own, and each thing that cargo can be asked for.
fn cargo(profile: &str, build: &str) {
    let plan = watching();
    let dir = plan.dir().to_owned();
    let source = |version: &str| {
        fs::write(dir.join("src/main.rs"), RUST.replace("VERSION", version)).expect("the source");
    };
    fs::create_dir(dir.join("src")).expect("a directory");
    let manifest = "[package]\nname = \"shop\"\nedition = \"2021\"\n[workspace]\n";
    fs::write(dir.join("Cargo.toml"), manifest).expect("a manifest");
    let build = format!("CARGO_TARGET_DIR=target {build} --offline");
    source("v1");
    let output = Command::new("sh")
        .args(["-c", &build])
        .current_dir(&dir)
        .output();
    assert!(output.expect("cargo").status.success());
    let site = plan
        .by_program(dir.join("target").join(profile).join("shop"), &[])
        .serving("v1");
    let mut clients = site.guests().and(4, Habit::default()).come();
    run(&site, 0, &build);
    source("v2");
    run(&site, 1, &build);
    clients.until_all_see("v2");
    run(&site, 0, &format!("touch src/main.rs; {build}"));
    source("VERSION {");
    run(&site, 0, &format!("! {build}"));
    source("v3");
    run(&site, 1, &format!("rm -r target; {build}"));
    clients.until_all_see("v3");
    clients.expect_no_failure();
}

#[test]
fn cargo_makes_one_swap_for_each_debug_build() {
    if has("cargo_makes_one_swap_for_each_debug_build", "cargo") {
        cargo("debug", "cargo build");
    }
}

#[test]
fn cargo_makes_one_swap_for_each_release_build() {
    if has("cargo_makes_one_swap_for_each_release_build", "cargo") {
        cargo("release", "cargo build --release");
    }
}

#[test]
fn a_program_that_changes_while_a_candidate_starts_replaces_it() {
    let site = watching().serving("v1");
    let mut clients = site.clients(8);
    site.publish_odd("v2", "late=1h");
    site.log.wait_for("generation 2 started");
    site.publish("v3");
    site.log.wait_for("generation 3 is serving");
    clients.until_all_see("v3");
    clients.expect_no_failure().expect_never_seen("v2");
    assert_eq!(swaps(&site), 2);
}

#[test]
fn a_swap_that_is_asked_for_waits_for_the_writer_and_no_longer() {
    let site = Site::serving("v1");
    let new = site.dir().join("new");
    fs::copy(site.program(), &new).expect("a copy");
    let writer = OpenOptions::new()
        .append(true)
        .open(&new)
        .expect("a writer");
    fs::rename(new, site.program()).expect("the program");
    expect_swaps(&site, 0, || site.signal(Signal::SIGHUP));
    expect_swaps(&site, 1, || drop(writer));
    for (spoil, why, hint) in [
        ("chmod -x server", "is not executable", "chmod +x"),
        (
            "chmod +x server; : > server",
            "is not complete",
            "install -m 755",
        ),
        (
            "rm server",
            "cannot be run: No such file",
            "install -m 755 PROGRAM",
        ),
    ] {
        run(&site, 0, spoil);
        let mark = site.log.mark();
        let verdict = site.swap_in_vain();
        assert!(verdict.contains(why), "{verdict}");
        site.log.wait_after(mark, &[&format!("try: {hint} ")]);
    }
}

#[test]
fn a_directory_in_the_place_of_the_program_is_named_with_what_makes_room() {
    let site = watching().serving("v1");
    site.publish("v2").log.wait_for("generation 2 is serving");
    run(
        &site,
        0,
        "sed s/v2/v3/ server > new; rm server; mkdir server",
    );
    site.log
        .wait_for("server has changed, but is a directory; waiting");
    let hint = site.log.wait_for("try: mv ");
    let (_, hint) = hint.split_once("try: ").expect("something to try");
    run(&site, 1, &hint.replace("PROGRAM", "new"));
}

#[test]
fn a_program_that_cannot_be_run_is_named_once_it_is_at_rest() {
    let site = Plan::at(Place::Tcp4).watching().serving("v1");
    site.publish_file(b"#!/bin/sh\n", 0o644);
    site.log
        .wait_for("server has changed, but is not executable; waiting");
    site.log.wait_for("try: chmod +x ");
    let asked = |what| crate::commands::said(&crate::commands::run(&site, &[what, "server"]));
    for what in ["status", "history"] {
        let said = asked(what);
        assert!(
            said.contains("server has changed, but is not executable; waiting"),
            "{what}: {said}"
        );
    }
    site.publish("v2").log.wait_for("generation 2 is serving");
    assert!(
        !asked("status").contains("not executable"),
        "{}",
        asked("status")
    );
    assert_eq!(site.log.count("has changed, but"), 1);
}

#[test]
fn a_file_that_is_kept_open_for_writing_is_named_once_and_counts_when_it_is_closed() {
    let plan = watching();
    let named = plan.dir().join("named");
    fs::write(&named, "1").expect("a file");
    let name = named.to_str().expect("a path").to_owned();
    let site = plan.with(&["--watch", &name]).serving("v1");
    let mut writer = OpenOptions::new()
        .append(true)
        .open(&named)
        .expect("a writer");
    writer.write_all(b"2").expect("a write");
    let line = "named has changed, and counts once it is no longer open for writing";
    site.log.wait_for(line);
    writer.write_all(b"3").expect("a write");
    expect_swaps(&site, 1, || drop(writer));
    assert_eq!(site.log.count(line), 1);
}
