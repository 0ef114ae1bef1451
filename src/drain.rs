//! What a draining generation still has to finish: first its queue, then its connections.
//!
//! It reports what it sees and when to look again. How long to wait, and what follows, the supervisor decides.

#[cfg(test)]
mod tests;

use std::time::Duration;

use nix::unistd::Pid;

use crate::connections::accept_queue::AcceptQueue;
use crate::connections::activity::{ActivityCount, ActivityCounter, have_accepted};
use crate::listener::{GenerationSocket, ListenerId, SocketKind};
use crate::polled::Polled;
use crate::ready::accepting_on;
use crate::supervisor::{Queue, Time};
use crate::sys;

/// How often a young queue is looked at: it is empty if it was so twice, this far apart.
const OFTEN: Duration = Duration::from_millis(5);
/// How long it is young.
const YOUNG: Duration = Duration::from_millis(100);
/// How often later, and how often connections are counted.
const SELDOM: Duration = Duration::from_millis(50);
/// A queue that has not moved for so long is not accepted from.
const STUCK: Duration = Duration::from_secs(3);
/// How long clients hold up a stop of which nothing tells whether they want anything.
const UNSURE: Duration = Duration::from_secs(1);
/// Looks that take long are so many times their own length apart.
const SHARE: u32 = 10;

/// What there is to tell about a draining generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainEvent {
    Queue(Queue),
    /// None of its connections is busy.
    Quiet,
}

/// What looking costs, where several generations drain: together they leave most of the time for others.
#[derive(Clone, Copy, Debug)]
pub struct LookCost {
    /// [`sys::cpu_time`] before the processes of this one were looked for.
    pub cpu_time: Time,
    /// How many are looked at in turn.
    pub among: u32,
}

impl LookCost {
    fn took(self) -> Duration {
        sys::cpu_time().saturating_sub(self.cpu_time) * self.among
    }
}

/// One draining generation, as its sockets show it.
#[derive(Debug)]
pub struct Drain {
    cut_at: Time,
    wait: DrainStage,
    next: Option<Time>,
    said: Option<Queue>,
    connections: Option<usize>,
    /// How many were queued at the last look, and since when.
    queued: Option<(u32, Time)>,
    /// Since when hotswap is to stop.
    stopping_since: Option<Time>,
    counter: ActivityCounter,
    doubted: Vec<ListenerId>,
    left_out: Vec<ListenerId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DrainStage {
    /// For its queue; at the last look there was nothing left of it, or not.
    Queue { was_empty: bool },
    /// For its connections.
    Connections,
}

impl Drain {
    /// New connections have gone elsewhere since `cut_at`, and perhaps hotswap is to stop.
    pub fn new(cut_at: Time, stopping_since: Option<Time>) -> Self {
        Self {
            cut_at,
            wait: DrainStage::Queue { was_empty: false },
            next: Some(cut_at),
            said: None,
            connections: None,
            queued: None,
            stopping_since,
            counter: ActivityCounter::default(),
            doubted: Vec::new(),
            left_out: Vec::new(),
        }
    }

    /// It was not seen accepting on these. Where it still does not, nobody is served by waiting for it.
    pub fn may_not_accept(&mut self, listeners: Vec<ListenerId>) {
        self.doubted = listeners;
    }

    /// How many connections it had at the last count, where that can be told.
    pub fn connections(&self) -> Option<usize> {
        self.connections
    }

    /// The queue has been waited for: from the next look on its connections are counted.
    pub fn count_connections(&mut self) {
        self.wait = DrainStage::Connections;
        self.next = Some(self.cut_at);
    }

    /// Looks at its sockets and its processes; tells what has changed.
    pub fn look(
        &mut self,
        now: Time,
        held: &[GenerationSocket],
        pids: &[Pid],
        effort: LookCost,
    ) -> Vec<DrainEvent> {
        if self.next.is_none_or(|next| now < next) {
            return Vec::new();
        }
        self.leave_out(held, pids);
        let accepts = |held: &&GenerationSocket| !self.left_out.contains(&held.listener);
        let held: Vec<_> = held.iter().filter(accepts).copied().collect();
        let held = &held[..];
        let reading = match self.wait {
            DrainStage::Queue { .. } if !held.iter().any(has_own_queue) => {
                self.next = None;
                self.say(Queue::Settled)
            }
            DrainStage::Queue { .. } => {
                let queue = AcceptQueue::of(held);
                self.queue_seen(now, effort.took(), queue)
            }
            DrainStage::Connections => {
                let activity = self.counter.count_busy(held, pids);
                // A handshake may have come to its end since the queue was seen empty.
                let queue = if activity.busy == 0 && self.said == Some(Queue::Settled) {
                    AcceptQueue::of(held)
                } else {
                    AcceptQueue::NONE
                };
                self.counted(now, effort.took(), activity, queue)
            }
        };
        reading.into_iter().collect()
    }

    /// Counts its connections for somebody who asks, whatever is being waited for.
    pub fn count(&mut self, held: &[GenerationSocket], pids: &[Pid]) -> Option<usize> {
        self.connections = self.counter.count(held, pids).connections;
        self.connections
    }

    /// The same, roughly where they are many: `others` are all processes that may have some on the same sockets.
    pub fn count_among(
        &mut self,
        held: &[GenerationSocket],
        pids: &[Pid],
        others: &dyn Fn() -> Vec<Pid>,
    ) {
        self.connections = self.counter.number(held, pids, others);
    }

    fn leave_out(&mut self, held: &[GenerationSocket], pids: &[Pid]) {
        let doubted = std::mem::take(&mut self.doubted);
        for one in held.iter().filter(|one| doubted.contains(&one.listener)) {
            let one = std::slice::from_ref(one);
            if !have_accepted(one, pids) && accepting_on(one, pids).is_empty() {
                self.left_out.extend(one.iter().map(|one| one.listener));
            }
        }
    }

    fn queue_seen(&mut self, now: Time, took: Duration, queue: AcceptQueue) -> Option<DrainEvent> {
        let was_empty = self.wait == DrainStage::Queue { was_empty: true };
        self.wait = DrainStage::Queue {
            was_empty: queue.is_none(),
        };
        let is_young = now.saturating_sub(self.cut_at) < YOUNG;
        let pause = if is_young { OFTEN } else { SELDOM };
        self.next = Some(now + took + pause.max(took * SHARE));
        if queue.queued > 0 {
            let since = self.queued.filter(|before| before.0 == queue.queued);
            let since = since.map_or(now, |before| before.1);
            self.queued = Some((queue.queued, since));
            if now.saturating_sub(since) >= STUCK {
                self.next = None;
                return self.say(Queue::Stuck);
            }
            return self.say(Queue::Waiting);
        }
        self.queued = None;
        if queue.is_none() && was_empty {
            self.next = None;
            return self.say(Queue::Settled);
        }
        self.say(Queue::Empty)
    }

    fn counted(
        &mut self,
        now: Time,
        took: Duration,
        activity: ActivityCount,
        queue: AcceptQueue,
    ) -> Option<DrainEvent> {
        self.connections = activity.connections.or(self.connections);
        self.next = Some(now + took + SELDOM.max(took * SHARE));
        let hurries = |since: Time| now >= since + UNSURE;
        let busy = if self.stopping_since.is_some_and(hurries) {
            activity.busy.saturating_sub(activity.unsure)
        } else {
            activity.busy
        };
        if busy > 0 {
            return None;
        }
        if !queue.is_none() {
            self.next = Some(now + took + OFTEN);
            return None;
        }
        self.next = None;
        Some(DrainEvent::Quiet)
    }

    fn say(&mut self, queue: Queue) -> Option<DrainEvent> {
        let is_new = self.said != Some(queue);
        self.said = Some(queue);
        is_new.then_some(DrainEvent::Queue(queue))
    }
}

impl Polled for Drain {
    /// When to look next; `None` once there is nothing more to see.
    fn deadline(&self) -> Option<Time> {
        self.next
    }
}

/// Only its own queue can be waited for: what comes to a shared one comes to all.
fn has_own_queue(held: &GenerationSocket) -> bool {
    held.steered && matches!(held.kind, SocketKind::Tcp { .. } | SocketKind::Unix)
}
