//! What a user excuses one swap from, and what a restart is excused from.

use serde::{Deserialize, Serialize};

use super::World;
use crate::address::AddressPattern;
use crate::control::SwapRequest;
use crate::ready::ReadyMode;
use crate::supervisor::{Cause, ProgramChoice};

/// What one swap is excused from.
#[derive(Clone, Debug, Default)]
pub(super) struct Waivers {
    /// Addresses that the new version may leave out.
    pub without: Vec<AddressPattern>,
    /// It need not say READY=1, though an earlier version did.
    pub forget_ready: bool,
}

impl Waivers {
    pub fn of(request: &SwapRequest) -> Self {
        let patterns = request.without.iter().map(|text| text.parse());
        Self {
            without: patterns.filter_map(Result::ok).collect(),
            forget_ready: request.forget_ready,
        }
    }

    pub fn add(&mut self, others: Waivers) {
        self.without.extend(others.without);
        self.forget_ready |= others.forget_ready;
    }
}

/// Which of the generations that got to serve have said READY=1.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(super) struct SaidReady {
    /// One of them: the next one must, too.
    #[serde(default, rename = "says_ready")]
    ever: bool,
    /// The one that served last.
    #[serde(default, rename = "last_said_ready")]
    last: bool,
}

impl SaidReady {
    pub fn serves(&mut self, said: bool) {
        self.ever |= said;
        self.last = said;
    }
}

impl World {
    /// Whether a generation is ready only once it has said READY=1. What runs again need not say more than before.
    pub(super) fn must_say_ready(&self, cause: Cause, program: ProgramChoice) -> bool {
        let said_before = match (cause, program) {
            (Cause::Restart | Cause::RollBack, ProgramChoice::Of(good)) => {
                self.programs.get(&good).is_none_or(|held| held.said_ready)
            }
            (Cause::Restart, ProgramChoice::Current) => self.said_ready.last,
            _ => true,
        };
        self.said_ready.ever && said_before
    }

    /// Whether the next candidate may accept connections before it is ready.
    pub(super) fn may_accept_early(&self) -> bool {
        match self.ready_mode {
            ReadyMode::Tcp => false,
            ReadyMode::Auto => self.said_ready.ever && !self.waivers.forget_ready,
            ReadyMode::Notify
            | ReadyMode::Fd(_)
            | ReadyMode::Http { .. }
            | ReadyMode::Exec(_)
            | ReadyMode::After(_) => true,
        }
    }
}
