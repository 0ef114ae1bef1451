//! One draining generation and its deadlines, from the cut-over until it is gone.

use std::time::Duration;

use super::{Action, Draining, Exit, Generation, Phase, Policy, Queue, Time, Transition};

/// How long handshakes begun before the cut-over are waited for once the accept queue is empty.
const HANDSHAKES: Duration = Duration::from_secs(3);
/// How long a failed candidate has between the stop signal and SIGKILL.
const ABORT_GRACE: Duration = Duration::from_secs(2);
/// SIGKILL is repeated after this time, since a process that forks may have escaped the first.
const KILL_AGAIN: Duration = Duration::from_secs(1);
/// How often SIGKILL is sent before a generation counts as unkillable.
const KILLS: u32 = 10;

impl Draining {
    pub fn after_cut_over(generation: Generation, now: Time, policy: &Policy) -> Self {
        let kill_at = now + policy.drain_timeout;
        let phase = Phase::Emptying {
            queue: Queue::Waiting,
            cut_at: now,
            until: kill_at.saturating_sub(policy.stop_reserve()),
        };
        Self {
            generation,
            phase,
            kill_at,
            exit: None,
            failed: false,
            has_targets: false,
        }
    }

    /// If nothing serves, it has the sockets that clients come to.
    pub fn failed(
        generation: Generation,
        now: Time,
        exit: Option<Exit>,
        nothing_serves: bool,
    ) -> Self {
        Self {
            generation,
            phase: Phase::Stopping,
            kill_at: now + ABORT_GRACE,
            exit,
            failed: true,
            has_targets: nothing_serves,
        }
    }

    /// Its sockets are the next one's; what it has left behind may finish what it has begun.
    pub fn dead(generation: Generation, now: Time, exit: Exit, policy: &Policy) -> Self {
        let mut dead = Self {
            exit: Some(exit),
            ..Self::after_cut_over(generation, now, policy)
        };
        dead.quiesce(now, policy.quiesce);
        dead
    }

    /// It may be one too many.
    pub fn counts(&self) -> bool {
        !self.failed && !self.is_killed()
    }

    /// When this phase ends.
    pub fn deadline(&self) -> Time {
        match self.phase {
            Phase::Emptying {
                queue: Queue::Waiting | Queue::Stuck,
                until,
                ..
            }
            | Phase::Quiescing { until } => until,
            Phase::Emptying { cut_at, until, .. } => until.min(cut_at + HANDSHAKES),
            Phase::Stopping => self.kill_at,
            Phase::Killed { at, .. } => at + KILL_AGAIN,
        }
    }

    /// Notes what is left in its queue.
    pub fn queued(&mut self, now: Time, state: Queue, patience: Duration) -> Vec<Action> {
        if let Phase::Emptying { queue, .. } = &mut self.phase {
            *queue = state;
            match state {
                Queue::Settled => return self.quiesce(now, patience),
                Queue::Stuck => return self.relay(now, patience),
                Queue::Waiting | Queue::Empty => {}
            }
        }
        Vec::new()
    }

    /// Clients are still queued, but it is not worth waiting for any longer.
    fn relay(&mut self, now: Time, patience: Duration) -> Vec<Action> {
        let mut actions = vec![Action::Relay(self.generation)];
        actions.extend(self.quiesce(now, patience));
        actions
    }

    /// Waits for its connections, but so that it still gets its stop signal before SIGKILL. If the queue took all the time,
    /// they have half of what is left of it: some have been accepted just now.
    fn quiesce(&mut self, now: Time, patience: Duration) -> Vec<Action> {
        let Phase::Emptying { until, .. } = self.phase else {
            return Vec::new();
        };
        let latest = until.max(now + self.kill_at.saturating_sub(now) / 2);
        self.phase = Phase::Quiescing {
            until: latest.min(now + patience),
        };
        vec![Action::Quiesce(self.generation)]
    }

    /// None of its connections is busy.
    pub fn quiet(&mut self) -> Vec<Action> {
        if matches!(self.phase, Phase::Quiescing { .. }) {
            self.stop()
        } else {
            Vec::new()
        }
    }

    /// Sends its stop signal, unless it has it or is dead.
    pub fn stop(&mut self) -> Vec<Action> {
        match self.phase {
            Phase::Emptying { .. } | Phase::Quiescing { .. } => {
                self.phase = Phase::Stopping;
                vec![Action::Stop(self.generation)]
            }
            Phase::Stopping | Phase::Killed { .. } => Vec::new(),
        }
    }

    /// Requests in flight are not to take longer than that from now on.
    pub fn hurry(&mut self, now: Time, patience: Duration) {
        if let Phase::Quiescing { until } = &mut self.phase {
            *until = (*until).min(now + patience);
        }
    }

    /// What it has left behind may finish what it has begun, and is told to stop like any other.
    pub fn died(&mut self, exit: Exit) {
        self.exit = Some(exit);
    }

    /// Notes a SIGKILL.
    pub fn kill(&mut self, now: Time) {
        let times = match self.phase {
            Phase::Killed { times, .. } => times + 1,
            Phase::Emptying { .. } | Phase::Quiescing { .. } | Phase::Stopping => 1,
        };
        self.phase = Phase::Killed { times, at: now };
    }

    /// What follows if its deadline has passed.
    pub fn expire(&mut self, now: Time, patience: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        if now < self.deadline() {
            return actions;
        }
        let killed = self.is_killed();
        if killed || self.kill_at <= now {
            if !killed {
                let transition = Transition::DrainTimeout(self.generation);
                actions.push(Action::Announce(transition));
            }
            self.kill(now);
            actions.push(Action::Kill(self.generation));
            return actions;
        }
        let queued = matches!(
            self.phase,
            Phase::Emptying {
                queue: Queue::Waiting,
                ..
            }
        );
        actions.extend(if queued {
            self.relay(now, patience)
        } else {
            self.quiesce(now, patience)
        });
        // Nobody looked in time, or nothing is to be waited for.
        if self.deadline() <= now {
            actions.extend(self.stop());
        }
        actions
    }

    /// Not even SIGKILL has ended it.
    pub fn is_given_up(&self, now: Time) -> bool {
        let often = matches!(self.phase, Phase::Killed { times, .. } if times >= KILLS);
        often && self.deadline() <= now
    }

    pub fn is_killed(&self) -> bool {
        matches!(self.phase, Phase::Killed { .. })
    }
}
