//! Retires a generation: its drain, the death of its main process, and when it is gone.

use super::{Action, Draining, Exit, Generation, Queue, Reason, Supervisor, Time, Transition};

impl Supervisor {
    pub(super) fn drain(&mut self, now: Time, generation: Generation) -> Vec<Action> {
        self.draining
            .push(Draining::after_cut_over(generation, now, &self.policy));
        let mut actions = vec![Action::Empty(generation)];
        let draining = self.draining.iter_mut();
        let draining: Vec<_> = draining.filter(|one| one.counts()).collect();
        let beyond = draining.len().saturating_sub(self.policy.max_draining);
        for one in draining.into_iter().take(beyond) {
            one.kill(now);
            actions.push(Action::Announce(Transition::KilledEarly(one.generation)));
            actions.push(Action::Kill(one.generation));
        }
        actions
    }

    pub(super) fn queued(
        &mut self,
        now: Time,
        generation: Generation,
        queue: Queue,
    ) -> Vec<Action> {
        let patience = self.quiesce();
        self.draining_mut(generation)
            .map(|one| one.queued(now, queue, patience))
            .unwrap_or_default()
    }

    pub(super) fn quiet(&mut self, generation: Generation) -> Vec<Action> {
        self.draining_mut(generation)
            .map(Draining::quiet)
            .unwrap_or_default()
    }

    pub(super) fn died(&mut self, now: Time, generation: Generation, exit: Exit) -> Vec<Action> {
        if let Some(one) = self.draining_mut(generation) {
            one.died(exit);
            return Vec::new();
        }
        if let Some(swap) = self.swap.as_ref().filter(|swap| swap.lives(generation)) {
            let reason = Reason::Exited(exit, swap.age(now));
            return self.fail(now, reason);
        }
        if self.orphans.contains(&generation) {
            // what it has left behind drains with the others
            return Vec::new();
        }
        match self
            .serving
            .take_if(|serving| serving.generation == generation)
        {
            Some(dead) => self.serving_died(now, &dead, &exit),
            None => Vec::new(),
        }
    }

    /// Stops tracking an orphan that is left running.
    pub(super) fn leave_alone(&mut self, generation: Generation) -> Vec<Action> {
        self.serving
            .take_if(|serving| serving.generation == generation);
        self.orphans.retain(|orphan| *orphan != generation);
        vec![Action::Free(generation)]
    }

    fn draining_mut(&mut self, generation: Generation) -> Option<&mut Draining> {
        let mut draining = self.draining.iter_mut();
        draining.find(|one| one.generation == generation)
    }

    pub(super) fn forget(&mut self, generation: Generation) -> Vec<Action> {
        let mut draining = self.draining.iter();
        let place = draining.position(|one| one.generation == generation);
        let exit = if let Some(place) = place {
            self.draining.remove(place).exit
        } else if self.orphans.contains(&generation) {
            self.orphans.retain(|orphan| *orphan != generation);
            None
        } else {
            return Vec::new();
        };
        let exit = exit.filter(|exit| *exit != Exit::Unknown);
        vec![
            Action::Announce(Transition::Gone { generation, exit }),
            Action::Free(generation),
        ]
    }

    pub(super) fn expire_draining(&mut self, now: Time) -> Vec<Action> {
        let mut actions = Vec::new();
        let given_up = self.draining.extract_if(.., |one| one.is_given_up(now));
        for one in given_up {
            actions.push(Action::Announce(Transition::Unkillable(one.generation)));
            actions.push(Action::Free(one.generation));
        }
        let patience = self.quiesce();
        for one in &mut self.draining {
            actions.extend(one.expire(now, patience));
        }
        actions
    }
}
