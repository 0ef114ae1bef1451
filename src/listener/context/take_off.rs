//! Takes clients off a socket that no server accepts from: they are carried on, or reset.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::{MsgFlags, recv};

use super::{Intake, ListenerContext, PATIENCE};
use crate::listener::incident::Incident;
use crate::listener::listening_socket::ListeningSocket;
use crate::listener::relay::Destination;
use crate::record::plural;
use crate::retry::is_exhausted;
use crate::socket::{has_client, has_hung_up, reset, set_nonblocking};
use crate::sys;

/// How many clients are accepted from a spare at once, so that a flood does not block the loop.
const AT_ONE_GO: usize = 256;

impl ListenerContext {
    /// Takes clients off a spare socket, a bounded number at once, to be carried to where new connections go.
    pub fn take_off(&mut self, socket: &ListeningSocket, listener: &str, to: &Destination) {
        self.accept(socket, listener, self.fate_at(to));
    }

    /// The same until nobody is left, for a socket that is to be closed or given away; false if some cannot be carried
    /// yet.
    pub fn empty(&mut self, socket: &ListeningSocket, listener: &str, to: &Destination) -> bool {
        self.accept_all(socket, listener, self.fate_at(to))
    }

    fn fate_at<'a>(&self, to: &'a Destination) -> Fate<'a> {
        if self.repairs {
            Fate::Relay(to)
        } else {
            Fate::Close
        }
    }

    /// Closes clients that wait on a socket of an address that is given up.
    pub fn close_clients(&mut self, socket: &ListeningSocket, listener: &str) {
        self.accept_all(socket, listener, Fate::Close);
    }

    /// Resets clients that come while nobody is let in.
    pub fn refuse_clients(&mut self, socket: &ListeningSocket, listener: &str) {
        self.accept(socket, listener, Fate::Refuse);
    }

    /// Resets clients that a server has not accepted before it is told to stop, while nobody is let in.
    pub fn turn_away_queue(&mut self, socket: &ListeningSocket, listener: &str) {
        let fate = if self.refuses() {
            Fate::Refuse
        } else {
            Fate::Close
        };
        // a look makes the socket non-blocking for its server, too
        if socket.listens && has_client(socket.fd()) {
            self.accept_all(socket, listener, fate);
        }
    }

    fn accept_all(&mut self, socket: &ListeningSocket, listener: &str, fate: Fate) -> bool {
        loop {
            match self.accept(socket, listener, fate) {
                Accepted::Relayed | Accepted::Lost | Accepted::Dropped => {}
                Accepted::Nobody => return true,
                Accepted::HeldBack => return false,
            }
        }
    }

    /// Returns what became of the last one.
    fn accept(&mut self, socket: &ListeningSocket, listener: &str, fate: Fate) -> Accepted {
        let Ok(was_nonblocking) = set_nonblocking(socket.fd(), true) else {
            return Accepted::Nobody;
        };
        let (mut relayed, mut lost) = (0, 0);
        let mut latest = Accepted::Nobody;
        for _ in 0..AT_ONE_GO {
            latest = self.accept_one(socket, fate);
            match latest {
                Accepted::Relayed => relayed += 1,
                Accepted::Lost => lost += 1,
                Accepted::Dropped => {}
                Accepted::Nobody | Accepted::HeldBack => break,
            }
        }
        if !was_nonblocking {
            // a server may have it, too, even one that seems to have closed it
            let _ = set_nonblocking(socket.fd(), false);
        }
        let listener = listener.to_owned();
        if socket.held && relayed > 0 {
            let these = plural(relayed, "connection");
            log::debug!("relaying {these} queued on {listener}");
        } else if relayed > 0 {
            let first = !std::mem::replace(&mut self.has_relayed, true);
            self.incident(Incident::Relayed {
                listener: listener.clone(),
                connections: relayed,
                first,
            });
        }
        if lost > 0 {
            self.incident(Incident::Lost {
                listener,
                connections: lost,
            });
        }
        latest
    }

    /// Accepts a client only if it can be handed on: else it stays in the queue.
    fn accept_one(&mut self, socket: &ListeningSocket, fate: Fate) -> Accepted {
        if !has_client(socket.fd()) {
            return Accepted::Nobody;
        }
        let mut server = None;
        if let Fate::Relay(to) = fate {
            if self.relays.is_full() {
                self.held_back = true;
                return Accepted::HeldBack;
            }
            let Ok(opened) = to.open() else {
                return self.pause_accepting();
            };
            server = Some((opened, to));
        }
        let client = match sys::accept(socket.fd()) {
            Ok(client) => client,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {
                return Accepted::Dropped;
            }
            Err(error) if is_exhausted(&error) => return self.pause_accepting(),
            Err(_) => return Accepted::Nobody,
        };
        if has_left(&client) {
            return Accepted::Dropped;
        }
        if self.probes.take(&client) {
            reset(&client);
            return Accepted::Dropped;
        }
        let Some((server, to)) = server else {
            reset(&client);
            if let (Fate::Refuse, Intake::Refused { connections, .. }) = (fate, &mut self.intake) {
                *connections += 1;
                return Accepted::Dropped;
            }
            return Accepted::Lost;
        };
        let carried = self.relays.take(client, server, to, &self.watcher);
        carried.map_or(Accepted::Lost, |()| Accepted::Relayed)
    }

    fn pause_accepting(&mut self) -> Accepted {
        self.exhausted = Some(sys::now() + PATIENCE);
        Accepted::HeldBack
    }
}

/// Whether the client has left: it was a probe of ours, or has lost its patience. What it has sent does not matter once
/// it cannot get an answer.
fn has_left(client: &OwnedFd) -> bool {
    has_hung_up(client.as_fd()) || recv(client.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK) == Ok(0)
}

/// What becomes of the clients that wait on a socket.
#[derive(Clone, Copy)]
enum Fate<'a> {
    Relay(&'a Destination),
    Close,
    /// The same, but they were not let in at all.
    Refuse,
}

/// What has become of one.
enum Accepted {
    Relayed,
    Lost,
    /// It had gone away, was a probe of ours, or was refused.
    Dropped,
    /// None is there.
    Nobody,
    /// There is no room now to hand it on.
    HeldBack,
}
