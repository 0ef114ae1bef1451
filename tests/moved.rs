//! The next start of a server takes another address: it serves there if nothing else does.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use nix::sys::signal::{Signal, kill};

use crate::capture::at;
use crate::common::eventually;
use crate::common::place::{Place, Target, free_address};
use crate::common::plan::Plan;
use crate::common::site::Site;

/// On all addresses of the host, at that port.
fn everywhere(address: SocketAddr) -> String {
    format!("0.0.0.0:{}", address.port())
}

fn expect_changed(site: &Site, to: &str, from: &str) {
    site.log.wait_for("generation 2 is serving");
    let line = format!("address changed: generation 2 listens on {to} instead of {from}");
    assert_eq!(site.log.count(&line), 1);
    let mut clients = site.clients(4);
    clients.until_all_see("v2");
    clients.expect_no_failure();
    assert!(!site.log.says("still served"));
}

#[test]
fn a_restart_may_listen_on_more_addresses() {
    let address = free_address();
    let site = at(address).by_odd(&format!("at={address}")).serving("v1");
    let wide = everywhere(address);
    site.publish_odd("v2", &format!("at={wide}"));
    kill(site.pid(1), Signal::SIGKILL).expect("a signal to the server");
    expect_changed(&site, &wide, &address.to_string());
}

#[test]
fn a_restart_may_listen_on_fewer_addresses() {
    let address = free_address();
    for wide in [everywhere(address), format!("[::]:{}", address.port())] {
        let site = at(address).by_odd(&format!("at={wide}")).serving("v1");
        site.publish_odd("v2", &format!("at={address}"));
        kill(site.pid(1), Signal::SIGKILL).expect("a signal to the server");
        expect_changed(&site, &address.to_string(), &wide);
    }
}

#[test]
fn under_stop_first_the_next_one_may_listen_on_other_addresses() {
    let address = free_address();
    let wide = everywhere(address);
    for (from, to) in [
        (address.to_string(), wide.clone()),
        (wide, address.to_string()),
    ] {
        let plan = at(address).with(&["--order", "stop-first"]);
        let site = plan.by_odd(&format!("at={from}")).serving("v1");
        site.publish_odd("v2", &format!("at={to}")).swap();
        expect_changed(&site, &to, &from);
    }
}

/// A server with a unix path and nothing else, and how it is told its path.
fn on_a_path(directory: &Path) -> (Plan, impl Fn(&str) -> String) {
    let path = directory.join("one.sock");
    let directory = directory.to_owned();
    let words = move |name: &str| format!("at=unix:{}", directory.join(name).display());
    let plan = Site::at(Place::Given(Target::Unix(path)))
        .with(&["--capture", "always", "--ready-timeout", "2s"])
        .by_odd(&words("one.sock"));
    (plan, words)
}

/// What the path before it led to is not waited for: its server may have a new name at each start.
#[test]
fn a_restart_may_listen_on_another_unix_path() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name| directory.path().join(name);
    let (plan, words) = on_a_path(directory.path());
    let mut site = plan.serving("v1");
    site.publish_odd("v2", &words("two.sock"));
    kill(site.pid(1), Signal::SIGKILL).expect("a signal to the server");
    site.log.wait_for("generation 2 is serving");
    site.targets = vec![Target::Unix(path("two.sock"))];
    let mut clients = site.clients(2);
    clients.until_all_see("v2");
    clients.expect_no_failure();
    assert!(!path("one.sock").exists(), "nobody would answer there");
}

/// Nobody would answer the clients of the first path.
#[test]
fn a_candidate_on_another_unix_path_is_not_serving() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name| directory.path().join(name).display().to_string();
    let (plan, words) = on_a_path(directory.path());
    let site = plan.serving("v1");
    let mut clients = site.clients(2);
    clients.until_answered(2);
    site.publish_odd("v2", &words("two.sock"));
    let verdict = site.swap_in_vain();
    let (one, two) = (path("one.sock"), path("two.sock"));
    let why = format!("does not accept on {one}");
    assert!(verdict.contains(&why), "{verdict}");
    site.log.wait_for(&format!(
        "try: hotswap swap --without {one}, if it has moved to {two}"
    ));
    clients.until_answered(20);
    clients.expect_no_failure().expect_never_seen("v2");
}

/// The first two might be broken: they have left out what was served.
#[test]
fn a_restart_on_another_port_serves_at_the_third_try() {
    let (address, other) = (free_address(), free_address());
    let plan = at(address).with(&["--ready-timeout", "1s"]);
    let mut site = plan.by_odd(&format!("at={address}")).serving("v1");
    site.publish_odd("v2", &format!("at={other}"));
    kill(site.pid(1), Signal::SIGKILL).expect("a signal to the server");
    site.log
        .wait_for(&format!("2 restarts in a row did not bind {address}: "));
    site.log.wait_for("generation 4 is serving");
    site.targets = vec![Target::Tcp(other)];
    let mut clients = site.clients(2);
    clients.until_all_see("v2");
    clients.expect_no_failure();
    eventually("a refusal", || TcpStream::connect(address).err());
}

#[test]
fn what_a_restart_leaves_out_is_let_go_after_the_ready_timeout() {
    let (address, other) = (free_address(), free_address());
    let plan = at(address).with(&["--ready-timeout", "2s"]);
    let words = format!("at={address}");
    let site = plan.by_odd(&format!("{words} and={other}")).serving("v1");
    site.log.wait_for(&format!("listening on {other}"));
    site.publish_odd("v2", &words);
    kill(site.pid(1), Signal::SIGKILL).expect("a signal to the server");
    site.log.wait_for(&format!(
        "generation 2 does not accept on {other}: its clients wait"
    ));
    let waiting = TcpStream::connect(other).expect("clients wait");
    eventually("a refusal", || TcpStream::connect(other).err());
    drop(waiting);
    site.log
        .wait_for(&format!("closed 1 connection queued on {other}"));
}
