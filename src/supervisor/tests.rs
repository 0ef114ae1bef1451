//! Drills: one moment a line, at a second, with what follows.

use std::time::Duration;

use super::Action::{
    Answer, CheckProgram, CutOver, Empty, End, EndBeforeSwap, Kill, Quiesce, RefuseUpgrade, Reopen,
    RunBeforeSwap, Stop, Upgrade,
};
use super::Event::{
    BeforeSwapEnded, CannotCutOver, CannotSpawn, CutOverDone, Died, Elapsed, FileChanged, Gone,
    Launched, ProgramChecked, Queued, Quiet, Ready, ReopenAsked, StopAsked, SwapAsked,
    UpgradeAsked,
};
use super::{
    Action, Announcement, Client, Event, Exit, Failure, Generation, Order, Policy, Program, Queue,
    Reason, Restart, Sockets, Supervisor, Then, Time, Verdict,
};

mod lives;
mod properties;
mod requests;
mod restarts;

const G1: Generation = Generation(1);
const G2: Generation = Generation(2);
const G3: Generation = Generation(3);
const G4: Generation = Generation(4);
const ANN: Client = Client(1);
const BOB: Client = Client(2);

fn policy() -> Policy {
    Policy {
        ready_timeout: seconds(30),
        min_ready: seconds(0),
        quiesce: seconds(10),
        drain_timeout: seconds(30),
        max_draining: 4,
        order: Order::StartFirst,
        restart: Restart::OnFailure,
        before_swap: None,
        before_first: false,
        fallback: true,
    }
}

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

fn fresh(generation: Generation) -> Action {
    Action::Spawn {
        generation,
        sockets: Sockets::Own,
        program: Program::Current,
    }
}

fn into_target(generation: Generation) -> Action {
    Action::Spawn {
        generation,
        sockets: Sockets::Target,
        program: Program::Current,
    }
}

fn serving(generation: Generation, draining: Generation) -> Announcement {
    Announcement::Serving {
        generation,
        draining: Some(draining),
    }
}

fn aborted(generation: Generation, reason: Reason, serves_on: Generation) -> Failure {
    Failure {
        generation,
        reason,
        rolled_back: false,
        serves_on: Some(serves_on),
    }
}

fn crash() -> Exit {
    Exit::Status(1)
}

/// A supervisor under instruction: at such a second this happens, and exactly that follows.
struct Drill {
    supervisor: Supervisor,
    now: Time,
    said: Vec<Announcement>,
}

impl Drill {
    fn with(policy: Policy) -> Self {
        Self {
            supervisor: Supervisor::new(policy),
            now: Time::ZERO,
            said: Vec::new(),
        }
    }

    /// The first generation was spawned at 0 and serves since 1.
    fn serving_with(policy: Policy) -> Self {
        let mut drill = Self::with(policy);
        drill.at(0, Launched, &[into_target(G1)]);
        drill.at(1, Ready(G1), &[CutOver(G1)]);
        drill.at(1, CutOverDone(G1), &[]);
        drill
    }

    fn serving_first_generation() -> Self {
        Self::serving_with(policy())
    }

    /// The second generation was asked for at 5 and starts.
    fn starting_second_generation() -> Self {
        let mut drill = Self::serving_first_generation();
        drill.at(5, SwapAsked(Some(ANN)), &[CheckProgram]);
        drill.at(5, ProgramChecked(Ok(())), &[fresh(G2)]);
        drill
    }

    /// The second generation serves since 7, and the first drains.
    fn draining_first_generation() -> Self {
        let mut drill = Self::starting_second_generation();
        drill.at(7, Ready(G2), &[CutOver(G2)]);
        drill.at(7, CutOverDone(G2), &[Empty(G1), answered(&[ANN], G2, G1)]);
        drill
    }

    #[track_caller]
    fn at(&mut self, second: u64, event: Event, follows: &[Action]) {
        self.at_time(seconds(second), event, follows);
    }

    #[track_caller]
    fn at_time(&mut self, now: Time, event: Event, follows: &[Action]) {
        self.now = now;
        self.said.clear();
        let mut done = Vec::new();
        for action in self.supervisor.step(now, event) {
            if let Action::Announce(announcement) = action {
                self.said.push(announcement);
            } else {
                done.push(action);
            }
        }
        assert_eq!(done, follows, "at {now:?}");
    }

    #[track_caller]
    fn elapses_at(&mut self, second: u64, follows: &[Action]) {
        assert_eq!(self.supervisor.deadline(), Some(seconds(second)));
        self.at(second, Elapsed, follows);
    }

    #[track_caller]
    fn says(&self, announcement: &Announcement) {
        assert!(self.said.contains(announcement), "said {:?}", self.said);
    }

    #[track_caller]
    fn serves(&self, generation: Generation) {
        assert_eq!(
            self.supervisor.serving().map(|serving| serving.generation),
            Some(generation)
        );
    }
}

fn answered(clients: &[Client], generation: Generation, replaced: Generation) -> Action {
    Answer(
        clients.to_vec(),
        Verdict::Serving {
            generation,
            replaced: Some(replaced),
        },
    )
}

fn refused(clients: &[Client], failure: Failure) -> Action {
    Answer(clients.to_vec(), Verdict::Failed(failure))
}
