//! What holds in every history, whatever the order of its events.
//!
//! A history is a list of moves against a small model of the world. Moves that make no sense at their moment (the death of
//! what does not live) are left out, so that a failure shrinks to a short and readable list.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// What the world may do next; the number picks one of those it can happen to.
#[derive(Clone, Debug)]
enum Move {
    Swap {
        client: bool,
    },
    Change,
    BeforeSwapEnds {
        well: bool,
    },
    ProgramIs {
        fit: bool,
    },
    SpawnFails,
    Ready(usize),
    Dies(usize, Exit),
    Goes(usize),
    Queue(usize, Queue),
    Quiet(usize),
    Stop {
        client: bool,
    },
    Upgrade,
    Reopen,
    /// So many milliseconds pass.
    Wait(u64),
    /// Time passes up to the deadline.
    Deadline,
}

fn exits() -> impl Strategy<Value = Exit> {
    prop_oneof![
        Just(Exit::Status(0)),
        Just(Exit::Status(1)),
        Just(Exit::Signal(9)),
        Just(Exit::CannotRun(126, String::new())),
        Just(Exit::Background),
    ]
}

fn moves() -> impl Strategy<Value = Move> {
    prop_oneof![
        3 => any::<bool>().prop_map(|client| Move::Swap { client }),
        2 => Just(Move::Change),
        2 => any::<bool>().prop_map(|well| Move::BeforeSwapEnds { well }),
        6 => prop::bool::weighted(0.8).prop_map(|fit| Move::ProgramIs { fit }),
        1 => Just(Move::SpawnFails),
        6 => any::<usize>().prop_map(Move::Ready),
        4 => (any::<usize>(), exits()).prop_map(|(which, exit)| Move::Dies(which, exit)),
        4 => any::<usize>().prop_map(Move::Goes),
        3 => (any::<usize>(), prop_oneof![Just(Queue::Waiting), Just(Queue::Empty), Just(Queue::Settled)])
            .prop_map(|(which, queue)| Move::Queue(which, queue)),
        2 => any::<usize>().prop_map(Move::Quiet),
        1 => any::<bool>().prop_map(|client| Move::Stop { client }),
        1 => Just(Move::Upgrade),
        1 => Just(Move::Reopen),
        3 => (0..40_000_u64).prop_map(Move::Wait),
        3 => Just(Move::Deadline),
    ]
}

fn policies() -> impl Strategy<Value = Policy> {
    let restart = prop_oneof![
        Just(Restart::Always),
        Just(Restart::OnFailure),
        Just(Restart::Never),
        Just(Restart::OnChange)
    ];
    let order = prop_oneof![Just(Order::StartFirst), Just(Order::StopFirst)];
    let times = (0..3_u64, 0..3_u64, 1..40_u64, 1..4_usize);
    (
        restart,
        order,
        times,
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(
            |(
                restart,
                order,
                (min_ready, quiesce, drain, max_draining),
                before_first,
                before,
                fallback,
            )| {
                Policy {
                    ready_timeout: seconds(30),
                    min_ready: seconds(min_ready * 2),
                    quiesce: seconds(quiesce * 5),
                    drain_timeout: seconds(drain),
                    max_draining,
                    order,
                    restart,
                    before_first,
                    before_swap: before.then_some(seconds(600)),
                    fallback,
                }
            },
        )
}

/// What the supervisor believes it steers, as simply as it can be said.
struct World {
    supervisor: Supervisor,
    policy: Policy,
    now: Time,
    /// Spawned and not gone; true while the main process lives.
    generations: BTreeMap<Generation, bool>,
    spawned: Generation,
    /// Where new connections go.
    target: Option<Generation>,
    ready: BTreeSet<Generation>,
    stopped: bool,
    ended: Option<u8>,
    asked: u64,
    answered: BTreeSet<Client>,
    cut_over_fails: bool,
}

impl World {
    fn new(policy: Policy, cut_over_fails: bool) -> Self {
        let mut world = Self {
            supervisor: Supervisor::new(policy.clone()),
            policy,
            now: Time::ZERO,
            generations: BTreeMap::new(),
            spawned: Generation(0),
            target: None,
            ready: BTreeSet::new(),
            stopped: false,
            ended: None,
            asked: 0,
            answered: BTreeSet::new(),
            cut_over_fails,
        };
        world.tell(Launched);
        world
    }

    fn pick(&self, which: usize, alive: bool) -> Option<Generation> {
        let fitting: Vec<_> = self
            .generations
            .iter()
            .filter(|one| *one.1 == alive)
            .map(|one| *one.0)
            .collect();
        fitting.get(which % fitting.len().max(1)).copied()
    }

    fn client(&mut self, wanted: bool) -> Option<Client> {
        self.asked += u64::from(wanted);
        wanted.then_some(Client(self.asked))
    }

    fn make(&mut self, step: Move) {
        if self.ended.is_some() {
            return;
        }
        let candidate = self.supervisor.spawned();
        match step {
            Move::Swap { client } => {
                let client = self.client(client);
                self.tell(SwapAsked(client));
            }
            Move::Change => self.tell(FileChanged),
            Move::BeforeSwapEnds { well } => self.tell(BeforeSwapEnded(if well {
                Ok(())
            } else {
                Err(String::new())
            })),
            Move::ProgramIs { fit } => self.tell(ProgramChecked(if fit {
                Ok(())
            } else {
                Err(String::new())
            })),
            Move::SpawnFails => {
                if let Some(failed) = candidate.filter(|one| !self.ready.contains(one)) {
                    self.generations.remove(&failed);
                    self.tell(CannotSpawn(failed, String::new()));
                }
            }
            Move::Ready(which) => {
                if let Some(generation) = self.pick(which, true) {
                    self.ready.insert(generation);
                    self.tell(Ready(generation));
                }
            }
            Move::Dies(which, exit) => {
                if let Some(generation) = self.pick(which, true) {
                    self.generations.insert(generation, false);
                    self.tell(Died(generation, exit));
                }
            }
            Move::Goes(which) => {
                if let Some(generation) = self.pick(which, false) {
                    self.generations.remove(&generation);
                    self.tell(Gone(generation));
                }
            }
            Move::Queue(which, queue) => {
                if let Some(generation) = self.pick(which, true) {
                    self.tell(Queued(generation, queue));
                }
            }
            Move::Quiet(which) => {
                if let Some(generation) = self.pick(which, true) {
                    self.tell(Quiet(generation));
                }
            }
            Move::Stop { client } => {
                let client = self.client(client);
                self.stopped = true;
                self.tell(StopAsked(client));
            }
            Move::Upgrade => self.tell(UpgradeAsked),
            Move::Reopen => self.tell(ReopenAsked),
            Move::Wait(milliseconds) => {
                let later = self.now + Duration::from_millis(milliseconds);
                while let Some(due) = self
                    .supervisor
                    .deadline()
                    .filter(|due| *due <= later && self.ended.is_none())
                {
                    self.now = due;
                    self.tell(Elapsed);
                }
                self.now = later;
            }
            Move::Deadline => self.reach_deadline(),
        }
    }

    fn reach_deadline(&mut self) {
        if let Some(due) = self.supervisor.deadline() {
            self.now = self.now.max(due);
            self.tell(Elapsed);
        }
    }

    fn tell(&mut self, event: Event) {
        let elapsed = event == Elapsed;
        let served = self.supervisor.serving().map(|serving| serving.generation);
        let died = if let Died(generation, _) = &event {
            Some(*generation)
        } else {
            None
        };
        let actions = self.supervisor.step(self.now, event);
        let mut results = Vec::new();
        for action in actions {
            self.check_and_do(action, &mut results);
        }
        for result in results {
            self.tell(result);
        }
        if elapsed {
            let deadline = self.supervisor.deadline();
            assert!(
                deadline.is_none_or(|due| due > self.now),
                "due at {deadline:?}, now {:?}",
                self.now
            );
        }
        if let Some(before) = served.filter(|_| !self.supervisor.is_stopping()) {
            let excused = died == Some(before) || self.policy.order == Order::StopFirst;
            assert!(
                self.supervisor.serving().is_some() || excused,
                "{before} no longer serves, and nobody else does"
            );
        }
    }

    fn check_and_do(&mut self, action: Action, results: &mut Vec<Event>) {
        assert_eq!(self.ended, None, "{action:?} after the end");
        match action {
            Action::Spawn { generation, .. } => {
                assert!(
                    !self.supervisor.is_stopping(),
                    "{generation} is spawned after a stop"
                );
                assert!(
                    generation > self.spawned,
                    "{generation} is spawned after {}",
                    self.spawned
                );
                self.spawned = generation;
                self.generations.insert(generation, true);
            }
            Action::CutOver(generation) => {
                let spawned = self.generations.contains_key(&generation);
                assert!(
                    spawned || self.policy.order == Order::StopFirst,
                    "cut over to {generation}, which is not there"
                );
                if self.cut_over_fails && spawned && Some(generation) == self.supervisor.spawned() {
                    results.push(CannotCutOver(generation, String::new()));
                } else {
                    self.target = Some(generation);
                    results.push(CutOverDone(generation));
                }
            }
            Action::Stop(generation) => {
                assert_eq!(
                    self.generations.get(&generation),
                    Some(&true),
                    "{generation} is signalled and does not live"
                );
                let serves = self
                    .supervisor
                    .serving()
                    .is_some_and(|serving| serving.generation == generation);
                assert!(!serves, "{generation} serves, and is told to stop");
                let misled = self.target == Some(generation) && self.supervisor.serving().is_some();
                assert!(
                    !misled,
                    "{generation} is told to stop while new connections go to it"
                );
            }
            Action::Kill(generation) | Action::Empty(generation) | Action::Quiesce(generation) => {
                assert!(
                    self.generations.contains_key(&generation),
                    "{generation} is gone"
                );
            }
            Action::Reopen(generation) => {
                assert_eq!(self.generations.get(&generation), Some(&true));
            }
            Action::Answer(clients, verdict) => {
                for client in clients {
                    assert!(self.answered.insert(client), "{client:?} is answered twice");
                }
                if let Verdict::Serving { generation, .. } = verdict {
                    assert!(
                        self.ready.contains(&generation),
                        "{generation} was never ready"
                    );
                }
            }
            Action::Upgrade => assert!(
                self.supervisor.spawned().is_none(),
                "an upgrade while something starts"
            ),
            Action::End(status) => {
                assert!(
                    self.generations.is_empty(),
                    "hotswap ends before {:?}",
                    self.generations
                );
                self.ended = Some(status);
            }
            Action::Announce(Announcement::Unkillable(generation)) => {
                self.generations.remove(&generation);
            }
            Action::RunBeforeSwap(_)
            | Action::EndBeforeSwap
            | Action::CheckProgram
            | Action::Announce(_)
            | Action::RefuseUpgrade(_) => {}
        }
    }

    /// Everything is told to end, and what is killed dies: then the end comes.
    fn wind_down(&mut self) {
        self.make(Move::Stop { client: true });
        for _ in 0..100 {
            while self.pick(0, true).is_some() && self.ended.is_none() {
                self.make(Move::Dies(0, Exit::Signal(9)));
            }
            while self.pick(0, false).is_some() && self.ended.is_none() {
                self.make(Move::Goes(0));
            }
            self.reach_deadline();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, max_shrink_iters: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_history_keeps_the_promises(
        policy in policies(),
        cut_over_fails in prop::bool::weighted(0.1),
        history in prop::collection::vec(moves(), 1..60),
    ) {
        let mut world = World::new(policy, cut_over_fails);
        for step in history {
            world.make(step);
        }
        world.wind_down();
        prop_assert!(world.ended.is_some(), "a stop never ends");
        let asked = usize::try_from(world.asked).unwrap_or(usize::MAX);
        prop_assert_eq!(world.answered.len(), asked, "somebody still waits");
    }
}
