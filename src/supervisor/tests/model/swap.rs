//! How a generation comes to serve, or does not: one swap at a time, from the request to the verdict.

use super::*;

impl Model {
    /// "One swap at a time, and at most one more pending. A request never joins a candidate spawned before it."
    pub(super) fn ask(&mut self, cause: Cause) {
        self.hold();
        let now = self.now;
        let old = self.way;
        if old.is_some_and(|way| way.spawned.is_none() && way.cause != Cause::Restart) {
            return;
        }
        if self.pending != Some(Cause::Asked) {
            self.pending = Some(cause);
        }
        let usual = old.map_or(Time::ZERO, |way| self.usual(&way));
        let gives_way = old.is_none_or(|way| match way.at {
            _ if way.cause == Cause::Restart && self.policy.before_swap.is_some() => false,
            At::Spawn => true,
            At::Starting => {
                let by_file = cause == Cause::File || way.cause == Cause::File;
                let age = way.spawned.map(|spawned| now.saturating_sub(spawned));
                let hangs = self.policy.unwatched && age >= Some(usual);
                (by_file || hangs) && way.replaceable.is_some_and(|until| now < until)
            }
            _ => false,
        });
        if !gives_way || self.ends.is_some() {
            return;
        }
        if old.is_none() {
            self.prepare();
            return;
        }
        self.replace();
    }

    /// What takes longer hangs.
    fn usual(&self, way: &Way) -> Time {
        let least = if way.cause == Cause::First { 12 } else { 5 };
        seconds(least).max(self.longest_start * 2)
    }

    /// The serving one is dead: a candidate that hangs gives way to a restart, if that runs what has served.
    pub(super) fn hurry(&mut self, way: Way) {
        let restarts = [RestartPolicy::Always, RestartPolicy::OnFailure];
        let goes_back = self.goes_back && self.policy.fallback;
        if way.ready || !goes_back || !restarts.contains(&self.policy.restart) {
            return;
        }
        let usual = self.usual(&way);
        let from = way.spawned.map(|spawned| self.now.max(spawned + usual));
        if let Some(way) = &mut self.way {
            way.until = way.until.min(from);
        }
    }

    /// "A request replaces a candidate that hangs", one that came before the candidate hung too.
    pub(super) fn gives_way_at(&self) -> Option<Time> {
        let kept = |way: &Way| way.cause == Cause::Restart && self.policy.before_swap.is_some();
        let is_asked = self.pending == Some(Cause::Asked) && self.policy.unwatched;
        let way = self
            .way
            .filter(|way| way.at == At::Starting && !kept(way))?;
        let from = way.spawned? + self.usual(&way);
        (is_asked && way.replaceable.is_some_and(|until| from < until)).then_some(from)
    }

    pub(super) fn replace(&mut self) {
        let old = self.way;
        if old.is_some_and(|way| way.spawned.is_some()) {
            self.dismiss(Reason::Replaced);
        }
        self.prepare_now();
        if let (Some(old), Some(way)) = (old, &mut self.way) {
            way.replaceable = old.replaceable;
        }
    }

    /// The pending swap begins: "a file change waits while more than --max-draining would drain".
    pub(super) fn prepare(&mut self) {
        let killed =
            |one: &Leaving| one.kills > 0 || self.elapsed.is_some_and(|at| one.kill_at <= at);
        let draining = self
            .leaving()
            .filter(|(_, one)| !killed(one) && !one.failed);
        let too_many = draining.count() >= self.policy.max_draining;
        if !(self.serving.is_some() && too_many && self.pending == Some(Cause::File)) {
            self.prepare_now();
        }
    }

    fn prepare_now(&mut self) {
        let Some(cause) = self.pending.take() else {
            return;
        };
        self.hold();
        self.last.0 += 1;
        self.way = Some(Way::new(self.last, cause));
        let first = cause == Cause::First;
        match self.policy.before_swap {
            Some(patience) if !first || self.policy.before_first => {
                self.reach(At::Command, patience);
                self.follows.push(RunBeforeSwap(self.last));
            }
            _ if first => self.wait_to_spawn(None),
            _ => self.check(),
        }
    }

    pub(super) fn check(&mut self) {
        self.reach(At::Check, self.policy.ready_timeout);
        self.follows.push(CheckProgram);
    }

    pub(super) fn wait_to_spawn(&mut self, after: Option<Generation>) {
        if let Some(way) = &mut self.way {
            (way.at, way.until, way.after) = (At::Spawn, None, after);
        }
    }

    pub(super) fn spawn(&mut self, generation: Generation, idle: bool) {
        let grown = self.longest_start * self.policy.ready_factor;
        let ready_timeout = self.policy.ready_timeout.max(grown);
        self.reach(At::Starting, ready_timeout);
        if let Some(way) = &mut self.way {
            way.spawned = Some(self.now);
            way.replaceable = way.replaceable.or(way.until);
        }
        self.follows.push(Action::Spawn {
            generation,
            cause: Cause::Asked,
            sockets: if idle {
                SocketChoice::Target
            } else {
                SocketChoice::Own
            },
            program: ProgramChoice::Current,
            ready_timeout,
        });
        self.lives.insert(generation, Life::default());
        self.newest = generation;
    }

    pub(super) fn cut_over(&mut self, generation: Generation) {
        self.target = Some(generation);
        let Some(way) = self.way.filter(|way| way.number == generation) else {
            return;
        };
        match way.at {
            At::Room => {
                let old = self.serving.take().map(|serving| serving.0);
                (self.held, self.judged_by) = (false, None);
                self.wait_to_spawn(old);
                self.drain(old);
            }
            At::CuttingOver if self.policy.min_ready.is_zero() => self.serve(),
            At::CuttingOver if self.serving.is_none() && !way.was_asked_for() => self.serve(),
            At::CuttingOver => {
                self.clients_wait_until = None;
                self.reach(At::Proving, self.policy.min_ready);
                if let Some(way) = &mut self.way {
                    way.spawned = Some(self.now);
                }
                let proving = Transition::Proving(generation);
                self.follows.push(Action::Announce(proving));
            }
            _ => {}
        }
    }

    pub(super) fn serve(&mut self) {
        let Some(way) = self.way.take() else { return };
        let (generation, cause) = (way.number, way.cause);
        let restart = cause == Cause::Restart;
        let old = self.serving.map(|serving| serving.0);
        self.serving = Some((generation, self.now));
        self.has_served = true;
        self.clients_wait_until = None;
        self.drain(old);
        let (draining, replaced) = (old, old);
        let serving = Transition::Serving {
            generation,
            cause,
            draining,
        };
        self.follows.push(Action::Announce(serving));
        let verdict = Verdict::Serving {
            generation,
            replaced,
        };
        self.answer(|after| after < generation && !restart, &verdict);
        self.prepare();
    }

    /// "Before the cut-over a failure is an abort; while proving it is a roll back: hotswap cuts back first."
    pub(super) fn dismiss(&mut self, reason: Reason) {
        let Some(way) = self.way.take() else { return };
        let keeps_serving = self.serving.map(|serving| serving.0);
        if way.is_cut_over_to() && !self.held {
            self.target = keeps_serving.or(self.target);
            self.follows.extend(keeps_serving.map(CutOver));
        }
        let drains = reason == Reason::Stopping && way.is_cut_over_to();
        let told = reason != Reason::Replaced && way.cause != Cause::Restart;
        let failure = Failure {
            rolled_back: way.at == At::Proving,
            keeps_serving,
            ..failure(way.number, way.cause, reason)
        };
        // at the end nothing is said of what was never spawned
        let said = way.spawned.is_some() || failure.reason != Reason::Stopping;
        let failed = Transition::Failed(failure.clone());
        self.follows
            .extend(said.then_some(Action::Announce(failed)));
        if !drains {
            self.leave(way.number, seconds(2), true);
        }
        if way.at == At::Command {
            self.follows.push(EndBeforeSwap);
        }
        let verdict = Verdict::Failed(failure);
        let whose = |after| after < way.number && told;
        if said {
            self.answer(whose, &verdict);
        } else {
            self.refuse(whose);
        }
    }

    pub(super) fn fail(&mut self, reason: Reason) {
        let status = match &reason {
            Reason::Exited(exit, _) => exit.status(),
            Reason::NotReady(_) => 124,
            _ => 125,
        };
        let cause = self.way.map(|way| way.cause);
        self.dismiss(reason);
        let asked = matches!(cause, Some(Cause::Asked | Cause::File)) && self.pending.is_none();
        let stopped_first = self.policy.stop_first && self.serving.is_none();
        if asked && stopped_first && self.falls_back {
            self.way = Some(Way::new(Generation(self.last.0 + 1), Cause::Restart));
            return self.back_off_ends();
        }
        let nothing_to_do =
            self.serving.is_some() || self.policy.restart == RestartPolicy::OnChange;
        match self.policy.restart {
            RestartPolicy::Never if self.serving.is_none() => self.end(status),
            RestartPolicy::OnFailure if !self.has_served => self.end(status),
            _ if nothing_to_do || self.pending.is_some() => {
                if self.serving.is_none() && self.pending.is_none() {
                    self.clients_wait();
                }
                self.prepare();
            }
            _ => self.restart(),
        }
    }

    /// "At once the first time, then 100ms, x2, up to 30s."
    pub(super) fn restart(&mut self) {
        let doubled = 2_u32.saturating_pow(self.restarts) / 2;
        let delay = Duration::from_millis(100)
            .saturating_mul(doubled)
            .min(seconds(30));
        self.restarts += 1;
        self.way = Some(Way {
            at: At::Spawn,
            until: Some(self.now + delay),
            ..Way::new(Generation(self.last.0 + 1), Cause::Restart)
        });
        if delay.is_zero() {
            self.back_off_ends();
        }
    }

    pub(super) fn back_off_ends(&mut self) {
        self.last.0 += 1;
        self.wait_to_spawn(None);
    }

    pub(super) fn candidate(&self) -> Option<Generation> {
        let spawned = self.way.filter(|way| way.spawned.is_some());
        spawned.map(|way| way.number)
    }

    pub(super) fn on_way(&mut self, at: At) -> Option<&mut Way> {
        self.way.as_mut().filter(|way| way.at == at)
    }

    pub(super) fn reach(&mut self, at: At, patience: Duration) {
        if let Some(way) = &mut self.way {
            (way.at, way.until) = (at, Some(self.now + patience));
        }
    }

    pub(super) fn cut_over_to(&mut self, at: At, number: Generation) {
        self.reach(at, seconds(5));
        self.held = false;
        self.follows.push(CutOver(number));
    }

    /// "From a change (or a request) on, new connections wait for the next generation."
    pub(super) fn hold(&mut self) {
        let cuts = self
            .way
            .is_some_and(|way| matches!(way.at, At::Room | At::CuttingOver));
        let serves = self.serving.is_some() && self.ends.is_none();
        if self.policy.hold && serves && !cuts && !self.held {
            self.held = true;
            self.target = self.serving.map(|serving| serving.0);
            self.follows.push(Hold);
        }
    }

    pub(super) fn touch(&mut self) {
        if self.policy.hold && self.serving.is_some() && self.ends.is_none() {
            let grown = self.longest_start * self.policy.ready_factor;
            let until = self.now + self.policy.ready_timeout.max(grown);
            self.judged_by.get_or_insert(until);
            self.hold();
        }
    }

    /// "If the build or the candidate fails, all of them go to the old one at once."
    pub(super) fn release(&mut self) {
        let on_way = self.way.filter(|way| way.cause != Cause::Restart);
        if self.judged_by.is_some() {
            return;
        }
        if let Some(way) = on_way.filter(|way| way.ready && way.at == At::Starting) {
            return self.cut_over_to(At::CuttingOver, way.number);
        }
        let idle = on_way.is_none() && self.pending.is_none();
        if idle && std::mem::take(&mut self.held) {
            self.target = self.serving.map(|serving| serving.0);
            self.follows.extend(self.target.map(CutOver));
        }
    }
}
