//! The phases of a draining generation.

use super::{Exit, Generation, Time};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draining {
    pub generation: Generation,
    pub phase: Phase,
    pub kill_at: Time,
    /// How its main process ended, once it has.
    pub exit: Option<Exit>,
    /// It has never served.
    pub failed: bool,
    /// Clients may wait in its sockets: they are the next one's once it is gone.
    pub has_targets: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its queue and its open handshakes are waited for.
    Emptying {
        queue: Queue,
        cut_at: Time,
        until: Time,
    },
    /// Its busy connections are waited for.
    Quiescing {
        until: Time,
    },
    /// It has its stop signal, or is dead.
    Stopping,
    Killed {
        times: u32,
        at: Time,
    },
}

/// What is left on the listeners of a draining generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// Connections that it has not accepted.
    Waiting,
    /// No connection, but open handshakes.
    Empty,
    /// No connection and no handshake, twice in a row.
    Settled,
    /// Connections that it does not accept, and has not for some time.
    Stuck,
}
