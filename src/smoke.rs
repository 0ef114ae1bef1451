//! `hotswap smoke`: requests during swaps, and whether one of them failed.
//!
//! It is a client that runs hotswap as a child. The main loop knows nothing of it.

mod client;
mod http;
mod interruption;
mod protocol;
mod report;
mod subject;
mod tally;

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use client::Site;
use http::Peer;
use interruption::Ending;
use report::Report;
use subject::{ReportedListener, Subject};
use tally::Habit;

use crate::cli::smoke::Trial;
use crate::control::client::queries::{self, complain};
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
/// What a start may take beyond the ready timeout.
const START: Duration = Duration::from_secs(10);
/// How long a verdict may take, with all of the drain; hotswap's own deadlines are shorter unless the user made them long.
const VERDICT: Duration = Duration::from_secs(600);
/// How often the one who waits for a verdict looks whether the trial is over.
const LOOK: Duration = Duration::from_millis(100);

/// The exit status of an invalid command line.
const USAGE: u8 = 2;

/// Tries it; the exit status: 0 if no request failed, 1 if some did or the server did not come up.
///
/// # Errors
/// What keeps us from trying at all.
pub fn run(trial: Trial) -> Result<u8> {
    let trial = &Arc::new(trial);
    let begun = Instant::now();
    // a file that cannot be written is found before the trial, not after it
    let mut junit = match trial.junit.as_deref().map(create).transpose() {
        Ok(file) => file,
        Err(error) => {
            complain(format!("{error:#}"));
            return Ok(USAGE);
        }
    };
    let mut screen = Screen::new(trial);
    let ending = Ending::by_signals()?;
    let mut subject = Subject::start(&trial.options, &trial.run.command, Arc::clone(&ending))?;
    let mut report = Report {
        wanted: trial.swaps,
        ..Report::default()
    };
    report.problem = match subject.serving(begun + trial.run.ready_timeout + START) {
        Ok(state) => {
            let state = subject.with_port(state);
            report.listeners = subject::listeners(&state);
            match targets(trial, &report.listeners, &state) {
                Ok(targets) => {
                    let site = Site::new(Arc::clone(trial), targets, Arc::clone(&ending));
                    let problem =
                        try_swaps(trial, &subject, &Arc::new(site), &mut report, &mut screen);
                    let ended = problem.as_ref().and_then(|_| subject.has_ended());
                    ended.or(problem)
                }
                Err(why) => Some(why),
            }
        }
        Err(error) => Some(format!("{error:#}")),
    };
    if let Some(signal) = ending.signal() {
        report.problem = Some(format!("interrupted by {signal}"));
    }
    if report.problem.is_some() {
        report.last_lines = subject.last_lines();
    }
    report.took = begun.elapsed();
    let mut status = u8::from(report.problem.is_some()).max(screen.finish(&report));
    if let (Some(file), Some(path)) = (&mut junit, &trial.junit)
        && let Err(error) = file.write_all(report.junit().as_bytes())
    {
        complain(format!("cannot write {}: {error}", path.display()));
        status = status.max(USAGE);
    }
    // only now, because who has interrupted it may not wait for the report
    drop(subject);
    Ok(status)
}

fn create(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("cannot write {}", path.display()))
}

/// Where clients go: where the user says, else to the listeners that hotswap owns, those for clients if it has any, else to
/// those of the server itself.
fn targets(
    trial: &Trial,
    listeners: &[ReportedListener],
    state: &serde_json::Value,
) -> Result<Vec<Peer>, String> {
    let is_asked = |address: &str| trial.ask.iter().any(|one| one.matches(address));
    let any = !trial.ask.is_empty() || !listeners.iter().any(ReportedListener::is_for_clients);
    let owned = listeners.iter().filter(|one| any || one.is_for_clients());
    let owned = owned.filter_map(|one| Some((one.address.clone(), subject::target(&one.address)?)));
    let mut all: Vec<(String, Peer)> = owned.collect();
    if listeners.is_empty() {
        let unowned = subject::unowned(state).into_iter();
        all = unowned.map(|peer| (peer.to_string(), peer)).collect();
    }
    let names: Vec<String> = all.iter().map(|one| one.0.clone()).collect();
    if !trial.ask.is_empty() {
        all.retain(|(address, peer)| is_asked(address) || is_asked(&peer.to_string()));
    }
    if names.is_empty() {
        let why = "cannot find an address to ask: the server does not listen";
        return Err(format!("{why}\ntry: --listen 127.0.0.1:0"));
    }
    if all.is_empty() {
        let why = "cannot find the address of --ask among those of the server";
        return Err(format!(
            "{why}: {}\ntry: --ask {}",
            names.join(", "),
            names[0]
        ));
    }
    Ok(all.into_iter().map(|one| one.1).collect())
}

/// The swaps, under clients; what went wrong.
fn try_swaps(
    trial: &Trial,
    subject: &Subject,
    site: &Arc<Site>,
    report: &mut Report,
    screen: &mut Screen,
) -> Option<String> {
    let clients = start_clients(site);
    let ended = swap_under_load(trial, subject, site, report, screen);
    site.ending.close();
    // who is interrupted does not wait for a slow answer
    if site.ending.signal().is_none() {
        for client in clients {
            let _ = client.join();
        }
    }
    report.tally = site.tally().clone();
    if site.ending.signal().is_none() {
        let only_failed = |peer: &&Peer| {
            let count = report.tally.by_address.get(&peer.to_string());
            count.is_some_and(tally::Count::has_only_failed)
        };
        let strange = site.targets.iter().filter(only_failed);
        let tls = strange.filter(|peer| protocol::speaks_tls(peer));
        report.tls = tls.map(ToString::to_string).collect();
    }
    ended.err().or_else(|| report::explain(report, &trial.path))
}

fn start_clients(site: &Arc<Site>) -> Vec<JoinHandle<()>> {
    let habits = CLIENTS.iter();
    let habits = habits.flat_map(|(habit, count)| std::iter::repeat_n(*habit, *count));
    habits
        .map(|habit| {
            let site = Arc::clone(site);
            thread::spawn(move || site.visit(habit))
        })
        .collect()
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
            swap_once(&mut instance, &site.ending, || screen.progress(swap, site))
                .map_err(|why| format!("swap {swap} failed: {why}"))?;
            site.swap_steps.fetch_add(1, Ordering::Relaxed);
            report.swaps = swap;
            follow(&mut events, site, report);
        }
        let goes_on = site.ending.wait(BETWEEN);
        screen.progress(swap, site);
        // what fails before the first swap is no fault of a swap
        if !goes_on || (swap == 0 && site.tally().all.failed() > 0) {
            break;
        }
    }
    Ok(())
}

/// One swap to its end: the old generation is gone.
fn swap_once(
    instance: &mut Instance,
    ending: &Ending,
    mut progress: impl FnMut(),
) -> Result<(), String> {
    instance.ask(&RequestKind::Swap(SwapRequest {
        drained: true,
        ..SwapRequest::default()
    }));
    let until = Instant::now() + VERDICT;
    while Instant::now() < until && ending.signal().is_none() {
        match instance.next(Some(Instant::now() + LOOK)) {
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
        let generation = event["generation"].as_u64();
        let reason = event["reason"].as_str().unwrap_or_default();
        match event["event"].as_str() {
            Some("serving") => {
                let generation = generation.and_then(|one| one.try_into().ok());
                let serving = generation.unwrap_or_default();
                site.serving.store(serving, Ordering::Relaxed);
            }
            Some("killed") => report.deaf.extend(generation),
            Some("gone") if generation.is_some_and(|one| report.deaf.contains(&one)) => {}
            Some("gone") if reason.starts_with("killed") => report.killed += 1,
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

    /// The exit status, if the report cannot be written.
    fn finish(&self, report: &Report) -> u8 {
        if self.terminal {
            print("\r\x1b[2K");
        }
        let status = if self.json {
            queries::print_all(&format!("{}\n", report.to_json()))
        } else if report.tally.all.requests > 0 {
            queries::print_all(&report.table())
        } else {
            0
        };
        match &report.problem {
            Some(problem) => {
                if !report.last_lines.is_empty() {
                    let _ = writeln!(io::stderr(), "what hotswap and the server wrote last:");
                }
                for line in &report.last_lines {
                    let _ = writeln!(io::stderr(), "  {}", escape(line));
                }
                complain(problem);
            }
            None if self.json => {}
            None => print("no request failed\n"),
        }
        status
    }
}

/// A reader that has left changes no verdict.
fn print(text: &str) {
    let _ = queries::print(text);
}
