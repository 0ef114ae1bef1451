//! Drills: one moment a line, at a second, with what follows.
#![allow(clippy::wildcard_enum_match_arm)]

use std::time::Duration;

use super::Action::{
    Announce, Answer, CheckProgram, CutOver, Empty, End, EndBeforeSwap, Free, Hold, Inherit, Kill,
    Lose, Quiesce, Refuse, RefuseUpgrade, Relay, Reopen, RunBeforeSwap, Serve, Stop, TurnAway,
    Upgrade,
};
use super::Event::{
    BeforeSwapEnded, CannotCutOver, CannotSpawn, CheckAsked, CutOverDone, Died, Elapsed,
    FileChanged, FileTouched, FilesJudged, Gone, Interrupted, Launched, ProgramChecked, Queued,
    Quiet, Ready, ReopenAsked, RollBackAsked, SameProgram, StopAsked, SwapAsked, UpgradeAsked,
};
use super::{
    Action, Cause, ClientId, Event, Exit, Failure, Generation, OnDisk, Policy, ProgramChoice,
    Queue, Reason, Refusal, RestartPolicy, SocketChoice, Supervisor, Swap, Then, Time, Transition,
    Verdict,
};

mod adopting;
mod announcements;
mod deploys;
mod fallback;
mod histories;
mod holding;
mod lifecycle;
mod model;
mod requests;
mod restarts;
mod upgrades;

const G1: Generation = Generation(1);
const G2: Generation = Generation(2);
const G3: Generation = Generation(3);
const G4: Generation = Generation(4);
const ANN: ClientId = ClientId(1);
const BOB: ClientId = ClientId(2);
const STOPPING: &str = "hotswap is stopping";
const TURN_AWAY: Action = TurnAway(Refusal::Stopping);
const ENDED: Action = TurnAway(Refusal::Ended);

fn policy() -> Policy {
    Policy {
        ready_timeout: seconds(30),
        min_ready: seconds(0),
        quiesce: seconds(10),
        stop_quiesce: seconds(5),
        interrupt_quiesce: seconds(1),
        drain_timeout: seconds(30),
        max_draining: 4,
        stop_first: false,
        restart: RestartPolicy::OnFailure,
        before_swap: None,
        before_first: false,
        fallback: true,
        unwatched: false,
        ready_factor: 0,
        hold: false,
    }
}

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

/// A drill does not repeat why it is spawned.
fn fresh(generation: Generation) -> Action {
    Action::Spawn {
        generation,
        cause: Cause::Asked,
        sockets: SocketChoice::Own,
        program: ProgramChoice::Current,
        ready_timeout: seconds(30),
    }
}

fn into_target(generation: Generation) -> Action {
    Action::Spawn {
        generation,
        cause: Cause::Asked,
        sockets: SocketChoice::Target,
        program: ProgramChoice::Current,
        ready_timeout: seconds(30),
    }
}

/// With the program of the first generation.
fn again(generation: Generation) -> Action {
    running(generation, G1)
}

/// With the program of an older one.
fn running(generation: Generation, program: Generation) -> Action {
    Action::Spawn {
        generation,
        cause: Cause::Asked,
        sockets: SocketChoice::Target,
        program: ProgramChoice::Of(program),
        ready_timeout: seconds(30),
    }
}

fn serving(generation: Generation, draining: Generation) -> Transition {
    Transition::Serving {
        generation,
        cause: Cause::Asked,
        draining: Some(draining),
    }
}

fn aborted(generation: Generation, reason: Reason, keeps_serving: Generation) -> Failure {
    Failure {
        generation,
        cause: Cause::Asked,
        reason,
        rolled_back: false,
        keeps_serving: Some(keeps_serving),
    }
}

fn crash() -> Exit {
    Exit::Status(1)
}

/// A supervisor under instruction: at such a second this happens, and exactly that follows.
struct Drill {
    supervisor: Supervisor,
    now: Time,
    said: Vec<Transition>,
    /// The clients that were told what they wait for.
    postponed: Vec<(Option<ClientId>, Generation)>,
}

impl Drill {
    fn with(policy: Policy) -> Self {
        Self {
            supervisor: Supervisor::new(policy),
            now: Time::ZERO,
            said: Vec::new(),
            postponed: Vec::new(),
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

    /// The second generation did not get to serve.
    fn rejecting_second_generation() -> Self {
        let mut drill = Self::starting_second_generation();
        let failure = aborted(G2, Reason::Exited(crash(), seconds(1)), G1);
        drill.at(6, Died(G2, crash()), &[refused(&[ANN], failure)]);
        drill.at(6, Gone(G2), &[]);
        drill
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
        drill.says(&Transition::Proving(G2));
        drill.serves(G1);
        drill
    }

    /// New connections wait for the second generation since 5, until the first is gone.
    fn making_room() -> Self {
        let mut drill = Self::serving_with(Policy {
            stop_first: true,
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
        self.postponed.clear();
        let mut done = Vec::new();
        let remembered: Vec<_> = self.supervisor.remembered().collect();
        let dead = match &event {
            Died(generation, _) => Some(*generation),
            _ => None,
        };
        let actions = self.supervisor.step(now, event);
        if let Err(broken) = in_order(&actions) {
            panic!("{broken} at {now:?}: {actions:?}");
        }
        for action in actions {
            match action {
                Action::Announce(transition) => self.said.push(transition),
                // What the dead have left behind, the model follows.
                Quiesce(generation) if Some(generation) == dead => {}
                Action::Postpone(client, other, _) => self.postponed.push((client, other)),
                // They come with what is announced.
                Serve(_) | Lose(_) | Free(_) => {}
                Upgrade(saved) => {
                    assert_eq!(*saved, self.supervisor.saved_state());
                    done.push(upgrade());
                }
                Action::Spawn {
                    generation,
                    cause,
                    sockets,
                    program,
                    ready_timeout,
                } => {
                    if let ProgramChoice::Of(good) = program {
                        assert!(remembered.contains(&good), "{good} is forgotten");
                    }
                    let swap = self.supervisor.swap().map(|swap| swap.cause);
                    assert_eq!(swap, Some(cause));
                    done.push(Action::Spawn {
                        generation,
                        cause: Cause::Asked,
                        sockets,
                        program,
                        ready_timeout,
                    });
                }
                other => done.push(other),
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
        let saved = self.supervisor.saved_state();
        self.supervisor = Supervisor::restore(policy(), saved);
    }

    #[track_caller]
    fn elapses_at(&mut self, second: u64, follows: &[Action]) {
        assert_eq!(self.supervisor.deadline(), Some(seconds(second)));
        self.at(second, Elapsed, follows);
    }

    #[track_caller]
    fn says(&self, transition: &Transition) {
        assert!(self.said.contains(transition), "said {:?}", self.said);
    }

    #[track_caller]
    fn serves(&self, generation: Generation) {
        assert_eq!(
            self.supervisor.serving().map(|serving| serving.generation),
            Some(generation)
        );
    }
}

/// Whatever the core remembers.
fn upgrade() -> Action {
    Upgrade(Box::new(Supervisor::new(policy()).saved_state()))
}

/// Words tell of what is done already, what they tell of is freed only then, and an answer repeats what has been said.
fn in_order(actions: &[Action]) -> Result<(), String> {
    for (at, action) in actions.iter().enumerate() {
        let before = &actions[..at];
        let (last, next) = (before.last(), actions.get(at + 1));
        let well = match action {
            Action::Announce(Transition::Serving {
                generation,
                draining,
                ..
            }) => {
                let drains = draining.is_none_or(|old| before.contains(&Empty(old)));
                drains && last == Some(&Serve(*generation))
            }
            Action::Announce(Transition::Dead { generation, .. }) => {
                last == Some(&Lose(*generation))
            }
            Action::Announce(
                Transition::Gone { generation, .. } | Transition::Unkillable(generation),
            ) => next == Some(&Free(*generation)),
            Serve(_) => matches!(next, Some(Action::Announce(Transition::Serving { .. }))),
            Lose(_) => matches!(next, Some(Action::Announce(Transition::Dead { .. }))),
            Free(_) => matches!(
                last,
                Some(Action::Announce(
                    Transition::Gone { .. } | Transition::Unkillable(_) | Transition::Stopping
                ))
            ),
            Answer(_, verdict) => before.iter().any(|said| is_said(said, verdict)),
            _ => true,
        };
        if !well {
            return Err(format!("{action:?} is out of place"));
        }
    }
    Ok(())
}

fn is_said(said: &Action, verdict: &Verdict) -> bool {
    match (said, verdict) {
        (Action::Announce(Transition::Checked(said)), Verdict::Checked(checked)) => said == checked,
        (Action::Announce(Transition::Failed(said)), Verdict::Failed(failure)) => said == failure,
        (
            Action::Announce(Transition::Serving {
                generation: said,
                draining,
                ..
            }),
            Verdict::Serving {
                generation,
                replaced,
            },
        ) => said == generation && draining == replaced,
        _ => false,
    }
}

fn answered(clients: &[ClientId], generation: Generation, replaced: Generation) -> Action {
    Answer(
        clients.to_vec(),
        Verdict::Serving {
            generation,
            replaced: Some(replaced),
        },
    )
}

fn refused(clients: &[ClientId], failure: Failure) -> Action {
    Answer(clients.to_vec(), Verdict::Failed(failure))
}
