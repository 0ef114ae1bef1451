//! A thousand swaps, one after the other, each asked for by `hotswap swap`: nothing piles up.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::commands::{ended, run, status};
use crate::common::place::Place;
use crate::common::processes;
use crate::common::site::Site;
use crate::common::{Raised, alone, eventually};

const SWAPS: usize = 1000;
/// What malloc may keep of what it once had, in KiB.
const SLACK: u64 = 1024;

/// How many sockets are parked for the next generation depends on when the last one went.
const PARKED: usize = 2;

#[derive(Debug)]
struct Holdings {
    descriptors: usize,
    kibibytes: u64,
}

/// Of hotswap, once all old generations are gone.
fn holdings(site: &Site) -> Holdings {
    eventually("the end of every drain", || {
        let started = site.log.count(" started, pid ");
        (site.log.count(" is gone ") + 1 == started).then_some(())
    });
    let pid = site.hotswap();
    // A client that asks for the status has a descriptor while it does. Pages of the program come and go: they are given
    // back at rest, and mapped again when they are run.
    let samples = (0..20).map(|_| {
        thread::sleep(Duration::from_millis(20));
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"));
        let anonymous = processes::status(pid, "RssAnon").expect("its memory");
        let kibibytes = anonymous.split(' ').next().map(str::parse::<u64>);
        (
            descriptors.expect("its descriptors").count(),
            kibibytes.expect("a number").expect("a number"),
        )
    });
    let (descriptors, kibibytes): (Vec<_>, Vec<_>) = samples.unzip();
    Holdings {
        descriptors: descriptors.into_iter().min().expect("a number"),
        kibibytes: kibibytes.into_iter().min().expect("a number"),
    }
}

#[test]
fn memory_and_descriptors_are_the_same_after_a_thousand_swaps() {
    let _alone = alone();
    let site = Site::at(Place::Tcp4)
        .with(&["--quiesce", "0s"])
        .serving("v1");
    let path = site.dir().join("run/hotswap/server.sock");
    let mut deaf = UnixStream::connect(path).expect("a connection");
    deaf.write_all(b"{\"do\":\"events\"}\n").expect("a request");

    let enough = AtomicBool::new(false);
    let (early, late) = thread::scope(|scope| {
        let _end = Raised(&enough);
        scope.spawn(|| {
            while !enough.load(Ordering::Relaxed) {
                status(&site);
                thread::sleep(Duration::from_millis(100));
            }
        });
        let swap = || {
            let output = run(&site, &["swap", "server"]);
            ended(&output, 0, &[]);
        };
        (0..10).for_each(|_| swap());
        let early = holdings(&site);
        (10..SWAPS).for_each(|_| swap());
        (early, holdings(&site))
    });

    eprintln!("{early:?} {late:?}");
    // The one that never read was let go on the way.
    let mut heard = Vec::new();
    deaf.read_to_end(&mut heard).expect("an end");
    let heard = String::from_utf8_lossy(&heard);
    assert!(heard.contains("generation 2 is serving"));
    assert!(!heard.contains(&format!("generation {SWAPS} is serving")));
    assert!(
        late.descriptors <= early.descriptors + PARKED,
        "{early:?} {late:?}"
    );
    assert!(
        late.kibibytes <= early.kibibytes + SLACK,
        "{early:?} {late:?}"
    );
}

/// Each generation of a captured server brings a socket of its own, and none of them has been at rest for long.
#[test]
fn captured_sockets_do_not_pile_up_however_fast_the_swaps_are() {
    let site = Site::at(Place::captured())
        .with(&["--quiesce", "0s"])
        .serving("v1");
    let swap = || {
        let output = run(&site, &["swap", "server"]);
        ended(&output, 0, &[]);
    };
    (0..5).for_each(|_| swap());
    let early = holdings(&site);
    (5..60).for_each(|_| swap());
    eventually("as few descriptors as before", || {
        let late = holdings(&site);
        (late.descriptors <= early.descriptors + PARKED).then_some(())
    });
}
