//! hotswap itself is killed, or something else is in its place.

use std::fs;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::common::crowd::Habit;
use crate::common::families::on_every_family;
use crate::common::place::Place;
use crate::common::plan::Plan;
use crate::common::site::Site;

fn oom_score(pid: Pid) -> i32 {
    let score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("its score");
    score.trim().parse().expect("a number")
}

#[test]
fn the_oom_killer_takes_the_server_rather_than_hotswap() {
    let plan = Site::at(Place::Tcp4).inside(&["choom", "-n", "500", "--"]);
    let site = plan.serving("v1");
    assert!(oom_score(site.hotswap()) <= 0);
    assert_eq!(oom_score(site.pid(1)), 500);
    site.signal(Signal::SIGUSR2);
    site.log.wait_for("upgraded to ");
    assert!(oom_score(site.hotswap()) <= 0);
    site.publish("v2").swap();
    assert_eq!(oom_score(site.pid(2)), 500);
}

/// The next hotswap takes over what the killed one has left, and no client notices.
fn adopted(plan: Plan) {
    let mut site = plan.serving("v1");
    let old = site.pid(1);
    let mut clients = site.guests().arriving(200, Habit::default()).come();
    clients.until_answered(50);
    site.kill_hotswap();
    clients.until_answered(50);
    site.publish("v2");
    site.start_again();
    let adopting = format!("adopting generation 1, pid {old}, of a hotswap that is gone");
    site.log.wait_for(&adopting);
    let serving = site.log.wait_for("generation 2 is serving");
    assert!(serving.contains("; generation 1 is draining"), "{serving}");
    site.wait_until_gone(1);
    clients.until_all_see("v2");
    site.publish("v3").swap();
    clients.until_all_see("v3");
    clients.expect_no_failure();
    site.stop();
    site.expect_nothing_left();
}

on_every_family! {
    fn the_next_hotswap_takes_over_what_a_killed_one_has_left(plan: Plan) {
        adopted(plan);
    }
}
