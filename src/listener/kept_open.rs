//! Connections that clients keep open, while they wait for the next version: when they are muted, and when they go on.

use nix::unistd::Pid;

use super::Listeners;
use super::context::ListenerContext;
use crate::socket::generation_socket::SocketKind;
use crate::socket::inet::Family;
use crate::supervisor::{Generation, Time};

impl Listeners {
    /// Clients of idle connections wait, too.
    pub(super) fn begin_to_mute(&mut self, now: Time) {
        self.context.relays.hold(&self.context.watcher);
        self.context.muted.begin(now);
    }

    /// Whether it is time for [`Listeners::look_at_muted`].
    pub fn are_muted_due(&self, now: Time) -> bool {
        self.context.muted.is_due(now)
    }

    /// Looks for idle connections of the serving generation, whose processes these are; or at what clients have sent on
    /// muted ones, if they wait no longer.
    pub fn look_at_muted(&mut self, processes: &[Pid], now: Time) {
        if !self.context.holds() {
            self.relay_muted();
            self.context.muted.look_again(now);
            return;
        }
        let ports = self.serving.map(|serving| self.steered_ports(serving));
        let ListenerContext { muted, relays, .. } = &mut self.context;
        match self.serving.zip(ports) {
            Some((serving, ports)) => {
                muted.look_for_idle(serving, &ports, processes, relays, now);
            }
            None => muted.stop_looking(),
        }
    }

    fn steered_ports(&self, generation: Generation) -> Vec<(Family, u16)> {
        let sockets = self.sockets_of(generation);
        let steered = sockets.iter().filter(|one| one.steered && one.listens);
        let ports = steered.filter_map(|one| match one.kind {
            SocketKind::Tcp { port } => Some((one.family?, port)),
            _ => None,
        });
        ports.collect()
    }

    /// What clients have sent on muted connections reaches a server, unless they wait.
    fn relay_muted(&mut self) {
        let context = &mut self.context;
        if !context.holds() {
            let ListenerContext {
                muted,
                relays,
                watcher,
                ..
            } = context;
            muted.go_on(self.serving, relays, watcher);
        }
    }

    pub(super) fn relay_muted_before_stop(&mut self, generation: Generation) {
        self.relay_muted();
        let ListenerContext { muted, relays, .. } = &mut self.context;
        muted.read_before_stop(generation, relays);
    }

    /// Gives all connections back to their servers, before an upgrade.
    pub fn unmute(&mut self) {
        self.context.muted.unmute(&self.context.relays);
    }
}
