//! Starts a candidate: after a request, a changed file or a death.

use super::{
    Action, Cause, ClientId, Generation, IS_STOPPING, PendingSwap, ProgramChoice, Reason,
    SLOW_FIRST_START, SLOW_START, SocketChoice, Stage, Supervisor, Swap, Time, Transition, refuse,
};

impl Supervisor {
    pub(super) fn begin(&mut self, now: Time, cause: Cause, clients: Vec<ClientId>) -> Vec<Action> {
        self.last.0 += 1;
        self.last_good = self.serving_generation().or(self.last_good);
        let generation = self.last;
        let checking = Stage::Checking {
            until: now + self.policy.ready_timeout,
        };
        let mut swap = Swap::new(generation, cause, checking);
        swap.clients = clients;
        if cause == Cause::Restart {
            swap.program = self
                .fallen_back
                .map_or(ProgramChoice::Current, ProgramChoice::Of);
        }
        if let (Cause::RollBack, Some(previous)) = (cause, self.previous.first()) {
            swap.program = ProgramChoice::Of(*previous);
        }
        let prepares = match cause {
            Cause::First => self.policy.before_first,
            Cause::Asked | Cause::File => true,
            Cause::Restart | Cause::RollBack => false,
        };
        if let Some(patience) = self.policy.before_swap.filter(|_| prepares) {
            swap.stage = Stage::BeforeSwap {
                until: now + patience,
            };
            self.swap = Some(swap);
            return vec![Action::RunBeforeSwap(generation)];
        }
        self.swap = Some(swap);
        match cause {
            Cause::Restart => self.spawn(now),
            Cause::Asked | Cause::File => vec![Action::CheckProgram],
            Cause::First | Cause::RollBack => self.begin_spawn(now),
        }
    }

    /// The generations whose programs a client could have back, the last one first; or why no client could.
    pub fn rollback_targets(&self) -> Result<&[Generation], &'static str> {
        if self.shutdown.is_some() {
            return Err(IS_STOPPING);
        }
        // A restart that waits for its time has nothing to lose.
        let backs_off = self.backs_off();
        if self.swap.is_some() && !backs_off {
            return Err("a swap is under way");
        }
        if self.previous.is_empty() || (self.serving.is_none() && !backs_off) {
            return Err("no other program has served before");
        }
        Ok(&self.previous)
    }

    pub(super) fn roll_back(&mut self, now: Time, by: ClientId, to: Generation) -> Vec<Action> {
        if let Err(why) = self.rollback_targets() {
            return refuse(vec![by], why);
        }
        // those that served later run what serves now
        let later = self.previous.iter().position(|one| *one == to);
        self.previous.drain(..later.unwrap_or(0));
        let mut actions = self.hold();
        self.swap = None;
        actions.extend(self.begin(now, Cause::RollBack, vec![by]));
        actions
    }

    /// The same program is not kept twice.
    pub(super) fn forget_program(&mut self, generation: Generation) -> Vec<Action> {
        self.previous.retain(|previous| *previous != generation);
        Vec::new()
    }

    /// Starts a candidate that is discarded once it is ready.
    pub(super) fn check(&mut self, now: Time, by: ClientId) -> Vec<Action> {
        if self.shutdown.is_some() {
            return refuse(vec![by], IS_STOPPING);
        }
        if self.serving.is_none() {
            return refuse(vec![by], "nothing serves");
        }
        if self.swap.is_some() {
            return refuse(vec![by], "a swap is under way");
        }
        let actions = self.begin(now, Cause::Asked, vec![by]);
        if let Some(swap) = &mut self.swap {
            swap.check = true;
        }
        actions
    }

    /// A request or a changed file.
    pub(super) fn ask(&mut self, now: Time, cause: Cause, by: Option<ClientId>) -> Vec<Action> {
        let mut actions = self.hold();
        actions.extend(self.join_or_replace(now, cause, by));
        actions
    }

    /// It joins a swap that is not spawned yet, replaces it, or waits until it has ended.
    fn join_or_replace(&mut self, now: Time, cause: Cause, by: Option<ClientId>) -> Vec<Action> {
        let waits_for = |swap: &Swap| {
            let wait = Action::Postpone(by, swap.generation, swap.deadline());
            Vec::from_iter((cause == Cause::Asked).then_some(wait))
        };
        if let Some(swap) = self.swap.as_mut().filter(|swap| swap.is_prepared()) {
            swap.clients.extend(by);
            return waits_for(swap);
        }
        self.postpone(cause, by);
        let waits = match &self.swap {
            Some(swap) if self.is_kept(swap) => true,
            Some(swap) => !swap.gives_way_to(cause, now) && !self.hangs(swap, now),
            None => self.shutdown.is_some(),
        };
        if waits {
            return self.swap.as_ref().map(waits_for).unwrap_or_default();
        }
        if self.swap.is_some() {
            return self.replace(now, cause);
        }
        match self.begin_pending(now) {
            began if began.is_empty() => vec![Action::Announce(Transition::ChangeWaits)],
            began => began,
        }
    }

    /// The pending swap takes the place of the one under way, whose clients keep waiting.
    pub(super) fn replace(&mut self, now: Time, cause: Cause) -> Vec<Action> {
        let Some(mut old) = self.swap.take() else {
            return Vec::new();
        };
        self.postpone(cause, std::mem::take(&mut old.clients));
        let replaceable = old.replaceable;
        let mut actions = Vec::new();
        if old.spawned.is_some() {
            actions.extend(self.dismiss(now, old, Reason::Replaced));
        }
        actions.extend(self.begin_now(now));
        if let Some(next) = &mut self.swap {
            next.replaceable = replaceable;
        }
        actions
    }

    pub(super) fn postpone(&mut self, cause: Cause, clients: impl IntoIterator<Item = ClientId>) {
        let pending = self.pending.get_or_insert(PendingSwap {
            cause,
            clients: Vec::new(),
        });
        if cause == Cause::Asked {
            pending.cause = cause;
        }
        pending.clients.extend(clients);
    }

    /// Nothing takes its place.
    fn is_kept(&self, swap: &Swap) -> bool {
        // Nothing serves while a restart is under way, and the command before a swap may take its time.
        let is_urgent = swap.cause == Cause::Restart && self.policy.before_swap.is_some();
        // Those who asked for these want an answer about them.
        is_urgent || swap.check || swap.cause == Cause::RollBack
    }

    /// A request may be for another program, and the candidate takes much longer than any that got ready.
    fn hangs(&self, swap: &Swap, now: Time) -> bool {
        let hangs = self.hangs_from(swap).is_some_and(|from| from <= now);
        self.policy.unwatched && hangs && swap.is_replaceable(now)
    }

    pub(super) fn hangs_from(&self, swap: &Swap) -> Option<Time> {
        let least = if swap.cause == Cause::First {
            SLOW_FIRST_START
        } else {
            SLOW_START
        };
        let usual = least.max(self.longest_start * 2);
        let starting = swap.is_starting();
        swap.spawned
            .filter(|_| starting)
            .map(|spawned| spawned + usual)
    }

    /// When the candidate gives way to a request that came before it took so long.
    pub(super) fn gives_way_at(&self) -> Option<Time> {
        let swap = self.swap.as_ref()?;
        let is_asked = self.pending.as_ref()?.cause == Cause::Asked && self.policy.unwatched;
        self.hangs_from(swap)
            .filter(|from| is_asked && !self.is_kept(swap) && swap.is_replaceable(*from))
    }

    /// The pending swap begins, but for a changed file while too many drain: nobody has asked for requests to be cut.
    pub(super) fn begin_pending(&mut self, now: Time) -> Vec<Action> {
        let by_file = |pending: &PendingSwap| pending.cause == Cause::File;
        let draining = self.draining.iter().filter(|one| one.counts()).count();
        let too_many = draining >= self.policy.max_draining.max(1);
        if self.serving.is_some() && too_many && self.pending.as_ref().is_some_and(by_file) {
            return Vec::new();
        }
        self.begin_now(now)
    }

    fn begin_now(&mut self, now: Time) -> Vec<Action> {
        let Some(pending) = self.pending.take() else {
            return Vec::new();
        };
        let mut actions = self.hold();
        actions.extend(self.begin(now, pending.cause, pending.clients));
        actions
    }

    pub(super) fn prepared(&mut self, now: Time, result: Result<(), String>) -> Vec<Action> {
        let Some(swap) = &mut self.swap else {
            return Vec::new();
        };
        if !matches!(swap.stage, Stage::BeforeSwap { .. }) {
            return Vec::new();
        }
        swap.stage = Stage::Checking {
            until: now + self.policy.ready_timeout,
        };
        if let Err(why) = result {
            return self.fail(now, Reason::BeforeSwap(why));
        }
        if swap.cause == Cause::First {
            self.begin_spawn(now)
        } else {
            vec![Action::CheckProgram]
        }
    }

    pub(super) fn checked(&mut self, now: Time, result: Result<(), String>) -> Vec<Action> {
        let Some(swap) = &mut self.swap else {
            return Vec::new();
        };
        if !matches!(swap.stage, Stage::Checking { .. }) {
            return Vec::new();
        }
        if let Err(why) = result {
            return self.fail(now, Reason::NotFit(why));
        }
        self.begin_spawn(now)
    }

    /// Stop-first, its listeners change hands before there is a process.
    fn begin_spawn(&mut self, now: Time) -> Vec<Action> {
        if self.policy.stop_first && self.serving.is_some() {
            return self.cut_over(now);
        }
        self.spawn(now)
    }

    /// Spawns the candidate; if nothing serves, only once the failed one that had those sockets is gone.
    pub(super) fn spawn(&mut self, now: Time) -> Vec<Action> {
        let ready_timeout = self.ready_timeout();
        let Some(swap) = &mut self.swap else {
            return Vec::new();
        };
        let idle = self.serving.is_none();
        let mut draining = self.draining.iter();
        if let Some(failed) = draining.find(|one| one.has_targets && idle) {
            swap.stage = Stage::WaitingFor(failed.generation);
            return Vec::new();
        }
        let until = now + ready_timeout;
        swap.stage = Stage::Starting { until };
        swap.spawned = Some(now);
        swap.replaceable.get_or_insert(until);
        let sockets = if idle {
            SocketChoice::Target
        } else {
            SocketChoice::Own
        };
        vec![Action::Spawn {
            generation: swap.generation,
            cause: swap.cause,
            sockets,
            program: swap.program,
            ready_timeout,
        }]
    }

    pub(super) fn not_spawned(
        &mut self,
        now: Time,
        generation: Generation,
        why: String,
    ) -> Vec<Action> {
        if self.candidate() != Some(generation) {
            return Vec::new();
        }
        if let Some(swap) = &mut self.swap {
            swap.spawned = None;
        }
        self.fail(now, Reason::CannotSpawn(why))
    }
}
