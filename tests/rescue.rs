//! The serving generation is killed with two hundred clients in its queue, and nobody is there yet to take its place.

use nix::sys::signal::{Signal, kill};

use crate::common::crowd::Habit;
use crate::common::families::on_every_family;
use crate::common::place::Place;
use crate::common::plan::Plan;
use crate::common::processes::stop;

const CLIENTS: usize = 200;

/// All of them are answered by a candidate that has come as far as that when the old one is killed; hotswap's lines about
/// relaying.
fn rescued(plan: Plan, candidate: &str, as_far_as: &str) -> Vec<String> {
    let mut site = plan.serving("v1");
    let old = site.pid(1);
    stop(old);
    let mut clients = site.guests().and(CLIENTS, Habit::default()).come();
    clients.until_asked(CLIENTS);
    site.publish_odd("v2", candidate).signal(Signal::SIGHUP);
    site.log.wait_for(as_far_as);
    kill(old, Signal::SIGKILL).expect("a signal to the server");
    site.log.wait_for("generation 1 is dead: killed by SIGKILL");
    assert_eq!(clients.so_far().answers, 0, "nobody could have answered");
    clients.until_answered(CLIENTS).until_all_see("v2");
    let tally = clients.expect_no_failure();
    tally.expect_never_seen("v1");
    site.log.wait_for("generation 2 is serving");
    assert!(!site.log.says("had to be closed"), "{}", site.log.timed());
    assert!(site.stop().success());
    site.expect_nothing_left();
    site.log.lines("relayed")
}

/// Every one of them is counted, and what it means for the server is said once.
fn expect_all_relayed(said: &[String]) {
    let count = |line: &String| {
        let words = line.strip_prefix("hotswap: ")?;
        words.split(' ').next()?.parse::<usize>().ok()
    };
    let relayed: usize = said.iter().filter_map(count).sum();
    assert_eq!(relayed, CLIENTS, "{said:?}");
    let meaning = |line: &&String| line.ends_with("which sees an address of this host as theirs");
    assert_eq!(said.iter().filter(meaning).count(), 1, "{said:?}");
}

on_every_family! {
    fn its_queue_is_carried_to_the_candidate(plan: Plan) {
        expect_all_relayed(&rescued(plan, "tell hang=2s", "backlog "));
    }
}

/// It is given the dead one's socket when it binds, so it sees the clients themselves.
#[test]
fn a_candidate_that_has_not_bound_yet_gets_the_socket_itself() {
    let plan = Plan::at(Place::captured());
    let said = rescued(plan, "late=2s", "generation 2 started");
    assert!(said.is_empty(), "{said:?}");
}
