//! What must hold after every event.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Instant;

use nix::unistd::Pid;
use serde_json::Value;

use super::life::{KEPT_CLIENTS, Life, pause};
use crate::common::crowd::Habit;
use crate::common::place::Target;
use crate::common::{PATIENCE, processes};

/// So many sockets may be parked beside those of the generations: after a swap some are kept until that moves no other.
const PARKED: usize = 64;
/// Looks at the memory and the descriptors of one hotswap that the later ones are held against.
const FIRST_LOOKS: usize = 5;
/// What malloc may keep of what it once had, in KiB.
const SLACK: u64 = 1024;

/// What hotswap has in hand while one generation serves and none drains.
#[derive(Clone, Copy, Debug)]
pub struct Holdings {
    /// Of its own, in KiB: not the pages of the program file.
    pub memory: u64,
    /// Without the listening sockets.
    pub descriptors: usize,
    /// Members of its groups, with those that are parked.
    pub listening: usize,
}

impl Life<'_> {
    pub fn check(&mut self) {
        let status = self.settle();
        self.permit_lingering();
        self.expect_no_stray_process();
        self.expect_no_stray_socket();
        if status["generations"]
            .as_array()
            .is_some_and(|all| all.len() == 1)
        {
            self.expect_constant_holdings();
        }
        self.expect_no_unexplained();
    }

    /// Waits until nothing starts, and the one that is said to serve answers, in the version that it should be.
    fn settle(&self) -> Value {
        at_last("a calm state", || {
            let status = self.status().ok_or("no status")?;
            let serving = generation_of(&status, "serving").unwrap_or(0);
            // One that is about to be killed may still answer, and cut the next request.
            if status["state"] != "serving" {
                return Err(format!("not serving: {status}"));
            }
            let (version, generation) = self.ask();
            if version == self.version && generation == serving {
                return Ok(status);
            }
            let wanted = &self.version;
            let answer = format!("{version} by generation {generation}");
            Err(format!("{answer}, not {wanted} by {serving}: {status}"))
        })
    }

    /// Who answers somebody who comes just now.
    fn ask(&self) -> (String, u64) {
        let mut guest = self.site.guests().and(1, Habit::default()).come();
        guest.until_answered(1);
        let tally = guest.leave();
        assert!(tally.failures.is_empty(), "of one who came: {tally}");
        let version = tally.versions.into_keys().next_back();
        let generation = tally.generations.into_keys().next_back();
        (
            version.expect("a version"),
            generation.expect("a generation").into(),
        )
    }

    /// hotswap itself, and those that belong to a generation it knows.
    fn expect_no_stray_process(&self) {
        let hotswap = self.site.hotswap();
        at_last("no stray process", || {
            let status = self.status().ok_or("no status")?;
            let known = generations(&status);
            let is_stray = |pid: &Pid| {
                let generation = processes::variable(*pid, "HOTSWAP_GENERATION");
                let of_one = generation.and_then(|number| number.parse().ok());
                *pid != hotswap && !of_one.is_some_and(|number: u64| known.contains(&number))
            };
            let all = processes::of_site(self.site.dir());
            let strays: Vec<_> = all.into_iter().filter(is_stray).collect();
            strays
                .is_empty()
                .then_some(())
                .ok_or_else(|| format!("{strays:?}: {status}"))
        });
    }

    /// Every member of a group is in hotswap's hands, and there are few beside those of the generations.
    fn expect_no_stray_socket(&self) {
        let addresses = self.setting.addresses(&self.site.targets);
        at_last("no stray socket", || {
            let status = self.status().ok_or("no status")?;
            let generations = generations(&status).len();
            let own = self.sockets_of_hotswap();
            let paths = self.paths();
            let mut groups = addresses.iter().map(listening_on);
            let stray = groups.find(|members| {
                let number = 1..=generations + PARKED;
                !number.contains(&members.len()) || !members.is_subset(&own)
            });
            let is_well = stray.is_none() && paths <= generations;
            is_well.then_some(()).ok_or_else(|| {
                format!("{generations} generations, {paths} paths, {stray:?} of {own:?}")
            })
        });
    }

    /// How many names there are of sockets that are no longer, or not yet, the one that clients reach.
    fn paths(&self) -> usize {
        let Some(path) = path_of(&self.site.targets) else {
            return 0;
        };
        let names = fs::read_dir(path.parent().expect("a directory")).expect("its names");
        let private = names.flatten().filter(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.contains(".hotswap-")
        });
        private.count()
    }

    fn sockets_of_hotswap(&self) -> BTreeSet<u64> {
        let links = descriptors_of(self.site.hotswap());
        let inodes = links.iter().filter_map(|link| {
            let inode = link.strip_prefix("socket:[")?.strip_suffix(']')?;
            inode.parse().ok()
        });
        inodes.collect()
    }

    fn expect_constant_holdings(&mut self) {
        let limit = (self.holdings.len() >= FIRST_LOOKS).then(|| {
            let first = &self.holdings[..FIRST_LOOKS];
            let memory = first.iter().map(|held| held.memory).max();
            let descriptors = first.iter().map(|held| held.descriptors).max();
            (memory.unwrap_or(0) + SLACK, descriptors.unwrap_or(0) + 1)
        });
        // A client that keeps its connection keeps the relay, too: two descriptors.
        let has_relayed = self.site.log.says("relaying ");
        let relayed = if has_relayed { 2 * KEPT_CLIENTS } else { 0 };
        let held = at_last("no more memory and descriptors than at first", || {
            let held = self.look().ok_or("no hotswap")?;
            let (memory, descriptors) = limit.unwrap_or((u64::MAX, usize::MAX / 2));
            let descriptors = descriptors + relayed;
            let constant = held.memory <= memory && held.descriptors <= descriptors;
            let all = || descriptors_of(self.site.hotswap());
            let grown = || format!("{held:?} beyond {memory} and {descriptors}: {:?}", all());
            constant.then_some(held).ok_or_else(grown)
        });
        self.holdings.push(held);
    }

    fn look(&self) -> Option<Holdings> {
        let pid = self.site.hotswap();
        let memory = processes::status(pid, "RssAnon")?;
        let all = descriptors_of(pid).len();
        let listening: BTreeSet<u64> = self
            .setting
            .addresses(&self.site.targets)
            .iter()
            .flat_map(listening_on)
            .collect();
        Some(Holdings {
            memory: memory.split(' ').next()?.parse().ok()?,
            descriptors: all.checked_sub(listening.len())?,
            listening: listening.len(),
        })
    }

    pub fn expect_no_unexplained(&mut self) {
        let said = self.site.log.since(self.heard);
        self.heard += said.len();
        self.ledger.hear_of_candidates(&said);
        if let Some(line) = self.ledger.strange_line(&said) {
            panic!("nothing has caused this: {line}");
        }
        let tally = self.clients.so_far();
        if let Some(incident) = self.ledger.unexplained(&tally.failures) {
            self.report.unexplained += 1;
            panic!("nothing has caused this failure: {incident:?}");
        }
    }
}

/// Waits until it holds; else says what has been seen instead.
pub fn at_last<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let since = Instant::now();
    loop {
        match look() {
            Ok(seen) => return seen,
            Err(seen) => assert!(since.elapsed() < PATIENCE, "never seen: {what}, but {seen}"),
        }
        pause(20);
    }
}

/// What each descriptor of a process leads to.
fn descriptors_of(pid: Pid) -> Vec<String> {
    let all = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten();
    let links = all
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok());
    links.map(|link| link.display().to_string()).collect()
}

fn generations(status: &Value) -> BTreeSet<u64> {
    let all = status["generations"].as_array().into_iter().flatten();
    all.filter_map(|one| one["generation"].as_u64()).collect()
}

fn generation_of(status: &Value, role: &str) -> Option<u64> {
    let mut all = status["generations"].as_array()?.iter();
    all.find(|one| one["role"] == role)?["generation"].as_u64()
}

/// The path that clients connect to.
fn path_of(targets: &[Target]) -> Option<&Path> {
    targets.iter().find_map(|target| match target {
        Target::Unix(path) => Some(path.as_path()),
        _ => None,
    })
}

/// The sockets that listen on that address, by inode.
fn listening_on(address: &SocketAddr) -> BTreeSet<u64> {
    let words = match address.ip() {
        IpAddr::V4(ip) => vec![ip.octets()],
        IpAddr::V6(ip) => ip
            .octets()
            .chunks(4)
            .map(|four| four.try_into().expect("four"))
            .collect(),
    };
    let words = words
        .into_iter()
        .map(|word| format!("{:08X}", u32::from_ne_bytes(word)));
    let local = format!("{}:{:04X}", words.collect::<String>(), address.port());
    let file = if address.is_ipv4() {
        "/proc/net/tcp"
    } else {
        "/proc/net/tcp6"
    };
    let table = fs::read_to_string(file).unwrap_or_default();
    let listening = table.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, at, _, state, _, _, _, _, _, inode, ..] = fields[..] else {
            return None;
        };
        (at == local && state == "0A").then(|| inode.parse().ok())?
    });
    listening.collect()
}
