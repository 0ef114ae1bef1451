//! What may go wrong, and why: each failed request is held against the events that may have cost it, each line of the log
//! against what has been done.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::common::tally::{Failure, Incident};

/// How long after its cause a failure may reach a client on a machine that is busy.
const DELAY: Duration = Duration::from_secs(5);

/// How long hotswap may take to say that a process has ended.
const NOTICE: Duration = Duration::from_secs(1);

/// What hotswap says on any day.
const ROUTINE: [&str; 14] = [
    "hotswap: watching ",
    ", which is not watched",
    "hotswap: listening on ",
    " started, pid ",
    " is proving (",
    " is serving (",
    " is gone after ",
    "/server changed",
    "hotswap: upgraded to ",
    "hotswap: stopping",
    "hotswap: waiting for the verdict on ",
    "hotswap: waiting for generation ",
    "hotswap: the last good program, that of ",
    " does not get SIGUSR1: it does not catch it",
];

/// A time in which requests that were on their way may be lost.
struct Excuse {
    cause: &'static str,
    from: Duration,
    until: Duration,
    /// What began in it may be lost later: it waits at a generation that is to be killed.
    lingers: bool,
}

#[derive(Default)]
pub struct Ledger {
    excuses: Vec<Excuse>,
    permitted: Vec<String>,
    incidents: usize,
    pub explained: BTreeMap<&'static str, usize>,
}

impl Ledger {
    /// What the servers had in hand between these moments may be lost: connections that end without their answer.
    pub fn excuse(&mut self, cause: &'static str, from: Duration, until: Duration) {
        self.add(cause, from, until, false);
    }

    /// The same, and what began in that time may be lost whenever it ends.
    pub fn excuse_for_good(&mut self, cause: &'static str, from: Duration, until: Duration) {
        self.excuse(cause, from, until);
        self.add(cause, from, until, true);
    }

    fn add(&mut self, cause: &'static str, from: Duration, until: Duration, lingers: bool) {
        self.excuses.push(Excuse {
            cause,
            from,
            until,
            lingers,
        });
    }

    /// One that is given up may have to be killed. Where nothing serves, it has had the clients that wait from its start.
    pub fn hear_of_candidates(&mut self, lines: &[(Duration, String)]) {
        for (at, line) in lines {
            let Some((who, _)) = line.split_once(" aborted: ") else {
                continue;
            };
            self.permit(&[&format!("{who} is killed: it did not end in time")]);
            if !line.contains(" keeps serving") {
                let from = at.saturating_sub(NOTICE);
                self.excuse("candidate while nothing serves", from, *at);
            }
        }
    }

    /// hotswap may say this from now on.
    pub fn permit(&mut self, texts: &[&str]) {
        self.permitted
            .extend(texts.iter().map(|&text| text.to_owned()));
    }

    /// The first line that nothing has caused.
    pub fn strange_line<'a>(&self, lines: &'a [(Duration, String)]) -> Option<&'a String> {
        let is_known = |line: &str| {
            let routine = ROUTINE.iter().any(|text| line.contains(text));
            routine || self.permitted.iter().any(|text| line.contains(text))
        };
        let mut said = lines.iter().map(|(_, line)| line);
        said.find(|line| {
            line.contains("panicked") || (line.starts_with("hotswap: ") && !is_known(line))
        })
    }

    /// The first new failure that nothing has caused.
    pub fn unexplained<'a>(&mut self, incidents: &'a [Incident]) -> Option<&'a Incident> {
        let known = std::mem::replace(&mut self.incidents, incidents.len());
        for incident in &incidents[known..] {
            let Some(excuse) = self.excuses.iter().find(|excuse| excuse.covers(incident)) else {
                return Some(incident);
            };
            *self.explained.entry(excuse.cause).or_default() += 1;
        }
        None
    }
}

impl Excuse {
    fn covers(&self, incident: &Incident) -> bool {
        let lost = [Failure::Reset, Failure::Eof, Failure::Truncated];
        let began = incident.at.saturating_sub(incident.age);
        let in_time = if self.lingers {
            self.from <= began
        } else {
            (self.from..=self.until + DELAY).contains(&incident.at)
        };
        lost.contains(&incident.failure) && began <= self.until && in_time
    }
}
