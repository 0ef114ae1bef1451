//! What a program has said, line by line, gathered by a thread as it comes.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::PATIENCE;

/// More of what servers say would only fill memory; hotswap's own lines are all kept.
const FOREIGN_LINES: usize = 1000;
const OWN: [&str; 2] = ["hotswap: ", "try: "];

#[derive(Clone, Default)]
pub struct Log(Arc<(Mutex<Heard>, Condvar)>);

#[derive(Default)]
struct Heard {
    lines: Vec<(Duration, String)>,
    foreign: usize,
    ended: bool,
}

impl Log {
    /// Listens to `source` until it ends.
    pub fn of(source: impl Read + Send + 'static, epoch: Instant) -> Log {
        let log = Log::default();
        let shared = log.clone();
        thread::spawn(move || {
            for line in BufReader::new(source).split(b'\n').map_while(Result::ok) {
                let line = without_time(&String::from_utf8_lossy(&line)).to_owned();
                shared.change(|heard| heard.add(epoch.elapsed(), line));
            }
            shared.change(|heard| heard.ended = true);
        });
        log
    }

    fn change(&self, what: impl FnOnce(&mut Heard)) {
        what(&mut self.0.0.lock().expect("the log"));
        self.0.1.notify_all();
    }

    /// The number of lines so far: what comes after it is new.
    pub fn mark(&self) -> usize {
        self.0.0.lock().expect("the log").lines.len()
    }

    /// The first line with `text` in it, however early it came.
    pub fn wait_for(&self, text: &str) -> String {
        self.wait_after(0, &[text])
    }

    /// The first line after `mark` with one of the texts in it.
    pub fn wait_after(&self, mark: usize, texts: &[&str]) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut heard = self.0.0.lock().expect("the log");
        loop {
            if let Some(line) = heard.find(mark, texts) {
                return line;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let ended = heard.ended;
            if ended || left.is_zero() {
                drop(heard);
                let why = if ended {
                    "the program has ended"
                } else {
                    "time is up"
                };
                panic!("never said ({why}): {texts:?}");
            }
            heard = self.0.1.wait_timeout(heard, left).expect("the log").0;
        }
    }

    /// Each of the texts is said, and in this order.
    pub fn wait_for_all(&self, texts: &[&str]) {
        for text in texts {
            self.wait_for(text);
        }
        let heard = self.0.0.lock().expect("the log");
        let first = |text: &&str| {
            heard
                .lines
                .iter()
                .position(|(_, line)| line.contains(*text))
        };
        assert!(
            texts.iter().map(first).is_sorted(),
            "the order of {texts:?}"
        );
    }

    /// What has been said since `mark`, and when.
    pub fn since(&self, mark: usize) -> Vec<(Duration, String)> {
        let heard = self.0.0.lock().expect("the log");
        heard.lines.iter().skip(mark).cloned().collect()
    }

    pub fn says(&self, text: &str) -> bool {
        self.count(text) > 0
    }

    /// In how many lines `text` is.
    pub fn count(&self, text: &str) -> usize {
        let heard = self.0.0.lock().expect("the log");
        heard
            .lines
            .iter()
            .filter(|(_, line)| line.contains(text))
            .count()
    }

    /// The lines with `text` in them.
    pub fn lines(&self, text: &str) -> Vec<String> {
        let heard = self.0.0.lock().expect("the log");
        let with = heard.lines.iter().filter(|(_, line)| line.contains(text));
        with.map(|(_, line)| line.clone()).collect()
    }

    /// Everything, with the time each line came at.
    pub fn timed(&self) -> String {
        let heard = self.0.0.lock().expect("the log");
        let lines = heard
            .lines
            .iter()
            .map(|(at, line)| format!("{at:9.3?} {line}"));
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// A line of hotswap's without the time that it is written at: `2030-01-01T00:00:00.000Z hotswap: stopping`.
pub fn without_time(line: &str) -> &str {
    let time = |time: &str| time.len() == 24 && time.starts_with("20") && time.ends_with('Z');
    let rest = line.split_once(' ').filter(|(first, _)| time(first));
    rest.map_or(line, |(_, rest)| rest)
}

impl Heard {
    fn add(&mut self, at: Duration, line: String) {
        if !OWN.iter().any(|own| line.starts_with(own)) {
            self.foreign += 1;
            if self.foreign > FOREIGN_LINES {
                return;
            }
        }
        self.lines.push((at, line));
    }

    fn find(&self, mark: usize, texts: &[&str]) -> Option<String> {
        let mut new = self.lines.iter().skip(mark).map(|(_, line)| line);
        new.find(|line| texts.iter().any(|text| line.contains(text)))
            .cloned()
    }
}
