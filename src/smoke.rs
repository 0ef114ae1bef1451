//! `hotswap smoke`: requests during swaps, and whether one of them failed.
//!
//! It is a client that runs hotswap as a child. The main loop knows nothing of it.

mod client;
mod http;
mod report;
mod subject;
mod tally;

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use client::{Request, Site};
use http::Peer;
use report::Report;
use subject::{ReportedListener, Subject};
use tally::Habit;

use crate::cli::smoke::Trial;
use crate::control::client::queries::complain;
use crate::control::client::{Instance, Received};
use crate::control::protocol::{Reply, RequestKind, SwapRequest};
use crate::escape::escape;

/// How many clients of each kind come.
const CLIENTS: [(Habit, usize); 4] = [
    (Habit::New, 2),
    (Habit::Kept, 1),
    (Habit::Slow, 1),
    (Habit::Hesitating, 1),
];
/// How long the server is asked before the first swap, and after each.
const BETWEEN: Duration = Duration::from_millis(400);
/// Between two lines of progress.
const SECOND: Duration = Duration::from_secs(1);
/// What a start may take beyond the ready timeout.
const START: Duration = Duration::from_secs(10);
/// How long a verdict may take, with all of the drain; hotswap's own deadlines are shorter unless the user made them long.
const VERDICT: Duration = Duration::from_secs(600);

/// Tries it; the exit status: 0 if no request failed, 1 if some did or the server did not come up.
///
/// # Errors
/// What keeps us from trying at all.
pub fn run(trial: &Trial) -> Result<u8> {
    let begun = Instant::now();
    // a file that cannot be written is found before the trial, not after it
    let mut junit = trial.junit.as_deref().map(create).transpose()?;
    let mut screen = Screen::new(trial);
    let mut subject = Subject::start(&trial.options, &trial.command)?;
    let mut report = Report {
        wanted: trial.swaps,
        ..Report::default()
    };
    report.problem = match subject.serving(begun + trial.ready_timeout + START) {
        Ok(state) => {
            let state = subject.with_port(state);
            report.listeners = subject::listeners(&state);
            let targets = targets(&report.listeners, &state);
            try_swaps(trial, &subject, targets, &mut report, &mut screen)
        }
        Err(error) => Some(format!("{error:#}")),
    };
    let lines = report.problem.as_ref().map(|_| subject.last_lines());
    drop(subject);
    report.took = begun.elapsed();
    screen.finish(&report, &lines.unwrap_or_default());
    if let (Some(file), Some(path)) = (&mut junit, &trial.junit) {
        file.write_all(report.junit().as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(u8::from(report.problem.is_some()))
}

fn create(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("cannot write {}", path.display()))
}

/// Where clients go: to the listeners that hotswap owns, those for clients if it has any, else to those of the server itself.
fn targets(listeners: &[ReportedListener], state: &serde_json::Value) -> Vec<Peer> {
    if listeners.is_empty() {
        return subject::unowned(state);
    }
    let any = !listeners.iter().any(ReportedListener::is_for_clients);
    let asked = listeners.iter().filter(|one| any || one.is_for_clients());
    asked
        .filter_map(|one| subject::target(&one.address))
        .collect()
}

/// The swaps, under clients; what went wrong.
fn try_swaps(
    trial: &Trial,
    subject: &Subject,
    targets: Vec<Peer>,
    report: &mut Report,
    screen: &mut Screen,
) -> Option<String> {
    if targets.is_empty() {
        let why = "cannot find an address to ask: the server does not listen";
        return Some(format!("{why}\ntry: --listen 127.0.0.1:0"));
    }
    let site = Arc::new(Site::new(trial.request(), targets));
    let on_signal = Arc::clone(&site);
    // without it an interrupted trial ends, too, but leaves hotswap to end by itself
    let _ = ctrlc::set_handler(move || on_signal.close());
    let clients: Vec<_> = CLIENTS
        .iter()
        .flat_map(|(habit, count)| std::iter::repeat_n(*habit, *count))
        .map(|habit| {
            let site = Arc::clone(&site);
            thread::spawn(move || site.visit(habit))
        })
        .collect();
    let ended = swap_under_load(trial, subject, &site, report, screen);
    let interrupted = !site.wait(Duration::ZERO);
    site.close();
    for client in clients {
        let _ = client.join();
    }
    report.tally = site.tally().clone();
    let lost = report::explain(report, &trial.path);
    ended
        .err()
        .or(lost)
        .or_else(|| interrupted.then(|| "interrupted".to_owned()))
}

fn swap_under_load(
    trial: &Trial,
    subject: &Subject,
    site: &Site,
    report: &mut Report,
    screen: &mut Screen,
) -> Result<(), String> {
    let no_answer = |error: anyhow::Error| format!("cannot ask hotswap: {error:#}");
    let mut events = subject.connect().map_err(no_answer)?;
    events.ask(&RequestKind::Events);
    for swap in 0..=trial.swaps {
        if swap > 0 {
            let mut instance = subject.connect().map_err(no_answer)?;
            site.swap_steps.fetch_add(1, Ordering::Relaxed);
            swap_once(&mut instance, || screen.progress(swap, site))
                .map_err(|why| format!("swap {swap} failed: {why}"))?;
            site.swap_steps.fetch_add(1, Ordering::Relaxed);
            report.swaps = swap;
            follow(&mut events, site, report);
        }
        let goes_on = site.wait(BETWEEN);
        screen.progress(swap, site);
        // what fails before the first swap is no fault of a swap
        if !goes_on || (swap == 0 && site.tally().all.failed() > 0) {
            break;
        }
    }
    Ok(())
}

/// One swap to its end: the old generation is gone.
fn swap_once(instance: &mut Instance, mut progress: impl FnMut()) -> Result<(), String> {
    instance.ask(&RequestKind::Swap(SwapRequest {
        drained: true,
        ..SwapRequest::default()
    }));
    let until = Instant::now() + VERDICT;
    while Instant::now() < until {
        match instance.next(Some(Instant::now() + SECOND)) {
            Received::Said(Reply::Verdict(verdict)) if verdict.serving => return Ok(()),
            Received::Said(Reply::Verdict(verdict)) => return Err(verdict.text),
            Received::Said(Reply::Error(why) | Reply::Refused(why)) => return Err(why),
            Received::Lost => return Err("hotswap has ended".to_owned()),
            Received::Said(_) | Received::TimedOut => progress(),
        }
    }
    Err("no verdict".to_owned())
}

/// What has happened meanwhile: which generation serves, and how the old ones ended.
fn follow(events: &mut Instance, site: &Site, report: &mut Report) {
    while let Received::Said(message) = events.next(Some(Instant::now())) {
        let Reply::Event(event) = message else {
            continue;
        };
        match event["event"].as_str() {
            Some("serving") => {
                let generation = event["generation"]
                    .as_u64()
                    .and_then(|one| one.try_into().ok());
                site.serving
                    .store(generation.unwrap_or_default(), Ordering::Relaxed);
            }
            Some("gone")
                if event["reason"]
                    .as_str()
                    .is_some_and(|why| why.starts_with("killed")) =>
            {
                report.killed += 1;
            }
            Some("gone") => report.graceful += 1,
            _ => {}
        }
    }
}

/// What is seen of a trial: a line a second, and on a terminal one that moves.
struct Screen {
    begun: Instant,
    wanted: u32,
    json: bool,
    terminal: bool,
    seconds: u64,
}

impl Screen {
    fn new(trial: &Trial) -> Self {
        Self {
            begun: Instant::now(),
            wanted: trial.swaps,
            json: trial.json,
            terminal: !trial.json && io::stdout().is_terminal(),
            seconds: 0,
        }
    }

    fn progress(&mut self, swap: u32, site: &Site) {
        let (requests, failed) = {
            let tally = site.tally();
            (tally.all.requests, tally.all.failed())
        };
        let seconds = self.begun.elapsed().as_secs();
        let line = format!(
            "{seconds:3}s  swap {swap:2} of {}  {requests:6} requests  {failed} failed",
            self.wanted
        );
        if self.terminal {
            let done = usize::try_from(swap * 20 / self.wanted.max(1)).unwrap_or(0);
            print(&format!("\r\x1b[2K[{:<20}] {line}", "#".repeat(done)));
        } else if seconds > self.seconds {
            self.seconds = seconds;
            if self.json {
                eprintln!("{line}");
            } else {
                print(&format!("{line}\n"));
            }
        }
    }

    fn finish(&self, report: &Report, log: &[String]) {
        if self.terminal {
            print("\r\x1b[2K");
        }
        if self.json {
            print(&format!("{}\n", report.to_json()));
        } else if report.tally.all.requests > 0 {
            print(&report.table());
        }
        match &report.problem {
            Some(problem) => {
                if !log.is_empty() {
                    let _ = writeln!(io::stderr(), "what hotswap and the server wrote last:");
                }
                for line in log {
                    let _ = writeln!(io::stderr(), "  {}", escape(line));
                }
                complain(problem);
            }
            None if self.json => {}
            None => print("no request failed\n"),
        }
    }
}

/// A reader that has left changes no verdict.
fn print(text: &str) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes());
    let _ = stdout.flush();
}

impl Trial {
    fn request(&self) -> Request {
        Request {
            path: self.path.clone(),
            slow_path: self.slow_path.clone(),
            expected: self.expected.clone(),
            longest: self.longest,
        }
    }
}
