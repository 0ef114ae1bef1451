//! A listener as the status shows it.

use super::{Held, Kind, Listener, Listeners, Sort};
use crate::connections;
use crate::connections::unix;

/// What there is to say of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub name: String,
    pub address: String,
    pub steered: bool,
    pub captured: bool,
    /// Connections that wait to be accepted where new ones go to.
    pub queue: Option<u32>,
}

impl Listeners {
    /// Every listener, as it is now.
    pub fn shown(&self) -> Vec<Shown> {
        let shown = self.all.iter().map(|listener| Shown {
            name: listener.name.clone(),
            address: listener.addr(),
            steered: !matches!(listener.sort, Sort::Shared(_)),
            captured: listener.captured.is_some(),
            queue: self.queue_of(listener),
        });
        shown.collect()
    }

    fn queue_of(&self, listener: &Listener) -> Option<u32> {
        queue(&listener.held(self.serving?)?)
    }
}

fn queue(held: &Held) -> Option<u32> {
    match held.kind {
        Kind::Tcp { .. } => connections::accept_queue(held.fd).ok(),
        Kind::Unix | Kind::Abstract => unix::accept_queue(held.inode).ok(),
        Kind::Udp { .. } | Kind::Other => None,
    }
}
