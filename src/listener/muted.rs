//! Kept connections of the serving generation, muted while their clients wait for the next version.
//!
//! A muted connection does not wake its server, because SO_RCVLOWAT is more than can arrive. Nothing is closed, and what
//! the client sends waits in the kernel. If the next version comes, it gets that through a relay; otherwise the old one
//! answers after all.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc;
use nix::unistd::Pid;

use super::Listeners;
use super::relay::{Relays, is_request, peek, read_early};
use super::watcher::Watcher;
use crate::connections::inet::{self, Activity};
use crate::proc::{descriptor, process};
use crate::record::plural;
use crate::socket::inet::Family;
use crate::socket::{Inode, inode_of, is_nonblocking, peer_of};
use crate::supervisor::{Generation, Time};
use crate::sys;

/// More bytes than any socket buffer holds.
const NEVER: i32 = 1 << 30;
/// How often to look: for requests on muted connections, and at first for connections that are idle by now.
const LOOK: Time = Time::from_millis(5);
/// A build may take minutes: an answer that ends meanwhile is noticed this much later at most.
const LONGEST_PAUSE: Time = Time::from_millis(80);

/// How long a client may still send a request once its server is gone; then its connection is closed.
const LINGERS: Time = Time::from_secs(1);

/// The calls that wait for what a client sends.
const READS: [i64; 4] = [
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
];

/// A connection, by a duplicate of its server's descriptor.
struct MutedConnection {
    fd: OwnedFd,
    owner: Generation,
    /// Since when the generation is gone: nobody else has the connection.
    orphan_since: Option<Time>,
    /// What the client has sent, if its server could have taken it.
    early: Vec<u8>,
}

/// What a client of a muted connection has sent.
enum Sent {
    Nothing,
    /// The beginning of a request of HTTP/1, which any server understands.
    Request,
    /// Anything else, which only the server it has talked to can understand, or the end of the connection.
    Other,
}

impl MutedConnection {
    fn sent(&self) -> Sent {
        let first = if self.early.is_empty() {
            peek(&self.fd)
        } else {
            Ok(self.early.clone())
        };
        match first {
            Err(Errno::EAGAIN | Errno::EINTR) => Sent::Nothing,
            Ok(first) if is_request(&first) => Sent::Request,
            Ok(_) | Err(_) => Sent::Other,
        }
    }
}

#[derive(Default)]
pub struct MutedConnections {
    all: HashMap<Inode, MutedConnection>,
    /// Relayed clients whose server still lives, and has to stay muted.
    relayed: HashMap<Inode, Generation>,
    /// Whose connections are looked for: the one that serves, or that has served until the last cut-over.
    of: Option<Generation>,
    pub due: Option<Time>,
    /// Until the next look for idle connections.
    pause: Time,
    /// It was said why none can be muted.
    is_said: bool,
}

impl MutedConnections {
    /// Looks for connections of this generation at once, and from now on.
    fn look_for(&mut self, of: Option<Generation>, now: Time) {
        self.of = of;
        self.pause = LOOK;
        self.due = Some(now);
    }

    /// Looks for idle connections at these ports of the generation whose processes these are, less and less often.
    fn look_for_idle(
        &mut self,
        ports: &[(Family, u16)],
        processes: &[Pid],
        relays: &Relays,
        now: Time,
    ) {
        self.due = None;
        let Some(owner) = self.of else {
            return;
        };
        match self.mute(owner, ports, processes, relays) {
            Ok(()) => {
                self.due = Some(now + self.pause);
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            }
            Err(error) if !self.is_said => {
                self.is_said = true;
                log::warn!(
                    "keep-alive connections do not wait for the next version: pidfd_getfd(2): {error}"
                );
            }
            Err(_) => {}
        }
    }

    /// Mutes what is idle of these ports and belongs to these processes.
    fn mute(
        &mut self,
        owner: Generation,
        ports: &[(Family, u16)],
        processes: &[Pid],
        relays: &Relays,
    ) -> io::Result<()> {
        let mut idle = idle_on(ports)?;
        idle.retain(|inode| !self.all.contains_key(inode) && !self.relayed.contains_key(inode));
        let mut muted = Vec::new();
        let mut done = Ok(());
        for process in processes {
            if idle.is_empty() || done.is_err() {
                break;
            }
            let mut reads = None;
            for found in duplicates(*process, &idle) {
                let (inode, number, fd) = match found {
                    Ok(found) => found,
                    Err(denied) => {
                        done = Err(denied);
                        break;
                    }
                };
                // the number may be another one's by now; what is relayed waits at the relay
                let is_it = inode_of(fd.as_fd()).is_ok_and(|found| found == inode);
                if !is_it || relays.comes_from(peer_of(&fd)) {
                    continue;
                }
                let waits = is_nonblocking(fd.as_fd())
                    || reads
                        .get_or_insert_with(|| read_by(*process))
                        .contains(&number);
                if waits && idle.remove(&inode) {
                    set_wake_up(fd.as_fd(), NEVER);
                    muted.push((inode, fd));
                }
            }
        }
        // a request that came in between has woken the server, which needs all of it
        let idle = if muted.is_empty() {
            HashSet::new()
        } else {
            idle_on(ports).unwrap_or_default()
        };
        let before = self.all.len();
        for (inode, fd) in muted {
            if idle.contains(&inode) {
                let one = MutedConnection {
                    fd,
                    owner,
                    orphan_since: None,
                    early: Vec::new(),
                };
                self.all.insert(inode, one);
            } else {
                set_wake_up(fd.as_fd(), 1);
            }
        }
        if self.all.len() > before {
            let held = plural(self.all.len() - before, "keep-alive connection");
            log::debug!("holding {held}");
        }
        done
    }

    /// Looks at what clients have sent: the serving generation gets its own connections back, and those of others are
    /// relayed to it.
    fn go_on(
        &mut self,
        serving: Option<Generation>,
        relays: &mut Relays,
        watcher: &Watcher,
        now: Time,
    ) {
        self.of = self.of.filter(|of| serving != Some(*of));
        let inodes: Vec<Inode> = self.all.keys().copied().collect();
        for inode in inodes {
            let Some(one) = self.all.get(&inode) else {
                continue;
            };
            let is_back = serving == Some(one.owner);
            let is_over = one.orphan_since.is_some_and(|since| since + LINGERS <= now);
            match one.sent() {
                Sent::Nothing if !is_back && !is_over => continue,
                Sent::Request if !is_back => {}
                Sent::Nothing | Sent::Request | Sent::Other => {
                    set_wake_up(one.fd.as_fd(), 1);
                    self.all.remove(&inode);
                    continue;
                }
            }
            let Some(one) = self.all.remove(&inode) else {
                continue;
            };
            if one.orphan_since.is_some() {
                set_wake_up(one.fd.as_fd(), 1);
            } else {
                self.relayed.insert(inode, one.owner);
            }
            if let Err(error) = relays.keep(one.fd, one.early, watcher) {
                log::debug!("a keep-alive connection has ended: {error}");
            }
        }
        // a muted one makes no event
        self.relayed
            .retain(|inode, _| relays.go_on(*inode, watcher));
    }

    /// A thread that blocks in recv(2) takes what has come when a stop signal wakes it, muted or not: it is taken before.
    fn read_before_stop(&mut self, generation: Generation, relays: &mut Relays) {
        for one in self.all.values_mut() {
            if one.owner == generation && matches!(one.sent(), Sent::Request) {
                read_early(&one.fd, &mut one.early);
            }
        }
        for (client, owner) in &self.relayed {
            if *owner == generation {
                relays.read_early(*client);
            }
        }
    }

    /// Gives all connections back to their servers.
    fn unmute(&mut self, relays: &Relays) {
        for one in self.all.values() {
            set_wake_up(one.fd.as_fd(), 1);
        }
        for client in self.relayed.keys() {
            if let Some(client) = relays.client(*client) {
                set_wake_up(client, 1);
            }
        }
        *self = Self::default();
    }

    /// Its processes are gone, and have let go of their connections.
    pub fn leave(&mut self, generation: Generation, relays: &Relays, now: Time) {
        self.of = self.of.filter(|of| *of != generation);
        for one in self.all.values_mut() {
            if one.owner == generation {
                one.orphan_since = Some(now);
            }
        }
        self.relayed.retain(|inode, owner| {
            let is_gone = *owner == generation;
            if let Some(client) = relays.client(*inode).filter(|_| is_gone) {
                set_wake_up(client, 1);
            }
            !is_gone
        });
    }
}

impl Listeners {
    /// Clients of idle connections wait, too.
    pub(super) fn begin_to_mute(&mut self, now: Time) {
        self.context.relays.hold(&self.context.watcher);
        self.context.muted.look_for(self.serving, now);
    }

    /// They go on, at another generation or at the same: what they have sent is looked at, at once. Where another one serves
    /// by now, those whose last request goes on at the old one come there with the next.
    pub(super) fn release_muted(&mut self, is_another: bool, now: Time) {
        let context = &mut self.context;
        context.relays.release(is_another, &context.watcher);
        let of = context.muted.of.filter(|_| is_another);
        context.muted.look_for(of, now);
    }

    /// Whether it is time for [`Listeners::look_at_muted`].
    pub fn muted_are_due(&self, now: Time) -> bool {
        self.context.muted.due.is_some_and(|due| due <= now)
    }

    /// The generation whose idle connections are muted.
    pub fn mutes(&self) -> Option<Generation> {
        self.context.muted.of
    }

    /// Looks at what clients have sent on muted connections, if they wait no longer; then for idle ones that are to be
    /// muted. These processes have them.
    pub fn look_at_muted(&mut self, processes: &[Pid], now: Time) {
        self.relay_muted(now);
        let of = self.context.muted.of;
        let ports = of.map_or_else(Vec::new, |of| self.steered_ports(of));
        let context = &mut self.context;
        context
            .muted
            .look_for_idle(&ports, processes, &context.relays, now);
        let is_left = !context.muted.all.is_empty() || !context.muted.relayed.is_empty();
        if !context.holds() && is_left {
            context.muted.due = Some(now + LOOK);
        }
    }

    /// Gives back what a hotswap that was killed has left muted of this generation, whose processes these are. No server
    /// is known to set SO_RCVLOWAT itself; one that did would only be woken early.
    pub fn unmute_left(&self, generation: Generation, processes: &[Pid]) {
        let open = inet::accepted(&self.steered_ports(generation)).unwrap_or_default();
        let open = open.iter().map(|(_, one)| one.inode).collect();
        for process in processes {
            // where that is denied, nothing could be muted either
            for (.., fd) in duplicates(*process, &open).flatten() {
                let wakes_at = sys::socket_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT);
                if wakes_at.is_ok_and(|bytes| bytes > 1) {
                    set_wake_up(fd.as_fd(), 1);
                }
            }
        }
    }

    fn steered_ports(&self, generation: Generation) -> Vec<(Family, u16)> {
        let sockets = self.sockets_of(generation);
        let steered = sockets.iter().filter(|one| one.steered && one.listens);
        let ports = steered.filter_map(|one| Some((one.family?, one.kind.tcp_port()?)));
        ports.collect()
    }

    /// What clients have sent on muted connections reaches a server, unless they wait.
    fn relay_muted(&mut self, now: Time) {
        let context = &mut self.context;
        if !context.holds() {
            context
                .muted
                .go_on(self.serving, &mut context.relays, &context.watcher, now);
        }
    }

    pub(super) fn relay_muted_before_stop(&mut self, generation: Generation) {
        self.relay_muted(sys::now());
        let context = &mut self.context;
        context
            .muted
            .read_before_stop(generation, &mut context.relays);
    }

    /// Gives all connections back to their servers, before an upgrade.
    pub fn unmute(&mut self) {
        self.context.muted.unmute(&self.context.relays);
    }
}

/// The accepted connections of these ports whose servers have read all that came, and have sent something last. An answer
/// may still go on: for that nothing need be read.
fn idle_on(ports: &[(Family, u16)]) -> io::Result<HashSet<Inode>> {
    let idle = inet::accepted(ports)?.into_iter();
    let idle = idle.filter(|(_, one)| one.activity != Activity::Busy);
    Ok(idle.map(|(_, one)| one.inode).collect())
}

/// The descriptors of these sockets that a process has, and duplicates of them, each made when it is asked for: there may
/// be more than hotswap may have open. One that has just ended has none; an error is that it may not be asked for them.
fn duplicates(
    process: Pid,
    of: &HashSet<Inode>,
) -> impl Iterator<Item = io::Result<(Inode, RawFd, OwnedFd)>> + use<> {
    let pidfd = sys::pidfd_open(process, process).ok();
    let places = descriptor::places_of(process, of).unwrap_or_default();
    places.into_iter().filter_map(move |(inode, number)| {
        match sys::pidfd_getfd(pidfd.as_ref()?.as_fd(), number) {
            Ok(fd) => Some(Ok((inode, number, fd))),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Some(Err(error)),
            Err(_) => None, // closed meanwhile
        }
    })
}

/// The descriptors that the threads of a process block on in a read. One that only begins to read once it is muted would
/// never see a request: a blocking recv(2) decides at its start how much it waits for.
fn read_by(process: Pid) -> HashSet<RawFd> {
    let calls = process::threads(process).filter_map(|thread| process::blocked_in(thread).ok()?);
    let reads = calls.filter(|(call, ..)| READS.contains(call));
    reads
        .filter_map(|(_, descriptor, _)| RawFd::try_from(descriptor).ok())
        .collect()
}

/// The server wakes up once this many bytes wait; a failure leaves it as it was.
fn set_wake_up(connection: BorrowedFd, bytes: i32) {
    let _ = sys::set_socket_option(connection, libc::SOL_SOCKET, libc::SO_RCVLOWAT, bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    #[test]
    fn more_sockets_are_duplicated_than_fit_at_once() {
        let pairs: Vec<_> = (0..40).map(|_| UnixStream::pair().unwrap()).collect();
        let sockets = pairs.iter().map(|(one, _)| inode_of(one.as_fd()).unwrap());
        let sockets: HashSet<Inode> = sockets.collect();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let next = u64::try_from(pairs[39].1.as_raw_fd()).unwrap() + 1;
        setrlimit(Resource::RLIMIT_NOFILE, next + 8, hard).unwrap();
        let found = duplicates(Pid::this(), &sockets).flatten().count();
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
        assert_eq!(found, 40);
    }
}
