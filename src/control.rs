//! The control socket: what clients ask of a running hotswap, and what they are told.
//!
//! It decides nothing and never waits: a client that floods, hangs or vanishes costs a bounded buffer, and then nothing.

pub mod ask;
mod client;
mod place;
mod protocol;
pub mod show;
mod socket;
#[cfg(test)]
mod tests;
mod visitor;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::poll::PollFlags;
use nix::unistd::Uid;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::supervisor::{Client, Generation, Time};
use place::Surroundings;
use protocol::Message;
pub use protocol::{Verdict, What};
use socket::Socket;
use visitor::{Outcome, Visitor};

/// Clients at one time; the next one takes the place of one that has not asked for anything.
const VISITORS: usize = 128;
/// Clients let in at one wake-up, so that a flood of them does not keep the loop.
const LET_IN: usize = 16;
/// How long new clients wait when we are out of descriptors.
const REST: Duration = Duration::from_secs(1);

/// Something a client wants done; it waits for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    pub client: Client,
    pub what: What,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Control {
    name: String,
    socket: Option<Socket>,
    visitors: BTreeMap<Client, Visitor>,
    /// The last client's number.
    last: u64,
    /// Until then nobody is let in: we are out of descriptors.
    #[serde(skip)]
    resting: Option<Time>,
    /// What was last said about one that drains.
    #[serde(skip)]
    progress: String,
}

impl Control {
    /// The control socket at `path`, or where clients look for an instance of this name; and a warning if there is none.
    ///
    /// # Errors
    /// Only if a path was given, and no socket can be made there.
    pub fn open(path: Option<&Path>, name: &str) -> Result<(Self, Option<String>)> {
        Self::open_in(&Surroundings::ours(), path, name)
    }

    fn open_in(
        surroundings: &Surroundings,
        path: Option<&Path>,
        name: &str,
    ) -> Result<(Self, Option<String>)> {
        if let Some(path) = path {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
            let socket = Socket::at(&path)
                .with_context(|| format!("cannot make the control socket {}", path.display()))?;
            return Ok((Self::with(Some(socket), name.to_owned()), None));
        }
        let made = surroundings
            .own_directory()
            .and_then(|directory| Socket::named(&directory, name));
        Ok(match made {
            Ok((socket, name)) => (Self::with(Some(socket), name), None),
            Err(error) => {
                let warning = format!(
                    "cannot make a control socket for {name}: {error}; `hotswap swap` will not find it\n\
                     try: --control PATH, or kill -HUP {} for a swap",
                    std::process::id()
                );
                (Self::with(None, name.to_owned()), Some(warning))
            }
        })
    }

    fn with(socket: Option<Socket>, name: String) -> Self {
        Self {
            name,
            socket,
            visitors: BTreeMap::new(),
            last: 0,
            resting: None,
            progress: String::new(),
        }
    }

    /// What clients call this instance.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its socket is, if there is one.
    pub fn path(&self) -> Option<&Path> {
        self.socket.as_ref().map(Socket::path)
    }

    pub fn polled(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let open = self.socket.iter().filter(|_| self.resting.is_none());
        let door = open.map(|socket| (socket.as_fd(), PollFlags::POLLIN));
        door.chain(self.visitors.values().map(Visitor::polled))
            .collect()
    }

    pub fn woken(&mut self, fd: RawFd, flags: PollFlags, now: Time) -> Vec<Request> {
        if self
            .socket
            .as_ref()
            .is_some_and(|socket| socket.as_fd().as_raw_fd() == fd)
        {
            self.let_in(now);
            return Vec::new();
        }
        let mut woken = self.visitors.iter_mut();
        let Some((client, visitor)) = woken.find(|(_, visitor)| visitor.fd() == fd) else {
            return Vec::new();
        };
        let client = *client;
        match visitor.woken(flags, now) {
            Outcome::Stays => Vec::new(),
            Outcome::Asks(what) => vec![Request { client, what }],
            Outcome::Leaves => {
                self.visitors.remove(&client);
                Vec::new()
            }
        }
    }

    fn let_in(&mut self, now: Time) {
        for _ in 0..LET_IN {
            let Some(socket) = &self.socket else {
                return;
            };
            match socket.accept() {
                Ok(stream) => self.greet(Visitor::new(stream, now), now),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if is_out_of_descriptors(&error) => {
                    self.resting = Some(now + REST);
                    return;
                }
                Err(_) => {}
            }
        }
    }

    fn greet(&mut self, mut visitor: Visitor, now: Time) {
        if let Some(refusal) = refusal(&visitor) {
            visitor.finish(&Message::Error(refusal), now);
            return;
        }
        if self.visitors.len() >= VISITORS && !self.make_room() {
            visitor.finish(&Message::Error("too many clients".into()), now);
            return;
        }
        let greeting = Message::Greeting {
            version: env!("CARGO_PKG_VERSION").into(),
            name: self.name.clone(),
            pid: std::process::id(),
        };
        // If it has left already, it may have asked before.
        visitor.say(&greeting);
        self.last += 1;
        self.visitors.insert(Client(self.last), visitor);
    }

    /// Lets the one go that has been here longest without waiting for anything.
    fn make_room(&mut self) -> bool {
        let mut visitors = self.visitors.iter();
        let idle = visitors.find(|(_, visitor)| visitor.waits_for().is_none());
        idle.map(|(client, _)| *client)
            .is_some_and(|client| self.visitors.remove(&client).is_some())
    }

    /// When [`Control::look`] is due: only while somebody keeps us waiting.
    pub fn deadline(&self) -> Option<Time> {
        let visitors = self.visitors.values().filter_map(Visitor::deadline);
        visitors.chain(self.resting).min()
    }

    /// Lets those go that have kept us waiting too long.
    pub fn look(&mut self, now: Time) {
        self.visitors
            .retain(|_, visitor| visitor.deadline().is_none_or(|until| until > now));
        self.resting = self.resting.filter(|until| *until > now);
    }

    /// Tells those who follow, and those who wait for something to be done. `event` is the object of
    /// `hotswap events --json`.
    pub fn tell(&mut self, event: &Value) {
        let message = Message::Event(event.clone());
        self.say(&message, |visitor| {
            let waits_for = visitor.waits_for();
            waits_for.is_some_and(|what| what != What::Status)
        });
    }

    /// Tells those who wait for the end of a generation how far it is. Saying the same again costs nothing.
    pub fn drains(&mut self, generation: Generation, text: &str) {
        if self.progress == text {
            return;
        }
        text.clone_into(&mut self.progress);
        let message = Message::Progress(text.to_owned());
        self.say(
            &message,
            |visitor| matches!(&visitor.owed, Some((waited_for, _)) if *waited_for == generation),
        );
    }

    /// Whether anybody waits for this generation's end.
    pub fn is_waited_for(&self, generation: Generation) -> bool {
        let mut owed = self.visitors.values().filter_map(|one| one.owed.as_ref());
        owed.any(|(waited_for, _)| *waited_for == generation)
    }

    /// Answers those who asked for a swap; who wants the old one gone, too, waits on if `replaced` is still there.
    pub fn verdict(
        &mut self,
        clients: &[Client],
        verdict: &Verdict,
        replaced: Option<Generation>,
        now: Time,
    ) {
        for client in clients {
            let Some(visitor) = self.visitors.get_mut(client) else {
                continue;
            };
            let patient = visitor.waits_for() == Some(What::Swap { drained: true });
            match replaced {
                Some(old) if patient && verdict.serving => {
                    visitor.owed = Some((old, verdict.clone()));
                }
                _ => self.answer(*client, &Message::Verdict(verdict.clone()), now),
            }
        }
    }

    /// Nothing is left of a generation: whoever waited for that gets the verdict, with these words at its end.
    pub fn gone(&mut self, generation: Generation, text: &str, now: Time) {
        for visitor in self.visitors.values_mut() {
            if let Some((_, verdict)) = visitor.owed.as_mut().filter(|owed| owed.0 == generation) {
                let serving = verdict.text.split("; ").next().unwrap_or_default();
                verdict.text = format!("{serving}; {text}");
            }
        }
        self.settle(now, |waited_for| waited_for == generation);
    }

    fn settle(&mut self, now: Time, is_due: impl Fn(Generation) -> bool) {
        let visitors = self.visitors.iter();
        let due: Vec<(Client, Verdict)> = visitors
            .filter_map(|(client, visitor)| {
                let (waited_for, verdict) = visitor.owed.as_ref()?;
                is_due(*waited_for).then(|| (*client, verdict.clone()))
            })
            .collect();
        for (client, verdict) in due {
            self.answer(client, &Message::Verdict(verdict), now);
        }
    }

    /// Answers one that asked for the status.
    pub fn status(&mut self, client: Client, status: Value, now: Time) {
        self.answer(client, &Message::Status(status), now);
    }

    /// Answers all that asked for an upgrade: it is done, or why it is not.
    pub fn upgraded(&mut self, result: Result<(), &str>, now: Time) {
        let message = match result {
            Ok(()) => Message::Done(true),
            Err(why) => Message::Refused(why.to_owned()),
        };
        self.finish(&message, now, |what| what == What::Upgrade);
    }

    /// The end of hotswap: the socket goes, then those who waited for that are told.
    pub fn close(&mut self, now: Time) {
        if let Some(socket) = self.socket.take() {
            socket.unlink();
        }
        self.settle(now, |_| true);
        self.finish(&Message::Done(true), now, |what| {
            matches!(what, What::Stop | What::Events)
        });
        self.visitors.clear();
    }

    fn finish(&mut self, message: &Message, now: Time, concerns: impl Fn(What) -> bool) {
        let visitors = self.visitors.iter();
        let concerned: Vec<Client> = visitors
            .filter(|(_, visitor)| visitor.waits_for().is_some_and(&concerns))
            .map(|(client, _)| *client)
            .collect();
        for client in concerned {
            self.answer(client, message, now);
        }
    }

    fn answer(&mut self, client: Client, message: &Message, now: Time) {
        let visitor = self.visitors.get_mut(&client);
        if visitor.is_some_and(|visitor| visitor.finish(message, now) == Outcome::Leaves) {
            self.visitors.remove(&client);
        }
    }

    fn say(&mut self, message: &Message, concerns: impl Fn(&Visitor) -> bool) {
        self.visitors
            .retain(|_, visitor| !concerns(visitor) || visitor.say(message) == Outcome::Stays);
    }
}

/// Why this client is not served, if it is not.
fn refusal(visitor: &Visitor) -> Option<String> {
    match socket::peer(&visitor.stream) {
        Ok(uid) if uid.is_root() || uid == Uid::effective() => None,
        Ok(_) => Some(format!("only uid {} and root are served", Uid::effective())),
        Err(error) => Some(format!("cannot tell who you are: {error}")),
    }
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
    )
}
