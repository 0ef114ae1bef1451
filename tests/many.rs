//! A thousand listeners, ten thousand connections, sixty-four generations: what each costs, and that nobody pays for it.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{setsockopt, sockopt};

use crate::commands::{ended, run, said};
use crate::common::crowd::Habit;
use crate::common::place::{Place, Target};
use crate::common::processes::{cpu, status};
use crate::common::site::Site;
use crate::common::tally::Failure;
use crate::common::{alone, eventually, server, skipped};

/// As many descriptors as are allowed, if that is enough.
fn has_descriptors(name: &str, wanted: u64) -> bool {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("a limit");
    if hard < wanted {
        skipped(
            name,
            &format!("no more than {hard} descriptors are allowed"),
        );
    }
    hard >= wanted
}

#[test]
fn a_thousand_listeners_are_swapped_at_once() {
    const LISTENERS: usize = 1000;
    if !has_descriptors("a_thousand_listeners_are_swapped_at_once", 10_000) {
        return;
    }
    let _alone = alone();
    let began = Instant::now();
    let flags = ["--listen", "127.0.0.1:0"].repeat(LISTENERS);
    let mut site = Site::at(Place::Nowhere).with(&flags).serving("v1");
    let start = began.elapsed();
    let lines = site.log.lines("hotswap: listening on ");
    let address = |line: &String| line.rsplit(' ').next()?.parse().ok();
    site.targets = lines.iter().filter_map(address).map(Target::Tcp).collect();
    assert_eq!(site.targets.len(), LISTENERS);
    let everywhere = site.guests().arriving(500, Habit::default());
    let mut clients = everywhere.and(4, Habit::hesitating()).come();
    clients.until_answered(LISTENERS);
    let (before, began) = (cpu(site.hotswap()), Instant::now());
    site.publish("v2").swap();
    let swap = began.elapsed();
    clients.until_all_see("v2");
    site.wait_until_gone(1);
    let spent = cpu(site.hotswap()).saturating_sub(before);
    clients.until_answered(LISTENERS);
    clients.expect_no_failure();
    let descriptors = fs::read_dir(format!("/proc/{}/fd", site.hotswap()))
        .expect("its descriptors")
        .count();
    let memory = status(site.hotswap(), "VmRSS").unwrap_or_default();
    let began = Instant::now();
    assert!(site.stop().success());
    site.expect_nothing_left();
    let stop = began.elapsed();
    println!(
        "start {start:.0?}, swap {swap:.0?} ({spent:.0?} of a processor until the old one was gone), stop {stop:.0?}"
    );
    println!("{descriptors} descriptors, {memory}");
}

/// Whoever closes a connection of these leaves nothing of it behind, such as a TIME_WAIT.
fn kept_connection(target: &Target) -> TcpStream {
    let Target::Tcp(address) = target else {
        panic!("no place for connections: {target:?}");
    };
    let stream = TcpStream::connect(address).expect("a connection");
    let reset = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&stream, sockopt::Linger, &reset).expect("an option");
    stream
}

/// All of them have been answered, but one has not asked yet: for that one, all are counted again and again.
#[test]
fn ten_thousand_connections_are_counted_at_little_cost() {
    const CONNECTIONS: usize = 10_000;
    if !has_descriptors(
        "ten_thousand_connections_are_counted_at_little_cost",
        10_500,
    ) {
        return;
    }
    let _alone = alone();
    let plan = Site::at(Place::Tcp4).with(&["--drain-timeout", "60s", "--quiesce", "50s"]);
    let mut site = plan.by_program(server("quick"), &[]).serving("");
    let connection = || kept_connection(&site.targets[0]);
    let mut quiet: Vec<TcpStream> = (0..CONNECTIONS).map(|_| connection()).collect();
    for stream in &mut quiet {
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: site\r\n\r\n")
            .expect("a request");
    }
    for stream in &mut quiet {
        let heard = stream.read(&mut [0; 1000]).expect("an answer");
        assert!(heard > 0);
    }
    let busy = connection();
    let mut clients = site.guests().and(4, Habit::default()).come();
    clients.until_answered(10);
    let asked = Instant::now();
    site.swap();
    let swap = asked.elapsed();
    let line = site.log.lines("generation 2 is serving").pop();
    let line = line.expect("a line about the swap");
    let number = line
        .split(' ')
        .rev()
        .nth(1)
        .and_then(|word| word.parse().ok());
    let number: usize = number.expect("a number of connections");
    assert!(
        (CONNECTIONS + 1..CONNECTIONS + 20).contains(&number),
        "{line}"
    );
    let (before, began) = (cpu(site.hotswap()), Instant::now());
    sleep(Duration::from_secs(2));
    let spent = cpu(site.hotswap()).saturating_sub(before);
    let share = spent.as_secs_f64() / began.elapsed().as_secs_f64();
    clients.until_answered(10);
    assert!(
        !site.log.says("generation 1 is gone"),
        "it has waited for nobody"
    );
    println!(
        "swap {swap:.0?}, counting takes {:.1} % of a processor",
        100.0 * share
    );
    assert!(share < 0.2);
    drop(busy);
    site.wait_until_gone(1);
    for mut stream in quiet {
        assert_eq!(stream.read(&mut [0; 1]).expect("the server's end"), 0);
    }
    clients.expect_no_failure();
    assert!(site.stop().success());
    site.expect_nothing_left();
}

/// In use for so long that a generation is still there when many others have come.
const LONG: Habit = Habit {
    kept: false,
    hesitation: Duration::ZERO,
    slow: Duration::from_secs(3),
};

/// One `hotswap swap` after the other, each as soon as the one before has been answered.
fn swap_rapidly(site: &Site, swaps: u32) {
    for generation in 2..=swaps + 1 {
        let output = run(site.publish(&format!("v{generation}")), &["swap", "server"]);
        ended(&output, 0, &[]);
        let serving = format!("generation {generation} is serving");
        assert!(said(&output).contains(&serving), "{}", said(&output));
    }
}

#[test]
fn sixty_four_generations_drain_side_by_side() {
    const SWAPS: u32 = 64;
    let _alone = alone();
    let plan = Site::at(Place::Tcp4).with(&["--max-draining", "64"]);
    let mut site = plan.serving("v1");
    let mut clients = site.clients(4);
    let mut patient = site.guests().arriving(40, LONG).come();
    let (before, began) = (cpu(site.hotswap()), Instant::now());
    swap_rapidly(&site, SWAPS);
    let (spent, lasted) = (cpu(site.hotswap()).saturating_sub(before), began.elapsed());
    let draining = SWAPS as usize - site.log.count(" is gone ");
    clients.until_all_see("v65");
    patient.expect_no_failure();
    site.wait_until_gone(SWAPS);
    clients.expect_no_failure();
    assert_eq!(site.log.count(" is killed"), 0);
    assert!(site.stop().success());
    site.expect_nothing_left();
    println!(
        "{lasted:.1?}, of which hotswap worked {spent:.1?}; {draining} were draining in the end"
    );
}

/// Only those wait in vain who wait for a generation that is killed early, and hotswap says so of each.
#[test]
fn more_than_may_drain_are_killed_and_counted() {
    let _alone = alone();
    let mut site = Site::serving("v1");
    let mut clients = site.guests().and(4, Habit::default()).come();
    let mut patient = site.guests().arriving(40, LONG).come();
    swap_rapidly(&site, 20);
    clients.until_all_see("v21");
    clients.expect_no_failure();
    let tally = patient.leave();
    eventually("the end of every drain", || {
        (site.log.count(" is gone ") == 20).then_some(())
    });
    let killed = site
        .log
        .count(" is killed: more are draining than --max-draining allows");
    assert!(killed > 0, "all had ended in time");
    // Some may have ended by themselves in the same moment.
    let died = site.log.count("(killed by SIGKILL)");
    assert!((1..=killed).contains(&died));
    assert!(
        tally
            .failures
            .iter()
            .all(|one| matches!(one.failure, Failure::Eof | Failure::Reset)),
        "{tally}"
    );
    assert!(site.stop().success());
    site.expect_nothing_left();
    println!(
        "{killed} generations killed, and with them {} requests",
        tally.failures.len()
    );
}
