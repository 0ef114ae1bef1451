//! A listener as the status shows it.

use super::{GenerationSocket, Listener, ListenerKind, Listeners, SocketKind};
use crate::connections;
use crate::connections::unix;

/// What there is to say of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSummary {
    pub name: String,
    pub address: String,
    pub steered: bool,
    pub captured: bool,
    /// Connections that wait to be accepted where new ones go to.
    pub queue: Option<u32>,
}

impl Listeners {
    /// Every listener, as it is now.
    pub fn summaries(&self) -> Vec<ListenerSummary> {
        let shown = self.all.iter().map(|listener| ListenerSummary {
            name: listener.name.clone(),
            address: listener.addr(),
            steered: !matches!(listener.sort, ListenerKind::Shared(_)),
            captured: listener.captured.is_some(),
            queue: self.queue_of(listener),
        });
        shown.collect()
    }

    fn queue_of(&self, listener: &Listener) -> Option<u32> {
        queue(&listener.held(self.serving?)?)
    }
}

fn queue(held: &GenerationSocket) -> Option<u32> {
    match held.kind {
        SocketKind::Tcp { .. } => connections::accept_queue(held.fd).ok(),
        SocketKind::Unix | SocketKind::Abstract => unix::accept_queue(held.inode).ok(),
        SocketKind::Udp { .. } | SocketKind::Other => None,
    }
}
