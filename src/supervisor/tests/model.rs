//! The rules of a generation's life, as simply as they can be said.
//!
//! The model hears what the core hears. It tells in full what must become of a swap, of the serving generation and of those
//! who asked; of those that leave it only judges whether what the core does to them is allowed. What the core has not
//! forgotten is due when the model says so: a deadline is all that is left to compare.

use std::collections::BTreeMap;

use super::*;

mod events;
mod swap;

/// Where the next generation is on its way to serve. One swap at a time: there is one way.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
enum At {
    Command,
    Check,
    /// Stop-first: new connections are to wait in the socket of the next one.
    Room,
    /// Nothing but its time, or those in its way, keeps it from being spawned.
    Spawn,
    Starting,
    CuttingOver,
    Proving,
}

#[derive(Clone, Copy, Debug)]
struct Way {
    number: Generation,
    cause: Cause,
    at: At,
    until: Option<Time>,
    spawned: Option<Time>,
    /// Until then it may be replaced.
    replaceable: Option<Time>,
    /// It got ready while a change was being judged.
    ready: bool,
    /// Stop-first: this one must be gone before it is spawned.
    after: Option<Generation>,
}

impl Way {
    fn new(number: Generation, cause: Cause) -> Self {
        Self {
            number,
            cause,
            at: At::Spawn,
            until: None,
            spawned: None,
            replaceable: None,
            ready: false,
            after: None,
        }
    }

    fn was_asked_for(&self) -> bool {
        !matches!(self.cause, Cause::First | Cause::Restart)
    }

    /// New connections may go to it already.
    fn is_cut_over_to(self) -> bool {
        matches!(self.at, At::Room | At::CuttingOver | At::Proving)
    }
}

/// A generation from its spawn until nothing of it is left.
#[derive(Debug, Default)]
pub struct Life {
    /// How its main process has ended, once it has.
    pub exit: Option<Exit>,
    leaving: Option<Leaving>,
}

#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // each is a thing that has happened to it, or not
struct Leaving {
    since: Time,
    /// How many had begun to leave before it.
    order: usize,
    queue: Queue,
    quiesces_until: Option<Time>,
    /// What was left in its queue has gone to the one that serves.
    relays: u32,
    quiet: bool,
    /// The stop signal has to be sent by then, if there is nothing else to wait for.
    stop_by: Time,
    /// It has its stop signal, or is dead.
    told: bool,
    kill_at: Time,
    kills: u32,
    failed: bool,
    /// Nothing served when it failed: it has the sockets that clients come to.
    has_targets: bool,
}

impl Leaving {
    fn due(&self) -> Time {
        match self.quiesces_until {
            _ if self.told => self.kill_at,
            Some(until) => until,
            None if self.queue == Queue::Waiting => self.stop_by,
            None => self.stop_by.min(self.since + seconds(3)),
        }
    }
}

#[allow(clippy::struct_excessive_bools)] // each is said of another thing
pub struct Model {
    policy: Policy,
    now: Time,
    last: Generation,
    /// The last that was spawned.
    newest: Generation,
    pub lives: BTreeMap<Generation, Life>,
    way: Option<Way>,
    /// The generation that serves, and since when.
    serving: Option<(Generation, Time)>,
    has_served: bool,
    /// Where new connections go.
    target: Option<Generation>,
    /// A swap that has to wait for the one on its way.
    pending: Option<Cause>,
    /// Who waits for a verdict, and on the generations after which one.
    owed: BTreeMap<ClientId, Generation>,
    /// What hotswap ends with, and whether somebody has asked for that.
    ends: Option<u8>,
    /// How often somebody has asked for that, and how long requests may take then.
    signals: u32,
    signaled_at: Time,
    patience: Duration,
    longest_start: Duration,
    clients_wait_until: Option<Time>,
    /// New connections wait for the next version.
    held: bool,
    judged_by: Option<Time>,
    falls_back: bool,
    /// Another program than the one that serves is on disk, and that one can be run again.
    goes_back: bool,
    /// Whose time is up by then is killed by this very event.
    elapsed: Option<Time>,
    upgrade: bool,
    restarts: u32,
    left: usize,
    /// Who has begun to drain just now, so that they may be too many.
    drains: Option<Generation>,
    /// What must follow from this event, but for the care of those that leave.
    follows: Vec<Action>,
}

macro_rules! rule {
    ($holds:expr, $($broken:tt)*) => {
        if !$holds {
            return Err(format!($($broken)*));
        }
    };
}

impl Model {
    pub fn new(policy: Policy) -> Self {
        Self {
            now: Time::ZERO,
            last: Generation(0),
            newest: Generation(0),
            lives: BTreeMap::new(),
            way: None,
            serving: None,
            has_served: false,
            target: None,
            pending: None,
            owed: BTreeMap::new(),
            ends: None,
            signals: 0,
            signaled_at: Time::ZERO,
            patience: policy.quiesce,
            policy,
            longest_start: Duration::ZERO,
            clients_wait_until: None,
            held: false,
            judged_by: None,
            falls_back: false,
            goes_back: false,
            elapsed: None,
            upgrade: false,
            restarts: 0,
            left: 0,
            drains: None,
            follows: Vec::new(),
        }
    }

    /// Judges one step of the core.
    pub fn step(
        &mut self,
        now: Time,
        event: &Event,
        actions: &[Action],
        core: &Supervisor,
    ) -> Result<(), String> {
        self.now = now;
        self.follows.clear();
        self.drains = None;
        self.falls_back = falls_back(actions);
        self.elapsed = (*event == Elapsed).then_some(now);
        self.hear(event, self.falls_back);
        self.go_on();
        self.release();
        let mut done = Vec::new();
        for action in actions {
            if !self.judge(event, action)? {
                done.push(plain(action.clone()));
            }
        }
        let follows = &self.follows;
        rule!(done == *follows, "{follows:?} should follow, not {done:?}");
        self.compare(event, core)
    }

    fn compare(&self, event: &Event, core: &Supervisor) -> Result<(), String> {
        let serving = core.serving().map(|serving| serving.generation);
        let should = self.serving.map(|serving| serving.0);
        rule!(
            serving == should,
            "{should:?} should serve, not {serving:?}"
        );
        let stopping = core.is_stopping();
        rule!(stopping == self.ends.is_some(), "it stops: {stopping}");
        let (due, should) = (core.deadline(), self.due());
        rule!(
            due == should,
            "something is due at {should:?}, not at {due:?}"
        );
        let overdue = due.is_some_and(|due| due <= self.now);
        rule!(*event != Elapsed || !overdue, "it is still due");
        let candidate = self.way.filter(|way| way.at >= At::CuttingOver);
        let candidate = candidate.map(|way| way.number);
        // held ones go nowhere for now
        let well = serving.is_none() || self.held || [serving, candidate].contains(&self.target);
        rule!(well, "new connections go to {:?}", self.target);
        let leaving: Vec<_> = core.draining().iter().map(|one| one.generation).collect();
        rule!(leaving == self.in_order(), "{leaving:?} leave");
        let on_its_way = core.swap().map(|swap| swap.generation);
        let should = self.way.map(|way| way.number);
        rule!(on_its_way == should, "{on_its_way:?} is on its way");
        let draining = self
            .leaving()
            .filter(|(_, one)| one.kills == 0 && !one.failed)
            .count();
        let many = self.drains.is_some() && draining > self.policy.max_draining;
        rule!(!many, "{draining} are draining");
        for (generation, one) in self.leaving() {
            let settled = matches!(one.queue, Queue::Settled | Queue::Stuck);
            let settled = settled && one.quiesces_until.is_none();
            rule!(one.told || !settled, "{generation} is not quiesced");
            let queued = matches!(one.queue, Queue::Waiting | Queue::Stuck);
            let lost = queued && one.quiesces_until.is_some() && one.relays != 1;
            rule!(!lost, "nobody cares for the queue of {generation}");
            let must = one.failed || one.quiet || self.signals > 1;
            rule!(one.told || !must, "{generation} is not told to stop");
        }
        Ok(())
    }

    /// Those that leave, the first first.
    fn in_order(&self) -> Vec<Generation> {
        let mut leaving: Vec<_> = self.leaving().collect();
        leaving.sort_by_key(|(_, one)| one.order);
        leaving.into_iter().map(|(whose, _)| whose).collect()
    }

    fn leaving(&self) -> impl Iterator<Item = (Generation, &Leaving)> {
        let lives = self.lives.iter();
        lives.filter_map(|(generation, life)| Some((*generation, life.leaving.as_ref()?)))
    }

    fn due(&self) -> Option<Time> {
        let leaving = self.leaving().map(|(_, one)| one.due());
        let way = self.way.and_then(|way| way.until);
        let ours = [self.clients_wait_until, self.judged_by, self.gives_way_at()];
        leaving.chain(way).chain(ours.into_iter().flatten()).min()
    }

    /// Whether this may be done to one that leaves; false if it is about something else, which is foretold.
    fn judge(&mut self, event: &Event, action: &Action) -> Result<bool, String> {
        let now = self.now;
        let first = self
            .leaving()
            .filter(|(_, one)| one.kills == 0 && !one.failed);
        let first = first
            .min_by_key(|(_, one)| one.order)
            .map(|(first, _)| first);
        let (generation, is_signal) = match action {
            Action::Stop(generation) | Action::Kill(generation) => (*generation, true),
            Quiesce(generation)
            | Relay(generation)
            | Action::Announce(
                Transition::DrainTimeout(generation) | Transition::KilledEarly(generation),
            ) => (*generation, false),
            Action::Announce(Transition::FallingBack { .. }) => {
                rule!(self.policy.fallback, "{action:?} is not wanted");
                return Ok(true);
            }
            Action::Announce(transition) => return Ok(!is_verdict(transition)),
            // They come with what is announced.
            Serve(_) | Lose(_) | Free(_) => return Ok(true),
            Action::Postpone(..) if matches!(event, SwapAsked(_)) => return Ok(true),
            _ => return Ok(false),
        };
        let is_death = matches!(event, Died(_, exit) if *exit != Exit::Background);
        rule!(!is_signal || !is_death, "a death signals {generation}");
        let goes_there = self.target == Some(generation) && !self.held;
        let misled = goes_there && self.serving.is_some();
        rule!(!misled, "{action:?}, and new connections go to it");
        let life = self.lives.get_mut(&generation);
        let Some(one) = life.and_then(|life| life.leaving.as_mut()) else {
            return Err(format!("{action:?}, and it does not leave"));
        };
        let is_due = one.due() <= now;
        match action {
            Relay(_) => {
                let may = !one.told && one.quiesces_until.is_none();
                let stuck = one.queue == Queue::Stuck || (is_due && one.queue == Queue::Waiting);
                rule!(may && stuck, "{action:?} is too early");
                one.relays += 1;
            }
            Quiesce(_) => {
                let may = !one.told && one.quiesces_until.is_none();
                let seen = matches!(one.queue, Queue::Settled | Queue::Stuck);
                rule!(may && (is_due || seen), "{action:?} is too early");
                let latest = one.stop_by.max(now + one.kill_at.saturating_sub(now) / 2);
                one.quiesces_until = Some(latest.min(now + self.patience));
            }
            Action::Stop(_) => {
                let quiet = one.quiesces_until.is_some() && (is_due || one.quiet);
                let may = !one.told && (quiet || one.failed || self.signals > 1);
                rule!(may, "{action:?} is too early");
                one.told = true;
            }
            Action::Kill(_) => {
                let at_once =
                    self.ends == Some(137) && matches!(event, StopAsked(None) | Interrupted);
                rule!(one.kill_at <= now || at_once, "{action:?} is too early");
                one.told = true;
                one.kills += 1;
                one.kill_at = now + seconds(1);
            }
            Action::Announce(Transition::KilledEarly(_)) => {
                rule!(
                    first == Some(generation) && self.drains.is_some(),
                    "{action:?} is unjust"
                );
                one.kill_at = now;
            }
            _ => rule!(one.kill_at <= now && one.kills == 0, "{action:?} is untrue"),
        }
        Ok(true)
    }
}

fn is_verdict(transition: &Transition) -> bool {
    matches!(
        transition,
        Transition::Serving { .. } | Transition::Failed(_) | Transition::Proving(_)
    )
}

/// Clients in the order of their numbers. Which program a restart runs, the drills say.
fn plain(mut action: Action) -> Action {
    if let Answer(clients, _) | Refuse(clients, _) = &mut action {
        clients.sort();
    }
    match action {
        Action::Spawn {
            generation,
            sockets,
            ready_timeout,
            ..
        } => Action::Spawn {
            generation,
            cause: Cause::Asked,
            sockets,
            program: ProgramChoice::Current,
            ready_timeout,
        },
        Upgrade(_) => upgrade(),
        action => action,
    }
}

/// Which program is run is no matter here; that it is another one is.
fn falls_back(actions: &[Action]) -> bool {
    let falls =
        |action: &Action| matches!(action, Action::Announce(Transition::FallingBack { .. }));
    actions.iter().any(falls)
}

fn failure(generation: Generation, cause: Cause, reason: Reason) -> Failure {
    Failure {
        generation,
        cause,
        reason,
        rolled_back: false,
        keeps_serving: None,
    }
}
