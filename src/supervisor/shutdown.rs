//! Stops hotswap itself, or upgrades it once it is idle.

use super::{
    Action, ClientId, Draining, Failure, KILLED, PendingSwap, Reason, Shutdown, Stage, Supervisor,
    Time, Transition, Verdict, answer,
};

impl Supervisor {
    /// The first time every generation is asked to finish, the second time none is asked.
    pub(super) fn stop(&mut self, now: Time, by: Option<ClientId>) -> Vec<Action> {
        let shutdown = self.shutdown.get_or_insert_default();
        shutdown.clients.extend(by);
        let again = std::mem::replace(&mut shutdown.asked, true);
        if !again {
            return self.finish(now);
        }
        if by.is_some() {
            return Vec::new();
        }
        shutdown.status = KILLED;
        let kill = |one: &mut Draining| {
            one.kill(now);
            Action::Kill(one.generation)
        };
        self.draining.iter_mut().map(kill).collect()
    }

    fn finish(&mut self, now: Time) -> Vec<Action> {
        let mut actions = vec![Action::TurnAway, Action::Announce(Transition::Stopping)];
        if let Some(serving) = self.serving.take() {
            let draining = Draining::after_cut_over(serving.generation, now, &self.policy);
            self.draining.push(draining);
        }
        if let Some(swap) = self.swap.take() {
            actions.extend(self.dismiss(now, swap, Reason::Stopping));
        }
        for one in &mut self.draining {
            one.kill_at = one.kill_at.min(now + self.policy.drain_timeout);
            actions.extend(one.stop());
        }
        actions
    }

    /// The server's own end is hotswap's, once what drains is gone.
    pub(super) fn end(&mut self, status: u8) -> Vec<Action> {
        self.shutdown = Some(Shutdown {
            status,
            ..Shutdown::default()
        });
        vec![Action::TurnAway]
    }

    /// What waits for its moment: a candidate for another to be gone, the end for the last one, an upgrade for calm.
    pub(super) fn settle(&mut self, now: Time) -> Vec<Action> {
        if let Some(Stage::WaitingFor(old)) = self.swap.as_ref().map(|swap| swap.stage)
            && self.draining.iter().all(|one| one.generation != old)
        {
            return self.spawn(now);
        }
        if self.shutdown.is_some() {
            return self.settle_shutdown();
        }
        if self.upgrade_asked && self.is_idle() {
            self.upgrade_asked = false;
            return vec![Action::Upgrade(Box::new(self.memory()))];
        }
        Vec::new()
    }

    fn settle_shutdown(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        if let Some(pending) = self.pending.take() {
            actions.extend(self.refuse(pending));
        }
        if std::mem::take(&mut self.upgrade_asked) {
            actions.push(Action::RefuseUpgrade("hotswap is stopping"));
        }
        if let Some(shutdown) = self.shutdown.as_mut().filter(|_| self.draining.is_empty()) {
            let clients = std::mem::take(&mut shutdown.clients);
            let status = shutdown.status;
            actions.extend(answer(clients, Verdict::Stopped));
            actions.push(Action::End(status));
        }
        actions
    }

    fn refuse(&self, pending: PendingSwap) -> Vec<Action> {
        let failure = Failure {
            generation: self.next(),
            cause: pending.cause,
            reason: Reason::Stopping,
            rolled_back: false,
            keeps_serving: None,
        };
        answer(pending.clients, Verdict::Failed(failure))
    }
}
