//! Stops hotswap itself, or upgrades it once it is idle.

use std::time::Duration;

use super::{
    Action, ClientId, Draining, IS_STOPPING, KILLED, Reason, Refusal, Shutdown, Stage, Supervisor,
    Time, Transition, Urgency, refuse,
};

/// One Ctrl-C or one kill(1) may arrive twice: from the terminal, and from a parent that passes it on; or for the process,
/// and for its group.
const ONE_SIGNAL: Duration = Duration::from_millis(50);

impl Supervisor {
    /// The first time every generation drains, the second time those that have not are told to stop, then all are killed.
    pub(super) fn stop(
        &mut self,
        now: Time,
        by: Option<ClientId>,
        quiesce: Duration,
    ) -> Vec<Action> {
        let shutdown = self.shutdown.get_or_insert_default();
        if shutdown.urgency.is_some() && (by.is_some() || now < shutdown.since + ONE_SIGNAL) {
            return Vec::new();
        }
        shutdown.since = now;
        match shutdown.urgency {
            None => {
                shutdown.urgency = Some(Urgency::Drain { quiesce });
                self.drain_all(now, quiesce)
            }
            Some(Urgency::Drain { .. }) => {
                shutdown.urgency = Some(Urgency::Stop);
                let told: Vec<Action> = self.draining.iter_mut().flat_map(Draining::stop).collect();
                if told.is_empty() {
                    self.kill_all(now)
                } else {
                    told
                }
            }
            Some(Urgency::Stop | Urgency::Kill) => self.kill_all(now),
        }
    }

    /// No new connections, and what is under way is finished: one that drains already keeps its deadline.
    fn drain_all(&mut self, now: Time, quiesce: Duration) -> Vec<Action> {
        let released = self
            .hold
            .held
            .then(|| self.serving_generation().map(Action::CutOver));
        self.nobody_serves();
        let mut actions: Vec<Action> = released.flatten().into_iter().collect();
        actions.push(Action::TurnAway(Refusal::Stopping));
        actions.push(Action::Announce(Transition::Stopping));
        self.clients_wait_until = None;
        for one in &mut self.draining {
            one.hurry(now, quiesce);
        }
        let serving = self.serving.take().map(|serving| serving.generation);
        let proving = self.swap.as_ref().filter(|swap| swap.is_cut_over_to());
        let proving = proving.filter(|swap| swap.spawned.is_some());
        let proving = proving.map(|swap| swap.generation);
        if let Some(swap) = self.swap.take() {
            actions.extend(self.dismiss(now, swap, Reason::Stopping));
        }
        let orphans = std::mem::take(&mut self.orphans).into_iter();
        for generation in orphans.chain(serving).chain(proving) {
            self.draining
                .push(Draining::after_cut_over(generation, now, &self.policy));
            actions.push(Action::Empty(generation));
        }
        actions
    }

    fn kill_all(&mut self, now: Time) -> Vec<Action> {
        if let Some(shutdown) = &mut self.shutdown {
            shutdown.urgency = Some(Urgency::Kill);
            shutdown.status = KILLED;
        }
        let kill = |one: &mut Draining| {
            one.kill(now);
            Action::Kill(one.generation)
        };
        self.draining.iter_mut().map(kill).collect()
    }

    /// hotswap ends with the server, once the draining generations are gone.
    pub(super) fn end(&mut self, status: u8) -> Vec<Action> {
        self.shutdown = Some(Shutdown {
            status,
            ..Shutdown::default()
        });
        // one of a hotswap that is gone goes on serving
        self.orphans.clear();
        match self.serving.take() {
            Some(_) => Vec::new(),
            None => vec![Action::TurnAway(Refusal::Ended)],
        }
    }

    /// Does what was waiting: spawns a candidate once another is gone, ends once all are gone, upgrades once idle.
    pub(super) fn settle(&mut self, now: Time) -> Vec<Action> {
        if let Some(Stage::WaitingFor(old)) = self.swap.as_ref().map(|swap| swap.stage)
            && self.draining.iter().all(|one| one.generation != old)
        {
            return self.spawn(now);
        }
        if self.shutdown.is_some() {
            return self.settle_shutdown();
        }
        if self.swap.is_none() {
            let began = self.begin_pending(now);
            if !began.is_empty() {
                return began;
            }
        }
        if self.upgrade_asked && self.is_idle() {
            self.upgrade_asked = false;
            return vec![Action::Upgrade(Box::new(self.saved_state()))];
        }
        Vec::new()
    }

    fn settle_shutdown(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        if let Some(pending) = self.pending.take() {
            actions.extend(refuse(pending.clients, IS_STOPPING));
        }
        if std::mem::take(&mut self.upgrade_asked) {
            actions.push(Action::RefuseUpgrade(IS_STOPPING));
        }
        let ended = self.shutdown.as_ref().filter(|_| self.draining.is_empty());
        actions.extend(ended.map(|shutdown| Action::End(shutdown.status)));
        actions
    }
}
