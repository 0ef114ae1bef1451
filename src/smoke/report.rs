//! What came of it: a table for people, an object for programs, a JUnit file for CI.

mod junit;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};

use super::http::RequestFailure;
use super::subject::ReportedListener;
use super::tally::{Count, Habit, Tally};
use crate::record::milliseconds;

/// The whole trial.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub listeners: Vec<ReportedListener>,
    pub swaps: u32,
    pub wanted: u32,
    pub tally: Tally,
    /// The addresses where the server answers with TLS.
    pub tls: BTreeSet<String>,
    /// How many old generations ended by a stop signal that they do not handle, and how many in their own way.
    pub killed: usize,
    pub graceful: usize,
    /// Those that had to be killed, because they did not end by it.
    pub deaf: BTreeSet<u64>,
    /// Why it counts as failed, and what the user can do.
    pub problem: Option<String>,
    /// What hotswap and the server wrote last, if it failed.
    pub last_lines: Vec<String>,
    pub took: Duration,
}

impl Report {
    /// What this server is, in one line.
    fn kind(&self) -> String {
        let listeners = self.listeners.iter().map(|one| {
            let origin = if one.captured {
                "captured"
            } else {
                "from --listen"
            };
            let sharing = if one.steered { "steered" } else { "shared" };
            format!("{} ({origin}, {sharing})", one.address)
        });
        let mut parts: Vec<String> = listeners.collect();
        if parts.is_empty() {
            parts.push("hotswap owns none of its listeners".to_owned());
        }
        let old = self.graceful + self.killed + self.deaf.len();
        if let Some(graceful) = self.is_graceful() {
            parts.push(if !self.deaf.is_empty() {
                let deaf = self.deaf.len();
                format!("ignores its stop signal ({deaf} of {old} were killed for that)")
            } else if graceful {
                format!(
                    "stops gracefully ({} of {old} exited after the stop signal)",
                    self.graceful
                )
            } else {
                format!(
                    "has no graceful stop ({} of {old} were ended by the signal)",
                    self.killed
                )
            });
        }
        parts.join("; ")
    }

    fn is_graceful(&self) -> Option<bool> {
        let others = self.killed + self.deaf.len();
        (self.graceful + others > 0).then_some(self.graceful > others)
    }

    /// Where hotswap owns no listener, a swap may fail requests later, too.
    fn fails_without_a_swap(&self) -> bool {
        self.swaps == 0 || (self.tally.apart_from_swaps > 0 && !self.listeners.is_empty())
    }

    fn only_kept_failed(&self) -> bool {
        let mut failed = self.tally.by_habit.iter().filter(|one| one.1.failed() > 0);
        failed.all(|(habit, _)| *habit == Habit::Kept)
    }

    pub fn table(&self) -> String {
        let mut table = String::new();
        let mut row = |name: &str, count: &Count| {
            let failed = count.failed();
            let slowest = count.slowest.as_millis();
            let _ = writeln!(
                table,
                "{name:<16}{:>10}{failed:>10}{slowest:>12}",
                count.requests
            );
            for (failure, times) in &count.failures {
                let _ = writeln!(table, "  {:<24}{times:>10}", failure.to_string());
            }
        };
        row("all", &self.tally.all);
        for (habit, count) in &self.tally.by_habit {
            row(&habit.to_string(), count);
        }
        let heading = format!(
            "{:<16}{:>10}{:>10}{:>12}",
            "clients", "requests", "failed", "slowest, ms"
        );
        let mut text = format!("{heading}\n{table}");
        for (generation, requests) in &self.tally.by_generation {
            let _ = writeln!(text, "generation {generation:<5}{requests:>10}");
        }
        let _ = writeln!(text, "server: {}", self.kind());
        let _ = writeln!(text, "swaps: {} of {}", self.swaps, self.wanted);
        text
    }

    /// Keys are only ever added.
    pub fn to_json(&self) -> Value {
        let clients = self.tally.by_habit.iter();
        let addresses = self.tally.by_address.iter();
        let generations = self.tally.by_generation.iter();
        json!({
            "ok": self.problem.is_none(),
            "problem": self.problem,
            "last_lines": self.last_lines,
            "swaps": self.swaps,
            "swaps_wanted": self.wanted,
            "took_ms": milliseconds(self.took),
            "repeated": self.tally.repeated,
            "all": count_to_json(&self.tally.all),
            "clients": clients.map(|(habit, count)| (habit.to_string(), count_to_json(count))).collect::<Value>(),
            "addresses": addresses.map(|(address, count)| (address.clone(), count_to_json(count))).collect::<Value>(),
            "generations": generations
                .map(|(generation, requests)| json!({"generation": generation, "requests": requests}))
                .collect::<Vec<_>>(),
            "listeners": self.listeners,
            "graceful": self.is_graceful(),
            "killed": self.deaf.len(),
        })
    }
}

fn describe(count: &Count) -> String {
    format!("{}: {}", describe_number(count), describe_kinds(count))
}

fn describe_number(count: &Count) -> String {
    format!("{} of {} requests failed", count.failed(), count.requests)
}

fn describe_kinds(count: &Count) -> String {
    let kinds = count
        .failures
        .iter()
        .map(|(failure, times)| format!("{times} {failure}"));
    let kinds: Vec<String> = kinds.collect();
    kinds.join(", ")
}

/// The same with the addresses where they failed, and what is known of those.
fn describe_by_address(report: &Report) -> String {
    let failed = report.tally.by_address.iter();
    let failed = failed.filter(|one| one.1.failed() > 0);
    let parts = failed.map(|(address, count)| {
        let kinds = describe_kinds(count);
        let what = if report.tls.contains(address) {
            ", which answers with TLS"
        } else if count.has_only_failed() && report.tally.by_address.len() > 1 {
            ", which answered none as it should"
        } else {
            ""
        };
        format!("{kinds} at {address}{what}")
    });
    let parts: Vec<String> = parts.collect();
    format!(
        "{}: {}",
        describe_number(&report.tally.all),
        parts.join("; ")
    )
}

fn count_to_json(count: &Count) -> Value {
    let failures = count.failures.iter();
    json!({
        "requests": count.requests,
        "failed": count.failed(),
        "slowest_ms": milliseconds(count.slowest),
        "failures": failures.map(|(failure, times)| (failure.to_string(), json!(times))).collect::<Value>(),
    })
}

/// Why requests failed, in one line, and what the user can do about it.
pub fn explain(report: &Report, path: &str) -> Option<String> {
    let all = &report.tally.all;
    if all.requests == 0 {
        return Some("no request was made".to_owned());
    }
    let (most, _) = all.failures.iter().max_by_key(|(_, times)| **times)?;
    let well = report.tally.by_address.iter();
    let well = well.filter(|one| one.1.failed() == 0);
    let well: Vec<String> = well.map(|one| format!("--ask {}", one.0)).collect();
    let addresses = &report.tally.by_address;
    let asks_wrong_ones = !well.is_empty()
        && addresses
            .values()
            .all(|one| one.failed() == 0 || one.has_only_failed());
    let mut alike = addresses.values().chain(report.tally.by_habit.values());
    let is_always = alike.any(Count::has_only_failed);
    let advice = match most {
        _ if asks_wrong_ones => {
            let well = well.join(" ");
            format!("try: {well}, if the server speaks something other than plain HTTP elsewhere")
        }
        _ if !report.tls.is_empty() => {
            "try: the server without TLS, or --ask with a port where it speaks plain HTTP"
                .to_owned()
        }
        RequestFailure::Status(status) if is_always => {
            format!(
                "try: --path with one that answers 2xx or 3xx, instead of {path}, or --expect {status}"
            )
        }
        RequestFailure::Tls | RequestFailure::NotHttp if is_always => {
            "try: --ask with a port where the server speaks HTTP/1.1".to_owned()
        }
        RequestFailure::TooSlow => "try: a larger --max-ms".to_owned(),
        _ if report.fails_without_a_swap() => {
            "try: the server without hotswap, because requests also fail while no swap is under way"
                .to_owned()
        }
        RequestFailure::Status(status) => {
            format!("try: --ready http:{path}, if a new version answers with {status} at first")
        }
        _ if report.listeners.is_empty() => {
            "try: --listen ADDR, or --capture auto, so that hotswap owns the listener".to_owned()
        }
        _ if report.listeners.iter().any(|one| !one.steered) => {
            "try: a steered listener (a TCP address or a unix path, without --share)".to_owned()
        }
        RequestFailure::Truncated if report.only_kept_failed() => {
            "try: a graceful stop of the server; it ended during an answer to a keep-alive client"
                .to_owned()
        }
        _ => "try: --quiesce or --drain-timeout longer than its longest request".to_owned(),
    };
    Some(format!("{}\n{advice}", describe_by_address(report)))
}

#[cfg(test)]
mod tests {
    use super::super::tally::RequestOutcome;
    use super::*;

    fn met(failure: Option<&RequestFailure>, in_swap: bool) -> Report {
        let mut report = Report {
            listeners: vec![ReportedListener {
                address: "127.0.0.1:8080".into(),
                steered: true,
                captured: true,
            }],
            swaps: 2,
            wanted: 2,
            graceful: 2,
            ..Report::default()
        };
        report.tally.add(&RequestOutcome {
            habit: Habit::New,
            address: "127.0.0.1:8080".into(),
            generation: 1,
            took: Duration::from_millis(3),
            failure: None,
            in_swap: true,
        });
        report.tally.add(&RequestOutcome {
            habit: Habit::Kept,
            address: "127.0.0.1:8080".into(),
            generation: 2,
            took: Duration::from_millis(7),
            failure: failure.cloned(),
            in_swap,
        });
        report.problem = explain(&report, "/");
        report
    }

    fn report(failure: Option<&RequestFailure>) -> Report {
        met(failure, true)
    }

    #[test]
    fn a_server_that_fails_without_a_swap_is_told_from_one_that_fails_in_a_swap() {
        let problem = |in_swap| met(Some(&RequestFailure::Reset), in_swap).problem.unwrap();
        assert!(problem(true).contains("try: --quiesce"));
        assert!(problem(false).contains("requests also fail while no swap is under way"));
    }

    #[test]
    fn the_manual_has_every_key() {
        let manual = include_str!("../../man/hotswap.1");
        let (_, told) = manual.split_once("\n.Cm smoke Fl -json\nhas\n").unwrap();
        let (told, _) = told.split_once("\n.Sh ").unwrap();
        let told: Vec<&str> = told.split([' ', '\n']).collect();
        let object = report(None).to_json();
        for object in [&object, &object["all"]] {
            for key in object.as_object().unwrap().keys() {
                assert!(told.contains(&key.as_str()), "{key}");
            }
        }
    }

    #[test]
    fn a_clean_trial_has_no_problem() {
        let report = report(None);
        assert_eq!(report.problem, None);
        assert_eq!(report.to_json()["ok"], true);
        assert!(report.junit().contains("failures=\"0\""));
        assert!(
            report.table().contains("stops gracefully (2 of 2"),
            "{}",
            report.table()
        );
    }

    #[test]
    fn a_failure_says_what_to_do() {
        for (failure, advice) in [
            (RequestFailure::Status(404), "--expect 404"),
            (RequestFailure::Tls, "HTTP/1.1"),
            (RequestFailure::Reset, "--quiesce"),
            (RequestFailure::Truncated, "a graceful stop"),
        ] {
            let report = report(Some(&failure));
            let problem = report.problem.clone().unwrap();
            assert!(
                problem.starts_with("1 of 2 requests failed: 1 "),
                "{problem}"
            );
            assert!(
                problem.contains("\ntry: ") && problem.contains(advice),
                "{problem}"
            );
            assert!(report.junit().contains("failures=\"2\""));
        }
    }

    #[test]
    fn a_status_among_good_answers_is_no_reason_to_expect_it() {
        let met = |in_swap| {
            let mut report = met(Some(&RequestFailure::Status(503)), in_swap);
            for habit in [Habit::New, Habit::Kept] {
                report.tally.add(&RequestOutcome {
                    habit,
                    address: "127.0.0.1:8080".into(),
                    generation: 2,
                    took: Duration::from_millis(3),
                    failure: None,
                    in_swap,
                });
            }
            explain(&report, "/").unwrap()
        };
        assert!(
            met(true).contains("try: --ready http:/, if"),
            "{}",
            met(true)
        );
        assert!(
            met(false).contains("try: the server without hotswap"),
            "{}",
            met(false)
        );
    }

    #[test]
    fn the_address_that_failed_is_named_with_what_it_speaks() {
        let mut report = report(None);
        report.tally.add(&RequestOutcome {
            habit: Habit::New,
            address: "127.0.0.1:8443".into(),
            generation: 1,
            took: Duration::from_millis(3),
            failure: Some(RequestFailure::NoAnswer),
            in_swap: false,
        });
        let problem = |report: &Report| explain(report, "/").unwrap();
        assert_eq!(
            problem(&report),
            "1 of 3 requests failed: 1 closed without an answer at 127.0.0.1:8443, which answered none as it should\n\
             try: --ask 127.0.0.1:8080, if the server speaks something other than plain HTTP elsewhere"
        );
        report.tls.insert("127.0.0.1:8443".into());
        assert!(problem(&report).contains("at 127.0.0.1:8443, which answers with TLS\n"));
        assert_eq!(report.to_json()["addresses"]["127.0.0.1:8443"]["failed"], 1);
    }
}
