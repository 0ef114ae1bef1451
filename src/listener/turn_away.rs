//! Keeps new clients out: while hotswap stops, and where nothing has served for long.

use super::context::Intake;
use super::{Incident, Listener, Listeners};
use crate::supervisor::{Generation, Refusal};

impl Listeners {
    /// From now on nobody is let in: new connections are reset and counted, until the next cut-over if there is one. No
    /// server is disturbed in accepting those that came before.
    pub fn turn_away(&mut self, why: Refusal) -> Vec<Incident> {
        if let Some(refused) = self.take_refused() {
            self.context.incident(refused);
        }
        let connections = 0;
        self.context.intake = Intake::Refused { connections, why };
        self.steer_away()
    }

    pub(super) fn steer_away(&mut self) -> Vec<Incident> {
        let waits = self.context.holds();
        self.with_snapshots(true, |all, context| {
            let all = all.iter_mut().map(|listener| &mut listener.steering);
            for steering in all.filter(|steering| !waits || !steering.is_waiting()) {
                if let Err(error) = steering.turn_away(context) {
                    let address = steering.address();
                    log::warn!("cannot turn away new clients of {address}: {error}");
                }
            }
        });
        self.context.take_incidents()
    }

    /// While nobody is let in, a generation that is to be told to stop gets no more clients from its queue.
    pub fn turn_away_queue(&mut self, generation: Generation) -> Vec<Incident> {
        if self.context.lets_nobody_in() {
            for Listener { steering, .. } in &self.all {
                // on TCP, what is the target even now serves those who came
                let stays = self.context.keeps() || steering.dir().is_none();
                let kept = steering.target().filter(|_| stays);
                let kept = kept.map(|target| target.inode);
                let own = steering
                    .socket_of(generation)
                    .filter(|own| steering.is_steered() && Some(own.inode) != kept);
                if let Some(own) = own {
                    self.context.turn_away_queue(own, &steering.address());
                }
            }
        }
        self.context.take_incidents()
    }

    /// While nobody is let in, the sockets of a generation that is told to stop are its own again.
    pub fn let_go(&mut self, generation: Generation) {
        if self.context.lets_nobody_in() {
            for listener in &mut self.all {
                listener.steering.let_go(generation, &mut self.context);
            }
        }
    }

    /// How many clients were refused, to be said once.
    pub fn take_refused(&mut self) -> Option<Incident> {
        let Intake::Refused { connections, why } = self.context.intake else {
            return None;
        };
        self.context.intake = Intake::Open;
        (connections > 0).then_some(Incident::Refused { connections, why })
    }

    /// hotswap stops: what is shut down now stays so.
    pub fn stop_repairing(&mut self) {
        self.context.repairs = false;
    }
}
