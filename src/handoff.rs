//! What crosses an upgrade of hotswap: the state of each room as JSON, and its descriptors, which an exec keeps, by number.
//!
//! A room derives `Serialize` and `Deserialize` for its state. A descriptor is a field marked
//! `#[serde(with = "handoff::descriptor")]`; [`optional_descriptor`], [`os_string`] and [`pid`] are used in the same way.
//! It does not know which rooms there are, nor how the process becomes another program.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::retry::retry;
use crate::supervisor::{ClientId, Generation};
use crate::sys;

// serde passes no context to the fields it visits. All of this happens on one thread.
thread_local! {
    /// Duplicates made for the room that is being written.
    static DUPLICATES: RefCell<Vec<OwnedFd>> = const { RefCell::new(Vec::new()) };
    /// Numbers that came with the exec and that no room has taken yet.
    static UNTAKEN: RefCell<BTreeSet<RawFd>> = const { RefCell::new(BTreeSet::new()) };
    /// Of those that a room has taken, what came: it stays open until all rooms are there, or for the one before.
    static TAKEN: RefCell<Vec<OwnedFd>> = const { RefCell::new(Vec::new()) };
}

/// The state that leaves. Dropping it closes the duplicates, so that a failed exec has changed nothing.
#[derive(Default)]
pub struct Outgoing {
    rooms: BTreeMap<String, Value>,
    /// Without close-on-exec.
    duplicates: Vec<OwnedFd>,
}

impl Outgoing {
    /// # Errors
    /// Those of fcntl(2), and of a state that JSON cannot express.
    pub fn put(&mut self, room: impl Into<String>, state: &impl Serialize) -> io::Result<()> {
        let state = serde_json::to_value(state);
        self.duplicates.extend(DUPLICATES.take());
        self.rooms.insert(room.into(), state?);
        Ok(())
    }

    /// Writes all of it to a memfd that the exec keeps.
    ///
    /// # Errors
    /// Those of memfd_create(2) and write(2).
    pub fn write(&self) -> io::Result<File> {
        let numbers: Vec<RawFd> = self.duplicates.iter().map(AsRawFd::as_raw_fd).collect();
        let mut memory = File::from(retry(|| memfd_create(c"hotswap", MFdFlags::empty()))?);
        memory.write_all(&serde_json::to_vec(&(&self.rooms, numbers))?)?;
        Ok(memory)
    }
}

/// The state that has arrived. While it lasts, the hotswap before can have all of it back; dropping it closes what came.
pub struct Incoming {
    rooms: BTreeMap<String, Value>,
}

impl Incoming {
    /// Reads what [`Outgoing::write`] wrote.
    ///
    /// # Errors
    /// Those of read(2), and of anything that no hotswap wrote.
    pub fn read(memory: &File) -> Result<Self> {
        let mut written = vec![0; usize::try_from(memory.metadata()?.len())?];
        memory.read_exact_at(&mut written, 0)?;
        let (rooms, numbers) = serde_json::from_slice(&written)?;
        UNTAKEN.set(numbers);
        Ok(Self { rooms })
    }

    /// # Errors
    /// If that state is missing or makes no sense.
    pub fn take<T: DeserializeOwned>(&mut self, room: &str) -> Result<T> {
        let state = self.rooms.remove(room).unwrap_or_default();
        serde_json::from_value(state)
            .with_context(|| format!("cannot read the state of its {room}"))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        for number in UNTAKEN.take() {
            drop(sys::adopt(number));
        }
        drop(TAKEN.take());
    }
}

/// Whether the hotswap before may go on after all: what is dropped by then leaves all names as they are.
pub fn may_go_back() -> bool {
    TAKEN.with_borrow(|taken| !taken.is_empty())
}

/// A duplicate that the exec keeps, by its number.
fn duplicate(descriptor: BorrowedFd) -> io::Result<RawFd> {
    let duplicate = sys::adopt(fcntl(descriptor, FcntlArg::F_DUPFD(0))?)?;
    let number = duplicate.as_raw_fd();
    DUPLICATES.with_borrow_mut(|all| all.push(duplicate));
    Ok(number)
}

/// Owns a number that has come with the exec; servers and commands do not inherit it.
fn adopt(number: RawFd) -> io::Result<OwnedFd> {
    if !UNTAKEN.with_borrow_mut(|untaken| untaken.remove(&number)) {
        let why = format!("descriptor {number} did not come with the upgrade");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    let came = sys::adopt(number)?;
    let own = fcntl(&came, FcntlArg::F_DUPFD_CLOEXEC(0));
    TAKEN.with_borrow_mut(|taken| taken.push(came));
    sys::adopt(own?)
}

/// A field that owns a descriptor: `OwnedFd`, `File`, `UnixStream` and the like.
pub mod descriptor {
    use super::{AsFd, Deserialize, Deserializer, OwnedFd, RawFd, Serializer, adopt, duplicate};

    pub fn serialize<T: AsFd, S: Serializer>(owner: &T, serializer: S) -> Result<S::Ok, S::Error> {
        let number = duplicate(owner.as_fd()).map_err(serde::ser::Error::custom)?;
        serializer.serialize_i32(number)
    }

    pub fn deserialize<'de, T: From<OwnedFd>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        let number = RawFd::deserialize(deserializer)?;
        adopt(number).map(T::from).map_err(serde::de::Error::custom)
    }
}

/// The same for a field that may be `None`.
#[allow(clippy::ref_option, reason = "serde wants it so")]
pub mod optional_descriptor {
    use super::{AsFd, Deserialize, Deserializer, OwnedFd, RawFd, Serialize, Serializer};
    use super::{adopt, duplicate};

    pub fn serialize<T: AsFd, S: Serializer>(
        owner: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let number = owner.as_ref().map(|owner| duplicate(owner.as_fd()));
        let number = number.transpose().map_err(serde::ser::Error::custom)?;
        number.serialize(serializer)
    }

    pub fn deserialize<'de, T: From<OwnedFd>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<T>, D::Error> {
        let number = Option::<RawFd>::deserialize(deserializer)?;
        let descriptor = number.map(adopt).transpose();
        Ok(descriptor.map_err(serde::de::Error::custom)?.map(T::from))
    }
}

/// A field that holds a path or another text of the system's, which need not be UTF-8.
pub mod os_string {
    use std::ffi::{OsStr, OsString};
    use std::os::unix::ffi::{OsStrExt, OsStringExt};

    use super::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<T: AsRef<OsStr>, S: Serializer>(
        text: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        text.as_ref().as_bytes().serialize(serializer)
    }

    pub fn deserialize<'de, T: From<OsString>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        Vec::deserialize(deserializer).map(|bytes| OsString::from_vec(bytes).into())
    }
}

/// A field that holds a process id.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
pub mod pid {
    use nix::unistd::Pid;

    use super::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(pid: &Pid, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i32(pid.as_raw())
    }

    /// 0 and less mean whole groups to kill(2).
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Pid, D::Error> {
        let number = i32::deserialize(deserializer)?;
        let pid = (number > 0).then(|| Pid::from_raw(number));
        pid.ok_or_else(|| serde::de::Error::custom("not the id of a process"))
    }
}

/// The core knows only std, so that what is known of its numbers by every room is said here.
macro_rules! serialize_as_number {
    ($($name:ident),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.0.serialize(serializer)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Deserialize::deserialize(deserializer).map($name)
            }
        }
    )*};
}

serialize_as_number!(Generation, ClientId);

/// As over an exec, within one process.
#[cfg(test)]
pub fn carry<T: DeserializeOwned>(state: &impl Serialize) -> Result<T> {
    use std::os::fd::IntoRawFd;

    let mut outgoing = Outgoing::default();
    outgoing.put("room", state)?;
    let mut incoming = Incoming::read(&outgoing.write()?)?;
    for duplicate in outgoing.duplicates {
        let _ = duplicate.into_raw_fd();
    }
    incoming.take("room")
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::path::PathBuf;

    use nix::fcntl::FdFlag;
    use nix::unistd::Pid;

    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Room {
        #[serde(with = "descriptor")]
        stream: UnixStream,
        #[serde(with = "optional_descriptor")]
        lock: Option<File>,
        #[serde(with = "os_string")]
        path: PathBuf,
        #[serde(with = "pid")]
        pid: Pid,
        draining: BTreeMap<Generation, ClientId>,
    }

    fn room() -> (Room, UnixStream) {
        let (stream, peer) = UnixStream::pair().unwrap();
        let room = Room {
            stream,
            lock: None,
            path: PathBuf::from("/run/\u{2764}"),
            pid: Pid::this(),
            draining: [(Generation(3), ClientId(7))].into(),
        };
        (room, peer)
    }

    fn flags(descriptor: impl AsFd) -> FdFlag {
        FdFlag::from_bits_retain(fcntl(descriptor, FcntlArg::F_GETFD).unwrap())
    }

    #[test]
    fn a_room_is_the_same_on_the_other_side() {
        let (room, mut peer) = room();
        let after: Room = carry(&room).unwrap();
        drop(room.stream);
        (&after.stream).write_all(b"still here").unwrap();
        let mut heard = [0; 10];
        io::Read::read_exact(&mut peer, &mut heard).unwrap();
        assert_eq!(&heard, b"still here");
        assert_eq!(flags(&after.stream), FdFlag::FD_CLOEXEC);
        assert!(after.lock.is_none());
        assert_eq!(
            (after.path, after.pid, after.draining),
            (room.path, room.pid, room.draining)
        );
    }

    #[test]
    fn what_leaves_is_closed_if_the_exec_fails() {
        let (room, peer) = room();
        let mut outgoing = Outgoing::default();
        outgoing.put("room", &room).unwrap();
        assert_eq!(flags(&outgoing.duplicates[0]), FdFlag::empty());
        drop((outgoing, room));
        let end = io::Read::read(&mut &peer, &mut [0]).unwrap();
        assert_eq!(end, 0, "nobody holds the other end");
    }

    #[test]
    fn what_no_room_takes_is_closed_and_no_number_is_taken_twice() {
        let (room, _peer) = room();
        let state = serde_json::to_value(&room).unwrap();
        let numbers: Vec<RawFd> = DUPLICATES
            .take()
            .into_iter()
            .map(std::os::fd::IntoRawFd::into_raw_fd)
            .collect();
        UNTAKEN.set(numbers.into_iter().collect());
        let rooms = [("a".to_owned(), state.clone()), ("b".to_owned(), state)].into();
        let mut incoming = Incoming { rooms };
        assert!(incoming.take::<Room>("a").is_ok());
        let twice = incoming.take::<Room>("b").err().expect("it has been taken");
        assert!(
            format!("{twice:#}").contains("did not come with the upgrade"),
            "{twice:#}"
        );
        assert!(incoming.take::<Room>("c").is_err());
    }
}
