//! What follows when nothing serves: a restart after its back-off, the last program that worked, or the end.

use std::time::Duration;

use super::swap::{Cause, Stage, Swap};
use super::{
    Action, CLIENTS_WAIT, Draining, Exit, Generation, OWN_FAILURE, OnDisk, Reason, RestartPolicy,
    Serving, Supervisor, TIMED_OUT, Then, Time, Transition, refuse,
};

/// A generation that has served this long has worked.
const PROVEN: Duration = Duration::from_secs(10);
/// One that puts itself into the background this soon would do so again.
const AT_ONCE: Duration = Duration::from_millis(250);
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(30);

impl Exit {
    /// The status a shell would give.
    pub fn status(&self) -> u8 {
        let status = match self {
            Exit::Status(status) | Exit::CannotRun(status, _) => *status,
            Exit::Signal(signal) => 128 + signal,
            Exit::Background | Exit::Unknown => return OWN_FAILURE,
        };
        u8::try_from(status).unwrap_or(u8::MAX)
    }
}

impl Reason {
    /// How its main process ended, if that is why.
    pub fn exit(&self) -> Option<&Exit> {
        if let Reason::Exited(exit, _) = self {
            Some(exit)
        } else {
            None
        }
    }

    /// The program is not good enough, or not complete.
    pub fn is_of_the_program(&self) -> bool {
        match self {
            Reason::Exited(..)
            | Reason::NotReady(_)
            | Reason::CannotCutOver(_)
            | Reason::NotProven(_)
            | Reason::NotFit(_) => true,
            Reason::CannotSpawn(_)
            | Reason::BeforeSwap(_)
            | Reason::BeforeSwapTooLong(_)
            | Reason::Replaced
            | Reason::Stopping => false,
        }
    }

    /// The exit status of hotswap if it ends for this reason.
    pub(super) fn status(&self) -> u8 {
        let timed_out = matches!(self, Reason::NotReady(_));
        let own = if timed_out { TIMED_OUT } else { OWN_FAILURE };
        self.exit().map_or(own, Exit::status)
    }
}

impl Supervisor {
    /// The serving generation is dead: a starting candidate serves next, or a restart, or nothing.
    pub(super) fn serving_died(&mut self, now: Time, dead: &Serving, exit: &Exit) -> Vec<Action> {
        self.nobody_serves();
        let served = now.saturating_sub(dead.since);
        let has_worked = served >= PROVEN;
        // one that did its work first was asked to, as for an upgrade of its own
        let background =
            *exit == Exit::Background && (served < AT_ONCE || (!has_worked && self.restarts > 0));
        let ends = if background {
            Action::Stop(dead.generation)
        } else {
            Action::Quiesce(dead.generation)
        };
        self.draining.push(if background {
            Draining::failed(dead.generation, now, Some(exit.clone()), true)
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
        if has_worked {
            self.restarts = 0;
        }
        if matches!(self.on_disk, OnDisk::Another { .. }) {
            self.last_good = Some(dead.generation);
        } else if !has_worked {
            self.last_good = dead.before.or(self.last_good);
        }
        let on_change = self.policy.restart == RestartPolicy::OnChange;
        let goes_on = |swap: &&mut Swap| swap.spawned.is_some() || on_change;
        let until = self.waits_for_candidate_until(now);
        if let Some(swap) = self.swap.as_mut().filter(goes_on) {
            // whatever it was started for, it is needed now
            swap.check = false;
            let is_waited_for = !swap.is_cut_over_to();
            let mut actions = vec![lose, announce(hurry(swap, now, until)), ends];
            if swap.is_starting() {
                actions.push(Action::Inherit(swap.generation));
            }
            if on_change && is_waited_for {
                self.clients_wait(now);
            }
            return actions;
        }
        let mut actions = Vec::new();
        // Not spawned yet, and may take long: the restart comes first.
        if let Some(swap) = self.swap.take() {
            if matches!(swap.stage, Stage::BeforeSwap { .. }) {
                actions.push(Action::EndBeforeSwap);
                actions.push(Action::Announce(Transition::CommandEnded));
            }
            if swap.check {
                actions.extend(refuse(swap.clients, "nothing serves"));
            } else {
                self.postpone(swap.cause, swap.clients);
            }
        }
        let restarts = match self.policy.restart {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => *exit != Exit::Status(0),
            RestartPolicy::Never | RestartPolicy::OnChange => false,
        };
        let fallback = if !restarts {
            None
        } else if background {
            // The same program would fail the same way.
            self.fall_back()
        } else {
            self.avoid_rejected(dead)
        };
        let hopeless = background && fallback.is_none();
        actions.push(lose);
        if on_change {
            actions.push(announce(Then::WaitForChange));
            actions.push(ends);
            self.clients_wait(now);
        } else if restarts && !hopeless {
            actions.push(announce(Then::RestartAfter(self.delay())));
            actions.push(ends);
            actions.extend(fallback);
            actions.extend(self.restart(now));
        } else {
            actions.push(announce(Then::End));
            actions.push(ends);
            actions.extend(self.end(exit.status()));
        }
        actions
    }

    /// Until when a candidate is waited for while nothing serves, if a restart would run what has served instead.
    fn waits_for_candidate_until(&self, now: Time) -> Option<Time> {
        let restarts = match self.policy.restart {
            RestartPolicy::Always | RestartPolicy::OnFailure => self.policy.fallback,
            RestartPolicy::Never | RestartPolicy::OnChange => false,
        };
        let goes_back = restarts && self.on_disk == OnDisk::Another { is_held: true };
        let swap = self.swap.as_ref().filter(|_| goes_back)?;
        let until = self.hangs_from(swap)?.max(now);
        (!swap.is_ready && swap.deadline() > Some(until)).then_some(until)
    }

    /// The first start has failed while a generation of a hotswap that is gone serves: that one goes on in any case, and
    /// hotswap as if it were not there.
    pub(super) fn retry_beside_orphan(&mut self, now: Time, status: u8) -> Vec<Action> {
        match self.policy.restart {
            RestartPolicy::OnChange => self.begin_pending(now),
            RestartPolicy::Always => self.restart(now),
            RestartPolicy::OnFailure | RestartPolicy::Never => self.end(status),
        }
    }

    /// A start has failed, and nothing serves.
    pub(super) fn retry_or_end(&mut self, now: Time, failed: Cause, status: u8) -> Vec<Action> {
        // The old one was stopped for it.
        let stopped_first = self.policy.stop_first
            && matches!(failed, Cause::Asked | Cause::File)
            && self.pending.is_none();
        if let Some(fallback) = stopped_first.then(|| self.fall_back()).flatten() {
            let mut actions = vec![fallback];
            actions.extend(self.begin(now, Cause::Restart, Vec::new()));
            return actions;
        }
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
            self.clients_wait(now);
            return vec![Action::Announce(Transition::WaitingForChange)];
        }
        let fallback = (failed != Cause::First).then(|| self.fall_back());
        let mut actions: Vec<Action> = fallback.flatten().into_iter().collect();
        actions.extend(self.restart(now));
        actions
    }

    /// Restarts run the last program that worked from now on, if there is one.
    fn fall_back(&mut self) -> Option<Action> {
        let may = self.policy.fallback;
        let tried = self.fallen_back;
        let good = self.last_good.take_if(|good| may && Some(*good) != tried)?;
        Some(self.run_again(good))
    }

    /// Restarts run another program than the one at the path.
    pub fn avoids_file(&self) -> bool {
        self.on_disk == OnDisk::Rejected || self.fallen_back.is_some()
    }

    /// A restart waits until its time has come.
    pub fn backs_off(&self) -> bool {
        let mut swap = self.swap.iter();
        swap.any(|swap| matches!(swap.stage, Stage::BackingOff { .. }))
    }

    pub fn on_disk(&self) -> OnDisk {
        self.on_disk
    }

    /// A program that was not rejected is what restarts run.
    pub(super) fn find_on_disk(&mut self, what: OnDisk) -> Vec<Action> {
        self.on_disk = what;
        self.fallen_back.take_if(|_| what != OnDisk::Rejected);
        Vec::new()
    }

    /// What the path leads to did not get to serve: the dead one's own program did.
    fn avoid_rejected(&mut self, dead: &Serving) -> Option<Action> {
        let avoids =
            self.policy.fallback && self.on_disk == OnDisk::Rejected && self.fallen_back.is_none();
        avoids.then(|| self.run_again(dead.generation))
    }

    fn run_again(&mut self, good: Generation) -> Action {
        self.fallen_back = Some(good);
        Action::Announce(Transition::FallingBack { to: good })
    }

    /// Nothing serves until something changes: clients wait for that, but not forever.
    fn clients_wait(&mut self, now: Time) {
        let until = now + CLIENTS_WAIT;
        self.clients_wait_until.get_or_insert(until);
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
            return self.begin(now, Cause::Restart, Vec::new());
        }
        // It gets its number, the next one, once its time has come.
        self.swap = Some(Swap::new(
            self.next(),
            Cause::Restart,
            Stage::BackingOff { until: now + delay },
        ));
        Vec::new()
    }
}

/// What follows for a candidate that was already starting.
fn hurry(swap: &mut Swap, now: Time, until: Option<Time>) -> Then {
    match until {
        Some(until) => {
            swap.stage = Stage::Starting { until };
            Then::CandidateServesWithin(swap.generation, until.saturating_sub(now))
        }
        None => Then::CandidateServes(swap.generation),
    }
}
