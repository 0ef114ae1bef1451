//! How many connections a generation has, and how many of them are busy.

use std::collections::{HashMap, HashSet};
use std::io;

use nix::unistd::Pid;

use super::inet::{Activity, Ends};
use super::process_sockets::ProcessSockets;
use super::{inet, unix};
use crate::proc::descriptor;
use crate::socket::generation_socket::{GenerationSocket, SocketKind};
use crate::socket::inet::Family;

/// A client that is seen this often in a row just after a request or an answer, with more bytes each time, never pauses.
/// One that does pause is seen earlier between two requests, when the server owes it nothing.
const NEVER: u32 = 4;
/// To ask of each of these connections who has it takes 5 ms. Beyond that, other ways to tell are tried first.
const MANY: usize = 1_000;
/// At most this many other ends of connections are looked up, at 10 µs each.
const FEW: usize = 32;

/// One count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ActivityCount {
    /// `None` if it is unknown whose they are.
    pub connections: Option<usize>,
    pub busy: usize,
    /// How many of the busy ones are uncertain: nothing tells whether they want anything, for they have sent nothing, or
    /// go through a unix socket.
    pub unsure: usize,
}

/// The kernel does not answer.
const UNKNOWN: ActivityCount = ActivityCount {
    connections: None,
    busy: 1,
    unsure: 0,
};

/// Counts the connections of one generation repeatedly.
#[derive(Debug, Default)]
pub struct ActivityCounter {
    owners: ProcessSockets,
    /// The connections that were undecided at the last count.
    undecided: HashMap<u64, Undecided>,
    /// How many bytes each had received when its server was first seen to have had the last word.
    answered: HashMap<u64, u64>,
}

/// How many bytes a connection had received, and at how many counts in a row it had received more while undecided.
#[derive(Clone, Copy, Debug)]
struct Undecided {
    received: u64,
    gained: u32,
}

/// A connection on one of a generation's sockets.
#[derive(Clone, Copy, Debug)]
struct FoundConnection {
    inode: u64,
    received: u64,
    activity: Activity,
    /// It belongs to the generation, whatever process holds it.
    is_certain: bool,
    client: ClientEnd,
}

/// How the other end of a connection is found.
#[derive(Clone, Copy, Debug)]
enum ClientEnd {
    Tcp(Family, Ends),
    /// By its inode.
    Unix(u64),
}

impl ActivityCounter {
    /// Counts what these processes have accepted on these sockets, unless they have the other end as well. Only
    /// connections of a socket that no other generation has can be busy: on a shared one nobody waits for them. If a
    /// process cannot be inspected, all connections on the same ports count as its own, and their number is unknown.
    pub fn count(&mut self, held: &[GenerationSocket], pids: &[Pid]) -> ActivityCount {
        find(held).map_or(UNKNOWN, |found| self.count_found(&found, pids))
    }

    /// The same, but if there are many and all are idle, it does not ask how many of them are theirs.
    pub fn count_busy(&mut self, held: &[GenerationSocket], pids: &[Pid]) -> ActivityCount {
        let Ok(found) = find(held) else {
            return UNKNOWN;
        };
        if found.len() > MANY && !found.iter().any(|one| self.is_busy(one)) {
            self.remember(&found);
            return ActivityCount::default();
        }
        self.count_found(&found, pids)
    }

    /// How many connections they have. Of many it counts those that none of the `others` has, if these have few
    /// descriptors to look at: all processes that may have accepted on the same sockets.
    pub fn number(
        &mut self,
        held: &[GenerationSocket],
        pids: &[Pid],
        others: &dyn Fn() -> Vec<Pid>,
    ) -> Option<usize> {
        let found = find(held).ok()?;
        let is_many = found.len() > MANY;
        // more than they have: somebody else is on the same ports
        let plausible = |number: &usize| *number <= descriptors(pids);
        let number = is_many.then(|| without(&found, &others())).flatten();
        number
            .filter(plausible)
            .or_else(|| self.count_found(&found, pids).connections)
    }

    fn count_found(&mut self, found: &[FoundConnection], pids: &[Pid]) -> ActivityCount {
        if found.is_empty() {
            self.undecided.clear();
            return ActivityCount {
                connections: Some(0),
                busy: 0,
                unsure: 0,
            };
        }
        self.owners.refresh(pids);
        let mut activity = self.judge(found);
        if activity.busy == 0 && self.owners.forget() {
            self.owners.refresh(pids);
            activity = self.judge(found);
        }
        self.remember(found);
        activity
    }

    fn remember(&mut self, found: &[FoundConnection]) {
        for one in found {
            if !matches!(one.activity, Activity::Busy | Activity::Unsure) {
                self.answered.entry(one.inode).or_insert(one.received);
            }
        }
        let undecided = found
            .iter()
            .filter_map(|one| Some((one.inode, self.undecided(one)?)));
        self.undecided = undecided.collect();
    }

    fn judge(&self, found: &[FoundConnection]) -> ActivityCount {
        let is_complete = self.owners.is_complete();
        let theirs =
            |one: &&FoundConnection| !is_complete || one.is_certain || self.owners.have(one.inode);
        let mut theirs: Vec<_> = found.iter().filter(theirs).collect();
        let is_small = theirs.len() <= FEW;
        let are_few_busy = theirs.iter().filter(|one| self.is_busy(one)).count() <= FEW;
        let is_looked_up = |one| is_small || (are_few_busy && self.is_busy(one));
        theirs.retain(|one| !(is_looked_up(one) && self.is_among_themselves(one)));
        let busy = theirs.iter().filter(|one| self.is_busy(one));
        let unsure = theirs.iter().filter(|one| one.activity == Activity::Unsure);
        ActivityCount {
            busy: busy.count(),
            unsure: unsure.count(),
            connections: is_complete.then_some(theirs.len()),
        }
    }

    /// The same processes have its other end: no client waits for anything on it.
    fn is_among_themselves(&self, one: &FoundConnection) -> bool {
        let inode = match one.client {
            ClientEnd::Tcp(family, ends) => {
                let inode = inet::inode_of_client_end(family, &ends);
                inode.ok().flatten().map_or(0, u64::from)
            }
            ClientEnd::Unix(inode) => inode,
        };
        inode != 0 && self.owners.have(inode)
    }

    /// An undecided connection is busy unless it keeps receiving: then its requests are too short to see. One that has
    /// paused is busy unless it has received more since: a client that asks again has had its answer.
    fn is_busy(&self, one: &FoundConnection) -> bool {
        match one.activity {
            Activity::Busy | Activity::Unsure => true,
            Activity::Quiet => false,
            Activity::Paused => {
                let before = self.answered.get(&one.inode);
                before.is_none_or(|before| one.received <= *before)
            }
            Activity::Undecided => self.undecided(one).is_none_or(|now| now.gained < NEVER),
        }
    }

    fn undecided(&self, one: &FoundConnection) -> Option<Undecided> {
        if one.activity != Activity::Undecided {
            return None;
        }
        let received = one.received;
        let gained = self.undecided.get(&one.inode).map_or(0, |before| {
            if before.received == received {
                0
            } else {
                before.gained + 1
            }
        });
        Some(Undecided { received, gained })
    }
}

/// Whether these processes have accepted on these sockets, as far as that can be told.
pub fn have_accepted(held: &[GenerationSocket], pids: &[Pid]) -> bool {
    let mut owners = ProcessSockets::default();
    owners.refresh(pids);
    let is_theirs =
        |one: &FoundConnection| !owners.is_complete() || one.is_certain || owners.have(one.inode);
    find(held).map_or(true, |found| found.iter().any(is_theirs))
}

/// How many of these the `others` do not have; `None` if that cannot be told, or not soon.
fn without(found: &[FoundConnection], others: &[Pid]) -> Option<usize> {
    if !(1..=MANY).contains(&descriptors(others)) {
        return None;
    }
    let mut owners = ProcessSockets::default();
    owners.refresh(others);
    let theirs = found.iter().filter(|one| !owners.have(one.inode));
    owners.is_complete().then(|| theirs.count())
}

/// How many they have; 0 where the kernel does not tell.
fn descriptors(pids: &[Pid]) -> usize {
    let counts = pids.iter().map(|pid| descriptor::count(*pid));
    usize::try_from(counts.sum::<u64>()).unwrap_or(usize::MAX)
}

/// The connections on these sockets, of any process, without those that are still in a TCP queue.
fn find(held: &[GenerationSocket]) -> io::Result<Vec<FoundConnection>> {
    let tcp = |one: &GenerationSocket| Some((one.family?, one.kind.tcp_port()?));
    let mut ports: Vec<_> = held.iter().filter_map(tcp).collect();
    ports.sort_unstable();
    ports.dedup();
    let of_steered = held.iter().filter(|one| one.steered);
    let steered: HashSet<_> = of_steered.filter_map(tcp).collect();
    let accepted = inet::accepted(&ports)?.into_iter();
    let accepted = accepted.map(|(at, one)| FoundConnection {
        inode: one.inode,
        received: one.received,
        activity: if steered.contains(&at) {
            one.activity
        } else {
            Activity::Quiet
        },
        is_certain: false,
        client: ClientEnd::Tcp(at.0, one.ends),
    });
    let mut found: Vec<_> = accepted.collect();
    let is_unix = |kind| matches!(kind, SocketKind::Unix | SocketKind::Abstract);
    for listener in held.iter().filter(|one| is_unix(one.kind)) {
        let accepted = unix::connections(listener.inode)?.into_iter();
        found.extend(accepted.map(|(inode, client)| FoundConnection {
            inode,
            received: 0,
            // The kernel does not count what is sent on a unix connection: it is busy as long as it is open.
            activity: if listener.steered {
                Activity::Unsure
            } else {
                Activity::Quiet
            },
            is_certain: listener.steered,
            client: ClientEnd::Unix(client),
        }));
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
