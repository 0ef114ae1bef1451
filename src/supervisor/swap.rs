//! One swap, from the request to the verdict, and how long each stage may take.

use std::time::Duration;

use super::{ClientId, Generation, Time};

#[derive(Clone, Debug)]
pub struct Swap {
    pub generation: Generation,
    pub cause: Cause,
    pub stage: Stage,
    /// The clients that wait for the verdict.
    pub clients: Vec<ClientId>,
    pub program: ProgramChoice,
    /// It is discarded once it is ready.
    pub check: bool,
    pub spawned: Option<Time>,
    /// Until then a newer file or a request may replace it; counted from the first one replaced.
    pub replaceable: Option<Time>,
    /// It got ready while a newer change was being judged, and waits for that.
    pub is_ready: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    First,
    Asked,
    File,
    Restart,
    /// Back to the program that served before.
    RollBack,
}

/// Which program a new generation runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgramChoice {
    /// The one at the path.
    Current,
    /// The one that this generation ran.
    Of(Generation),
}

/// What the path of the program leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDisk {
    /// What the serving generation runs.
    Same,
    /// Another one, which may or may not work; and whether what serves is held, so that it can run again.
    Another { is_held: bool },
    /// Nothing that can be run, or what did not get to serve and nobody has asked for since.
    Rejected,
}

/// The stage of a swap, and how long it may last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    BeforeSwap {
        until: Time,
    },
    Checking {
        until: Time,
    },
    /// This generation must be gone before the candidate is spawned.
    WaitingFor(Generation),
    BackingOff {
        until: Time,
    },
    Starting {
        until: Time,
    },
    CuttingOver {
        until: Time,
    },
    Proving {
        since: Time,
        until: Time,
    },
}

impl Swap {
    pub fn new(generation: Generation, cause: Cause, stage: Stage) -> Self {
        let (clients, program) = (Vec::new(), ProgramChoice::Current);
        Self {
            generation,
            cause,
            stage,
            clients,
            program,
            check: false,
            spawned: None,
            replaceable: None,
            is_ready: false,
        }
    }

    pub fn deadline(&self) -> Option<Time> {
        match self.stage {
            Stage::BeforeSwap { until }
            | Stage::Checking { until }
            | Stage::BackingOff { until }
            | Stage::Starting { until }
            | Stage::CuttingOver { until }
            | Stage::Proving { until, .. } => Some(until),
            // The generation it waits for has the deadline.
            Stage::WaitingFor(_) => None,
        }
    }

    /// That generation is the candidate, and has been spawned.
    pub fn lives(&self, generation: Generation) -> bool {
        self.spawned.is_some() && self.generation == generation
    }

    pub fn is_starting(&self) -> bool {
        matches!(self.stage, Stage::Starting { .. })
    }

    pub fn is_proving(&self) -> bool {
        matches!(self.stage, Stage::Proving { .. })
    }

    /// A swap, not a restart, that is not spawned yet: new changes and requests join it.
    pub fn is_prepared(&self) -> bool {
        self.spawned.is_none()
            && matches!(self.cause, Cause::First | Cause::Asked | Cause::File)
            && !self.check
    }

    /// A changed file replaces a starting candidate, and a request replaces one that a changed file started, until the ready
    /// timeout. A waiting restart is not prepared, and may run another program than the one at the path.
    pub fn gives_way_to(&self, cause: Cause, now: Time) -> bool {
        match self.stage {
            Stage::BackingOff { .. } | Stage::WaitingFor(_) => true,
            Stage::Starting { .. } => {
                let by_file = cause == Cause::File || self.cause == Cause::File;
                by_file && self.is_replaceable(now)
            }
            Stage::BeforeSwap { .. }
            | Stage::Checking { .. }
            | Stage::CuttingOver { .. }
            | Stage::Proving { .. } => false,
        }
    }

    pub fn is_replaceable(&self, now: Time) -> bool {
        self.replaceable.is_some_and(|until| now < until)
    }

    /// New connections may go to it already.
    pub fn is_cut_over_to(&self) -> bool {
        matches!(
            self.stage,
            Stage::CuttingOver { .. } | Stage::Proving { .. }
        )
    }

    /// How long it has lived, or proved itself.
    pub fn age(&self, now: Time) -> Duration {
        let since = if let Stage::Proving { since, .. } = self.stage {
            Some(since)
        } else {
            self.spawned
        };
        now.saturating_sub(since.unwrap_or(now))
    }
}
