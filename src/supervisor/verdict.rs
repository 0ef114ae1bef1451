//! Cuts over to a ready candidate, lets it prove itself, and reaches the verdict.

use super::{
    Action, CUT_OVER_TIMEOUT, Cause, ClientId, Draining, Exit, Failure, Generation, IS_STOPPING,
    MOST_PREVIOUS, Reason, Serving, Stage, Supervisor, Swap, Time, Transition, Verdict,
};

impl Supervisor {
    pub(super) fn promote(&mut self, now: Time, generation: Generation) -> Vec<Action> {
        let is_it = |swap: &&mut Swap| swap.generation == generation && swap.is_starting();
        let Some(swap) = self.swap.as_mut().filter(is_it) else {
            return Vec::new();
        };
        if swap.check {
            return self.discard(now);
        }
        self.longest_start = self.longest_start.max(swap.age(now));
        if self.hold.judged_by.is_some() {
            swap.is_ready = true;
            return Vec::new();
        }
        self.cut_over(now)
    }

    /// New connections go to the next generation, and so do those that wait for it.
    pub(super) fn cut_over(&mut self, now: Time) -> Vec<Action> {
        let Some(swap) = &mut self.swap else {
            return Vec::new();
        };
        swap.stage = Stage::CuttingOver {
            until: now + CUT_OVER_TIMEOUT,
        };
        self.hold.held = false;
        vec![Action::CutOver(swap.generation)]
    }

    /// A candidate that was only checked has shown that it gets ready.
    fn discard(&mut self, now: Time) -> Vec<Action> {
        let Some(swap) = self.swap.take() else {
            return Vec::new();
        };
        let generation = swap.generation;
        self.draining
            .push(Draining::failed(generation, now, None, false));
        let mut actions = vec![
            Action::Announce(Transition::Checked(generation)),
            Action::Stop(generation),
        ];
        actions.extend(answer(swap.clients, Verdict::Checked(generation)));
        actions.extend(self.begin_pending(now));
        actions
    }

    pub(super) fn prove(&mut self, now: Time, generation: Generation) -> Vec<Action> {
        let Some(swap) = self
            .swap
            .as_mut()
            .filter(|swap| swap.generation == generation)
        else {
            return Vec::new();
        };
        if !matches!(swap.stage, Stage::CuttingOver { .. }) {
            return Vec::new();
        }
        if swap.spawned.is_none() {
            return self.make_room(now);
        }
        // what nobody has asked for is all there is
        let is_alone =
            self.serving.is_none() && matches!(swap.cause, Cause::First | Cause::Restart);
        if is_alone || self.policy.min_ready.is_zero() {
            return self.serve(now);
        }
        swap.stage = Stage::Proving {
            since: now,
            until: now + self.policy.min_ready,
        };
        self.clients_wait_until = None;
        vec![Action::Announce(Transition::Proving(generation))]
    }

    pub(super) fn unproven(
        &mut self,
        now: Time,
        generation: Generation,
        how: String,
    ) -> Vec<Action> {
        let is_it = |swap: &Swap| swap.generation == generation && swap.is_proving();
        if self.swap.as_ref().is_some_and(is_it) {
            return self.fail(now, Reason::NotProven(how));
        }
        Vec::new()
    }

    /// Stop-first: clients wait in the queue of the next one while the old one drains.
    fn make_room(&mut self, now: Time) -> Vec<Action> {
        let Some(old) = self.serving.take() else {
            return self.spawn(now);
        };
        self.nobody_serves();
        if let Some(swap) = &mut self.swap {
            swap.stage = Stage::WaitingFor(old.generation);
        }
        self.drain(now, old.generation)
    }

    pub(super) fn serve(&mut self, now: Time) -> Vec<Action> {
        let Some(swap) = self.swap.take() else {
            return Vec::new();
        };
        let (generation, cause) = (swap.generation, swap.cause);
        match cause {
            Cause::Restart => {}
            // what is on disk was left on purpose: a restart does not run it
            Cause::RollBack => self.fallen_back = Some(generation),
            Cause::First | Cause::Asked | Cause::File => self.fallen_back = None,
        }
        let old = self.serving_generation();
        let good = self.last_good.take();
        let before = old.or(good);
        match cause {
            Cause::Restart => {}
            Cause::RollBack => self.previous.clear(),
            Cause::First | Cause::Asked | Cause::File => {
                self.previous.splice(0..0, before);
                self.previous.truncate(MOST_PREVIOUS);
            }
        }
        self.has_served = true;
        self.clients_wait_until = None;
        self.serving = Some(Serving {
            generation,
            since: now,
            before,
        });
        let orphans = std::mem::take(&mut self.orphans);
        let drain = orphans.into_iter().chain(old);
        let mut actions: Vec<Action> = drain.flat_map(|one| self.drain(now, one)).collect();
        actions.push(Action::Serve(generation));
        actions.push(Action::Announce(Transition::Serving {
            generation,
            cause,
            draining: old,
        }));
        actions.extend(answer(
            swap.clients,
            Verdict::Serving {
                generation,
                replaced: old,
            },
        ));
        actions.extend(self.begin_pending(now));
        actions
    }

    pub(super) fn not_cut_over(
        &mut self,
        now: Time,
        generation: Generation,
        why: String,
    ) -> Vec<Action> {
        let is_it = |swap: &Swap| swap.generation == generation && swap.is_cut_over_to();
        if self.swap.as_ref().is_some_and(is_it) {
            return self.fail(now, Reason::CannotCutOver(why));
        }
        self.not_released(now, generation);
        Vec::new()
    }

    /// The swap has failed: an abort, a roll back, or a failed start while nothing serves.
    pub(super) fn fail(&mut self, now: Time, reason: Reason) -> Vec<Action> {
        let Some(swap) = self.swap.take() else {
            return Vec::new();
        };
        let (cause, status) = (swap.cause, reason.status());
        let mut actions = self.dismiss(now, swap, reason);
        actions.extend(if self.serving.is_none() {
            self.retry_or_end(now, cause, status)
        } else if matches!(cause, Cause::First | Cause::Restart) {
            self.retry_beside_orphan(now, status)
        } else {
            self.begin_pending(now)
        });
        actions
    }

    /// Ends a candidate, after cutting back if clients may reach it, and answers the clients that wait.
    pub(super) fn dismiss(&mut self, now: Time, swap: Swap, reason: Reason) -> Vec<Action> {
        let mut actions = Vec::new();
        let keeps_serving = self.serving_generation();
        // Those who are held are released once nothing else is on its way.
        let cuts_back = swap.is_cut_over_to() && !self.hold.held;
        if let Some(old) = keeps_serving.filter(|_| cuts_back) {
            actions.push(Action::CutOver(old));
        }
        let exit = reason.exit().cloned();
        let failure = Failure {
            generation: swap.generation,
            cause: swap.cause,
            reason,
            rolled_back: swap.is_proving(),
            keeps_serving,
        };
        // nothing of what is not spawned yet has been seen
        let is_seen = swap.spawned.is_some() || failure.reason != Reason::Stopping;
        if is_seen {
            actions.push(Action::Announce(Transition::Failed(failure.clone())));
        }
        // At a stop it drains like any other that clients were sent to.
        let drains = failure.reason == Reason::Stopping && swap.is_cut_over_to();
        if swap.spawned.is_some() && !drains {
            // what lives on in the background is the server itself
            if matches!(exit, None | Some(Exit::Background)) {
                actions.push(Action::Stop(swap.generation));
            }
            let nothing_serves = keeps_serving.is_none();
            let failed = Draining::failed(swap.generation, now, exit, nothing_serves);
            self.draining.push(failed);
        } else if matches!(swap.stage, Stage::WaitingFor(_)) {
            // stop-first: clients wait in its sockets
            actions.push(Action::Free(swap.generation));
        }
        if matches!(swap.stage, Stage::BeforeSwap { .. }) {
            actions.push(Action::EndBeforeSwap);
        }
        actions.extend(if is_seen {
            answer(swap.clients, Verdict::Failed(failure))
        } else {
            refuse(swap.clients, IS_STOPPING)
        });
        actions
    }
}

fn answer(clients: Vec<ClientId>, verdict: Verdict) -> Vec<Action> {
    if clients.is_empty() {
        Vec::new()
    } else {
        vec![Action::Answer(clients, verdict)]
    }
}

pub(super) fn refuse(clients: Vec<ClientId>, why: &'static str) -> Vec<Action> {
    if clients.is_empty() {
        Vec::new()
    } else {
        vec![Action::Refuse(clients, why)]
    }
}
