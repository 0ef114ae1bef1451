//! What clients notice of a swap, and how long its parts take.

use std::time::{Duration, Instant};

use crate::load::{self, Flow, Request};
use crate::report::{Report, Samples, Target};
use crate::subject::{Bare, Means, Site, built, monotonic, nanoseconds};

/// Who has served so long is started again at once.
const LASTING: Duration = Duration::from_millis(10_500);
/// So long after a swap was asked for, a request is one near a swap.
const NEAR: Duration = Duration::from_millis(250);
const RATE: u32 = 400;

/// Swaps under load; the requests around the last one, since it was asked for.
pub fn under_load(report: &mut Report, means: Means, swaps: u32) -> (Instant, Vec<Request>) {
    let site = Site::open(means, 0, &["--no-watch"]);
    let what = format!("{means:?}, ").to_lowercase();
    let flow = Flow::begin(site.address, RATE);
    let mut asked = Vec::new();
    for swap in 0..swaps {
        std::thread::sleep(NEAR * 3);
        asked.push(Instant::now());
        site.signal();
        site.wait_for(&format!("generation {} is serving", swap + 2));
    }
    std::thread::sleep(NEAR * 3);
    let met = flow.end();
    let is_near = |request: &&Request| {
        asked
            .iter()
            .any(|asked| (*asked..*asked + NEAR).contains(&request.at))
    };
    let failed: usize = load::failures(&met).values().sum();
    for (kind, count) in load::failures(&met) {
        println!("  {count} requests {kind}");
    }
    let name = format!("{what}{swaps} swaps, {} requests: failed", met.len());
    #[allow(clippy::cast_precision_loss)]
    report.bounded(
        name,
        "",
        Samples::from_iter([failed as f64]),
        Target::AtMost(0.0),
    );
    let near: Samples = met.iter().filter(is_near).map(|one| one.took).collect();
    let steady: Samples = met
        .iter()
        .filter(|one| !is_near(one))
        .map(|one| one.took)
        .collect();
    for (name, thousandths) in [("p50", 500), ("p99", 990), ("p99.9", 999), ("max", 1000)] {
        let one = |samples: &Samples| Samples::from_iter([samples.quantile(thousandths)]);
        let target = (thousandths == 990).then_some(Target::AtMost(1.4));
        let name = format!("{what}latency within 250 ms of a swap, {name}");
        report.pair(name, "ms", one(&near), ("steady", one(&steady)), target);
    }
    let last = asked.pop().expect("a swap");
    let near = |at: Instant| at + NEAR > last && at < last + NEAR * 2;
    (last, met.into_iter().filter(|one| near(one.at)).collect())
}

/// From SIGHUP to the first answer and the verdict, beside a program that only forks, execs and waits.
pub fn latencies(report: &mut Report, repetitions: u32) {
    for (start, mosts) in [(0, [1.6, 2.0]), (100, [1.02, 1.02])] {
        for (means, most) in Means::BOTH.into_iter().zip(mosts) {
            let site = Site::open(means, start, &["--no-watch", "--quiesce", "0s"]);
            let (mut floor_began, mut floor) = (Vec::new(), Vec::new());
            let mut parts: [Vec<Duration>; 4] = Default::default();
            for turn in 0..repetitions {
                let (began, answered) = Bare::first_answer(start);
                floor_began.push(began);
                floor.push(answered);
                let asked = Instant::now();
                let asked_on_their_clock = monotonic();
                site.signal();
                let (answer, answered) = load::until_answered_by(site.address, turn + 2);
                let (verdict, _) = site.wait_for(&format!("generation {} is serving", turn + 2));
                let (gone, _) = site.wait_for(&format!("generation {} is gone", turn + 1));
                let since = |stamp: u128| nanoseconds(stamp - asked_on_their_clock);
                parts[0].push(answered - asked);
                parts[1].push(since(answer.began));
                parts[2].push((answered - asked).saturating_sub(since(answer.ready)));
                parts[3].push(gone.saturating_duration_since(verdict));
            }
            let what = format!("{means:?}, server of {} ms: ", start.max(1)).to_lowercase();
            let [first, began, late, gone] = parts.map(Samples::from_iter);
            report.pair(
                format!("{what}asked to first answer"),
                "ms",
                first,
                ("floor", floor.into_iter().collect()),
                Some(Target::AtMost(most)),
            );
            let floor_began = floor_began.into_iter().collect();
            let name = format!("{what}asked to main()");
            report.pair(name, "ms", began, ("floor", floor_began), None);
            report.bounded(
                format!("{what}could answer to first answer"),
                "ms",
                late,
                Target::AtMost(0.5),
            );
            report.figure(format!("{what}verdict to gone"), "ms", gone);
        }
    }
}

/// From the death of the server to the first answer of the next one.
pub fn crashes(report: &mut Report, repetitions: u32) {
    for means in Means::BOTH {
        let site = Site::open(means, 0, &["--no-watch", "--restart", "always"]);
        let (mut floor_began, mut floor) = (Vec::new(), Vec::new());
        let (mut began, mut answers) = (Vec::new(), Vec::new());
        for turn in 0..repetitions {
            let bare = Bare::first_answer(0);
            floor_began.push(bare.0);
            floor.push(bare.1);
            let died = site.kill_server();
            let died_on_their_clock = monotonic() - died.elapsed().as_nanos();
            let (answer, answered) = load::until_answered_by(site.address, turn + 2);
            site.wait_for(&format!("generation {} is serving", turn + 2));
            began.push(nanoseconds(answer.began - died_on_their_clock));
            answers.push(answered - died);
            // the next restart is at once again
            std::thread::sleep(LASTING);
        }
        let what = format!("{means:?}, crash to ").to_lowercase();
        let [began, answers, floor_began, floor] =
            [began, answers, floor_began, floor].map(Samples::from_iter);
        let name = format!("{what}main()");
        report.pair(name, "ms", began, ("floor", floor_began), None);
        report.pair(
            format!("{what}first answer"),
            "ms",
            answers,
            ("floor", floor),
            Some(Target::AtMost(1.8)),
        );
    }
}

/// `hotswap swap`, from its start to its end, beside a command that does nothing.
pub fn by_command(report: &mut Report, repetitions: u32) {
    let site = Site::open(Means::Listen, 0, &["--no-watch", "--quiesce", "0s"]);
    let (mut swaps, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..repetitions {
        let began = Instant::now();
        site.swap(&[]);
        swaps.push(began.elapsed());
        floor.push(Bare::first_answer(0).1);
    }
    report.pair(
        "hotswap swap, from its start to its end",
        "ms",
        swaps.into_iter().collect(),
        ("floor", floor.into_iter().collect()),
        None,
    );
}

/// From the new file being in its place to the first answer of the new version.
pub fn by_file(report: &mut Report, repetitions: u32) {
    let site = Site::open(Means::Listen, 0, &["--quiesce", "0s"]);
    let program = site.dir.path().join("server");
    let script = std::fs::read(&program).expect("the program");
    // what it runs: nobody can write into that in place
    let server = std::fs::read(built("quick")).expect("the server");
    let (mut renamed, mut written) = (Vec::new(), Vec::new());
    let mut generation = 1;
    let mut publish = |content: &[u8], put: &dyn Fn(&[u8])| {
        generation += 1;
        // a comment of the script; what follows the sections of a program is not read
        let mark = format!("# {generation}\n");
        put(&[content, mark.as_bytes()].concat());
        let began = Instant::now();
        let (_, answered) = load::until_answered_by(site.address, generation);
        site.wait_for(&format!("generation {} is gone", generation - 1));
        answered - began
    };
    for _ in 0..repetitions {
        written.push(publish(&script, &|bytes| {
            std::fs::write(&program, bytes).expect("a new version");
        }));
    }
    for _ in 0..repetitions {
        let beside = program.with_extension("new");
        renamed.push(publish(&server, &|bytes| {
            std::fs::write(&beside, bytes).expect("a new version");
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(&beside, mode).expect("its mode");
            std::fs::rename(&beside, &program).expect("a place for it");
        }));
    }
    let (renamed, written) = (renamed.into_iter().collect(), written.into_iter().collect());
    let most = Target::AtMost(2.2);
    report.bounded(
        "file renamed into place to first answer",
        "ms",
        renamed,
        most,
    );
    report.figure("script written in place to first answer", "ms", written);
}
