//! hotswap itself is replaced while its server serves: the same process, and nothing is lost.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

use crate::commands::{ended, run, said, start};
use crate::common::crowd::Habit;
use crate::common::families::on_every_family;
use crate::common::place::Place;
use crate::common::plan::Plan;
use crate::common::processes::is_alive;
use crate::common::site::Site;
use crate::common::{eventually, hotswap_program};
use crate::misuse::caller;

pub fn upgrade(site: &Site) -> String {
    let output = run(site, &["upgrade", "server"]);
    ended(&output, 0, &[]);
    said(&output)
}

/// A site whose hotswap is a copy, so that a test can put another file in its place.
fn from_a_copy(place: Place) -> (Plan, PathBuf) {
    let plan = Plan::at(place);
    let copy = plan.dir().join("hotswap");
    fs::copy(hotswap_program(), &copy).expect("a copy");
    (plan.of_build(copy.clone()), copy)
}

fn put(content: &[u8], path: &Path) {
    let beside = path.with_extension("new");
    fs::write(&beside, content).expect("written");
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o755)).expect("executable");
    fs::rename(beside, path).expect("in its place");
}

on_every_family! {
    fn a_swap_an_upgrade_and_a_swap_lose_no_connection(plan: Plan) {
        let site = plan.serving("v1");
        let (mut clients, pid) = (site.clients(8), site.hotswap());
        site.publish("v2").swap();
        upgrade(&site);
        assert_eq!(site.hotswap(), pid);
        site.publish("v3").swap();
        clients.until_all_see("v3");
        clients.expect_no_failure();
    }
}

#[test]
fn a_signal_upgrades_too() {
    let site = Site::serving("v1");
    site.signal(Signal::SIGUSR2).log.wait_for("upgraded to");
    site.publish("v2").swap();
}

#[test]
fn it_waits_until_nothing_starts() {
    let site = Site::serving("v1");
    let swapping = start(site.publish_odd("v2", "after=1s"), &["swap", "server"]);
    site.log.wait_for("generation 2 started");
    upgrade(&site);
    let order = ["generation 2 is serving", "upgraded to"];
    site.log.wait_for_all(&order);
    let swapped = swapping.wait_with_output().expect("a client's output");
    ended(&swapped, 0, &[]);
}

#[test]
fn one_that_drains_is_watched_on() {
    let site = Site::at(Place::Tcp4)
        .with(&["--drain-timeout", "3s"])
        .by_odd("deaf")
        .serving("v1");
    site.publish("v2").swap();
    upgrade(&site);
    site.log.wait_for("generation 1 is killed");
    site.wait_until_gone(1);
}

#[test]
fn a_restart_that_waits_for_its_time_comes_after_it() {
    let site = Site::at(Place::Tcp4)
        .with(&["--restart", "always"])
        .by_odd("exit=3")
        .opening("v1");
    site.log.wait_for("generation 6 aborted");
    upgrade(&site);
    site.log.wait_for("generation 7 started");
}

#[test]
fn a_new_file_that_does_not_run_is_refused() {
    let (plan, copy) = from_a_copy(Place::Tcp4);
    let site = plan.serving("v1");
    let another = b"#!/bin/sh\necho 'another 1.0'\n";
    let ran = site.dir().join("ran");
    let text = format!("touch '{}'\n", ran.display());
    for broken in [
        text.as_bytes(),
        &b"#!/bin/sh\nexit 3\n"[..],
        b"\x7fELF no more",
        b"",
        another,
    ] {
        put(broken, &copy);
        let output = run(&site, &["upgrade", "server"]);
        ended(&output, 1, &[]);
    }
    site.log
        .wait_for("another program, whose --version says \"another 1.0\"");
    assert!(!ran.exists(), "a text was run as a script");
    assert_eq!(
        run(site.publish("v2"), &["swap", "server"]).status.code(),
        Some(0)
    );
}

/// A build that has another name for something.
fn rename_in(program: &Path, name: &str, other: &str) {
    let rename = format!("s/{name}/{other}/g");
    let mut sed = Command::new("sed");
    sed.env("LC_ALL", "C").arg("-i").arg(rename).arg(program);
    let renamed = sed.status().expect("sed");
    assert!(renamed.success(), "{renamed}");
}

fn is_refused_by_the_new_version(plan: Plan, copy: &Path, (name, other): (&str, &str), why: &str) {
    let site = plan.serving("v1");
    // found by its program's name
    let open = PathBuf::from(format!("/proc/{}/fd", site.hotswap()));
    let open = || fs::read_dir(&open).expect("descriptors").count();
    let before = open();
    let mut clients = site.guests().and(4, Habit::default()).come();
    let beside = copy.with_extension("other");
    for _ in 0..2 {
        fs::copy(hotswap_program(), &beside).expect("a copy");
        rename_in(&beside, name, other);
        fs::rename(&beside, copy).expect("in its place");
        let output = run(&site, &["upgrade", "server"]);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(why), "{said}");
        eventually("as few descriptors", || (open() <= before).then_some(()));
    }
    fs::copy(hotswap_program(), &beside).expect("a copy");
    fs::rename(&beside, copy).expect("in its place");
    upgrade(&site);
    site.publish("v2").swap();
    clients.until_all_see("v2");
    clients.expect_no_failure();
}

#[test]
fn a_new_version_that_cannot_read_the_state_leaves_it_to_the_one_before() {
    let (plan, copy) = from_a_copy(Place::Unix);
    let why = "cannot read the state of its Figures";
    is_refused_by_the_new_version(plan, &copy, ("figures", "Figures"), why);
}

#[test]
fn a_new_version_that_lacks_an_option_leaves_all_to_the_one_before() {
    let (plan, copy) = from_a_copy(Place::Tcp4);
    let plan = plan.with(&["--min-ready", "1ms"]);
    is_refused_by_the_new_version(plan, &copy, ("min-ready", "Min-ready"), "--min-ready");
}

/// Asked for its version, it waits until `go` is written to; before that it writes its pid to `asked`.
fn put_a_slow_version(site: &Site, copy: &Path) -> (PathBuf, PathBuf) {
    // found by its program's name
    let _ = site.hotswap();
    let [real, asked, go] = ["real", "asked", "go"].map(|name| copy.with_extension(name));
    fs::rename(copy, &real).expect("another name");
    let (real, said_by) = (real.display(), asked.display());
    let script = format!(
        "#!/bin/sh\n[ $1 = --version ] || exec {real} \"$@\"\n\
         echo $$ > {said_by}.new && mv {said_by}.new {said_by}\nread line < {}\nexec {real} --version\n",
        go.display()
    );
    mkfifo(&go, Mode::S_IRWXU).expect("a pipe");
    put(script.as_bytes(), copy);
    (asked, go)
}

/// Lets it say its version while hotswap is stopped, which hears of it together with `what`.
fn say_version_with(site: &Site, (asked, go): &(PathBuf, PathBuf), what: impl FnOnce()) {
    let version = eventually("a question for the version", || {
        fs::read_to_string(asked).ok()?.trim().parse().ok()
    });
    fs::remove_file(asked).expect("the pid");
    site.while_stopped(|_| {
        what();
        fs::write(go, "go\n").expect("a line");
        let has_ended = || (!is_alive(Pid::from_raw(version))).then_some(());
        eventually("its version", has_ended);
    });
}

#[test]
fn a_request_in_the_moment_of_an_upgrade_is_carried_out() {
    let (plan, copy) = from_a_copy(Place::Tcp4);
    let site = plan.serving("v1");
    let version = put_a_slow_version(&site, &copy);
    let mut asking = caller(&site);
    site.signal(Signal::SIGUSR2);
    say_version_with(&site, &version, || {
        asking.write_all(b"{\"do\":\"swap\"}\n").expect("a request");
    });
    site.log.wait_for("upgraded to");
    site.log.wait_for("generation 2 is serving");
}

#[test]
fn it_is_one_upgrade_however_often_it_was_asked_for_amid_swaps() {
    let (plan, copy) = from_a_copy(Place::Tcp4);
    let site = plan.with(&["--ready", "after:2s"]).serving("v1");
    let version = put_a_slow_version(&site, &copy);
    site.signal(Signal::SIGUSR2);
    say_version_with(&site, &version, || {
        site.signal(Signal::SIGHUP);
    });
    site.log.wait_for("generation 2 started");
    site.signal(Signal::SIGUSR2);
    say_version_with(&site, &version, || {});
    site.log
        .wait_for_all(&["generation 2 is serving", "upgraded to"]);
    site.publish("v3").swap();
    assert_eq!(site.log.count("upgraded to"), 1);
}

#[test]
fn the_file_in_its_place_is_what_runs_afterwards() {
    let (plan, copy) = from_a_copy(Place::Tcp4);
    let site = plan.serving("v1");
    let mut newer = fs::read(&copy).expect("the program");
    newer.extend_from_slice(b"newer");
    put(&newer, &copy);
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(upgrade(&site), format!("upgraded to {version}\n"));
    // that it runs was asked without a word
    assert_eq!(site.log.lines("hotswap 0").len(), 0);
    let runs = fs::metadata(format!("/proc/{}/exe", site.hotswap())).expect("a program");
    assert_eq!(runs.len(), u64::try_from(newer.len()).expect("a length"));
    site.publish("v2").swap();
}
