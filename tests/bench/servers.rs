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
const SERVERS: [(&str, &str, &str); 4] = [
    ("C", "cc -O2 -o {dir}/c {apps}/accept_loop.c", "{dir}/c"),
    ("Go", "go build -o {dir}/go {apps}/server.go", "{dir}/go"),
    ("axum", "which axum", "axum"),
    ("Node", "which node", "node {apps}/server.js fd:3"),
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

fn server(preparation: &str, run: &str, dir: &TempDir) -> Option<Vec<String>> {
    let apps = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/real/apps");
    let filled = |words: &str| -> Vec<String> {
        let words = words.replace("{dir}", &dir.path().to_string_lossy());
        let words = words.replace("{apps}", &apps.to_string_lossy());
        words.split(' ').map(str::to_owned).collect()
    };
    let words = filled(preparation);
    let prepared = Command::new(&words[0]).args(&words[1..]).output().ok()?;
    prepared.status.success().then(|| filled(run))
}

fn verdict(report: &mut Report, name: &str, server: &[String], repetitions: u32) {
    let late = (0..repetitions).map(|_| {
        let site = Site::around(server);
        // a client is in the queue of a first generation before that is ready: its answer comes as soon as it can
        let (_, answered) = load::until_answered_by(site.address, 1);
        let (verdict, _) = site.wait_for("generation 1 is serving");
        milliseconds(answered, verdict)
    });
    let late: Samples = late.collect();
    let name = format!("{name}: first true answer to verdict");
    report.bounded(name, "ms", late, Target::Between(-1.0, 2.0));
}

/// Negative, if it was the other way round.
fn milliseconds(from: Instant, to: Instant) -> f64 {
    let later = to.saturating_duration_since(from).as_secs_f64();
    (later - from.saturating_duration_since(to).as_secs_f64()) * 1000.0
}
