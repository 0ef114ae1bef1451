//! How right the verdict is about servers as people write them: how long before or after the first true answer it comes.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use tempfile::TempDir;

use crate::load;
use crate::report::{Report, Samples, Target};
use crate::subject::Site;

/// Those of tests/servers/real/apps, each with what makes it and what runs it there.
const SERVERS: [(&str, &[&str], &str); 4] = [
    (
        "C",
        &["cc", "-O2", "-o", "{dir}/c", "{apps}/accept_loop.c"],
        "{dir}/c",
    ),
    (
        "Go",
        &["go", "build", "-o", "{dir}/go", "{apps}/server.go"],
        "{dir}/go",
    ),
    ("axum", &["cp", "{axum}", "{dir}/axum"], "{dir}/axum"),
    ("Node", &["node", "--version"], "node {apps}/server.js fd:3"),
];

/// A program of that name on the PATH.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|place| place.join(name))
        .find(|program| program.is_file())
}

pub fn verdicts(report: &mut Report, repetitions: u32) {
    let dir = tempfile::tempdir().expect("a folder");
    for (name, preparation, run) in SERVERS {
        match server(preparation, run, &dir) {
            Some(command) => verdict(report, name, &command, repetitions),
            None => println!("  left out: {name}, which cannot be made here"),
        }
    }
}

fn server(preparation: &[&str], run: &str, dir: &TempDir) -> Option<Vec<String>> {
    let apps = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/real/apps");
    let axum = on_path("axum").unwrap_or_default();
    let filled = |word: &str| {
        let word = word.replace("{dir}", &dir.path().to_string_lossy());
        let word = word.replace("{axum}", &axum.to_string_lossy());
        word.replace("{apps}", &apps.to_string_lossy())
    };
    let mut command = Command::new(preparation[0]);
    command.args(preparation[1..].iter().map(|word| filled(word)));
    let made = command.env("GOFLAGS", "-buildvcs=false").output().ok()?;
    made.status
        .success()
        .then(|| run.split(' ').map(filled).collect())
}

fn verdict(report: &mut Report, name: &str, server: &[String], repetitions: u32) {
    let (mut late, mut after) = (Vec::new(), Vec::new());
    for _ in 0..repetitions {
        // the first generation's clients are in its queue before it is ready, so its first answer is a true one
        let site = Site::around(server);
        let (_, answered) = load::until_answered_by(site.address, 1);
        let (verdict, _) = site.wait_for("generation 1 is serving");
        late.push(milliseconds(answered, verdict));

        site.signal();
        let (_, answered) = load::until_answered_by(site.address, 2);
        let (verdict, _) = site.wait_for("generation 2 is serving");
        after.push(milliseconds(verdict, answered));
    }
    report.bounded(
        format!("{name}: first true answer to verdict"),
        "ms",
        Samples::from_iter(late),
        Target::Between(-1.0, 2.0),
    );
    report.figure(
        format!("{name}: verdict to first answer of the new one"),
        "ms",
        Samples::from_iter(after),
    );
}

/// Negative, if it was the other way round.
fn milliseconds(from: Instant, to: Instant) -> f64 {
    let later = to.saturating_duration_since(from).as_secs_f64();
    (later - from.saturating_duration_since(to).as_secs_f64()) * 1000.0
}
