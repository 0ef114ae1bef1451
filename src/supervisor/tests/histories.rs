//! Long random histories, over which the core and the model agree at every step.
//!
//! A history is a list of moves of the world. Moves that make no sense at their moment (the death of what does not live) are
//! left out, so that a failure shrinks to a short list; it is told as a drill.

use std::iter;

use proptest::prelude::*;

use super::model::Model;
use super::*;

/// What the world may do next; a number picks one of those it can happen to.
#[derive(Clone, Debug)]
enum Move {
    Swap {
        client: bool,
    },
    Change,
    Touch,
    Judged,
    BeforeSwapEnds {
        well: bool,
    },
    ProgramIs {
        fit: bool,
    },
    /// The next spawn or cut-over does not work.
    Fails,
    FileIs(OnDisk),
    /// The next cut-over is not heard of again.
    Hangs,
    Ready(usize),
    DoesNotProve(usize),
    Dies(usize, Exit),
    /// A swap is asked for, and the serving one dies while the candidate starts.
    Crashes(OnDisk, Exit),
    Goes(usize),
    Queue(usize, Queue),
    Quiet(usize),
    Stop {
        client: bool,
    },
    Interrupt,
    Upgrade,
    Reopen,
    /// So many milliseconds pass.
    Wait(u64),
    /// So many milliseconds pass while hotswap itself is stopped.
    Sleep(u64),
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
    let one = any::<usize>;
    let another = |is_held| OnDisk::Another { is_held };
    let files = [
        OnDisk::Same,
        another(true),
        another(false),
        OnDisk::Rejected,
    ];
    let file = || prop::sample::select(files.to_vec());
    let queues = [Queue::Waiting, Queue::Empty, Queue::Settled, Queue::Stuck];
    let queue = (one(), prop::sample::select(queues.to_vec()));
    prop_oneof![
        3 => any::<bool>().prop_map(|client| Move::Swap { client }),
        2 => Just(Move::Change),
        2 => Just(Move::Touch),
        2 => Just(Move::Judged),
        3 => prop::bool::weighted(0.7).prop_map(|well| Move::BeforeSwapEnds { well }),
        6 => prop::bool::weighted(0.8).prop_map(|fit| Move::ProgramIs { fit }),
        1 => Just(Move::Fails),
        2 => file().prop_map(Move::FileIs),
        1 => Just(Move::Hangs),
        6 => one().prop_map(Move::Ready),
        1 => one().prop_map(Move::DoesNotProve),
        4 => (one(), exits()).prop_map(|(which, exit)| Move::Dies(which, exit)),
        4 => (file(), exits()).prop_map(|(what, exit)| Move::Crashes(what, exit)),
        5 => one().prop_map(Move::Goes),
        4 => queue.prop_map(|(which, queue)| Move::Queue(which, queue)),
        3 => one().prop_map(Move::Quiet),
        1 => prop::bool::weighted(0.3).prop_map(|client| Move::Stop { client }),
        1 => Just(Move::Interrupt),
        1 => Just(Move::Upgrade),
        1 => Just(Move::Reopen),
        3 => (0..12_000_u64).prop_map(Move::Wait),
        1 => (0..40_000_u64).prop_map(Move::Sleep),
        5 => Just(Move::Deadline),
    ]
}

fn policies() -> impl Strategy<Value = Policy> {
    let restarts = [
        RestartPolicy::Always,
        RestartPolicy::OnFailure,
        RestartPolicy::Never,
        RestartPolicy::OnChange,
    ];
    (
        prop::sample::select(restarts.to_vec()),
        any::<[bool; 7]>(),
        (0..3_u64, 0..3_u64, 1..40_u64, 1..4_usize),
    )
        .prop_map(
            |(
                restart,
                [
                    stop_first,
                    before,
                    before_first,
                    fallback,
                    unwatched,
                    patient,
                    hold,
                ],
                numbers,
            )| {
                let (min_ready, quiesce, drain, max_draining) = numbers;
                Policy {
                    ready_timeout: seconds(30),
                    min_ready: seconds(min_ready * 2),
                    quiesce: seconds(quiesce * 5),
                    stop_quiesce: seconds(quiesce * 2),
                    interrupt_quiesce: seconds(1),
                    drain_timeout: seconds(drain),
                    max_draining,
                    stop_first,
                    restart,
                    before_first,
                    before_swap: before.then_some(seconds(600)),
                    fallback,
                    unwatched,
                    ready_factor: if patient { 3 } else { 0 },
                    hold,
                }
            },
        )
}

struct Simulation {
    core: Supervisor,
    model: Model,
    policy: Policy,
    now: Time,
    clients: u64,
    flaw: Option<Move>,
    ended: bool,
    /// Where they disagree.
    broken: Option<String>,
    told: Vec<(Time, Event, Vec<Action>)>,
}

impl Simulation {
    fn new(policy: Policy) -> Self {
        let mut world = Self {
            core: Supervisor::new(policy.clone()),
            model: Model::new(policy.clone()),
            told: Vec::new(),
            policy,
            now: Time::ZERO,
            clients: 0,
            flaw: None,
            ended: false,
            broken: None,
        };
        world.tell(Launched);
        world
    }

    fn pick(&self, which: usize, alive: bool) -> Option<Generation> {
        let fitting = self
            .model
            .lives
            .iter()
            .filter(|(_, life)| life.exit.is_none() == alive);
        let fitting: Vec<_> = fitting.map(|(generation, _)| *generation).collect();
        fitting.get(which % fitting.len().max(1)).copied()
    }

    fn client(&mut self, wanted: bool) -> Option<ClientId> {
        self.clients += u64::from(wanted);
        wanted.then_some(ClientId(self.clients))
    }

    fn make(&mut self, step: Move) {
        let result = |well: bool| well.then_some(()).ok_or_else(String::new);
        let event = match step {
            Move::Swap { client } => Some(SwapAsked(self.client(client))),
            Move::Change => Some(FileChanged),
            Move::Touch => Some(FileTouched),
            Move::Judged => Some(FilesJudged),
            Move::BeforeSwapEnds { well } => Some(BeforeSwapEnded(result(well))),
            Move::FileIs(what) => Some(Event::OnDisk(what)),
            Move::ProgramIs { fit } => Some(ProgramChecked(result(fit))),
            Move::Fails | Move::Hangs => {
                self.flaw = Some(step);
                None
            }
            Move::Ready(which) => self.pick(which, true).map(Ready),
            Move::DoesNotProve(which) => {
                let one = self.pick(which, true);
                one.map(|one| Event::Unproven(one, String::new()))
            }
            Move::Dies(which, exit) => self.pick(which, true).map(|one| Died(one, exit)),
            Move::Crashes(what, exit) => {
                let serving = self.core.serving().map(|serving| serving.generation);
                self.tell(SwapAsked(None));
                self.tell(BeforeSwapEnded(Ok(())));
                self.tell(ProgramChecked(Ok(())));
                self.tell(Event::OnDisk(what));
                serving.map(|serving| Died(serving, exit))
            }
            Move::Goes(which) => self.pick(which, false).map(Gone),
            Move::Queue(which, queue) => self.pick(which, true).map(|one| Queued(one, queue)),
            Move::Quiet(which) => self.pick(which, true).map(Quiet),
            Move::Stop { client } => Some(StopAsked(self.client(client))),
            Move::Interrupt => Some(Interrupted),
            Move::Upgrade => Some(UpgradeAsked),
            Move::Reopen => Some(ReopenAsked),
            Move::Wait(milliseconds) => {
                let later = self.now + Duration::from_millis(milliseconds);
                while self.goes_on() && self.core.deadline().is_some_and(|due| due <= later) {
                    self.reach_deadline();
                }
                self.now = self.now.max(later);
                None
            }
            Move::Sleep(milliseconds) => {
                self.now += Duration::from_millis(milliseconds);
                None
            }
            Move::Deadline => {
                self.reach_deadline();
                None
            }
        };
        if let Some(event) = event {
            self.tell(event);
        }
    }

    fn goes_on(&self) -> bool {
        self.broken.is_none() && !self.ended
    }

    fn reach_deadline(&mut self) {
        if let Some(due) = self.core.deadline() {
            self.now = self.now.max(due);
            self.tell(Elapsed);
        }
    }

    fn tell(&mut self, event: Event) {
        if !self.goes_on() {
            return;
        }
        let actions = self.core.step(self.now, event.clone());
        let verdict = self.model.step(self.now, &event, &actions, &self.core);
        self.broken = verdict.and_then(|()| in_order(&actions)).err();
        let results = actions.iter().filter_map(|action| self.act(action));
        let results: Vec<Event> = results.collect();
        self.told.push((self.now, event, actions));
        for result in results {
            self.tell(result);
        }
    }

    fn act(&mut self, action: &Action) -> Option<Event> {
        let why = String::new();
        match *action {
            Action::Spawn { generation, .. } => {
                let fails = self.flaw.take_if(|flaw| matches!(flaw, Move::Fails));
                return fails.map(|_| CannotSpawn(generation, why));
            }
            CutOver(generation) | Inherit(generation) => {
                let serving = self.core.serving().map(|serving| serving.generation);
                let back = serving == Some(generation);
                return match self.flaw.take_if(|_| !back) {
                    Some(Move::Hangs) => None,
                    Some(_) => Some(CannotCutOver(generation, why)),
                    None => Some(CutOverDone(generation)),
                };
            }
            Upgrade(_) => {
                self.core = Supervisor::restore(self.policy.clone(), self.core.saved_state());
            }
            Action::End(_) => self.ended = true,
            _ => {}
        }
        None
    }

    fn drill(&self) -> String {
        let moments = self.told.iter();
        let moments =
            moments.map(|(now, event, actions)| announcements::moment(*now, event, actions));
        let lines: Vec<String> = iter::once(announcements::policy(&self.policy))
            .chain(moments)
            .collect();
        lines.join("\n")
    }

    /// Everything is told to end, and what is killed dies: then the end comes.
    fn wind_down(&mut self) {
        self.make(Move::Stop { client: true });
        for _ in 0..20 {
            self.make(Move::Dies(0, Exit::Signal(9)));
            self.make(Move::Goes(0));
        }
    }
}

/// `PROPTEST_CASES=100000` for a longer run.
fn histories() -> ProptestConfig {
    let (usual, wanted) = (
        ProptestConfig::default(),
        std::env::var_os("PROPTEST_CASES"),
    );
    ProptestConfig {
        cases: wanted.map_or(1000, |_| usual.cases),
        failure_persistence: None,
        ..usual
    }
}

proptest! {
    #![proptest_config(histories())]

    #[test]
    fn the_core_does_what_the_model_says(
        policy in policies(),
        starts_well in any::<bool>(),
        history in prop::collection::vec(moves(), 1..80),
    ) {
        let mut world = Simulation::new(policy);
        if starts_well {
            world.make(Move::BeforeSwapEnds { well: true });
            world.make(Move::Ready(0));
        }
        for step in history {
            world.make(step);
        }
        world.wind_down();
        let broken = world.broken.clone().unwrap_or_else(|| "a stop never ends".into());
        prop_assert!(world.ended, "{broken}\n{}", world.drill());
    }
}

#[test]
fn a_history_is_told_as_a_drill() {
    let mut world = Simulation::new(policy());
    world.make(Move::Wait(1000));
    world.make(Move::Ready(0));
    world.make(Move::Wait(4000));
    world.make(Move::Swap { client: false });
    world.make(Move::ProgramIs { fit: true });
    world.make(Move::Wait(2000));
    world.make(Move::Ready(1));
    let drill = world.drill();
    let lines: Vec<&str> = drill
        .lines()
        .filter(|line| line.contains("drill.at"))
        .collect();
    assert_eq!(lines.len(), 7, "{drill}");
    for line in lines {
        assert!(include_str!("lifecycle.rs").contains(line), "{line}");
    }
}
