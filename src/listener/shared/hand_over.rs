//! A shared socket that outlives the hotswap that had it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde_json::{Value, json};

use super::{At, Shared};
use crate::listener::hand_over::{generation, list};
use crate::listener::means::Means;
use crate::listener::place::{Place, file_of};
use crate::listener::socket::{Interest, Socket};

impl Shared {
    pub fn hand_over<'a>(&'a self, descriptors: &mut Vec<BorrowedFd<'a>>) -> Value {
        let socket = self.socket.hand_over(descriptors);
        let path = self.path.as_ref();
        let path = path
            .map(|(place, file)| json!({ "place": place.hand_over(descriptors), "file": file }));
        let had_by = self.had_by.iter().map(|generation| generation.0);
        json!({ "socket": socket, "path": path, "had_by": had_by.collect::<Vec<_>>() })
    }

    pub fn take_over(
        told: &Value,
        descriptors: &mut impl Iterator<Item = OwnedFd>,
        means: &Means,
    ) -> Option<Self> {
        let mut socket = Socket::take_over(&told["socket"], descriptors)?;
        let path = match &told["path"] {
            Value::Null => None,
            path => Some((
                Place::take_over(&path["place"], descriptors)?,
                file_of(&path["file"])?,
            )),
        };
        if socket.listens
            && let Err(error) = means.watch(&mut socket, Some(Interest::Shutdown))
        {
            log::debug!("cannot watch a socket that was handed over: {error}");
        }
        Some(Self {
            at: At::of(socket.fd().as_fd()),
            socket,
            path,
            had_by: list(&told["had_by"], generation)?.into_iter().collect(),
        })
    }
}
