//! Connections that clients keep open, while they wait for the next version: when they are muted, and when they go on.

use nix::unistd::Pid;

use super::Listeners;
use super::muted;
use crate::socket::inet::Family;
use crate::supervisor::{Generation, Time};
use crate::sys;

impl Listeners {
    /// Clients of idle connections wait, too.
    pub(super) fn begin_to_mute(&mut self, now: Time) {
        self.context.relays.hold(&self.context.watcher);
        self.context.muted.begin(self.serving, now);
    }

    /// They go on, at another generation or at the same.
    pub(super) fn release_muted(&mut self, is_another: bool, now: Time) {
        let context = &mut self.context;
        context.relays.release(is_another, &context.watcher);
        context.muted.release(is_another, now);
    }

    /// Whether it is time for [`Listeners::look_at_muted`].
    pub fn muted_are_due(&self, now: Time) -> bool {
        self.context.muted.is_due(now)
    }

    /// The generation whose idle connections are muted.
    pub fn mutes(&self) -> Option<Generation> {
        self.context.muted.of()
    }

    /// Looks at what clients have sent on muted connections, if they wait no longer; then for idle ones that are to be
    /// muted. These processes have them.
    pub fn look_at_muted(&mut self, processes: &[Pid], now: Time) {
        self.relay_muted(now);
        let of = self.context.muted.of();
        let ports = of.map_or_else(Vec::new, |of| self.steered_ports(of));
        let context = &mut self.context;
        context
            .muted
            .look_for_idle(&ports, processes, &context.relays, now);
        if !context.holds() {
            context.muted.look_again(now);
        }
    }

    /// A hotswap that was killed may have left connections of this generation muted. These processes have them.
    pub fn unmute_left(&self, generation: Generation, processes: &[Pid]) {
        muted::unmute_left(&self.steered_ports(generation), processes);
    }

    fn steered_ports(&self, generation: Generation) -> Vec<(Family, u16)> {
        let sockets = self.sockets_of(generation);
        let steered = sockets.iter().filter(|one| one.steered && one.listens);
        let ports = steered.filter_map(|one| Some((one.family?, one.kind.tcp_port()?)));
        ports.collect()
    }

    /// What clients have sent on muted connections reaches a server, unless they wait.
    fn relay_muted(&mut self, now: Time) {
        let context = &mut self.context;
        if !context.holds() {
            context
                .muted
                .go_on(self.serving, &mut context.relays, &context.watcher, now);
        }
    }

    pub(super) fn relay_muted_before_stop(&mut self, generation: Generation) {
        self.relay_muted(sys::now());
        let context = &mut self.context;
        context
            .muted
            .read_before_stop(generation, &mut context.relays);
    }

    /// Gives all connections back to their servers, before an upgrade.
    pub fn unmute(&mut self) {
        self.context.muted.unmute(&self.context.relays);
    }
}
