//! hotswap as a service, by a service manager of our own: what it is told, and where the deployer's session finds it.

use std::cell::RefCell;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Uid;

use crate::commands::{ended, run};
use crate::common::place::Place;
use crate::common::plan::Plan;
use crate::common::site::Site;
use crate::common::{eventually, server, skipped};

/// What stands in for systemd.
struct Manager {
    socket: UnixDatagram,
    heard: RefCell<Vec<String>>,
}

impl Manager {
    fn of(plan: Plan) -> (Manager, Plan) {
        let path = plan.dir().join("run");
        fs::create_dir_all(&path).expect("a directory");
        let path = path.join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_nonblocking(true).expect("its mode");
        let path = path.to_str().expect("text").to_owned();
        let heard = RefCell::default();
        (
            Manager { socket, heard },
            plan.variable("NOTIFY_SOCKET", &path),
        )
    }

    /// Every line so far.
    fn heard(&self) -> Vec<String> {
        let mut buffer = [0; 4096];
        let mut heard = self.heard.borrow_mut();
        while let Ok(bytes) = self.socket.recv(&mut buffer) {
            let message = String::from_utf8_lossy(&buffer[..bytes]);
            heard.extend(message.lines().map(str::to_owned));
        }
        heard.clone()
    }

    fn mark(&self) -> usize {
        self.heard().len()
    }

    /// The first line after `mark` that begins so.
    fn wait_after(&self, mark: usize, beginning: &str) -> String {
        eventually(beginning, || {
            let heard = self.heard();
            let mut new = heard.iter().skip(mark);
            new.find(|line| line.starts_with(beginning)).cloned()
        })
    }
}

fn microseconds() -> u128 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("the time");
    Duration::from(now).as_micros()
}

#[test]
fn a_service_is_ready_once_the_first_generation_serves() {
    let (manager, plan) = Manager::of(Site::at(Place::Tcp4).by_odd("late=500ms"));
    let site = plan.opening("v1");
    manager.wait_after(0, "STATUS=generation 1 is starting");
    assert!(!manager.heard().contains(&"READY=1".to_owned()));
    site.log.wait_for("generation 1 is serving");
    manager.wait_after(0, "READY=1");
    manager.wait_after(0, "STATUS=generation 1 is serving");
}

/// `Type=notify-reload`: SIGHUP, and then a sign that is younger than it.
#[test]
fn a_reload_is_a_swap_from_its_beginning_to_its_end() {
    let (manager, plan) = Manager::of(Site::at(Place::Tcp4));
    let site = plan.serving("v1");
    manager.wait_after(0, "READY=1");
    for version in ["v2", "v3"] {
        let (mark, asked) = (manager.mark(), microseconds());
        site.publish(version).signal(Signal::SIGHUP);
        manager.wait_after(mark, "RELOADING=1");
        let since = manager.wait_after(mark, "MONOTONIC_USEC=");
        let since = since
            .rsplit('=')
            .next()
            .and_then(|since| since.parse().ok());
        assert!(since.is_some_and(|since: u128| since >= asked && since <= microseconds()));
        manager.wait_after(mark, "READY=1");
    }
    site.log.wait_for("generation 3 is serving");
}

#[test]
fn a_failed_reload_ends_too() {
    let (manager, plan) = Manager::of(Site::at(Place::Tcp4));
    let site = plan.serving("v1");
    manager.wait_after(0, "READY=1");
    let mark = manager.mark();
    site.publish_odd("v2", "exit=3").swap_in_vain();
    manager.wait_after(mark, "RELOADING=1");
    manager.wait_after(mark, "READY=1");
}

#[test]
fn more_time_is_asked_for_while_a_start_a_swap_or_a_stop_lasts() {
    let (manager, plan) = Manager::of(Site::at(Place::Tcp4).by_odd("late=6s deaf"));
    let mut site = plan.with(&["--drain-timeout", "2s"]).serving("v1");
    manager.wait_after(0, "EXTEND_TIMEOUT_USEC=");
    let mark = manager.mark();
    site.publish_odd("v2", "late=6s deaf").swap();
    let heard = manager.heard();
    let asked = heard.iter().skip(mark);
    let asked = asked.filter(|line| line.starts_with("EXTEND_TIMEOUT_USEC="));
    assert!(asked.count() >= 2, "{heard:?}");
    let mark = manager.mark();
    assert!(site.stop().success());
    manager.wait_after(mark, "STOPPING=1");
    manager.wait_after(mark, "EXTEND_TIMEOUT_USEC=");
}

#[test]
fn after_an_upgrade_it_is_ready_and_asks_for_nothing() {
    let (manager, plan) = Manager::of(Site::at(Place::Tcp4));
    let site = plan.serving("v1");
    manager.wait_after(0, "READY=1");
    let mark = manager.mark();
    let output = run(&site, &["upgrade", "server"]);
    ended(&output, 0, &[]);
    manager.wait_after(mark, "READY=1");
    // It would ask every 5s.
    std::thread::sleep(Duration::from_secs(6));
    let heard = manager.heard();
    let asked = heard.iter().skip(mark);
    assert_eq!(asked.filter(|line| line.starts_with("EXTEND_")).count(), 0);
}

#[test]
fn the_watchdog_is_fed_by_the_loop() {
    let (manager, plan) = Manager::of(Site::at(Place::Tcp4));
    let site = plan.variable("WATCHDOG_USEC", "400000").serving("v1");
    for _ in 0..5 {
        let mark = manager.mark();
        manager.wait_after(mark, "WATCHDOG=1");
    }
    // What does not run is not alive.
    site.signal(Signal::SIGSTOP);
    let stopped = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", site.hotswap())).ok()?;
        stat.contains(") T ").then_some(())
    };
    eventually("a stop", stopped);
    let mark = manager.mark();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(manager.mark(), mark);
    site.signal(Signal::SIGCONT);
    manager.wait_after(mark, "WATCHDOG=1");
}

#[test]
fn servers_do_not_speak_to_the_service_manager() {
    let (manager, plan) = Manager::of(Site::at(Place::Tcp4).by_odd("ready"));
    let site = plan.serving("v1");
    site.publish_odd("v2", "ready").swap().wait_until_gone(1);
    let heard = manager.heard();
    let foreign = |line: &&String| {
        let ours = [
            "READY=",
            "STATUS=",
            "RELOADING=",
            "MONOTONIC_USEC=",
            "EXTEND_",
            "FDSTORE",
            "FDNAME=",
            "FDPOLL=",
        ];
        !ours.iter().any(|ours| line.starts_with(ours))
    };
    assert_eq!(heard.iter().find(foreign), None);
    assert_eq!(heard.iter().filter(|line| *line == "READY=1").count(), 2);
}

/// systemd makes the directory, and only the service knows its name by the variable.
#[test]
fn a_deployer_finds_the_socket_in_the_runtime_directory() {
    const NAME: &str = "a_deployer_finds_the_socket_in_the_runtime_directory";
    if !Uid::effective().is_root() {
        return skipped(NAME, "only root may make a directory in /run");
    }
    let directory = tempfile::Builder::new()
        .prefix("hotswap-test")
        .tempdir_in("/run");
    let Ok(directory) = directory else {
        return skipped(NAME, "/run cannot be written");
    };
    let name = directory.path().file_name().and_then(|name| name.to_str());
    let name = name.expect("text");
    let list = format!("{}:/run/more", directory.path().display());
    let mut site = Site::at(Place::Tcp4)
        .variable("RUNTIME_DIRECTORY", &list)
        .with(&["--name", name])
        .serving("v1");
    assert!(directory.path().join(format!("{name}.sock")).exists());
    let output = run(site.publish("v2"), &["swap", name]);
    ended(&output, 0, &[]);
    assert!(site.stop().success());
    assert_eq!(fs::read_dir(directory.path()).expect("it").count(), 0);
}

fn confined(kind: &str) -> Plan {
    let program = server("confined").display().to_string();
    Site::at(Place::Tcp4).inside(&[&program, kind])
}

fn swaps(site: &Site) {
    let mut clients = site.clients(4);
    site.swaps(3);
    clients.until_all_see("v4");
    clients.expect_no_failure();
}

/// What `SystemCallFilter=@system-service` lacks ends a program by SIGSYS, which it cannot catch.
#[test]
fn a_filter_that_ends_what_captures_is_named_and_done_without() {
    let site = confined("fatal").serving("v1");
    site.log
        .wait_for("a filter around hotswap ends programs that call pidfd_getfd(2)");
    site.log
        .wait_for("try: SystemCallFilter=pidfd_getfd seccomp in the unit");
    swaps(&site);
}

/// As a sandbox whose supervisor hangs.
#[test]
fn a_filter_that_never_answers_is_named_and_done_without() {
    let site = confined("mute").serving("v1");
    site.log
        .wait_for("a filter around hotswap does not answer programs that call pidfd_getfd(2)");
    swaps(&site);
}

#[test]
fn a_service_without_netlink_is_told_what_that_costs() {
    let site = confined("no-netlink")
        .with(&["--quiesce", "300ms"])
        .serving("v1");
    site.log.wait_for("every drain takes the full --quiesce");
    site.log
        .wait_for("try: AF_NETLINK in RestrictAddressFamilies= of the unit");
    swaps(&site);
}
