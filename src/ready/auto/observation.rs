//! What one look at a candidate has shown, as the rule of `--ready auto` is told it.

use std::time::Duration;

use crate::listener::ListenerId;
use crate::supervisor::Time;

/// One listener of the candidate, or one that it should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObservedListener {
    pub listener: ListenerId,
    pub need: Need,
    pub captured: bool,
    /// A captured unix path or name: it may be between its own processes.
    pub is_path: bool,
    /// A connection can be made to it that only the candidate can accept.
    pub probeable: bool,
    pub evidence: Evidence,
}

impl ObservedListener {
    /// Clients come here whatever the candidate does: hotswap has given it the socket, or has kept that of a dead
    /// generation.
    pub(super) fn has_clients(&self) -> bool {
        !self.captured || self.need != Need::Nothing
    }
}

/// What the candidate must do on a listener before it is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    Accept,
    /// The serving generation was never seen accepting there either.
    Listen,
    Nothing,
}

/// What the candidate has shown there so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    Nothing,
    /// Not a proof: hotswap itself may have called listen(2).
    Listens,
    /// A thread of a runtime would hear of a client, and perhaps let it wait: one probe tells, at once.
    Registered,
    /// A thread waits on it.
    Waits,
    AcceptedAProbe,
}

/// What one look at the candidate showed.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    pub listeners: &'a [ObservedListener],
    /// Some of its processes could not be inspected.
    pub blind: bool,
    pub rank: Rank,
    /// It has called bind or listen itself.
    pub captured: bool,
    /// What it does with listening sockets that are no listeners of hotswap's.
    pub outside: Evidence,
    /// It listens on a port that the kernel has chosen, and that no client can know beforehand.
    pub chosen_port: bool,
    /// What its processes do, if that was looked for.
    pub work: Option<Work>,
    /// Under `--dev`: how long to wait for the last address once another accepts.
    pub patience: Option<Duration>,
}

impl Observation<'_> {
    /// It must have a socket wherever that of the serving generation counts.
    pub(super) fn has_requirements(&self) -> bool {
        let mut all = self.listeners.iter();
        self.rank.is_beside_another() && all.any(|one| one.need != Need::Nothing)
    }

    /// The first generation has nothing that is for clients without doubt.
    pub fn may_be_private(&self) -> bool {
        let first = self.rank == Rank::First;
        first && self.listeners.iter().all(|one| one.is_path)
    }
}

/// What all processes of a generation do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work {
    /// What they have had of the processor, all together.
    pub cpu_time: Time,
    /// One of them uses a processor now, or waits for one.
    pub running: bool,
    /// One of them is stopped, which is not being idle.
    pub stopped: bool,
}

/// Which generation the candidate is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rank {
    /// None before it has served.
    #[default]
    First,
    /// The one that served is dead.
    Restart,
    /// Another one serves.
    Candidate,
}

impl Rank {
    pub fn is_beside_another(self) -> bool {
        self == Self::Candidate
    }
}
