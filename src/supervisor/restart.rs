//! What follows when nothing serves: a restart after its back-off, the last program that worked, or the end.

use std::time::Duration;

use super::swap::{Cause, Stage, Swap};
use super::{
    Action, Draining, Exit, OWN_FAILURE, Reason, RestartPolicy, Serving, Supervisor, TIMED_OUT,
    Then, Time, Transition,
};

/// A generation that served so long was good.
const PROVEN: Duration = Duration::from_secs(10);
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(30);

impl Exit {
    /// The status a shell would give.
    pub fn status(&self) -> u8 {
        let status = match self {
            Exit::Status(status) | Exit::CannotRun(status, _) => *status,
            Exit::Signal(signal) => 128 + signal,
            Exit::Background => return OWN_FAILURE,
        };
        u8::try_from(status).unwrap_or(u8::MAX)
    }
}

impl Reason {
    /// How its main process ended, if that is why.
    pub fn exit(&self) -> Option<&Exit> {
        match self {
            Reason::Exited(exit, _) => Some(exit),
            Reason::NotReady(_)
            | Reason::CannotSpawn(_)
            | Reason::CannotCutOver(_)
            | Reason::NotFit(_)
            | Reason::BeforeSwap(_)
            | Reason::BeforeSwapTooLong(_)
            | Reason::Replaced
            | Reason::Stopping => None,
        }
    }

    /// What hotswap ends with if it ends for this reason.
    pub(super) fn status(&self) -> u8 {
        let timed_out = matches!(self, Reason::NotReady(_));
        let own = if timed_out { TIMED_OUT } else { OWN_FAILURE };
        self.exit().map_or(own, Exit::status)
    }
}

impl Supervisor {
    /// The serving generation is dead: a candidate on its way serves next, else a restart, else nothing.
    pub(super) fn serving_died(&mut self, now: Time, dead: &Serving, exit: &Exit) -> Vec<Action> {
        let background = *exit == Exit::Background;
        self.draining.push(if background {
            Draining::failed(dead.generation, now, Some(exit.clone()))
        } else {
            Draining::dead(dead.generation, now, exit.clone(), &self.policy)
        });
        let lose = Action::Lose(dead.generation);
        let announce = |then| {
            Action::Announce(Transition::Dead {
                generation: dead.generation,
                exit: exit.clone(),
                then,
            })
        };
        if now.saturating_sub(dead.since) >= PROVEN {
            self.restarts = 0;
        } else {
            self.last_good = dead.before.or(self.last_good);
        }
        let on_change = self.policy.restart == RestartPolicy::OnChange;
        let goes_on = |swap: &&Swap| swap.spawned.is_some() || on_change;
        if let Some(swap) = self.swap.as_ref().filter(goes_on) {
            let mut actions = vec![lose, announce(Then::CandidateServes(swap.generation))];
            match swap.stage {
                Stage::Starting { .. } => actions.push(Action::Inherit(swap.generation)),
                Stage::Proving { .. } => actions.extend(self.serve(now)),
                Stage::BeforeSwap { .. }
                | Stage::Checking { .. }
                | Stage::WaitingFor(_)
                | Stage::BackingOff { .. }
                | Stage::CuttingOver { .. } => {}
            }
            return actions;
        }
        let mut actions = Vec::new();
        // Not spawned yet, and it may take its time: the restart comes first.
        if let Some(swap) = self.swap.take() {
            if matches!(swap.stage, Stage::BeforeSwap { .. }) {
                actions.push(Action::EndBeforeSwap);
            }
            self.postpone(swap.cause, swap.clients);
        }
        let restarts = match self.policy.restart {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => *exit != Exit::Status(0),
            RestartPolicy::Never | RestartPolicy::OnChange => false,
        };
        // The same program would go the same way.
        let fallback = (restarts && background).then(|| self.fall_back()).flatten();
        let hopeless = background && fallback.is_none();
        actions.push(lose);
        if on_change {
            actions.push(announce(Then::WaitForChange));
        } else if restarts && !hopeless {
            actions.push(announce(Then::RestartAfter(self.delay())));
            actions.extend(fallback);
            actions.extend(self.restart(now));
        } else {
            actions.push(announce(Then::End));
            actions.extend(self.end(exit.status()));
        }
        actions
    }

    /// A start has failed, and nothing serves.
    pub(super) fn retry_or_end(&mut self, now: Time, failed: Cause, status: u8) -> Vec<Action> {
        let ends = match self.policy.restart {
            RestartPolicy::Always | RestartPolicy::OnChange => false,
            RestartPolicy::OnFailure => !self.has_served,
            RestartPolicy::Never => true,
        };
        if ends {
            return self.end(status);
        }
        if self.pending.is_some() {
            return self.begin_pending(now);
        }
        if self.policy.restart == RestartPolicy::OnChange {
            return vec![Action::Announce(Transition::WaitingForChange)];
        }
        let fallback = (failed == Cause::RestartPolicy).then(|| self.fall_back());
        let mut actions: Vec<Action> = fallback.flatten().into_iter().collect();
        actions.extend(self.restart(now));
        actions
    }

    /// What is restarted from now on is the last good program, if there is one.
    fn fall_back(&mut self) -> Option<Action> {
        let may = self.policy.fallback && self.fallen_back.is_none();
        let good = self.last_good.take_if(|_| may)?;
        self.fallen_back = Some(good);
        Some(Action::Announce(Transition::FallingBack { to: good }))
    }

    fn delay(&self) -> Duration {
        let doublings = self.restarts.saturating_sub(1).min(16);
        if self.restarts == 0 {
            Duration::ZERO
        } else {
            (FIRST_DELAY * (1 << doublings)).min(LONGEST_DELAY)
        }
    }

    fn restart(&mut self, now: Time) -> Vec<Action> {
        let delay = self.delay();
        self.restarts = self.restarts.saturating_add(1);
        if delay.is_zero() {
            return self.begin(now, Cause::RestartPolicy, Vec::new());
        }
        // It gets its number, the next one, once its time has come.
        self.swap = Some(Swap::new(
            self.next(),
            Cause::RestartPolicy,
            Stage::BackingOff { until: now + delay },
        ));
        Vec::new()
    }
}
