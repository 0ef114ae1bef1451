//! A generation that new connections no longer go to, until nothing of it is left.

use super::{
    Action, Announcement, Draining, Exit, Generation, Phase, Queue, Reason, Stage, Supervisor, Time,
};

impl Supervisor {
    pub(super) fn drain(&mut self, now: Time, generation: Generation) -> Vec<Action> {
        self.draining
            .push(Draining::after_cut_over(generation, now, &self.policy));
        let mut actions = vec![Action::Empty(generation)];
        let draining = self.draining.iter_mut();
        let draining: Vec<_> = draining.filter(|one| !one.is_killed()).collect();
        let beyond = draining.len().saturating_sub(self.policy.max_draining);
        for one in draining.into_iter().take(beyond) {
            one.kill(now);
            actions.push(Action::Announce(Announcement::KilledEarly(one.generation)));
            actions.push(Action::Kill(one.generation));
        }
        actions
    }

    pub(super) fn queued(
        &mut self,
        now: Time,
        generation: Generation,
        state: Queue,
    ) -> Vec<Action> {
        let Some(one) = self
            .draining
            .iter_mut()
            .find(|one| one.generation == generation)
        else {
            return Vec::new();
        };
        let Phase::Emptying { queue, .. } = &mut one.phase else {
            return Vec::new();
        };
        *queue = state;
        if state != Queue::Settled {
            return Vec::new();
        }
        one.quiesce(now, &self.policy);
        vec![Action::Quiesce(generation)]
    }

    pub(super) fn quiet(&mut self, generation: Generation) -> Vec<Action> {
        match self
            .draining
            .iter_mut()
            .find(|one| one.generation == generation)
        {
            Some(one) if matches!(one.phase, Phase::Quiescing { .. }) => {
                one.phase = Phase::Stopping;
                vec![Action::Stop(generation)]
            }
            _ => Vec::new(),
        }
    }

    pub(super) fn bury(&mut self, now: Time, generation: Generation, exit: &Exit) -> Vec<Action> {
        if let Some(one) = self
            .draining
            .iter_mut()
            .find(|one| one.generation == generation)
        {
            one.exit = Some(exit.clone());
            if !one.was_told() {
                one.phase = Phase::Stopping;
            }
            return Vec::new();
        }
        if let Some(swap) = self
            .swap
            .as_ref()
            .filter(|_| self.spawned() == Some(generation))
        {
            let reason = Reason::Exited(exit.clone(), swap.age(now));
            return self.fail(now, reason);
        }
        match self
            .serving
            .take_if(|serving| serving.generation == generation)
        {
            Some(dead) => self.succeed(now, &dead, exit),
            None => Vec::new(),
        }
    }

    pub(super) fn forget(&mut self, now: Time, generation: Generation) -> Vec<Action> {
        let Some(place) = self
            .draining
            .iter()
            .position(|one| one.generation == generation)
        else {
            return Vec::new();
        };
        let gone = self.draining.remove(place);
        let mut actions = vec![Action::Announce(Announcement::Gone {
            generation,
            exit: gone.exit,
        })];
        if self
            .swap
            .as_ref()
            .is_some_and(|swap| swap.stage == Stage::WaitingFor(generation))
        {
            actions.extend(self.spawn(now));
        }
        actions
    }

    pub(super) fn expire_draining(&mut self, now: Time) -> Vec<Action> {
        let mut actions = Vec::new();
        for one in self.draining.iter_mut().filter(|one| one.deadline() <= now) {
            let generation = one.generation;
            if now < one.kill_at && !one.is_killed() {
                if matches!(one.phase, Phase::Emptying { .. }) {
                    one.quiesce(now, &self.policy);
                    actions.push(Action::Quiesce(generation));
                }
                // A queue that took all the time leaves none for its connections.
                if one.deadline() <= now {
                    one.phase = Phase::Stopping;
                    actions.push(Action::Stop(generation));
                }
                continue;
            }
            if !one.is_killed() {
                actions.push(Action::Announce(Announcement::DrainTimeout(generation)));
            }
            actions.push(if one.kill(now) {
                Action::Kill(generation)
            } else {
                Action::Announce(Announcement::Unkillable(generation))
            });
        }
        let given_up: Vec<Generation> = self
            .draining
            .iter()
            .filter(|one| one.is_given_up())
            .map(|one| one.generation)
            .collect();
        for generation in given_up {
            actions.extend(self.forget(now, generation));
        }
        actions
    }
}
