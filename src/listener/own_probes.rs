//! The connections that hotswap makes to a candidate. One that is taken off a queue is reset and not relayed: the serving
//! generation would answer for the candidate.

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use nix::unistd::Pid;

use crate::connections::inet::inode_of_server_end;
use crate::proc::descriptor;
use crate::socket::{bound_to, canonical, peer_of};

/// How many are remembered; few are open at a time.
const MOST: usize = 64;

/// Where they come from.
#[derive(Default)]
pub struct OwnProbes {
    /// The last ones.
    last: VecDeque<SocketAddr>,
    /// One that is open while it is looked for: nobody else can have its address.
    pub sought: Option<SocketAddr>,
}

impl OwnProbes {
    pub fn add(&mut self, probe: &OwnedFd) {
        let Ok(from) = bound_to(probe.as_fd()) else {
            return; // a unix socket: nobody relays what waits at the name beside a path
        };
        self.last.truncate(MOST - 1);
        self.last.push_front(canonical(from));
    }

    /// Whether that client is one of them. Another one may have its port once it is closed.
    pub fn take(&mut self, client: &OwnedFd) -> bool {
        let Some(peer) = peer_of(client) else {
            return false;
        };
        if self.sought.take_if(|sought| *sought == peer).is_some() {
            return true;
        }
        if !self.last.contains(&peer) {
            return false;
        }
        let here = bound_to(client.as_fd()).map(canonical);
        let its = here.and_then(|here| inode_of_server_end(here, peer));
        let its = its.ok().flatten().map(u64::from);
        its.is_some_and(|its| descriptor::holds_any(Pid::this(), &HashSet::from([its]), None))
    }
}
