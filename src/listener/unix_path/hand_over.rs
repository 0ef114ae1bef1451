//! A unix path that outlives the hotswap that took it.

use std::ffi::OsString;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use serde_json::{Value, json};

use super::{NamedSocket, UnixPath};
use crate::listener::context::ListenerContext;
use crate::listener::hand_over::{bytes, list};
use crate::listener::listening_socket::ListeningSocket;
use crate::listener::steering::Steering;
use crate::listener::unix_dir::{UnixDir, file_of};

impl UnixPath {
    pub fn hand_over<'a>(&'a self, descriptors: &mut Vec<BorrowedFd<'a>>) -> Value {
        let dir = self.dir.hand_over(descriptors);
        let sockets = self.sockets.iter().map(|named| {
            json!({
                "socket": named.socket.hand_over(descriptors),
                "name": named.name.as_bytes(),
                "file": named.file,
            })
        });
        json!({ "sockets": sockets.collect::<Vec<_>>(), "place": dir, "target": self.target })
    }

    pub fn take_over(
        state: &Value,
        descriptors: &mut impl Iterator<Item = OwnedFd>,
        context: &mut ListenerContext,
    ) -> Option<Self> {
        let dir = UnixDir::take_over(&state["place"], descriptors)?;
        let sockets = list(&state["sockets"], |named| {
            Some(NamedSocket {
                socket: ListeningSocket::take_over(&named["socket"], descriptors)?,
                name: OsString::from_vec(bytes(&named["name"])?),
                file: file_of(&named["file"])?,
            })
        })?;
        let mut path = Self {
            dir,
            sockets,
            target: state["target"].as_u64(),
        };
        path.resume(context);
        Some(path)
    }
}
