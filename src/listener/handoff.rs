//! The listeners across an upgrade of hotswap.
//!
//! No socket is touched on either side, so no client notices.

use std::io;

use serde::Serialize;

use super::relay::Relay;
use super::{Habits, Listener, ListenerContext, Listeners};
use crate::supervisor::Generation;

/// As [`Listeners::state`] has written it.
pub type State = (
    Vec<Listener>,
    usize,
    Option<Generation>,
    Option<Generation>,
    Option<Generation>,
    Vec<Relay>,
);

impl Listeners {
    /// All that crosses an upgrade; the options are those of the command line, and the sockets are watched anew.
    pub fn state(&self) -> impl Serialize {
        let relays = self.context.relays.all();
        (
            &self.all,
            self.given_out,
            self.serving,
            self.spawning,
            self.adopted,
            relays,
        )
    }

    /// Goes on with the listeners of the hotswap before.
    ///
    /// # Errors
    /// When the sockets cannot be watched.
    pub fn resume(
        (all, given_out, serving, spawning, adopted, relays): State,
        mut context: ListenerContext,
    ) -> io::Result<Self> {
        for relay in relays {
            context.relays.add(relay, &context.watcher)?;
        }
        let mut listeners = Self {
            all,
            given_out,
            serving,
            spawning,
            adopted,
            ..Self::new(context)
        };
        for listener in &mut listeners.all {
            listener.steering.resume(&mut listeners.context);
        }
        Ok(listeners)
    }

    pub fn habits(&self) -> &Habits {
        &self.habits
    }

    /// Those that the hotswap before has seen.
    pub fn resume_habits(&mut self, habits: Habits) {
        self.habits = habits;
    }
}
