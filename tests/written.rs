//! Runs every command line of the README, the recipes and the manual's examples as it is written. Stand-ins take the
//! place of the servers and compilers that the lines name.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nix::unistd::Uid;
use tempfile::TempDir;

use crate::common::log::Log;
use crate::common::plan::hotswap;
use crate::common::program::install;
use crate::common::{eventually, hotswap_program, processes, server, skipped};

const README: &str = include_str!("../README.md");
const RECIPES: &str = include_str!("servers/README.md");
const MANUAL: &str = include_str!("../man/hotswap.1");

/// What the lines run behind `--`, and in `--before-swap`.
const SERVERS: [&str; 24] = [
    "apache2",
    "caddy",
    "catalina.sh",
    "erl",
    "flask",
    "gunicorn",
    "haproxy",
    "hypnotoad",
    "java",
    "nginx",
    "node",
    "npx",
    "php",
    "php-fpm",
    "pm2-runtime",
    "puma",
    "python3",
    "redis-server",
    "ruby",
    "starman",
    "tsx",
    "unicorn",
    "uvicorn",
    "uwsgi",
];
const WITHOUT_A_PORT: [&str; 2] = ["resolver", "worker"];
const COMPILERS: [&str; 5] = ["cargo", "epmd", "go", "javac", "make"];
const FILES: [&str; 11] = [
    "app.jar",
    "app.js",
    "app.pl",
    "app.py",
    "app.rb",
    "Caddyfile",
    "haproxy.cfg",
    "server.js",
    "server.ts",
    "src/main",
    "vite.config.ts",
];

/// A machine with all that the lines name.
struct Machine {
    /// The hotswap that a line has started, and what it says.
    running: Option<(Child, Log)>,
    dir: TempDir,
}

impl Machine {
    fn new() -> Machine {
        let dir = tempfile::Builder::new().prefix("site").tempdir();
        let dir = dir.expect("a directory");
        // For a server of another user.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("its mode");
        let at = |path: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("a directory")).expect("it");
            path
        };
        let hello = server("hello");
        let stand_in = format!("#!/bin/sh\n[ \"$1\" = -t ] || exec '{}'\n", hello.display());
        for name in SERVERS {
            install(&at(&format!("bin/{name}")), stand_in.as_bytes(), 0o755);
        }
        for path in [
            "server",
            "build/server",
            "srv/api/server",
            "target/debug/server",
        ] {
            fs::copy(&hello, at(path)).expect("a server");
        }
        symlink(at("bin/tsx"), at("node_modules/.bin/tsx")).expect("a link");
        for name in WITHOUT_A_PORT {
            install(&at(name), b"#!/bin/sh\nexec sleep 1000\n", 0o755);
        }
        for name in COMPILERS {
            symlink("/bin/true", at(&format!("bin/{name}"))).expect("a link");
        }
        symlink(hotswap_program(), at("bin/hotswap")).expect("a link");
        install(&at("bin/ssh"), b"#!/bin/sh\nexec sh -c \"$2\"\n", 0o755);
        install(
            &at("bin/scp"),
            b"#!/bin/sh\nexec cp \"$1\" \"${2#*:}\"\n",
            0o755,
        );
        for name in FILES {
            fs::write(at(name), "").expect("a file");
        }
        Machine { running: None, dir }
    }

    /// Its port is the kernel's choice, and no path leads out of the directory.
    fn adapted(&self, line: &str) -> String {
        let dir = self.dir.path().display();
        let line = line.trim_start_matches("sudo ");
        let line = line.split("    #").next().unwrap_or_default();
        line.replace(" /run/", &format!(" {dir}/"))
            .replace(" /srv/", &format!(" {dir}/srv/"))
            .replace("\"$host\":/srv/", &format!("\"$host\":{dir}/srv/"))
            .replace("--listen 8000", "--listen 0")
            .replace("--listen 8080", "--listen 0")
            .replace("--listen 80 ", "--listen 0 ")
            .replace("127.0.0.1:8080", "127.0.0.1:0")
            .replace("udp:127.0.0.1:5353", "udp:127.0.0.1:0")
            .replace("--min-ready 10s", "--min-ready 100ms")
            .replace("--swaps 50 ", "")
            .replace(
                "hotswap smoke",
                "hotswap smoke --listen 127.0.0.1:0 --swaps 2",
            )
    }

    /// A shell that finds the stand-ins first, and no hotswap but those of this machine.
    fn shell(&self, line: &str) -> Command {
        let hide = "for place in /run /tmp/hotswap-*; do test ! -d $place || mount -t tmpfs none $place; done";
        let mut command = hotswap("unshare", self.dir.path());
        if !Uid::effective().is_root() {
            command.arg("--map-root-user");
        }
        let path = std::env::var("PATH").expect("a path");
        let path = format!("{}:{path}", self.dir.path().join("bin").display());
        command
            .args(["--mount", "sh", "-c", &format!("{hide}; {line}")])
            .current_dir(self.dir.path())
            .env("PATH", path)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs a line, and expects what it is there for.
    fn run(&mut self, line: &str) {
        let adapted = self.adapted(line);
        if adapted.starts_with("hotswap --") {
            self.stop(line);
            self.start(line, &adapted);
            return;
        }
        self.ask(line, &adapted);
        if adapted.starts_with("hotswap stop") {
            self.end(line);
        }
    }

    fn start(&mut self, line: &str, adapted: &str) {
        let mut command = self.shell(&format!("exec {adapted}"));
        command.env("HOTSWAP_LISTEN", "127.0.0.1:0");
        if WITHOUT_A_PORT.iter().any(|name| line.contains(name)) {
            command.env("HOTSWAP_READY", "after:10ms");
        }
        let mut running = command.stdout(Stdio::null()).spawn().expect("a shell");
        let log = Log::of(running.stderr.take().expect("its stderr"), Instant::now());
        self.running = Some((running, log));
        eventually(&format!("serving: {line}"), || {
            self.serves(line).then_some(())
        });
    }

    fn serves(&mut self, line: &str) -> bool {
        let (running, log) = self.running.as_mut().expect("a hotswap");
        let ended = running.try_wait().expect("a child");
        assert!(ended.is_none(), "{line}: {ended:?}\n{}", log.timed());
        log.says("generation 1 is serving")
    }

    /// A command for the hotswap that runs.
    fn ask(&self, line: &str, adapted: &str) {
        let output = self.shell(adapted).output().expect("a shell");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let (_, log) = self.running.as_ref().expect("a hotswap");
        assert!(output.status.success(), "{line}\n{said}\n{}", log.timed());
    }

    /// It can be swapped as it was started, and stopped.
    fn stop(&mut self, line: &str) {
        if self.running.is_some() {
            self.ask(line, "hotswap swap && hotswap stop");
            self.end(line);
        }
    }

    /// It ends by itself, with 0.
    fn end(&mut self, line: &str) {
        let (mut running, log) = self.running.take().expect("a hotswap");
        let status = running.wait().expect("a child");
        assert!(status.success(), "{line}: {status}\n{}", log.timed());
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        processes::kill_all_of_site(self.dir.path());
    }
}

/// The lines of the blocks for a shell, each block with its own; a loop is one line.
fn blocks(text: &str) -> Vec<Vec<String>> {
    let blocks = text.split("\n```sh\n").skip(1);
    let blocks = blocks.map(|block| block.split("\n```").next().unwrap_or_default());
    let lines = |block: &str| {
        if block.starts_with("for ") {
            return vec![block.to_owned()];
        }
        block.lines().map(str::to_owned).collect()
    };
    blocks.map(lines).collect()
}

/// The commands within sentences and tables that start a server.
fn spans(text: &str) -> Vec<String> {
    let sentences = text.split("\n```").step_by(2).collect::<String>();
    let spans = sentences.split('`').skip(1).step_by(2);
    let spans = spans.map(|span| span.split_whitespace().collect::<Vec<_>>().join(" "));
    let starts = |span: &String| span.contains(" -- ");
    let whole = |span: String| {
        if span.starts_with("--") {
            return format!("hotswap {span}");
        }
        span
    };
    spans.filter(starts).map(whole).collect()
}

/// The examples of the manual.
fn examples() -> Vec<String> {
    let lines = MANUAL.lines().filter_map(|line| line.strip_prefix(".Dl "));
    let lines = lines.filter_map(|line| line.strip_prefix("$ ").or(line.strip_prefix("# ")));
    lines.map(|line| line.replace("\\-", "-")).collect()
}

#[test]
fn every_command_of_the_readme_runs() {
    let mut machine = Machine::new();
    let blocks = blocks(README);
    assert!(blocks.len() > 5, "{blocks:?}");
    // Building and installing hotswap itself is for scripts/package.
    for block in blocks
        .iter()
        .filter(|block| !block[0].starts_with("cargo "))
    {
        for line in block {
            machine.run(line);
        }
    }
    machine.stop("the last one");
}

#[test]
fn every_command_of_the_recipes_runs() {
    let mut machine = Machine::new();
    let spans = spans(RECIPES);
    assert!(spans.len() > 25, "{spans:?}");
    for line in &spans {
        if line.starts_with("hotswap ") {
            machine.run(line);
        }
    }
    machine.run("hotswap --no-watch --name api -- /srv/api/server");
    for line in blocks(RECIPES).concat() {
        machine.run(&line);
    }
    machine.stop("the last one");
}

#[test]
fn every_example_of_the_manual_runs() {
    let mut machine = Machine::new();
    let examples = examples();
    assert!(examples.len() > 5, "{examples:?}");
    for line in &examples {
        if line.contains("--user") && !Uid::effective().is_root() {
            skipped(line, "only root may start a server as another user");
            continue;
        }
        machine.run(line);
    }
    machine.stop("the last one");
}
