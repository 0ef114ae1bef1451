//! Logs where a generation has come to listen, once that lasts.

use super::bound_sockets::BoundSocket;
use super::{CallContext, Capture, CaptureEvent, Warning};
use crate::listener::{ListenerId, Listeners};
use crate::polled::Polled;
use crate::supervisor::Time;

/// How many addresses of a generation are logged: some servers listen anew for every client.
const MOST_ANNOUNCED: usize = 64;
/// A new listener is logged once it is this old: many servers try an address and close it at once, which takes a while where
/// the processors are busy.
const NAMED_AFTER: Time = Time::from_secs(1);

/// A new listener that has not been logged yet.
pub struct NewListener {
    pub id: ListenerId,
    pub since: Time,
    pub as_given: String,
}

impl NewListener {
    pub fn due(&self) -> Time {
        self.since + NAMED_AFTER
    }
}

impl Capture {
    /// The main process is dead: what this generation has just come to listen on is not named.
    pub fn name_nothing(&mut self) {
        self.new_listeners.clear();
    }

    /// Logs the new listeners that are old enough, or all at once because their generation is ready.
    pub fn name_listeners(
        &mut self,
        is_ready: bool,
        context: &mut CallContext,
    ) -> Vec<CaptureEvent> {
        let due = self.deadline().is_some_and(|due| due <= context.now);
        if due || (is_ready && !self.new_listeners.is_empty()) {
            let new: Vec<ListenerId> = self.new_listeners.iter().map(|new| new.id).collect();
            let is_new = |bound: &BoundSocket| bound.listener.is_some_and(|id| new.contains(&id));
            self.release_closed(is_new, context);
            let lasted = |new: &mut NewListener| is_ready || new.due() <= context.now;
            let lasting: Vec<_> = self.new_listeners.extract_if(.., lasted).collect();
            for new in lasting
                .into_iter()
                .filter(|new| context.listeners.has(new.id))
            {
                self.name(new, context.listeners);
            }
        }
        std::mem::take(&mut self.events)
    }

    fn name(&mut self, new: NewListener, listeners: &Listeners) {
        let bound = self.bound_sockets.all.iter();
        let mut bound = bound.filter(|bound| bound.listener == Some(new.id));
        if let Some(asked) = bound.next().map(|bound| bound.address.clone())
            && let Some(there) = listeners.served_beside(self.generation, &asked)
        {
            // what to do is part of the verdict
            self.warn_of_change(&asked, &there, "");
        }
        self.announced += 1;
        if self.announced > MOST_ANNOUNCED {
            let generation = self.generation;
            let text = format!("{generation} listens on more addresses than are logged");
            self.warn_once(Warning::TooManyToName, text);
        } else {
            self.events.push(CaptureEvent::Listens(new.as_given));
        }
    }
}
