//! Drills: one moment a line, at a second, with what follows.
#![allow(clippy::wildcard_enum_match_arm)]

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
    Action, Announcement, Cause, Client, Event, Exit, Failure, Generation, Order, Policy, Program,
    Queue, Reason, Restart, Sockets, Supervisor, Then, Time, Verdict,
};

mod fallback;
mod histories;
mod lives;
mod model;
mod requests;
mod restarts;
mod told;

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
    fn starting_with(policy: Policy) -> Self {
        let mut drill = Self::serving_with(policy);
        drill.at(5, SwapAsked(Some(ANN)), &[CheckProgram]);
        drill.at(5, ProgramChecked(Ok(())), &[fresh(G2)]);
        drill
    }

    fn starting_second_generation() -> Self {
        Self::starting_with(policy())
    }

    /// The second generation serves since 7, and the first drains.
    fn draining_with(policy: Policy) -> Self {
        let mut drill = Self::starting_with(policy);
        drill.at(7, Ready(G2), &[CutOver(G2)]);
        drill.at(7, CutOverDone(G2), &[Empty(G1), answered(&[ANN], G2, G1)]);
        drill
    }

    fn draining_first_generation() -> Self {
        Self::draining_with(policy())
    }

    /// The second generation has to prove itself from 7 to 10.
    fn proving_second_generation() -> Self {
        let mut drill = Self::starting_with(Policy {
            min_ready: seconds(3),
            ..policy()
        });
        drill.at(7, Ready(G2), &[CutOver(G2)]);
        drill.at(7, CutOverDone(G2), &[]);
        drill.says(&Announcement::Proving(G2));
        drill.serves(G1);
        drill
    }

    /// New connections wait for the second generation since 5, until the first is gone.
    fn making_room() -> Self {
        let mut drill = Self::serving_with(Policy {
            order: Order::StopFirst,
            ..policy()
        });
        drill.at(5, SwapAsked(Some(ANN)), &[CheckProgram]);
        drill.at(5, ProgramChecked(Ok(())), &[CutOver(G2)]);
        drill.at(5, CutOverDone(G2), &[Empty(G1)]);
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
        let remembered: Vec<_> = self.supervisor.remembered().collect();
        let actions = self.supervisor.step(now, event);
        if let Err(broken) = in_order(&actions) {
            panic!("{broken} at {now:?}: {actions:?}");
        }
        for action in actions {
            if let Action::Spawn {
                program: Program::Of(good),
                ..
            } = action
            {
                assert!(remembered.contains(&good), "{good} is forgotten");
            }
            if let Action::Announce(announcement) = action {
                self.said.push(announcement);
            } else {
                done.push(action);
            }
        }
        assert_eq!(done, follows, "at {now:?}");
    }

    /// As [`Drill::at`], with every announcement in its place.
    #[track_caller]
    fn at_in_full(&mut self, second: u64, event: Event, follows: &[Action]) {
        self.now = seconds(second);
        let actions = self.supervisor.step(self.now, event);
        assert_eq!(actions, follows, "at {second}");
    }

    /// The next version of hotswap takes over.
    fn upgrades(&mut self) {
        let memory = self.supervisor.memory();
        self.supervisor = Supervisor::from_memory(policy(), memory);
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

/// What an announcement says must have been done before it, and a client reads in the log what it is answered.
fn in_order(actions: &[Action]) -> Result<(), String> {
    let place = |wanted: &Action| actions.iter().position(|action| action == wanted);
    for (at, action) in actions.iter().enumerate() {
        match action {
            Action::Announce(Announcement::Serving {
                draining: Some(old),
                ..
            }) if place(&Empty(*old)).is_none_or(|emptied| emptied > at) => {
                return Err(format!("{old} is said to drain before it does"));
            }
            Answer(_, Verdict::Serving { generation, .. }) => {
                let said = actions[..at].iter().any(|before| {
                    matches!(before, Action::Announce(Announcement::Serving { generation: whose, .. }) if whose == generation)
                });
                if !said {
                    return Err(format!(
                        "{generation} is answered for before it is announced"
                    ));
                }
            }
            _ => {}
        }
    }
    Ok(())
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
