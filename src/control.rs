//! The control socket: requests of clients, and what they are sent.
//!
//! It decides nothing and never waits: a client that floods, hangs or vanishes costs a bounded buffer at most.

mod answers;
pub mod client;
mod connection;
pub mod name;
mod others;
pub mod protocol;
mod socket;
pub mod socket_dirs;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::poll::PollFlags;
use nix::unistd::Uid;
use serde::{Deserialize, Serialize};

use crate::polled::Polled;
use crate::retry::is_exhausted;
use crate::supervisor::{ClientId, Time};
use connection::{ClientConnection, Outcome};
use protocol::Reply;
pub use protocol::{RequestKind, SwapRequest, SwapResult, SwapVerdict};
use socket::ControlSocket;
use socket_dirs::{SocketDirs, file_of};

/// Clients at one time; the next one replaces one that has not sent a request.
const CONNECTIONS: usize = 128;
/// Clients accepted at one wake-up, so that a flood does not block the loop.
const LET_IN: usize = 16;
/// How long new clients wait when hotswap is out of descriptors.
const REST: Duration = Duration::from_secs(1);

/// A request; its client waits for the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientRequest {
    pub client: ClientId,
    pub what: RequestKind,
    /// Who the client is.
    pub uid: u32,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Control {
    name: String,
    socket: Option<ControlSocket>,
    connections: BTreeMap<ClientId, ClientConnection>,
    /// The last client's number.
    last: u64,
    /// Until then no client is accepted: hotswap is out of descriptors.
    #[serde(skip)]
    resting: Option<Time>,
    /// The last progress line about a draining generation.
    #[serde(skip)]
    progress: String,
}

impl Control {
    /// The control socket at `path`, or where in `dirs` clients look for an instance of this name; and a warning if there
    /// can be none. A name that was asked for gets no number.
    ///
    /// # Errors
    /// If a path was given and no socket can be made there, or a name was asked for and another instance has it.
    pub fn open(
        dirs: &SocketDirs,
        path: Option<&Path>,
        name: &str,
        asked_for: bool,
        is_own: impl Fn(&Path, &str) -> bool,
    ) -> Result<(Self, Option<String>)> {
        if let Some(path) = path {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
            let socket = ControlSocket::at(&path)
                .with_context(|| format!("cannot create the control socket {}", path.display()))?;
            return Ok((Self::with(Some(socket), name.to_owned()), None));
        }
        let made = dirs.own_directory().and_then(|directory| {
            if asked_for {
                let socket = ControlSocket::at(&directory.join(file_of(name)))?;
                return Ok((socket, name.to_owned()));
            }
            ControlSocket::named(&directory, name, is_own)
        });
        Ok(match made {
            Err(error) if asked_for && error.kind() == io::ErrorKind::AddrInUse => {
                bail!("{}", name::is_in_use(name, None))
            }
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

    fn with(socket: Option<ControlSocket>, name: String) -> Self {
        Self {
            name,
            socket,
            ..Self::default()
        }
    }

    /// The name of this instance.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes the socket again if it was removed, and a directory of hotswap's own with it; what was done, or could not be, in
    /// a sentence.
    pub fn repair(&mut self, owns_directory: bool) -> io::Result<Option<String>> {
        let Some(socket) = self.socket.as_mut().filter(|socket| !socket.is_there()) else {
            return Ok(None);
        };
        let shown = socket.path().display().to_string();
        socket.make_again(owns_directory).map_err(|error| {
            let why = format!("cannot create the control socket {shown} again: {error}");
            io::Error::new(error.kind(), why)
        })?;
        let done = format!("the control socket {shown} was removed; created it again");
        Ok(Some(done))
    }

    /// Where its socket is, if there is one.
    pub fn path(&self) -> Option<&Path> {
        self.socket.as_ref().map(ControlSocket::path)
    }

    pub fn woken(&mut self, fd: RawFd, flags: PollFlags, now: Time) -> Vec<ClientRequest> {
        if self
            .socket
            .as_ref()
            .is_some_and(|socket| socket.as_fd().as_raw_fd() == fd)
        {
            self.let_in(now);
            return Vec::new();
        }
        let mut woken = self.connections.iter_mut();
        let Some((client, connection)) = woken.find(|(_, connection)| connection.fd() == fd) else {
            return Vec::new();
        };
        let client = *client;
        match connection.woken(flags, now) {
            Outcome::Stays => Vec::new(),
            Outcome::Asks(what) => {
                let uid = socket::peer(&connection.stream).map_or(u32::MAX, Uid::as_raw);
                vec![ClientRequest { client, what, uid }]
            }
            Outcome::Leaves => {
                self.connections.remove(&client);
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
                Ok(stream) => self.greet(ClientConnection::new(stream, now), now),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if is_exhausted(&error) => {
                    self.resting = Some(now + REST);
                    return;
                }
                Err(_) => {}
            }
        }
    }

    fn greet(&mut self, mut connection: ClientConnection, now: Time) {
        if let Some(refusal) = refusal(&connection) {
            connection.finish(&Reply::Error(refusal), now);
            return;
        }
        if self.connections.len() >= CONNECTIONS && !self.make_room() {
            connection.finish(&Reply::Error("too many clients".into()), now);
            return;
        }
        let greeting = Reply::Greeting {
            version: env!("CARGO_PKG_VERSION").into(),
            name: self.name.clone(),
            pid: std::process::id(),
        };
        // If it has left already, it may have sent a request before.
        connection.say(&greeting);
        self.last += 1;
        self.connections.insert(ClientId(self.last), connection);
    }

    /// Drops the client that has been connected longest without waiting for anything, or one that only follows.
    fn make_room(&mut self) -> bool {
        let that = |wish: Option<&RequestKind>| {
            let mut connections = self.connections.iter();
            let found = connections.find(|(_, connection)| connection.waits_for() == wish);
            found.map(|(client, _)| *client)
        };
        that(None)
            .or_else(|| that(Some(&RequestKind::Events)))
            .is_some_and(|client| self.connections.remove(&client).is_some())
    }

    /// Drops clients that are too slow.
    pub fn look(&mut self, now: Time) {
        self.connections
            .retain(|_, connection| connection.deadline().is_none_or(|until| until > now));
        self.resting = self.resting.filter(|until| *until > now);
    }
}

impl Polled for Control {
    fn polled(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let open = self.socket.iter().filter(|_| self.resting.is_none());
        let door = open.map(|socket| (socket.as_fd(), PollFlags::POLLIN));
        door.chain(self.connections.values().map(ClientConnection::polled))
            .collect()
    }

    /// When [`Control::look`] is due: only while a client is slow.
    fn deadline(&self) -> Option<Time> {
        let connections = self
            .connections
            .values()
            .filter_map(ClientConnection::deadline);
        connections.chain(self.resting).min()
    }
}

/// Why this client is not served, if it is not.
fn refusal(connection: &ClientConnection) -> Option<String> {
    match socket::peer(&connection.stream) {
        Ok(uid) if uid.is_root() || uid == Uid::effective() => None,
        Ok(_) => Some(format!(
            "only uid {} and root may connect",
            Uid::effective()
        )),
        Err(error) => Some(format!("cannot tell who you are: {error}")),
    }
}
