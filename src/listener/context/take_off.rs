//! Takes clients off a socket that no server accepts from: they are carried on, or reset.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::{MsgFlags, recv};

use super::{Intake, ListenerContext, PATIENCE};
use crate::listener::incident::Incident;
use crate::listener::listening_socket::ListeningSocket;
use crate::listener::relay::Destination;
use crate::record::plural;
use crate::retry::is_exhausted;
use crate::socket::{canonical, has_client, has_hung_up, peer_of, reset, set_nonblocking};
use crate::sys;

/// How many clients are accepted from a spare at once, so that a flood does not block the loop.
const AT_ONE_GO: usize = 256;

impl ListenerContext {
    /// Takes clients off a spare socket, a bounded number at once, to be carried to where new connections go.
    pub fn take_off(&mut self, socket: &ListeningSocket, listener: &str, to: &Destination) {
        if self.repairs {
            self.accept(socket, listener, &Fate::Relay(to));
        } else {
            self.accept(socket, listener, &Fate::Close);
        }
    }

    /// The same until nobody is left, for a socket that is to be closed or given away; false if some cannot be carried
    /// yet.
    pub fn empty(&mut self, socket: &ListeningSocket, listener: &str, to: &Destination) -> bool {
        let fate = if self.repairs {
            Fate::Relay(to)
        } else {
            Fate::Close
        };
        self.accept_all(socket, listener, &fate)
    }

    /// Takes clients off a spare socket until the connection from that address is among them, which is closed. Whether it
    /// was.
    pub fn take_off_until(
        &mut self,
        socket: &ListeningSocket,
        listener: &str,
        to: &Destination,
        probe: SocketAddr,
    ) -> bool {
        loop {
            match self.accept(socket, listener, &Fate::Find(probe, to)) {
                Left::Some => {}
                Left::Found => return true,
                Left::Nobody | Left::HeldBack => return false,
            }
        }
    }

    /// Closes clients that wait on a socket of an address that is given up.
    pub fn close_clients(&mut self, socket: &ListeningSocket, listener: &str) {
        self.accept_all(socket, listener, &Fate::Close);
    }

    /// Resets clients that come while nobody is let in.
    pub fn refuse_clients(&mut self, socket: &ListeningSocket, listener: &str) {
        self.accept(socket, listener, &Fate::Refuse);
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
            self.accept_all(socket, listener, &fate);
        }
    }

    fn accept_all(&mut self, socket: &ListeningSocket, listener: &str, fate: &Fate) -> bool {
        loop {
            match self.accept(socket, listener, fate) {
                Left::Some => {}
                Left::Nobody | Left::Found => return true,
                Left::HeldBack => return false,
            }
        }
    }

    fn accept(&mut self, socket: &ListeningSocket, listener: &str, fate: &Fate) -> Left {
        let Ok(was_nonblocking) = set_nonblocking(socket.fd(), true) else {
            return Left::Nobody;
        };
        let (mut relayed, mut lost) = (0, 0);
        let mut left = Left::Some;
        for _ in 0..AT_ONE_GO {
            match self.accept_one(socket, fate) {
                Ok(Some(RelayOutcome::Relayed)) => relayed += 1,
                Ok(Some(RelayOutcome::Lost)) => lost += 1,
                Ok(Some(RelayOutcome::Refused)) => {
                    if let Intake::Refused { connections, .. } = &mut self.intake {
                        *connections += 1;
                    }
                }
                Ok(Some(RelayOutcome::HasLeft)) => {}
                Ok(Some(RelayOutcome::Found)) => {
                    left = Left::Found;
                    break;
                }
                Ok(None) => {
                    left = Left::Nobody;
                    break;
                }
                Err(HeldBack) => {
                    left = Left::HeldBack;
                    break;
                }
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
        left
    }

    /// Accepts a client only if it can be handed on: else it stays in the queue. `None` if none is there.
    fn accept_one(
        &mut self,
        socket: &ListeningSocket,
        fate: &Fate,
    ) -> Result<Option<RelayOutcome>, HeldBack> {
        if !has_client(socket.fd()) {
            return Ok(None);
        }
        let mut server = None;
        if let Fate::Relay(to) | Fate::Find(_, to) = fate {
            if self.relays.is_full() {
                self.held_back = true;
                return Err(HeldBack);
            }
            let opened = to.open().map_err(|_| self.pause_accepting())?;
            server = Some((opened, *to));
        }
        let client = match sys::accept(socket.fd()) {
            Ok(client) => client,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {
                return Ok(Some(RelayOutcome::HasLeft));
            }
            Err(error) if is_exhausted(&error) => return Err(self.pause_accepting()),
            Err(_) => return Ok(None),
        };
        if let Fate::Find(probe, _) = fate
            && peer_of(&client) == Some(canonical(*probe))
        {
            return Ok(Some(RelayOutcome::Found));
        }
        if has_left(&client) {
            return Ok(Some(RelayOutcome::HasLeft));
        }
        if self.probes.have(&client) {
            reset(&client);
            return Ok(Some(RelayOutcome::HasLeft));
        }
        let Some((server, to)) = server else {
            reset(&client);
            return Ok(Some(match fate {
                Fate::Refuse => RelayOutcome::Refused,
                Fate::Close | Fate::Relay(_) | Fate::Find(..) => RelayOutcome::Lost,
            }));
        };
        let carried = self.relays.take(client, server, to, &self.watcher);
        Ok(Some(
            carried.map_or(RelayOutcome::Lost, |()| RelayOutcome::Relayed),
        ))
    }

    fn pause_accepting(&mut self) -> HeldBack {
        self.exhausted = Some(sys::now() + PATIENCE);
        HeldBack
    }
}

/// Whether the client has left: it was a probe of ours, or has lost its patience. What it has sent does not matter once
/// it cannot get an answer.
fn has_left(client: &OwnedFd) -> bool {
    has_hung_up(client.as_fd()) || recv(client.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK) == Ok(0)
}

/// What becomes of the clients that wait on a socket.
enum Fate<'a> {
    Relay(&'a Destination),
    /// The same, except for a connection of our own from that address.
    Find(SocketAddr, &'a Destination),
    Close,
    /// The same, but they were not let in at all.
    Refuse,
}

/// What has become of one.
enum RelayOutcome {
    Relayed,
    Lost,
    Refused,
    /// It had gone away.
    HasLeft,
    /// It is the connection that is looked for.
    Found,
}

/// There is no room now to hand a client on.
struct HeldBack;

/// Who is left on a socket.
enum Left {
    Nobody,
    Some,
    HeldBack,
    /// The clients that came after the connection that was looked for.
    Found,
}
