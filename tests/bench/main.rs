//! What hotswap costs, beside the least that it could: the figures of tests/bench/README.md. Run it by scripts/bench.
//!
//! Whatever is compared is measured in one run, in turns.

mod costs;
mod load;
mod picture;
mod report;
mod rivals;
mod servers;
mod subject;
mod swaps;

use std::time::{Duration, Instant};
use std::{env, fs, io};

use report::Report;
use subject::Means;

/// What is left of the arguments once `name` and its value have been taken.
fn option(arguments: &mut Vec<String>, name: &str) -> Option<String> {
    let at = arguments.iter().position(|argument| argument == name)?;
    arguments.remove(at);
    (at < arguments.len()).then(|| arguments.remove(at))
}

fn main() -> io::Result<()> {
    let mut arguments: Vec<String> = env::args().skip(1).collect();
    let json = option(&mut arguments, "--json");
    let svg = option(&mut arguments, "--svg");
    let quick = arguments.iter().any(|argument| argument == "--quick");
    arguments.retain(|argument| argument != "--quick");
    let few = |all: u32, some: u32| if quick { some } else { all };
    let began = Instant::now();
    let mut report = Report::default();
    let begins = |part: &str| {
        let is_asked_for = arguments.is_empty() || arguments.iter().any(|asked| asked == part);
        if is_asked_for {
            println!("\n{part} ({} s)", began.elapsed().as_secs());
        }
        is_asked_for
    };

    if begins("load") {
        let (asked, around) = swaps::under_load(&mut report, Means::Listen, few(50, 12));
        swaps::under_load(&mut report, Means::Captured, few(50, 12));
        if let Some(path) = svg {
            fs::write(path, picture::of(asked, &around))?;
        }
    }
    if begins("latency") {
        swaps::latencies(&mut report, few(50, 15));
        swaps::by_command(&mut report, few(50, 15));
        swaps::by_file(&mut report, few(20, 5));
        swaps::crashes(&mut report, few(10, 3));
    }
    if begins("servers") {
        servers::verdicts(&mut report, few(30, 7));
    }
    if begins("throughput") {
        costs::throughput(&mut report, few(100, 20));
    }
    if begins("rest") {
        costs::idle(&mut report, Duration::from_secs(10));
        costs::start(&mut report, few(30, 10));
    }
    if begins("growth") {
        let (listeners, connections): (&[usize], &[usize]) = if quick {
            (&[1, 100], &[0, 1000])
        } else {
            (&[1, 10, 100, 1000], &[0, 1000, 10_000])
        };
        costs::listeners(&mut report, listeners);
        costs::connections(&mut report, connections, few(10, 3));
        costs::many_swaps(&mut report, few(1000, 100));
    }
    if begins("rivals") {
        let rest = Duration::from_millis(u64::from(few(2500, 1000)));
        rivals::compare(&mut report, &rivals::RIVALS, few(10, 2), rest);
    }
    if begins("saves") {
        // longer than the second after a start in which a save may be the server's own
        rivals::compare(
            &mut report,
            &rivals::AT_SAVES,
            few(10, 3),
            Duration::from_secs(3),
        );
    }

    println!("\n{}", report.table());
    if let Some(path) = json {
        fs::write(path, format!("{:#}\n", report.json()))?;
    }
    Ok(())
}
