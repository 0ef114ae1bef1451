//! What the clients of the control socket are told: events, progress, verdicts, and the end.

use serde_json::Value;

use super::Control;
use super::connection::{ClientConnection, Outcome};
use super::protocol::{Reply, RequestKind, SwapVerdict};
use crate::supervisor::{ClientId, Generation, Time};

impl Control {
    /// Sends an event to the clients that follow or wait. `event` is the object of `hotswap events --json`.
    pub fn publish(&mut self, event: &Value) {
        let message = Reply::Event(event.clone());
        self.say(&message, |connection| {
            let waits_for = connection.waits_for();
            waits_for
                .is_some_and(|what| !matches!(what, RequestKind::Status | RequestKind::History))
        });
    }

    /// Sends progress to the clients that wait for a generation to be gone. Repetitions are dropped.
    pub fn drains(&mut self, generation: Generation, text: &str) {
        if self.progress == text {
            return;
        }
        text.clone_into(&mut self.progress);
        let message = Reply::Progress(text.to_owned());
        self.say(
            &message,
            |connection| matches!(&connection.owed, Some((waited_for, _)) if *waited_for == generation),
        );
    }

    /// Tells one client how its request is getting on.
    pub fn progress(&mut self, client: ClientId, text: &str) {
        if let Some(connection) = self.connections.get_mut(&client) {
            connection.say(&Reply::Progress(text.to_owned()));
        }
    }

    /// Whether a client waits for this generation to be gone.
    pub fn is_waited_for(&self, generation: Generation) -> bool {
        let mut owed = self
            .connections
            .values()
            .filter_map(|one| one.owed.as_ref());
        owed.any(|(waited_for, _)| *waited_for == generation)
    }

    /// Answers the clients that asked for a swap; with `--drained` they keep waiting while `replaced` is not gone.
    pub fn verdict(
        &mut self,
        clients: &[ClientId],
        verdict: &SwapVerdict,
        replaced: Option<Generation>,
        now: Time,
    ) {
        for client in clients {
            let Some(connection) = self.connections.get_mut(client) else {
                continue;
            };
            let waits_for = connection.waits_for();
            let patient = matches!(waits_for, Some(RequestKind::Swap(swap)) if swap.drained);
            match replaced {
                Some(old) if patient && verdict.serving => {
                    connection.owed = Some((old, verdict.clone()));
                }
                _ => self.answer(*client, &Reply::Verdict(verdict.clone()), now),
            }
        }
    }

    /// A generation is gone: clients that waited for that get the verdict, with these words at its end.
    pub fn gone(&mut self, generation: Generation, text: &str, now: Time) {
        self.finish(now, |connection| {
            let owed = &mut connection.owed;
            let (_, verdict) = owed.take_if(|(waited_for, _)| *waited_for == generation)?;
            let text = format!("{}; {text}", verdict.outcome);
            Some(Reply::Verdict(SwapVerdict { text, ..verdict }))
        });
    }

    /// Answers the clients that asked for an upgrade: it is done, or why not.
    pub fn upgraded(&mut self, result: Result<(), &str>, now: Time) {
        let message = match result {
            Ok(()) => Reply::Done(true),
            Err(why) => Reply::Refused(why.to_owned()),
        };
        self.finish(now, |connection| {
            let has_asked = connection.waits_for() == Some(&RequestKind::Upgrade);
            has_asked.then(|| message.clone())
        });
    }

    /// hotswap ends: removes the socket, then answers the clients that waited for that.
    pub fn close(&mut self, now: Time) {
        if let Some(socket) = self.socket.take() {
            socket.unlink();
        }
        self.finish(now, |connection| {
            if let Some((_, verdict)) = connection.owed.take() {
                return Some(Reply::Verdict(verdict));
            }
            let waits_for = connection.waits_for();
            let ends = matches!(waits_for, Some(RequestKind::Stop | RequestKind::Events));
            ends.then_some(Reply::Done(true))
        });
        self.connections.clear();
    }

    /// Sends its final message to each client that has one.
    fn finish(
        &mut self,
        now: Time,
        mut message: impl FnMut(&mut ClientConnection) -> Option<Reply>,
    ) {
        self.connections
            .retain(|_, connection| match message(connection) {
                Some(message) => connection.finish(&message, now) == Outcome::Stays,
                None => true,
            });
    }

    /// Sends its final message to one client.
    pub fn answer(&mut self, client: ClientId, message: &Reply, now: Time) {
        let connection = self.connections.get_mut(&client);
        if connection.is_some_and(|connection| connection.finish(message, now) == Outcome::Leaves) {
            self.connections.remove(&client);
        }
    }

    /// Nothing is done for that client.
    pub fn refuse(&mut self, client: ClientId, why: &str, now: Time) {
        self.answer(client, &Reply::Refused(why.to_owned()), now);
    }

    fn say(&mut self, message: &Reply, concerns: impl Fn(&ClientConnection) -> bool) {
        self.connections.retain(|_, connection| {
            !concerns(connection) || connection.say(message) == Outcome::Stays
        });
    }
}
