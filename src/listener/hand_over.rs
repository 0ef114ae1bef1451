//! Listeners that outlive the hotswap that opened them: what the next one, in the same process, is told of them.
//!
//! Nothing is done to a socket on either side, so that no client notices.

mod captured;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use serde_json::{Value, json};

use super::context::ListenerContext;
use super::listening_socket::ListeningSocket;
use super::reuseport::ReuseportGroup;
use super::shared::SharedSocket;
use super::unix_path::UnixPath;
use super::{CapturedAddress, Listener, ListenerId, ListenerKind, Listeners};
use crate::supervisor::{Generation, Time};

impl Listeners {
    /// All that is known of every listener, and their descriptors in their order.
    pub fn hand_over(&self) -> (Value, Vec<BorrowedFd<'_>>) {
        let mut descriptors = Vec::new();
        let all = self.all.iter();
        let all: Vec<Value> = all
            .map(|listener| listener.hand_over(&mut descriptors))
            .collect();
        let state = json!({
            "all": all,
            "given_out": self.given_out,
            "serving": self.serving.map(|generation| generation.0),
            "seated": self.spawning.map(|generation| generation.0),
            "relays": self.context.relays.hand_over(&mut descriptors),
        });
        (state, descriptors)
    }

    /// The other end of [`Listeners::hand_over`]. `None` if what was told cannot be understood.
    pub fn take_over(
        state: &Value,
        descriptors: &mut impl Iterator<Item = OwnedFd>,
        mut context: ListenerContext,
    ) -> Option<Self> {
        let mut all = Vec::new();
        for listener in state["all"].as_array()? {
            all.push(Listener::take_over(listener, descriptors, &mut context)?);
        }
        let ListenerContext {
            relays, watcher, ..
        } = &mut context;
        relays.take_over(&state["relays"], descriptors, watcher)?;
        Some(Self {
            all,
            context,
            given_out: number(&state["given_out"])?,
            serving: generation(&state["serving"]),
            spawning: generation(&state["seated"]),
        })
    }
}

impl Listener {
    fn hand_over<'a>(&'a self, descriptors: &mut Vec<BorrowedFd<'a>>) -> Value {
        let (sort, state) = match &self.sort {
            ListenerKind::Group(group) => ("group", group.hand_over(descriptors)),
            ListenerKind::Path(path) => ("path", path.hand_over(descriptors)),
            ListenerKind::Shared(shared) => ("shared", shared.hand_over(descriptors)),
        };
        json!({
            "id": self.id.0,
            "name": self.name,
            "spelled": self.as_given,
            "captured": self.captured.as_ref().map(CapturedAddress::written),
            sort: state,
        })
    }

    fn take_over(
        state: &Value,
        descriptors: &mut impl Iterator<Item = OwnedFd>,
        context: &mut ListenerContext,
    ) -> Option<Self> {
        let sort = if let Some(group) = state.get("group") {
            ListenerKind::Group(ReuseportGroup::take_over(group, descriptors, context)?)
        } else if let Some(path) = state.get("path") {
            ListenerKind::Path(UnixPath::take_over(path, descriptors, context)?)
        } else {
            let shared = state.get("shared")?;
            ListenerKind::Shared(SharedSocket::take_over(shared, descriptors, context)?)
        };
        Some(Self {
            id: ListenerId(number(&state["id"])?),
            name: state["name"].as_str()?.to_owned(),
            as_given: state["spelled"].as_str()?.to_owned(),
            captured: match &state["captured"] {
                Value::Null => None,
                written => Some(CapturedAddress::of_written(written)?),
            },
            sort,
        })
    }
}

impl ListeningSocket {
    pub fn hand_over<'a>(&'a self, descriptors: &mut Vec<BorrowedFd<'a>>) -> Value {
        descriptors.push(self.fd());
        json!({
            "inode": self.inode,
            "owner": self.owner.map(|generation| generation.0),
            "listens": self.listens,
            "since": nanoseconds(self.since),
        })
    }

    pub fn take_over(
        state: &Value,
        descriptors: &mut impl Iterator<Item = OwnedFd>,
    ) -> Option<Self> {
        Some(Self::known(
            descriptors.next()?,
            state["inode"].as_u64()?,
            generation(&state["owner"]),
            state["listens"].as_bool()?,
            time(&state["since"])?,
        ))
    }
}

pub fn nanoseconds(time: Time) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

pub fn time(state: &Value) -> Option<Time> {
    state.as_u64().map(Duration::from_nanos)
}

pub fn generation(state: &Value) -> Option<Generation> {
    u32::try_from(state.as_u64()?).ok().map(Generation)
}

pub fn number(state: &Value) -> Option<usize> {
    usize::try_from(state.as_u64()?).ok()
}

/// A list of what can be read one by one.
pub fn list<T>(state: &Value, mut each: impl FnMut(&Value) -> Option<T>) -> Option<Vec<T>> {
    state.as_array()?.iter().map(&mut each).collect()
}

pub fn bytes(state: &Value) -> Option<Vec<u8>> {
    list(state, |byte| u8::try_from(byte.as_u64()?).ok())
}
