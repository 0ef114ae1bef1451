//! Watches the generations that drain: first their queues, then their connections.

use nix::unistd::Pid;

use super::World;
use super::wait::Batch;
use crate::drain::{Drain, DrainEvent, LookCost};
use crate::polled::Polled;
use crate::record;
use crate::supervisor::{Event, Generation};
use crate::sys;

impl World {
    /// From now on its queue is watched.
    pub(super) fn empty(&mut self, generation: Generation) {
        let now = sys::now();
        let mut drain = Drain::new(now, self.stopping_since);
        let held = self.listeners.sockets_of(generation);
        let listeners = held.iter().map(|held| held.listener);
        drain.may_not_accept(
            listeners
                .filter(|listener| !self.counting.accepted.contains(listener))
                .collect(),
        );
        let processes = |of: &dyn Fn(&Generation) -> bool| {
            let of = self
                .generations
                .iter()
                .filter(|(generation, _)| of(generation));
            of.flat_map(|(_, one)| one.server.processes())
                .collect::<Vec<Pid>>()
        };
        let own = processes(&|one| *one == generation);
        drain.count_among(&held, &own, &|| {
            let mut others = processes(&|one| *one != generation);
            // it has those that it relays
            others.push(Pid::this());
            others
        });
        if let Some(one) = self.generations.get_mut(&generation) {
            one.begin_draining(now, &self.listeners);
            one.drain = Some(drain);
        }
    }

    /// From now on its connections are watched.
    pub(super) fn quiesce(&mut self, generation: Generation) {
        if let Some(one) = self.generations.get_mut(&generation) {
            let drain = || Drain::new(sys::now(), self.stopping_since);
            one.drain.get_or_insert_with(drain).count_connections();
        }
    }

    pub(super) fn look_at_draining(&mut self, batch: &mut Batch) {
        let now = batch.now;
        let among = self.generations.values();
        let among = among.filter(|one| one.drain.is_some()).count();
        let among = u32::try_from(among).unwrap_or(u32::MAX);
        for (generation, one) in &mut self.generations {
            let due = |drain: &&mut Drain| drain.deadline().is_some_and(|due| due <= now);
            let Some(drain) = one.drain.as_mut().filter(due) else {
                continue;
            };
            let cpu_time = sys::cpu_time();
            let held = self.listeners.connected_sockets(*generation, one.is_lost);
            let pids = one.server.processes();
            let readings = drain.look(now, &held, &pids, LookCost { cpu_time, among });
            if self.control.is_waited_for(*generation) {
                let text = record::draining_text(*generation, drain.connections());
                self.control.drains(*generation, &text);
            }
            batch
                .requests
                .extend(readings.into_iter().map(|reading| match reading {
                    DrainEvent::Queue(queue) => Event::Queued(*generation, queue),
                    DrainEvent::Quiet => Event::Quiet(*generation),
                }));
        }
    }
}
