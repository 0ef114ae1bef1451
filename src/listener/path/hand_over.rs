//! A unix path that outlives the hotswap that took it.

use std::ffi::OsString;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use serde_json::{Value, json};

use super::{Named, UnixPath};
use crate::listener::hand_over::{bytes, list};
use crate::listener::means::Means;
use crate::listener::place::{Place, file_of};
use crate::listener::socket::Socket;

impl UnixPath {
    pub fn hand_over<'a>(&'a self, descriptors: &mut Vec<BorrowedFd<'a>>) -> Value {
        let place = self.place.hand_over(descriptors);
        let sockets = self.sockets.iter().map(|named| {
            json!({
                "socket": named.socket.hand_over(descriptors),
                "name": named.name.as_bytes(),
                "file": named.file,
            })
        });
        json!({ "sockets": sockets.collect::<Vec<_>>(), "place": place, "target": self.target })
    }

    pub fn take_over(
        told: &Value,
        descriptors: &mut impl Iterator<Item = OwnedFd>,
        means: &mut Means,
    ) -> Option<Self> {
        let place = Place::take_over(&told["place"], descriptors)?;
        let sockets = list(&told["sockets"], |named| {
            Some(Named {
                socket: Socket::take_over(&named["socket"], descriptors)?,
                name: OsString::from_vec(bytes(&named["name"])?),
                file: file_of(&named["file"])?,
            })
        })?;
        let mut path = Self {
            place,
            sockets,
            target: told["target"].as_u64(),
        };
        path.tend(means);
        Some(path)
    }
}
