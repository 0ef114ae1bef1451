//! A shared socket that outlives the hotswap that had it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde_json::{Value, json};

use super::{SharedAddress, SharedSocket};
use crate::listener::context::ListenerContext;
use crate::listener::hand_over::{generation, list};
use crate::listener::listening_socket::{Interest, ListeningSocket};
use crate::listener::unix_dir::{UnixDir, file_of};

impl SharedSocket {
    pub fn hand_over<'a>(&'a self, descriptors: &mut Vec<BorrowedFd<'a>>) -> Value {
        let socket = self.socket.hand_over(descriptors);
        let path = self.path.as_ref();
        let path =
            path.map(|(dir, file)| json!({ "place": dir.hand_over(descriptors), "file": file }));
        let had_by = self.had_by.iter().map(|generation| generation.0);
        json!({ "socket": socket, "path": path, "had_by": had_by.collect::<Vec<_>>() })
    }

    pub fn take_over(
        state: &Value,
        descriptors: &mut impl Iterator<Item = OwnedFd>,
        context: &ListenerContext,
    ) -> Option<Self> {
        let mut socket = ListeningSocket::take_over(&state["socket"], descriptors)?;
        let path = match &state["path"] {
            Value::Null => None,
            path => Some((
                UnixDir::take_over(&path["place"], descriptors)?,
                file_of(&path["file"])?,
            )),
        };
        if socket.listens
            && let Err(error) = context.watcher.watch(&mut socket, Some(Interest::Shutdown))
        {
            log::debug!("cannot watch a socket that was handed over: {error}");
        }
        Some(Self {
            at: SharedAddress::of(socket.fd().as_fd()),
            socket,
            path,
            had_by: list(&state["had_by"], generation)?.into_iter().collect(),
        })
    }
}
