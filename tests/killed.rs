//! hotswap itself is killed, or something else is in its place.

use std::fs;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::common::place::Place;
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
