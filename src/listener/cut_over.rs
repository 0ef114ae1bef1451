//! Switches new connections to another generation, on every listener or on none.

use std::io;

use super::context::Intake;
use super::{Incident, Listener, ListenerId, Listeners};
use crate::socket::Inode;
use crate::supervisor::{Generation, SocketChoice};
use crate::sys;

impl Listeners {
    /// New connections go to this generation from now on, wherever it listens. `--listen`ed sockets that it lacks are made
    /// first, so that clients can wait for it. On the listeners that are excepted, clients stay with the generation they
    /// have until that is gone. Cutting back is the same.
    ///
    /// # Errors
    /// Then nothing has changed.
    pub fn cut_over(
        &mut self,
        generation: Generation,
        except: &[ListenerId],
    ) -> io::Result<Vec<Incident>> {
        self.switch(generation, except, false)
    }

    /// The same for a generation that is not spawned yet, and may accept before it is ready: where clients can be relayed,
    /// they wait on sockets of ours until they are cut over to it.
    ///
    /// # Errors
    /// Then nothing has changed.
    pub fn park(&mut self, generation: Generation) -> io::Result<Vec<Incident>> {
        self.switch(generation, &[], true)
    }

    fn switch(
        &mut self,
        generation: Generation,
        except: &[ListenerId],
        parks: bool,
    ) -> io::Result<Vec<Incident>> {
        self.complete(generation)?;
        for Listener { steering, .. } in &mut self.all {
            steering.keep_up(Some(generation), &mut self.context);
        }
        self.with_snapshots(false, |all, context| {
            let mut all = all.iter_mut();
            all.try_for_each(|listener| listener.steering.prepare(generation, context))
        })?;
        let holds = self.context.holds();
        if holds {
            self.context.intake = Intake::Open;
        }
        let mut done: Vec<(usize, Option<Inode>)> = Vec::new();
        for at in 0..self.all.len() {
            let Listener { id, steering, .. } = &mut self.all[at];
            let listens = steering
                .socket_of(generation)
                .is_some_and(|own| own.listens);
            let stays = except.contains(id) || !listens;
            // clients that wait there would wait for nothing
            let old = self
                .serving
                .filter(|_| holds && stays && steering.is_waiting());
            if except.contains(id) && old.is_none() {
                continue;
            }
            let to = old.unwrap_or(generation);
            let switched = if parks && old.is_none() {
                steering.park(to, &mut self.context)
            } else {
                steering.cut_over(to, &mut self.context)
            };
            match switched {
                Ok(before) => done.push((at, before)),
                Err(error) => {
                    if holds {
                        self.context.intake = Intake::Held;
                    }
                    self.cut_back(&done);
                    return Err(error);
                }
            }
        }
        if holds {
            self.release_muted(self.serving != Some(generation), sys::now());
        }
        if !parks {
            self.all.iter_mut().for_each(|one| one.steering.unpark());
        }
        self.serving = Some(generation);
        self.set_awaiting_start(self.is_unborn(generation));
        self.hide_covered(generation);
        if let Some(refused) = self.take_refused() {
            self.context.incident(refused);
        }
        self.forget_unowned();
        Ok(self.context.take_incidents())
    }

    /// From now on new connections wait for the next generation, wherever the serving one listens on a socket of its own.
    /// The addresses where they cannot wait are named once.
    pub fn hold(&mut self) -> Vec<Incident> {
        let Some(serving) = self.serving else {
            return Vec::new();
        };
        let held: Vec<ListenerId> = self
            .sockets_of(serving)
            .iter()
            .filter(|socket| socket.listens && socket.steered)
            .map(|socket| socket.listener)
            .collect();
        self.context.intake = Intake::Held;
        self.begin_to_mute(sys::now());
        self.with_snapshots(true, |all, context| {
            for Listener { id, steering, .. } in all {
                if !steering.is_steered() {
                    context.cannot_hold(steering.address());
                } else if held.contains(id)
                    && let Err(error) = steering.hold(context)
                {
                    log::warn!("clients of {} do not wait: {error}", steering.address());
                }
            }
        });
        self.context.take_incidents()
    }

    /// Makes the sockets that this generation lacks.
    fn complete(&mut self, generation: Generation) -> io::Result<()> {
        if self.adopted >= Some(generation) {
            return Ok(());
        }
        // clients wait for one that is not spawned yet; a running one that has not bound an address may never do so
        let unborn = self.is_unborn(generation);
        let is_due = |listener: &Listener| {
            let due = match listener.captured {
                None => listener.steering.is_steered(),
                // what only one generation has is not made for the next one
                Some(_) => unborn && self.counts(listener) && !self.is_asked_first(listener),
            };
            due && listener.held(generation).is_none()
        };
        let due = self.all.iter().filter(|listener| is_due(listener));
        let due: Vec<ListenerId> = due.map(|listener| listener.id).collect();
        if due.is_empty() {
            return Ok(());
        }
        self.with_snapshots(true, |all, context| {
            for listener in all.iter_mut().filter(|one| due.contains(&one.id)) {
                listener
                    .steering
                    .inherited_socket(generation, SocketChoice::Own, context)?;
            }
            io::Result::Ok(())
        })?;
        self.settle(generation)
    }

    /// Whether clients wait for it although it has not been spawned yet.
    fn is_unborn(&self, generation: Generation) -> bool {
        self.spawning < Some(generation)
    }

    fn cut_back(&mut self, done: &[(usize, Option<Inode>)]) {
        for (at, before) in done {
            if let Some(before) = *before {
                self.all[*at].steering.steer_back(before, &mut self.context);
            }
        }
    }

    /// Its main process is dead. Clients wait for the next generation, even if the rest of this one has no listener.
    pub fn died(&mut self, generation: Generation) {
        if self.serving.take_if(|one| *one == generation).is_some() {
            self.set_awaiting_start(true);
        }
    }

    fn set_awaiting_start(&mut self, awaits: bool) {
        let awaits = |one: &Listener| awaits && one.captured.is_some() && !self.is_asked_first(one);
        let awaiting: Vec<bool> = self.all.iter().map(awaits).collect();
        for (listener, awaits) in self.all.iter_mut().zip(awaiting) {
            listener.awaits_start = awaits;
        }
    }

    /// Verifies the indexes of this generation's sockets that have just joined a group.
    pub(super) fn settle(&mut self, generation: Generation) -> io::Result<()> {
        let mut all = self.all.iter();
        if all.all(|listener| listener.steering.is_settled(generation)) {
            return Ok(());
        }
        self.with_snapshots(false, |all, context| {
            let mut all = all.iter_mut();
            all.try_for_each(|listener| listener.steering.settle(generation, context))
        })
    }
}
