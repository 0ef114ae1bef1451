//! Which addresses a new version must accept on: those that count, because the serving generation accepts on them.

use std::time::Duration;

use super::World;
use super::generation::Spawned;
use crate::listener::{GenerationSocket, ListenerId};
use crate::ready::{self, Need, Rank, Required};
use crate::record;
use crate::supervisor::{Cause, Generation, Time};

/// How often the serving generation is looked at for where it accepts, while a candidate starts.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);
/// An address that it bound after the candidate's start, and where it was not seen accepting, counts once it has been
/// there for this long: some servers listen anew for every client.
const LASTING: Duration = Duration::from_secs(1);
/// Under `--dev` the last address of a candidate is waited for at least this long.
const SHORTEST_PATIENCE: Duration = Duration::from_secs(1);

/// Which addresses count, as far as it is known.
#[derive(Debug, Default)]
pub(super) struct CountingAddresses {
    /// Where the last generation that served was seen accepting.
    pub accepted: Vec<ListenerId>,
    /// Where it came to listen long after its start; the user was told.
    pub late: Vec<ListenerId>,
    /// What the last restart that was to take over had bound when it died.
    pub bound_by_dead: Vec<ListenerId>,
    /// Some generation was seen accepting: the server has clients, wherever its next start listens.
    pub ever: bool,
    looked: Time,
}

/// A candidate listens there instead of an address that the generation before it had.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moved {
    pub from: ListenerId,
    pub to: ListenerId,
}

impl CountingAddresses {
    /// It is time to look at the serving generation again.
    pub fn is_due(&self, now: Time) -> bool {
        now >= self.looked + BETWEEN_LOOKS
    }
}

impl World {
    /// What a generation of this cause is to those before it.
    pub(super) fn rank_of(&self, cause: Cause) -> Rank {
        let nothing_serves = self.serving_generation().is_none();
        let has_closed_all = self.counting.ever && !self.has_accepted_on_any();
        match cause {
            _ if nothing_serves && !self.has_served => Rank::First,
            // where the one before it had closed all its listeners, this one has to show where it listens
            _ if nothing_serves && has_closed_all => Rank::First,
            Cause::Restart => Rank::Restart,
            Cause::First | Cause::Asked | Cause::File | Cause::RollBack => Rank::Candidate,
        }
    }

    /// Whether there still is a listener on which the last generation that served accepted.
    fn has_accepted_on_any(&self) -> bool {
        let mut accepted = self.counting.accepted.iter();
        accepted.any(|listener| self.listeners.has(*listener))
    }

    /// Captured sockets on which it did not listen at the last look.
    pub(super) fn note_bound(&mut self, generation: Generation, now: Time) {
        let held = self.listeners.sockets_of(generation);
        let listening = held.iter().filter(|held| held.captured && held.listens);
        let listening: Vec<_> = listening.map(|held| held.listener).collect();
        if let Some(one) = self.generations.get_mut(&generation) {
            for listener in listening {
                if one.server.is_adopted() || one.has_bound_to(listener) {
                    one.bound.entry(listener).or_insert(now);
                }
            }
        }
    }

    pub(super) fn serving_generation(&self) -> Option<(Generation, &Spawned)> {
        let mut generations = self.generations.iter();
        let (generation, one) = generations.find(|(_, one)| one.serves())?;
        Some((*generation, one))
    }

    /// Before a candidate is looked at: what the serving generation has closed no longer counts, and where it has come
    /// to accept it does.
    pub(super) fn update_counting_addresses(&mut self, now: Time) {
        let mut generations = self.generations.iter();
        let Some((generation, one)) = generations.find(|(_, one)| one.serves()) else {
            return;
        };
        let generation = *generation;
        let held = self.listeners.sockets_of(generation);
        let holds = |listener: &ListenerId| held.iter().any(|held| held.listener == *listener);
        let mut counting = std::mem::take(&mut self.counting);
        counting.accepted.retain(holds);
        let is_new =
            |held: &&GenerationSocket| held.listens && !counting.accepted.contains(&held.listener);
        let new = held.iter().filter(is_new).copied();
        let (late, new): (Vec<_>, Vec<_>) = new.partition(|held| Self::is_late(one, held));
        counting.looked = now;
        if !new.is_empty() {
            let accepting = ready::accepting_on(&new, &one.server.processes());
            counting.accepted.extend(accepting);
            counting.ever |= !counting.accepted.is_empty();
        }
        let since_start = |listener: &ListenerId| {
            let bound = one.bound.get(listener).copied().unwrap_or(now);
            bound.saturating_sub(one.server.started())
        };
        let late = late.iter().map(|held| held.listener);
        let unnamed = late.filter(|late| !counting.late.contains(late));
        let unnamed: Vec<_> = unnamed.map(|late| (late, since_start(&late))).collect();
        counting.late.extend(unnamed.iter().map(|(late, _)| *late));
        self.counting = counting;
        for (listener, after) in unnamed {
            let address = self.listeners.address_of(listener);
            let after = record::format_duration(after);
            self.publish(&record::Record::notice(format!(
                "{generation} began to listen on {address} {after} after its start: \
                 new versions may leave it out"
            )));
        }
    }

    /// It was bound long after the start: a port for a debugger, or for one transfer.
    fn is_late(one: &Spawned, held: &GenerationSocket) -> bool {
        // one that was assumed ready may have needed longer than that to listen at all
        let first = one.bound.values().min().filter(|_| one.accepted_nowhere);
        let since = first.copied().unwrap_or(one.server.started());
        let bound = one.bound.get(&held.listener);
        held.captured && bound.is_some_and(|bound| *bound > since + one.ready_timeout)
    }

    /// Where a candidate listens instead of an address of the generation before it. Each may have a path of its own, and
    /// lead clients there by a link. Where nothing serves, it may also take another address of the same port.
    pub(super) fn moved(&self, generation: Generation, candidate: &Spawned) -> Vec<Moved> {
        let bound = candidate.listens_on(generation, &self.listeners);
        if bound.is_empty() {
            return Vec::new();
        }
        let nothing_serves = self.serving_generation().is_none();
        let instead_of = |from: ListenerId| {
            let overlapping = || self.listeners.overlapping_instead(from, &bound);
            let path = self.listeners.path_instead(from, &bound, nothing_serves);
            let to = path.or_else(|| overlapping().filter(|_| nothing_serves));
            to.map(|to| Moved { from, to })
        };
        let all = self.listeners.ids().into_iter();
        let others = all.filter(|listener| !bound.contains(listener));
        others.filter_map(instead_of).collect()
    }

    /// Before the cut-over to it.
    pub(super) fn release_kept(&mut self, generation: Generation, now: Time) {
        let Some(one) = self.generations.get(&generation) else {
            return;
        };
        let until = one.server.started() + one.ready_timeout;
        let bound = one.listens_on(generation, &self.listeners);
        let moved = self.moved(generation, one);
        // that it listens at another path says enough, and a first one has nothing to change
        let is_said = |moved: &&Moved| {
            let is_path = self.listeners.is_path(moved.from);
            one.rank != Rank::First && !is_path
        };
        let changed: Vec<Moved> = moved.iter().filter(is_said).copied().collect();
        let moved: Vec<ListenerId> = moved.iter().map(|moved| moved.from).collect();
        for Moved { from, to } in changed {
            let [from, to] = [from, to].map(|listener| self.listeners.address_of(listener));
            self.warn(format!(
                "address changed: {generation} listens on {to} instead of {from}"
            ));
        }
        let until = (until, now);
        self.listeners
            .release_kept(generation, &bound, &moved, until);
    }

    /// Where a candidate must have a socket.
    pub(super) fn required_of(
        &self,
        generation: Generation,
        candidate: &Spawned,
        moved: &[Moved],
        now: Time,
    ) -> Vec<Required> {
        if candidate.rank == Rank::First {
            return Vec::new();
        }
        let accepted = self.counting.accepted.iter();
        let accepted = accepted.filter(|listener| self.listeners.has(**listener));
        let mut required: Vec<_> = accepted
            .map(|listener| Required {
                listener: *listener,
                need: Need::Accept,
            })
            .collect();
        if let Some((serving, one)) = self.serving_generation() {
            let held = self.listeners.sockets_of(serving);
            let listens = held.iter().filter(|held| held.captured && held.listens);
            let lasts = |held: &&GenerationSocket| {
                let bound = one.bound.get(&held.listener).copied();
                let spawned = candidate.server.started();
                bound.is_some_and(|bound| bound <= spawned || now >= bound + LASTING)
            };
            let in_time = listens
                .filter(lasts)
                .filter(|held| !Self::is_late(one, held));
            let other = in_time.filter(|held| !self.counting.accepted.contains(&held.listener));
            required.extend(other.map(|held| Required {
                listener: held.listener,
                need: Need::Listen,
            }));
        }
        for one in &mut required {
            if let Some(moved) = moved.iter().find(|moved| moved.from == one.listener) {
                *one = Required {
                    listener: moved.to,
                    need: Need::Accept,
                };
            }
        }
        // one that listens nowhere would leave out all that is served, which nobody means
        let own = candidate.sockets(generation, &self.listeners);
        if own.iter().any(|own| own.listens) {
            let optional = self.optional_for(candidate);
            required.retain(|required| !optional.contains(&required.listener));
        }
        required
    }

    /// Where it need not have a socket, as the user says.
    pub(super) fn optional_for(&self, candidate: &Spawned) -> Vec<ListenerId> {
        let patterns = self.args.optional.iter();
        let patterns: Vec<_> = patterns.chain(&candidate.waivers.without).collect();
        if patterns.is_empty() {
            return Vec::new();
        }
        let all = self.listeners.ids();
        let matches = |listener: &ListenerId| {
            let address = self.listeners.address_of(*listener);
            let directory = self.directory.path();
            let mut patterns = patterns.iter();
            patterns.any(|pattern| pattern.matches_in(directory, &address))
        };
        all.into_iter().filter(matches).collect()
    }

    /// Under `--dev`: how long the last address of a candidate is waited for once another accepts.
    pub(super) fn patience(&self) -> Option<Duration> {
        let (_, serving) = self.serving_generation()?;
        if serving.server.is_adopted() {
            // COMMAND may listen elsewhere by now
            return Some(self.args.ready_timeout / 2);
        }
        if !self.args.dev {
            return None;
        }
        let in_time = serving.server.started() + serving.ready_timeout;
        let bound = serving.bound.values().filter(|bound| **bound <= in_time);
        let first = bound.clone().min().copied().unwrap_or_default();
        let last = bound.max().copied().unwrap_or_default();
        Some((last.saturating_sub(first) * 2).max(SHORTEST_PATIENCE))
    }
}
