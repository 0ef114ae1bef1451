//! One client and the server that it is relayed to: what one sends goes to the other, until both have ended.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::end::RelayEnd;
use crate::listener::watcher::Watcher;
use crate::socket::{bound_to, canonical};
use crate::supervisor::Time;
use crate::sys;

/// How long a connection may be silent.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a connection may last: enough for a slow request, not for a subscription.
const LONGEST: Duration = Duration::from_secs(600);

/// A client and the server that it is relayed to.
#[derive(Serialize, Deserialize)]
pub struct Relay {
    pub client: RelayEnd,
    pub server: RelayEnd,
    /// How many relays there are from the first client on, this one included.
    #[serde(default)]
    pub hops: u32,
    /// Whether the client speaks HTTP/1, once it has sent something: between two requests it may have another server.
    #[serde(default)]
    pub is_http: Option<bool>,
    /// The client has sent something since its server did.
    #[serde(default)]
    pub asks: bool,
    /// What the client has sent while it waits, and another process could have taken.
    #[serde(default)]
    pub early: Vec<u8>,
    /// Another generation serves by now, and gets the next request.
    #[serde(default)]
    pub replaced: bool,
    begun: Time,
    moved: Time,
}

impl Relay {
    pub fn new(client: OwnedFd, server: OwnedFd, hops: u32) -> io::Result<Self> {
        let now = sys::now();
        Ok(Self {
            client: RelayEnd::new(client)?,
            server: RelayEnd::new(server)?,
            hops,
            is_http: None,
            asks: false,
            early: Vec::new(),
            replaced: false,
            begun: now,
            moved: now,
        })
    }

    /// The address that the server sees as its client, if it is known.
    pub fn source(&self) -> Option<SocketAddr> {
        bound_to(self.server.fd.as_fd()).ok().map(canonical)
    }

    pub fn carry(&mut self, held: bool, now: Time) -> io::Result<()> {
        let waits = held && self.is_idle();
        let Self {
            client,
            server,
            early,
            ..
        } = self;
        if !waits {
            if self.is_http.is_none() {
                self.is_http = client.speaks_http(early);
            }
            if server.pending.is_empty() {
                server.pending = std::mem::take(early);
            }
        }
        let asked = !waits && client.carry_to(server)?;
        let answered = server.carry_to(client)?;
        // a client asks again only once it has been answered
        self.asks = !answered && (asked || self.asks);
        if asked || answered {
            self.moved = now;
        }
        Ok(())
    }

    pub fn watch(&mut self, held: bool, watcher: &Watcher) -> io::Result<()> {
        let waits = held && self.is_idle();
        let Self { client, server, .. } = self;
        client.watch(server.pending.is_empty() && !waits, watcher)?;
        server.watch(client.pending.is_empty(), watcher)
    }

    /// It is between two requests, over TCP: a client of a unix path must not be moved to another server.
    pub fn is_idle(&self) -> bool {
        let is_empty = self.client.pending.is_empty() && self.server.pending.is_empty();
        self.is_http != Some(false) && !self.asks && is_empty && self.source().is_some()
    }

    pub fn has_request(&self) -> bool {
        !self.early.is_empty() || self.client.has_sent()
    }

    pub fn is_over(&self) -> bool {
        self.client.end_sent && self.server.end_sent
    }

    pub fn deadline(&self) -> Time {
        (self.begun + LONGEST).min(self.moved + SILENCE)
    }
}
