//! A listener in the status.

use super::{Listener, Listeners};
use crate::connections::accept_queue::waiting_clients;
use crate::status::ListenerState;

impl Listeners {
    /// Every listener, as it is now.
    pub fn summaries(&self) -> Vec<ListenerState> {
        let shown = self.all.iter().filter(|listener| self.counts(listener));
        let shown = shown.map(|listener| ListenerState {
            name: listener.name.clone(),
            address: listener.steering.address(),
            steered: listener.steering.is_steered(),
            captured: listener.captured.is_some(),
            queue: listener.queue(),
        });
        shown.collect()
    }

    /// How many clients wait where new connections go.
    pub fn queued(&self) -> u32 {
        let shown = self.all.iter().filter(|listener| self.counts(listener));
        shown.filter_map(Listener::queue).sum()
    }
}

impl Listener {
    fn queue(&self) -> Option<u32> {
        waiting_clients(&self.socket_as(self.steering.target()?)).ok()?
    }
}
