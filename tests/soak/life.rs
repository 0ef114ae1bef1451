//! One hotswap of the soak, from its start to its end, with the clients that come all the while.

use std::fs;
use std::io::Write;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::chance::Chance;
use super::checks::Holdings;
use super::ledger::Ledger;
use super::report::Report;
use super::setting::Setting;
use crate::commands::{run, said};
use crate::common::crowd::{Crowd, Habit};
use crate::common::eventually;
use crate::common::program::install;
use crate::common::site::Site;

const VERDICTS: [&str; 4] = [
    " is serving (",
    " aborted: ",
    " rolled back: ",
    " is dead: ",
];

/// As many as of each other kind.
pub const KEPT_CLIENTS: usize = 2;

pub struct Life<'a> {
    pub site: Site,
    pub clients: Crowd,
    pub setting: Setting,
    pub ledger: Ledger,
    pub report: &'a mut Report,
    /// The version that serves once all is calm.
    pub version: String,
    /// Its program.
    good: String,
    /// The first generation of it, if it does not end when it is told to, or leaves others behind.
    lingering: Option<u32>,
    versions: usize,
    /// So much of the log has been looked at.
    pub heard: usize,
    pub holdings: Vec<Holdings>,
    story: Vec<String>,
}

/// How hotswap gets to know of a new build.
#[derive(Clone, Copy, Debug)]
pub enum Trigger {
    Hangup,
    Command,
    Drained,
    Rename,
    InPlace,
}

impl<'a> Life<'a> {
    pub fn begin(chance: &mut Chance, report: &'a mut Report) -> Life<'a> {
        let setting = Setting::by(chance);
        let good = setting.good_build("v1", chance);
        let site = setting.plan(&good).serving("v1");
        let guests = site.guests().mixed(4 * KEPT_CLIENTS);
        let guests = guests.arriving(100, Habit::default());
        let mut life = Life {
            clients: guests.come(),
            site,
            setting,
            ledger: Ledger::default(),
            report,
            version: "v1".to_owned(),
            good,
            lingering: None,
            versions: 1,
            heard: 0,
            holdings: Vec::new(),
            story: Vec::new(),
        };
        life.report.lives += 1;
        life.say("start", &life.setting.describe());
        life
    }

    /// A line for an event, before it happens.
    pub fn say(&mut self, kind: &'static str, text: &str) {
        let age = self.site.age();
        let line = format!("{:2} {age:9.3?} {kind}: {text}", self.report.lives);
        println!("{line}");
        self.story.push(format!("{age:9.3?} *** {kind}: {text}"));
        self.report.happened(kind);
    }

    /// The next version's name.
    pub fn next(&mut self) -> String {
        self.versions += 1;
        format!("v{}", self.versions)
    }

    /// A build that is to serve from now on, but not yet where hotswap finds it.
    pub fn good_build(&mut self, chance: &mut Chance) -> String {
        let version = self.next();
        let build = self.setting.good_build(&version, chance);
        self.expect(version, &build);
        build
    }

    pub fn odd_build(&mut self, words: &str) -> String {
        let version = self.next();
        self.setting.odd(&version, words)
    }

    pub fn expect(&mut self, version: String, build: &str) {
        self.permit_lingering();
        self.lingering = None;
        self.version = version;
        build.clone_into(&mut self.good);
    }

    /// The file that hotswap runs is the good one again.
    pub fn restore(&self) {
        install(&self.site.program(), self.good.as_bytes(), 0o755);
    }

    pub fn trigger(&self, chance: &mut Chance) -> Trigger {
        let triggers = [Trigger::Hangup, Trigger::Command, Trigger::Drained];
        let changes = [Trigger::Rename, Trigger::InPlace];
        *chance.one_of(if self.setting.watches {
            &changes
        } else {
            &triggers[..]
        })
    }

    /// One that nobody waits for.
    pub fn quick_trigger(&self) -> Trigger {
        if self.setting.watches {
            Trigger::Rename
        } else {
            Trigger::Hangup
        }
    }

    /// Puts a build where hotswap finds it, and asks for the swap where that is not enough.
    pub fn publish(&mut self, build: &[u8], mode: u32, trigger: Trigger) {
        let program = self.site.program();
        match trigger {
            Trigger::InPlace => fs::write(&program, build).expect("a program"),
            _ => install(&program, build, mode),
        }
        match trigger {
            Trigger::Hangup => drop(self.site.signal(Signal::SIGHUP)),
            Trigger::Rename | Trigger::InPlace => {}
            Trigger::Command | Trigger::Drained => unreachable!("it waits for the verdict"),
        }
    }

    /// The same, and the verdict.
    pub fn swap(&mut self, build: &str, mode: u32, trigger: Trigger) -> String {
        let mark = self.make_room();
        let drained = match trigger {
            Trigger::Command => &["swap", "server"][..],
            Trigger::Drained => &["swap", "server", "--drained"],
            Trigger::Hangup | Trigger::Rename | Trigger::InPlace => {
                self.publish(build.as_bytes(), mode, trigger);
                return self.verdict_after(mark);
            }
        };
        install(&self.site.program(), build.as_bytes(), mode);
        let output = run(&self.site, drained);
        let verdict = self.verdict_after(mark);
        let expected = i32::from(!verdict.contains(VERDICTS[0]));
        let said = said(&output);
        assert_eq!(output.status.code(), Some(expected), "{verdict}\n{said}");
        verdict
    }

    /// More may not drain than `--max-draining` allows.
    pub fn make_room(&self) -> usize {
        eventually("the end of a drain", || {
            let status = self.status()?;
            (status["generations"].as_array()?.len() <= 3).then_some(())
        });
        self.site.log.mark()
    }

    pub fn verdict_after(&self, mark: usize) -> String {
        self.site.log.wait_after(mark, &VERDICTS)
    }

    /// Waits for the candidate, and returns its number.
    pub fn candidate_after(&self, mark: usize, said: &str) -> u32 {
        generation_in(&self.site.log.wait_after(mark, &[said]))
    }

    /// Nothing, if hotswap cannot be asked just now.
    pub fn status(&self) -> Option<Value> {
        let output = run(&self.site, &["status", "server", "--json"]);
        serde_json::from_slice(&output.stdout).ok()
    }

    /// The generation that has been said last to serve.
    pub fn serving(&self) -> u32 {
        let lines = self.site.log.lines(VERDICTS[0]);
        generation_in(lines.last().expect("one that serves"))
    }

    /// Does it to a generation that may be gone; what it had in hand may be lost until hotswap knows.
    pub fn crash(&mut self, cause: &'static str, generation: u32, signal: Signal) {
        let pid = self.site.pid(generation);
        let (mark, from) = (self.site.log.mark(), self.site.age());
        if !is_of(generation, pid) {
            return;
        }
        kill(pid, signal).expect("a signal to a server");
        let dead = ["is dead: ", "is gone ", "aborted: ", "rolled back: "]
            .map(|end| format!("generation {generation} {end}"));
        let line = self
            .site
            .log
            .wait_after(mark, &dead.each_ref().map(String::as_str));
        let said = self.site.log.since(mark);
        let at = said.iter().find(|(_, said)| *said == line);
        self.ledger.excuse(cause, from, at.expect("the line").0);
        self.ledger.permit(&[&dead[0]]);
    }

    /// It does not end when it is told to, or leaves others behind.
    pub fn permit_its_kill(&mut self, generation: u32) {
        let line = format!("generation {generation} is killed: it did not end in time");
        self.ledger.permit(&[&line]);
    }

    /// The same for the build that serves, and for all generations that run it.
    pub fn let_linger(&mut self, first: u32) {
        self.lingering = Some(first);
    }

    pub fn permit_lingering(&mut self) {
        let Some(first) = self.lingering else { return };
        let started = self.site.log.lines(" started, pid ");
        let last = started.last().map_or(first, |line| generation_in(line));
        (first..=last).for_each(|generation| self.permit_its_kill(generation));
    }

    /// Another hotswap is in its place: it has said nothing yet, and its memory is its own.
    pub fn forget_hotswap(&mut self) {
        self.heard = 0;
        self.holdings.clear();
    }

    /// Everything that was done and said, where the report points to.
    fn keep_log(&self) {
        let mut lines: Vec<(Duration, String)> = self.site.log.since(0);
        let said = lines
            .drain(..)
            .map(|(at, line)| format!("{at:9.3?} {line}"));
        let said = said.collect::<Vec<_>>().join("\n");
        let path = self.report.log_path();
        let text = format!("{}\n\n{said}\n", self.story.join("\n"));
        let kept = fs::File::create(&path).and_then(|mut file| file.write_all(text.as_bytes()));
        eprintln!("the log is kept in {}: {kept:?}", path.display());
    }
}

impl Drop for Life<'_> {
    fn drop(&mut self) {
        let tally = self.clients.so_far();
        self.report.add(&tally, &self.ledger, &self.holdings);
        if thread::panicking() {
            self.keep_log();
        }
    }
}

pub fn pause(milliseconds: usize) {
    let milliseconds = u64::try_from(milliseconds).expect("a short time");
    thread::sleep(Duration::from_millis(milliseconds));
}

/// Whether the process is still the generation's.
fn is_of(generation: u32, pid: Pid) -> bool {
    crate::common::processes::variable(pid, "HOTSWAP_GENERATION")
        .is_some_and(|number| number == generation.to_string())
}

/// The number in `hotswap: generation 3 is serving (...`.
pub fn generation_in(line: &str) -> u32 {
    let number = line.split("generation ").nth(1);
    let number = number.and_then(|rest| rest.split(' ').next()?.parse().ok());
    number.unwrap_or_else(|| panic!("no generation in {line}"))
}
