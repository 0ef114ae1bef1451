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
        for connection in self.connections.values_mut() {
            if let Some((_, verdict)) = connection.owed.as_mut().filter(|owed| owed.0 == generation)
            {
                verdict.text = format!("{}; {text}", verdict.outcome);
            }
        }
        self.settle(now, |waited_for| waited_for == generation);
    }

    fn settle(&mut self, now: Time, is_due: impl Fn(Generation) -> bool) {
        let connections = self.connections.iter();
        let due: Vec<(ClientId, SwapVerdict)> = connections
            .filter_map(|(client, connection)| {
                let (waited_for, verdict) = connection.owed.as_ref()?;
                is_due(*waited_for).then(|| (*client, verdict.clone()))
            })
            .collect();
        for (client, verdict) in due {
            self.answer(client, &Reply::Verdict(verdict), now);
        }
    }

    /// Nothing is done for that client.
    pub fn refuse(&mut self, client: ClientId, why: &str, now: Time) {
        self.answer(client, &Reply::Refused(why.to_owned()), now);
    }

    /// What that client asked for makes no sense here.
    pub fn refuse_usage(&mut self, client: ClientId, why: &str, now: Time) {
        self.answer(client, &Reply::Usage(why.to_owned()), now);
    }

    /// Answers one that asked for the status.
    pub fn status(&mut self, client: ClientId, status: Value, now: Time) {
        self.answer(client, &Reply::Status(status), now);
    }

    /// Answers the clients that asked for an upgrade: it is done, or why not.
    pub fn upgraded(&mut self, result: Result<(), &str>, now: Time) {
        let message = match result {
            Ok(()) => Reply::Done(true),
            Err(why) => Reply::Refused(why.to_owned()),
        };
        self.finish(&message, now, |what| *what == RequestKind::Upgrade);
    }

    /// hotswap ends: removes the socket, then answers the clients that waited for that.
    pub fn close(&mut self, now: Time) {
        if let Some(socket) = self.socket.take() {
            socket.unlink();
        }
        self.settle(now, |_| true);
        self.finish(&Reply::Done(true), now, |what| {
            matches!(what, RequestKind::Stop | RequestKind::Events)
        });
        self.connections.clear();
    }

    fn finish(&mut self, message: &Reply, now: Time, concerns: impl Fn(&RequestKind) -> bool) {
        let connections = self.connections.iter();
        let concerned: Vec<ClientId> = connections
            .filter(|(_, connection)| connection.waits_for().is_some_and(&concerns))
            .map(|(client, _)| *client)
            .collect();
        for client in concerned {
            self.answer(client, message, now);
        }
    }

    fn answer(&mut self, client: ClientId, message: &Reply, now: Time) {
        let connection = self.connections.get_mut(&client);
        if connection.is_some_and(|connection| connection.finish(message, now) == Outcome::Leaves) {
            self.connections.remove(&client);
        }
    }

    fn say(&mut self, message: &Reply, concerns: impl Fn(&ClientConnection) -> bool) {
        self.connections.retain(|_, connection| {
            !concerns(connection) || connection.say(message) == Outcome::Stays
        });
    }
}
