//! Which captured unix paths and names are for clients, and which are only between the processes of one generation.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::captured_address::CapturedAddress;
use super::{Listener, ListenerId, Listeners};
use crate::supervisor::{Generation, Time};
use crate::sys;

/// A path that names a process of its generation is for clients only if nothing else has come by then.
const ALONE_AFTER: Duration = Duration::from_secs(2);

/// Of how many paths it is remembered that a generation has bound them.
const MOST_REMEMBERED: usize = 64;

/// What is known of a captured path, or of an abstract name.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct PathUse {
    first: Generation,
    since: Time,
    /// The path contains the pid of a process of its generation.
    pub names_process: bool,
    /// A second generation has bound the very same path.
    pub shared: bool,
}

impl PathUse {
    pub fn new(first: Generation, shared: bool) -> Self {
        Self {
            first,
            since: sys::now(),
            names_process: false,
            shared,
        }
    }
}

impl Listeners {
    /// Whether clients come there. Beside a TCP or `--listen`ed address a captured path counts only once two generations
    /// have bound it.
    pub(super) fn counts(&self, listener: &Listener) -> bool {
        let Some(used) = listener.path_use.filter(|used| !used.shared) else {
            return true;
        };
        let is_for_clients = |other: &Listener| match (&other.captured, other.path_use) {
            (None | Some(CapturedAddress::Tcp { .. }), _) => true,
            (_, Some(other)) => used.names_process && !other.names_process,
            _ => false,
        };
        let alone = !self.all.iter().any(is_for_clients);
        alone && (!used.names_process || sys::now() >= used.since + ALONE_AFTER)
    }

    /// Whether there is such a listener, and clients come there.
    pub fn has(&self, listener: ListenerId) -> bool {
        self.get(listener).is_some_and(|one| self.counts(one))
    }

    /// A generation binds a path, or calls unlink(2) before it does: if another has bound it, it is for clients.
    pub(super) fn meet(&mut self, generation: Generation, listener: ListenerId) {
        let listener = self.get_mut(listener);
        if let Some(used) = listener.and_then(|one| one.path_use.as_mut()) {
            used.shared |= used.first != generation;
        }
        self.review_paths();
    }

    /// It contains the pid of a process of its generation.
    pub fn names_process(&mut self, listener: ListenerId) {
        let listener = self.get_mut(listener);
        if let Some(used) = listener.and_then(|one| one.path_use.as_mut()) {
            used.names_process = true;
        }
        self.review_paths();
    }

    /// Only paths for clients have names of hotswap's beside them.
    pub(super) fn review_paths(&mut self) {
        let private: Vec<bool> = (self.all.iter())
            .map(|listener| !self.counts(listener))
            .collect();
        for (listener, private) in self.all.iter_mut().zip(private) {
            if listener.path_use.is_some()
                && let Err(error) = listener.steering.set_private(private)
            {
                log::debug!(
                    "cannot update the names beside {}: {error}",
                    listener.steering.address()
                );
            }
        }
    }

    /// Closes private paths whose generation is gone, and leaves their files alone. If that was replaced, it is remembered
    /// for the next one, which may bind them only now; one that dies may have left what its successor is not to find.
    pub(super) fn forget_private(&mut self) {
        let gone: Vec<ListenerId> = (self.all.iter())
            .filter(|listener| !listener.steering.is_owned() && !self.counts(listener))
            .map(|listener| listener.id)
            .collect();
        let was_replaced = self.serving.is_some();
        for mut listener in self.all.extract_if(.., |one| gone.contains(&one.id)) {
            listener.steering.close(&mut self.context);
            let is_named = listener.path_use.is_some_and(|used| used.names_process);
            if was_replaced && !is_named && self.habits.bound_before.len() < MOST_REMEMBERED {
                self.habits.bound_before.extend(listener.captured);
            }
        }
    }
}
