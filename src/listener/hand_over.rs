//! Listeners that outlive the hotswap that opened them: what the next one, in the same process, is told of them.
//!
//! Nothing is done to a socket on either side, so that no client notices.

mod captured;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use serde_json::{Value, json};

use super::group::Group;
use super::means::Means;
use super::path::UnixPath;
use super::shared::Shared;
use super::socket::Socket;
use super::{CapturedAddress, Listener, ListenerId, Listeners, Sort};
use crate::supervisor::{Generation, Time};

impl Listeners {
    /// All that is known of every listener, and their descriptors in their order.
    pub fn hand_over(&self) -> (Value, Vec<BorrowedFd<'_>>) {
        let mut descriptors = Vec::new();
        let all = self.all.iter();
        let all: Vec<Value> = all
            .map(|listener| listener.hand_over(&mut descriptors))
            .collect();
        let told = json!({
            "all": all,
            "given_out": self.given_out,
            "serving": self.serving.map(|generation| generation.0),
            "seated": self.seated.map(|generation| generation.0),
            "relays": self.means.hand_over_relays(&mut descriptors),
        });
        (told, descriptors)
    }

    /// The other end of [`Listeners::hand_over`]. `None` if what was told cannot be understood.
    pub fn take_over(
        told: &Value,
        descriptors: &mut impl Iterator<Item = OwnedFd>,
        mut means: Means,
    ) -> Option<Self> {
        let mut all = Vec::new();
        for listener in told["all"].as_array()? {
            all.push(Listener::take_over(listener, descriptors, &mut means)?);
        }
        means.take_over_relays(&told["relays"], descriptors)?;
        Some(Self {
            all,
            means,
            given_out: number(&told["given_out"])?,
            serving: generation(&told["serving"]),
            seated: generation(&told["seated"]),
        })
    }
}

impl Listener {
    fn hand_over<'a>(&'a self, descriptors: &mut Vec<BorrowedFd<'a>>) -> Value {
        let (sort, told) = match &self.sort {
            Sort::Group(group) => ("group", group.hand_over(descriptors)),
            Sort::Path(path) => ("path", path.hand_over(descriptors)),
            Sort::Shared(shared) => ("shared", shared.hand_over(descriptors)),
        };
        json!({
            "id": self.id.0,
            "name": self.name,
            "spelled": self.spelled,
            "captured": self.captured.as_ref().map(CapturedAddress::written),
            sort: told,
        })
    }

    fn take_over(
        told: &Value,
        descriptors: &mut impl Iterator<Item = OwnedFd>,
        means: &mut Means,
    ) -> Option<Self> {
        let sort = if let Some(group) = told.get("group") {
            Sort::Group(Group::take_over(group, descriptors, means)?)
        } else if let Some(path) = told.get("path") {
            Sort::Path(UnixPath::take_over(path, descriptors, means)?)
        } else {
            let shared = told.get("shared")?;
            Sort::Shared(Shared::take_over(shared, descriptors, means)?)
        };
        Some(Self {
            id: ListenerId(number(&told["id"])?),
            name: told["name"].as_str()?.to_owned(),
            spelled: told["spelled"].as_str()?.to_owned(),
            captured: match &told["captured"] {
                Value::Null => None,
                written => Some(CapturedAddress::of_written(written)?),
            },
            sort,
        })
    }
}

impl Socket {
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
        told: &Value,
        descriptors: &mut impl Iterator<Item = OwnedFd>,
    ) -> Option<Self> {
        Some(Self::known(
            descriptors.next()?,
            told["inode"].as_u64()?,
            generation(&told["owner"]),
            told["listens"].as_bool()?,
            time(&told["since"])?,
        ))
    }
}

pub fn nanoseconds(time: Time) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

pub fn time(told: &Value) -> Option<Time> {
    told.as_u64().map(Duration::from_nanos)
}

pub fn generation(told: &Value) -> Option<Generation> {
    u32::try_from(told.as_u64()?).ok().map(Generation)
}

pub fn number(told: &Value) -> Option<usize> {
    usize::try_from(told.as_u64()?).ok()
}

/// A list of what can be read one by one.
pub fn list<T>(told: &Value, mut each: impl FnMut(&Value) -> Option<T>) -> Option<Vec<T>> {
    told.as_array()?.iter().map(&mut each).collect()
}

pub fn bytes(told: &Value) -> Option<Vec<u8>> {
    list(told, |byte| u8::try_from(byte.as_u64()?).ok())
}
