//! What hotswap takes for itself: of the requests, of memory, of the processor, and as things grow.

use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::load;
use crate::report::{Report, Samples, Target};
use crate::subject::{Bare, Means, Site, hotswap};

/// By then hotswap has given back what it does not need while it waits.
const AT_REST: Duration = Duration::from_secs(5);

fn one(value: f64) -> Samples {
    Samples::from_iter([value])
}

/// Requests a second, in turns of a tenth of a second.
pub fn throughput(report: &mut Report, turns: u32) {
    let bare = Bare::open(0);
    load::until_answered_by(bare.address, 0);
    let listen = Site::open(Means::Listen, 0, &["--no-watch"]);
    let captured = Site::open(Means::Captured, 0, &["--no-watch"]);
    let addresses = [bare.address, listen.address, captured.address];
    let mut ratios: [Vec<f64>; 2] = Default::default();
    let mut rates: [Vec<f64>; 3] = Default::default();
    for turn in 0..turns as usize {
        let mut now = [0.0; 3];
        for step in 0..3 {
            let which = (turn + step) % 3;
            now[which] = load::throughput(addresses[which], Duration::from_millis(100));
            rates[which].push(now[which]);
        }
        ratios[0].push(now[1] / now[0]);
        ratios[1].push(now[2] / now[0]);
    }
    let [bare, listen, captured] = rates.map(Samples::from_iter);
    report.figure("requests/s, bare", "/s", bare);
    report.figure("requests/s, --listen", "/s", listen);
    report.figure("requests/s, captured", "/s", captured);
    for (name, ratios) in ["--listen", "captured"].into_iter().zip(ratios) {
        let name = format!("requests/s, {name} to bare, in pairs");
        report.bounded(
            name,
            "",
            ratios.into_iter().collect(),
            Target::Between(0.99, 1.01),
        );
    }
}

/// Ten seconds in which nothing happens.
pub fn idle(report: &mut Report, lasting: Duration) {
    for name in ["--no-watch", "watching"] {
        let quiet: &[&str] = &["--quiesce", "0s", "--no-watch"];
        // one at a time: two would share the memory of the program
        let site = Site::open(
            Means::Listen,
            0,
            if name == "watching" {
                &quiet[..2]
            } else {
                quiet
            },
        );
        site.swap(&["--drained"]);
        // what a swap leaves to be done later is done by then
        sleep(AT_REST);
        let (wakes, cpu) = (site.wakes(), site.cpu());
        sleep(lasting);
        let (wakes, cpu) = (site.wakes() - wakes, site.cpu().saturating_sub(cpu));
        let idle = format!("idle {} s, {name}: ", lasting.as_secs());
        if name == "--no-watch" {
            report.bounded(
                format!("{idle}wake-ups"),
                "",
                one(wakes),
                Target::AtMost(0.0),
            );
        } else {
            report.figure(format!("{idle}wake-ups"), "", one(wakes));
        }
        report.figure(format!("{idle}processor"), "ms", Samples::from_iter([cpu]));
        report.bounded(
            format!("{idle}memory"),
            "kB PSS",
            one(site.memory()),
            Target::AtMost(3072.0),
        );
        report.figure(format!("{idle}threads"), "", one(site.threads()));
    }
    let size = std::fs::metadata(hotswap()).expect("the program").len();
    #[allow(clippy::cast_precision_loss)]
    report.bounded(
        "size of the program",
        "MB",
        one(size as f64 / 1e6),
        Target::AtMost(3.0),
    );
}

/// From hotswap's own start to the first answer.
pub fn start(report: &mut Report, repetitions: u32) {
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..repetitions {
        floor.push(Bare::first_answer(0).1);
        let site = Site::open(Means::Listen, 0, &["--no-watch"]);
        let (_, answered) = load::until_answered_by(site.address, 1);
        ours.push(answered - site.began);
    }
    report.pair(
        "start of hotswap to first answer",
        "ms",
        ours.into_iter().collect(),
        ("floor", floor.into_iter().collect()),
        None,
    );
}

/// One swap with so many listeners.
pub fn listeners(report: &mut Report, counts: &[usize]) {
    for count in counts {
        let site =
            Site::with_listeners(Means::Listen, *count, 0, &["--no-watch", "--quiesce", "0s"]);
        let took: Samples = (2..7)
            .map(|generation| asked_to_serving(&site, generation))
            .collect();
        report.figure(format!("asked to serving, {count} listeners"), "ms", took);
    }
}

fn asked_to_serving(site: &Site, generation: u32) -> Duration {
    let asked = Instant::now();
    site.signal();
    let (serving, _) = site.wait_for(&format!("generation {generation} is serving"));
    site.wait_for(&format!("generation {} is gone", generation - 1));
    serving - asked
}

/// One swap, when the draining generation has so many connections open: hotswap says how many it has.
pub fn connections(report: &mut Report, counts: &[usize], repetitions: u32) {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("a higher limit");
    let mut none = None;
    for count in counts {
        if most < *count as u64 + 100 {
            println!("  left out: {count} connections, of {most} descriptors");
            continue;
        }
        let took: Samples = (0..repetitions).map(|_| swap_holding(*count)).collect();
        let name = format!("asked to serving, {count} open connections");
        report.figure(name, "ms", took.clone());
        let none = *none.get_or_insert(took.median());
        if *count > 0 {
            report.bounded(
                format!("counting {count} open connections"),
                "ms",
                one(took.median() - none),
                Target::AtMost(20.0),
            );
        }
    }
}

fn swap_holding(count: usize) -> Duration {
    let site = Site::open(Means::Listen, 0, &["--no-watch", "--quiesce", "0s"]);
    let open = |_| TcpStream::connect(site.address).expect("a connection");
    let held: Vec<TcpStream> = (0..count).map(open).collect();
    // whoever asks next is accepted after all of them
    load::until_answered_by(site.address, 1);
    let asked = Instant::now();
    site.signal();
    let (serving, line) = site.wait_for("generation 2 is serving");
    assert!(line.contains(&format!(" {count} connections")), "{line}");
    drop(held);
    serving - asked
}

/// What so many swaps leave behind.
pub fn many_swaps(report: &mut Report, count: u32) {
    let site = Site::open(Means::Listen, 0, &["--no-watch", "--quiesce", "0s"]);
    let warm = 20;
    let mut last = Vec::new();
    let (mut memory, mut descriptors) = (0.0, 0);
    for generation in 2..=count + warm {
        last.push(asked_to_serving(&site, generation));
        if generation == warm {
            sleep(AT_REST);
            (memory, descriptors) = (site.memory(), site.descriptors());
            last.clear();
        }
    }
    sleep(AT_REST);
    let grown = site.memory() - memory;
    report.bounded(
        format!("memory after {count} swaps, more by"),
        "kB",
        one(grown),
        Target::AtMost(100.0),
    );
    #[allow(clippy::cast_precision_loss)]
    let more = site.descriptors() as f64 - descriptors as f64;
    report.bounded(
        format!("descriptors after {count} swaps, more by"),
        "",
        one(more),
        Target::AtMost(0.0),
    );
    let tenth = last.len() / 10;
    report.pair(
        format!("asked to serving, the last tenth of {count} swaps"),
        "ms",
        last.iter().rev().take(tenth).copied().collect(),
        (
            "the first tenth",
            last.iter().take(tenth).copied().collect(),
        ),
        None,
    );
}
