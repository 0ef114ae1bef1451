//! How hotswap itself comes to its end, or to its next version.

use super::{
    Action, Announcement, Client, Draining, Ending, Failure, KILLED, Pending, Reason, Stage,
    Supervisor, Time, Verdict, answer,
};

impl Supervisor {
    /// The first time every generation is asked to finish, the second time none is asked.
    pub(super) fn stop(&mut self, now: Time, by: Option<Client>) -> Vec<Action> {
        let ending = self.ending.get_or_insert_default();
        ending.clients.extend(by);
        let again = std::mem::replace(&mut ending.asked, true);
        if !again {
            return self.finish(now);
        }
        if by.is_some() {
            return Vec::new();
        }
        ending.status = KILLED;
        let kill = |one: &mut Draining| {
            one.kill(now);
            Action::Kill(one.generation)
        };
        self.draining.iter_mut().map(kill).collect()
    }

    fn finish(&mut self, now: Time) -> Vec<Action> {
        let mut actions = vec![Action::TurnAway, Action::Announce(Announcement::Stopping)];
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
        self.ending = Some(Ending {
            status,
            ..Ending::default()
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
        if self.ending.is_some() {
            return self.settle_end();
        }
        if self.upgrade_asked && self.is_calm() {
            self.upgrade_asked = false;
            return vec![Action::Upgrade(Box::new(self.memory()))];
        }
        Vec::new()
    }

    fn settle_end(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        if let Some(pending) = self.pending.take() {
            actions.extend(self.refuse(pending));
        }
        if std::mem::take(&mut self.upgrade_asked) {
            actions.push(Action::RefuseUpgrade("hotswap is stopping"));
        }
        if let Some(ending) = self.ending.as_mut().filter(|_| self.draining.is_empty()) {
            let clients = std::mem::take(&mut ending.clients);
            let status = ending.status;
            actions.extend(answer(clients, Verdict::Stopped));
            actions.push(Action::End(status));
        }
        actions
    }

    fn refuse(&self, pending: Pending) -> Vec<Action> {
        let failure = Failure {
            generation: self.next(),
            cause: pending.cause,
            reason: Reason::Stopping,
            rolled_back: false,
            serves_on: None,
        };
        answer(pending.clients, Verdict::Failed(failure))
    }
}
