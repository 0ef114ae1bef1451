//! How hotswap itself comes to its end, or to its next version.

use super::{
    Action, Announcement, Client, Draining, Ending, Failure, KILLED, Phase, Reason, Supervisor,
    Time, Verdict, answer,
};

impl Supervisor {
    /// The first time every generation is asked to finish, the second time none is asked.
    pub(super) fn stop(&mut self, now: Time, by: Option<Client>) -> Vec<Action> {
        if let Some(ending) = &mut self.ending {
            ending.clients.extend(by);
            let again = std::mem::replace(&mut ending.asked, true);
            if by.is_some() || !again {
                return Vec::new();
            }
            ending.status = KILLED;
            for one in &mut self.draining {
                one.kill(now);
            }
            return self
                .draining
                .iter()
                .map(|one| Action::Kill(one.generation))
                .collect();
        }
        let mut actions = vec![Action::Announce(Announcement::Stopping)];
        actions.extend(self.end(now, 0));
        if let Some(ending) = &mut self.ending {
            ending.asked = true;
            ending.clients.extend(by);
        }
        actions
    }

    /// Ends with this status once every generation is gone.
    pub(super) fn end(&mut self, now: Time, status: u8) -> Vec<Action> {
        self.ending = Some(Ending {
            status,
            asked: false,
            clients: Vec::new(),
        });
        if let Some(serving) = self.serving.take() {
            self.draining.push(Draining::after_cut_over(
                serving.generation,
                now,
                &self.policy,
            ));
        }
        let mut actions = Vec::new();
        if let Some(swap) = self.swap.take() {
            actions.extend(self.dismiss(now, swap, Reason::Stopping));
        }
        if let Some(pending) = self.pending.take() {
            actions.extend(self.turn_away(pending.clients));
        }
        for one in &mut self.draining {
            one.kill_at = one.kill_at.min(now + self.policy.drain_timeout);
            if !one.was_told() {
                one.phase = Phase::Stopping;
                actions.push(Action::Stop(one.generation));
            }
        }
        if std::mem::take(&mut self.upgrade_asked) {
            actions.push(Action::RefuseUpgrade("hotswap is stopping"));
        }
        actions
    }

    /// Those who ask for a swap that is not to be any more.
    pub(super) fn turn_away(&self, clients: Vec<Client>) -> Vec<Action> {
        let failure = Failure {
            generation: self.next(),
            reason: Reason::Stopping,
            rolled_back: false,
            serves_on: None,
        };
        answer(clients, Verdict::Failed(failure))
    }

    pub(super) fn upgrade(&mut self) -> Vec<Action> {
        if self.ending.is_some() {
            return vec![Action::RefuseUpgrade("hotswap is stopping")];
        }
        self.upgrade_asked = true;
        Vec::new()
    }

    /// What waits for calm: the end for the last generation, an upgrade for the end of the swap.
    pub(super) fn settle(&mut self) -> Vec<Action> {
        if self.upgrade_asked && self.is_calm() {
            self.upgrade_asked = false;
            return vec![Action::Upgrade];
        }
        match &mut self.ending {
            Some(ending) if self.draining.is_empty() => {
                let mut actions = answer(std::mem::take(&mut ending.clients), Verdict::Stopped);
                actions.push(Action::End(ending.status));
                actions
            }
            _ => Vec::new(),
        }
    }
}
