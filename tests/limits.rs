//! When something runs out: descriptors, processes, memory, room in a directory. A start that cannot be is 125, a swap that
//! cannot be is aborted, and the next one works.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{self, Command};
use std::thread::sleep;
use std::time::Duration;

use nix::unistd::{Pid, geteuid};

use crate::common::crowd::Habit;
use crate::common::place::{Place, Target};
use crate::common::plan::Plan;
use crate::common::processes::cpu;
use crate::common::site::Site;
use crate::common::skipped;
use crate::nonroot::as_user;

const NO_DESCRIPTORS: &str = "Too many open files (os error 24)";
const NO_PROCESSES: &str = "Resource temporarily unavailable (os error 11)";

/// prlimit(1) on a process that runs: the soft limit alone, so that it can be raised again.
fn limit(pid: Pid, resource: &str, to: usize) {
    let process = fs::metadata(format!("/proc/{pid}")).expect("the process");
    let mut prlimit = Command::new("prlimit");
    prlimit
        .uid(process.uid())
        .gid(process.gid())
        .args([format!("--pid={pid}"), format!("--{resource}={to}:")]);
    assert!(prlimit.status().expect("prlimit").success());
}

#[test]
fn a_stop_without_a_free_descriptor_still_asks_the_server_to_stop() {
    let plan = Site::at(Place::Tcp4).with(&["--drain-timeout", "5s"]);
    let mut site = plan.serving("v1");
    spare_descriptors(site.hotswap(), 0);
    assert!(site.stop().success());
    assert!(!site.log.says("is killed"));
    site.expect_nothing_left();
}

/// It does not begin what it could not go on with.
#[test]
fn a_start_without_descriptors_is_125_until_there_are_enough() {
    let with = |descriptors: u32, place: Place| {
        let limit = format!("--nofile={descriptors}:{descriptors}");
        Site::at(place).inside(&["prlimit", &limit])
    };
    for descriptors in [4, 8, 12, 16, 20, 21, 22, 47] {
        let mut site = with(descriptors, Place::Tcp4).starting("v1");
        site.expect_status(125).expect_nothing_left();
        site.log.wait_for("hotswap needs 48");
        site.log.wait_for("try: ulimit -n 1024");
    }
    let site = with(48, Place::captured()).serving("v1");
    for version in ["v2", "v3"] {
        site.publish(version).swap();
        site.guests()
            .and(2, Habit::default())
            .come()
            .until_all_see(version);
    }
}

/// Leaves it so many descriptors beside those that it has.
fn spare_descriptors(pid: Pid, spare: usize) {
    let names = fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors");
    let taken: Vec<usize> = (names.flatten())
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    let mut free = (0..).filter(|number| !taken.contains(number));
    limit(pid, "nofile", free.nth(spare).expect("a number"));
}

/// One more to spare at each try, until it works.
fn swaps_once_there_are_descriptors(place: Place) {
    let plan = Site::at(place).with(&["--quiesce", "500ms"]);
    let mut site = plan.serving("v1");
    let mut clients = site.clients(8);
    let hotswap = site.hotswap();
    let mut serving = 1;
    let mut aborted = 0;
    for spare in 0.. {
        spare_descriptors(hotswap, spare);
        let verdict = site.publish(&format!("v{spare}")).swap_for_a_verdict();
        clients.until_answered(20);
        if verdict.contains(" is serving ") {
            clients.until_all_see(&format!("v{spare}"));
            break;
        }
        assert!(
            verdict.ends_with(&format!("{NO_DESCRIPTORS}; generation 1 keeps serving")),
            "{verdict}"
        );
        aborted += 1;
        serving += 1;
    }
    site.wait_until_gone(1);
    assert!(aborted > 3, "it was never short of descriptors");
    clients.expect_no_failure();
    assert!(site.stop().success());
    site.expect_nothing_left();
    println!("{aborted} swaps aborted, generation {} served", serving + 1);
}

#[test]
fn a_swap_without_descriptors_is_aborted_until_there_are_enough() {
    swaps_once_there_are_descriptors(Place::Tcp4);
}

#[test]
fn a_swap_without_descriptors_is_aborted_until_there_are_enough_on_a_unix_path() {
    swaps_once_there_are_descriptors(Place::Unix);
}

/// poll(2) itself refuses more descriptors than the limit.
#[test]
fn a_limit_lowered_below_what_is_open_does_not_take_hotswap_down() {
    let mut site = Site::at(Place::Tcp4)
        .with(&["--drain-timeout", "3s"])
        .serving("v1");
    let mut clients = site.clients(4);
    let hotswap = site.hotswap();
    for few in [4, 2] {
        limit(hotswap, "nofile", few);
        let verdict = site.publish("v2").swap_for_a_verdict();
        assert!(
            verdict.ends_with(&format!("{NO_DESCRIPTORS}; generation 1 keeps serving")),
            "{verdict}"
        );
        let line = site.log.wait_for(&format!("descriptors is {few} now"));
        assert!(line.contains("it continues, but slower"), "{line}");
        clients.until_answered(20);
        limit(hotswap, "nofile", 1024);
    }
    site.publish("v3").swap();
    clients.until_all_see("v3");
    clients.expect_no_failure();
    limit(hotswap, "nofile", 3);
    assert!(site.stop().success());
    site.expect_nothing_left();
}

#[test]
fn who_asks_hotswap_waits_while_there_is_no_descriptor_for_it() {
    let site = Site::serving("v1");
    let mut clients = site.clients(8);
    let hotswap = site.hotswap();
    spare_descriptors(hotswap, 0);
    let socket = site.dir().join("run/hotswap/server.sock");
    let mut asking = UnixStream::connect(socket).expect("a connection");
    asking
        .write_all(b"{\"do\":\"status\"}\n")
        .expect("a request");
    let before = cpu(hotswap);
    sleep(Duration::from_secs(1));
    let spent = cpu(hotswap).saturating_sub(before);
    assert!(
        spent < Duration::from_millis(200),
        "it has tried for {spent:?}"
    );
    limit(hotswap, "nofile", 1024);
    let mut answer = [0; 1];
    asking.read_exact(&mut answer).expect("an answer");
    site.publish("v2").swap();
    clients.until_all_see("v2");
    clients.expect_no_failure();
}

#[test]
fn a_swap_without_processes_is_aborted() {
    const NAME: &str = "a_swap_without_processes_is_aborted";
    if !geteuid().is_root() {
        return skipped(NAME, "needs root, for a user of its own");
    }
    let Some(plan) = as_user(NAME, Place::Tcp4, 61_202) else {
        return;
    };
    let site = plan.serving("v1");
    let mut clients = site.clients(8);
    limit(site.hotswap(), "nproc", 1);
    let verdict = site.publish("v2").swap_in_vain();
    assert!(
        verdict.ends_with(&format!("{NO_PROCESSES}; generation 1 keeps serving")),
        "{verdict}"
    );
    limit(site.hotswap(), "nproc", 1000);
    site.publish("v3").swap();
    clients.until_all_see("v3");
    clients.expect_no_failure().expect_never_seen("v2");
}

/// A control group for memory, of either version, below our own; gone with this.
struct Memory(PathBuf);

impl Memory {
    fn of(bytes: usize) -> Result<Memory, String> {
        let ours = fs::read_to_string("/proc/self/cgroup").map_err(|why| why.to_string())?;
        let group = |line: &str| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?.trim_start_matches('/'));
            let (mount, file) = match controllers {
                "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
                "" => ("/sys/fs/cgroup", "memory.max"),
                _ => return None,
            };
            let own = format!("hotswap-test-{}", process::id());
            Some((PathBuf::from(mount).join(path).join(own), file))
        };
        let mut why = "no control groups".to_owned();
        for (path, file) in ours.lines().filter_map(group) {
            let made = fs::create_dir(&path).map(|()| Memory(path.clone()));
            match made
                .and_then(|group| fs::write(path.join(file), bytes.to_string()).map(|()| group))
            {
                Ok(group) => return Ok(group),
                Err(error) => why = format!("{}: {error}", path.display()),
            }
        }
        Err(why)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_candidate_for_which_there_is_no_memory_is_aborted() {
    let memory = match Memory::of(64 << 20) {
        Ok(memory) => memory,
        Err(why) => return skipped("a_candidate_for_which_there_is_no_memory_is_aborted", &why),
    };
    let enter = format!(
        "echo $$ >'{}/cgroup.procs' && exec \"$@\"",
        memory.0.display()
    );
    let mut site = Site::at(Place::Tcp4)
        .inside(&["sh", "-c", &enter, "sh"])
        .serving("v1");
    let mut clients = site.clients(8);
    let verdict = site.publish_odd("v2", "eat=500").swap_in_vain();
    assert!(
        verdict.contains("generation 2 aborted: killed by SIGKILL after"),
        "{verdict}"
    );
    assert!(
        verdict.ends_with("; generation 1 keeps serving"),
        "{verdict}"
    );
    clients.until_answered(50);
    site.publish("v3").swap();
    clients.until_all_see("v3");
    clients.expect_no_failure().expect_never_seen("v2");
    assert!(site.stop().success());
    site.expect_nothing_left();
}

/// In a mount namespace of its own, where `dir` is a file system of these options.
fn with_file_system(name: &str, plan: Plan, dir: &str, options: &str) -> Option<Plan> {
    let namespace = Command::new("unshare").args(["--mount", "true"]).status();
    if !namespace.is_ok_and(|status| status.success()) {
        skipped(name, "may not have a mount namespace");
        return None;
    }
    let dir = plan.dir().join(dir);
    fs::create_dir_all(&dir).expect("a directory");
    let mount = format!(
        "mount -t tmpfs -o '{options}' none '{}' && exec \"$@\"",
        dir.display()
    );
    Some(plan.inside(&["unshare", "--mount", "sh", "-c", &mount, "sh"]))
}

fn serves_without_a_control_socket(name: &str, options: &str, why: &str) {
    let plan = Site::at(Place::Tcp4);
    // without an alternative, as that of a service is
    let run = plan.dir().join("run").display().to_string();
    let plan = plan.variable("RUNTIME_DIRECTORY", &run);
    let plan = with_file_system(name, plan, "run", options);
    let Some(mut site) = plan.map(|plan| plan.serving("v1")) else {
        return;
    };
    let said = site.log.wait_for("cannot make a control socket");
    assert!(said.contains(why), "{said}");
    let mut clients = site.clients(8);
    site.publish("v2").swap();
    clients.until_all_see("v2");
    clients.expect_no_failure();
    assert!(site.stop().success());
    site.expect_nothing_left();
}

#[test]
fn a_runtime_directory_that_is_read_only_is_a_warning() {
    let name = "a_runtime_directory_that_is_read_only_is_a_warning";
    serves_without_a_control_socket(name, "ro", "Read-only file system (os error 30)");
}

#[test]
fn a_runtime_directory_that_is_full_is_a_warning() {
    let name = "a_runtime_directory_that_is_full_is_a_warning";
    serves_without_a_control_socket(name, "nr_inodes=1", "No space left on device (os error 28)");
}

/// The directory itself, a lock, and the socket of the first generation under two names fit; room for one name more at
/// each try, until it works.
#[test]
fn a_swap_without_room_for_its_unix_path_is_aborted_until_there_is_enough() {
    const NAME: &str = "a_swap_without_room_for_its_unix_path_is_aborted_until_there_is_enough";
    let plan = Site::at(Place::Nowhere);
    let path = plan.dir().join("full/site.sock");
    let listen = format!("unix:{}", path.display());
    let Some(plan) = with_file_system(NAME, plan, "full", "nr_inodes=4") else {
        return;
    };
    let mut site = plan.with(&["--listen", &listen]).serving("v1");
    let hotswap = site.hotswap();
    let seen_by_us = format!("/proc/{hotswap}/root{}", path.display());
    site.targets = vec![Target::Unix(seen_by_us.into())];
    let mut clients = site.guests().and(8, Habit::default()).come();
    let full = "No space left on device (os error 28); generation 1 keeps serving";
    let mut aborted = 0;
    for names in 5.. {
        let version = format!("v{names}");
        let verdict = site.publish(&version).swap_for_a_verdict();
        clients.until_answered(20);
        if verdict.contains(" is serving ") {
            clients.until_all_see(&version);
            break;
        }
        assert!(verdict.ends_with(full), "{verdict}");
        aborted += 1;
        let mut remount = Command::new("nsenter");
        remount.args([&format!("--target={hotswap}"), "--mount", "mount", "-o"]);
        remount.arg(format!("remount,nr_inodes={names}"));
        remount.arg(path.parent().expect("its directory"));
        assert!(remount.status().expect("nsenter").success());
    }
    assert!(aborted > 0, "there was always room");
    clients.expect_no_failure();
    assert!(site.stop().success());
    println!("{aborted} swaps aborted");
}
