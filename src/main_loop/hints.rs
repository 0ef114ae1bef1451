//! What may be why a generation failed, and what to try: from what was seen of it and of the one that serves.

use super::World;
use crate::capture::{Capture, START_THERE};
use crate::cli::options::Stdin;
use crate::connections::inet::ended_from_here;
use crate::escape::divide_hint;
use crate::ready::NotReadyReason;
use crate::socket::generation_socket::SocketKind;
use crate::socket::inet::Family;
use crate::supervisor::{Exit, Failure, Generation, Reason, Time};
use crate::sys;

/// How often a server asks at its own address at most, before it gives up: CherryPy does for 5s, ten times a second.
const MOST_TRIES: usize = 64;

impl World {
    /// What is said of a failure, with what may be why and what to try. `seen` is what was seen of it last.
    pub(super) fn explained(
        &self,
        text: String,
        failure: &Failure,
        seen: Option<&NotReadyReason>,
    ) -> String {
        let (bare, _) = divide_hint(&text);
        if let Some(hint) = seen.and_then(|seen| self.hint_at(failure, seen)) {
            format!("{text}\ntry: {hint}")
        } else if self.is_in_other_network(failure) {
            format!("{bare}\ntry: {START_THERE}")
        } else if let Some(address) = self.answered_itself(failure) {
            format!(
                "{bare}; it bound nothing, and meanwhile something connected to {address}, where the serving generation answered: perhaps its own check\n\
                 try: --listen {address}, for a server that takes its socket from there"
            )
        } else {
            text
        }
    }

    /// Tools that watch or bundle end with 0 at the end of their stdin, and say nothing.
    pub(super) fn hint_at_stdin(&mut self, generation: Generation, exit: &Exit, at_once: bool) {
        let at_once = at_once && generation == Generation(1);
        if at_once && *exit == Exit::Status(0) && self.args.stdin == Stdin::Null {
            self.warn(format!(
                "{generation} ended with status 0 at once, and its stdin is /dev/null\ntry: --stdin open, if it ends when its stdin does"
            ));
        }
    }

    /// What was seen of it last.
    pub(super) fn not_ready_reason(&self, failure: &Failure) -> Option<NotReadyReason> {
        let Reason::NotReady(_) = failure.reason else {
            return None;
        };
        let one = self.generations.get(&failure.generation)?;
        let readiness = one.readiness.as_ref()?;
        readiness.not_ready_reason(&|listener| self.listeners.address_of(listener))
    }

    /// In every mode: what it said of itself is often why.
    pub(super) fn with_last_words(&self, generation: Generation, seen: &NotReadyReason) -> String {
        let one = self.generations.get(&generation);
        match one.and_then(|one| one.notify.last_words()) {
            Some(said) => format!("{seen} ({said})"),
            None => seen.to_string(),
        }
    }

    /// A command that asks the candidate at the address it is told may reach nobody.
    fn hint_at_command(&self) -> Option<String> {
        let (way, why) = match self.listeners.lead_to_one() {
            Some(true) => return None,
            Some(false) => (
                "--ready auto",
                "which cannot lead to a socket that all generations share",
            ),
            None => (
                "--listen ADDR",
                "which leads only to a socket that hotswap has",
            ),
        };
        Some(format!(
            "{way}, if the command asks at HOTSWAP_CANDIDATE, {why}"
        ))
    }

    fn hint_at(&self, failure: &Failure, seen: &NotReadyReason) -> Option<String> {
        if matches!(seen, NotReadyReason::CommandEnded(_)) {
            return self.hint_at_command();
        }
        let hint = seen.hint(failure.keeps_serving.is_none())?;
        let NotReadyReason::DoesNotAccept(missing) = seen else {
            return Some(hint);
        };
        let other = self.listens_instead(failure);
        if other.is_none() && self.took_another_port(failure) {
            let address = missing.first()?;
            return Some(format!(
                "the server's option to fail if its port is in use, instead of taking another, or --listen {address}, \
                 for a server that can inherit a socket"
            ));
        }
        let accepted = self.counting.accepted.iter();
        let mut accepted = accepted.map(|listener| self.listeners.address_of(*listener));
        if other.is_none() && accepted.all(|address| missing.contains(&address)) {
            // without these it would serve nobody
            return None;
        }
        let port = |address: &str| Some(address.rsplit_once(':')?.1.to_owned());
        Some(match (other, missing.as_slice()) {
            (Some(other), [address]) if port(&other) == port(address) => {
                format!("{hint}, if it has moved to {other}")
            }
            (Some(other), [address]) => format!(
                "--listen {address}, if it took {other} because its port was in use and can inherit a socket, or {hint}, \
                 if it has moved there"
            ),
            (None, _) if self.opens_late(failure, missing) => {
                let optional = missing
                    .iter()
                    .map(|address| format!(" --optional {address}"));
                let optional = optional.collect::<String>();
                format!("{hint}, or{optional}, if it opens that only once it serves")
            }
            _ => hint,
        })
    }

    /// Where a candidate that never listened has found that the serving generation answers: somebody of this host
    /// asked there in its time. The kernel does not tell who, so nobody may have asked before, and few since.
    fn answered_itself(&self, failure: &Failure) -> Option<String> {
        let (Some(serving), Reason::Exited(..) | Reason::NotReady(_)) =
            (failure.keeps_serving, &failure.reason)
        else {
            return None;
        };
        let one = self.generations.get(&failure.generation)?;
        if one.has_bound {
            return None;
        }
        let within = sys::now().saturating_sub(one.server.started());
        let held = self.listeners.sockets_of(serving);
        let mut held = held.iter().filter(|held| held.captured);
        let tried = held.find(|held| {
            let SocketKind::Tcp { port } = held.kind else {
                return false;
            };
            let ended = Family::ALL.map(|family| ended_from_here(family, port).unwrap_or_default());
            let ended = ended.concat();
            (1..=MOST_TRIES).contains(&ended.len()) && ended.iter().all(|ago| *ago <= within)
        })?;
        Some(self.listeners.address_of(tried.listener))
    }

    /// Whether a candidate has bound something where hotswap cannot: the old one has that address until it is gone.
    fn is_in_other_network(&self, failure: &Failure) -> bool {
        let one = self.generations.get(&failure.generation);
        failure.keeps_serving.is_some() && one.is_some_and(|one| one.is_in_other_network)
    }

    /// Where a candidate listens that the serving generation does not: it may have taken another port because its own
    /// was in use.
    fn listens_instead(&self, failure: &Failure) -> Option<String> {
        let serving = self.listeners.sockets_of(failure.keeps_serving?);
        let served = |listener| serving.iter().any(|held| held.listener == listener);
        let own = self.listeners.sockets_of(failure.generation);
        let other = own.iter().find(|own| {
            let has_clients = matches!(own.kind, SocketKind::Tcp { .. } | SocketKind::Unix);
            has_clients && own.captured && own.listens && !served(own.listener)
        })?;
        Some(self.listeners.address_of(other.listener))
    }

    /// Whether a candidate listens on a port that the kernel has chosen, and the serving generation does not: some servers
    /// do that if their own port is in use.
    fn took_another_port(&self, failure: &Failure) -> bool {
        let has_chosen = |generation| {
            let one = self.generations.get(&generation);
            let capture = one.and_then(|one| one.capture.as_ref());
            capture.is_some_and(Capture::listens_on_chosen_port)
        };
        let serving = failure.keeps_serving;
        has_chosen(failure.generation) && !serving.is_some_and(has_chosen)
    }

    /// Whether the serving generation came to listen on these only when it served, as for its first client.
    fn opens_late(&self, failure: &Failure, missing: &[String]) -> bool {
        let serving = failure.keeps_serving;
        let Some(one) = serving.and_then(|serving| self.generations.get(&serving)) else {
            return false;
        };
        let is_late = |bound: &Time| one.serving_since.is_some_and(|since| *bound > since);
        let late = one.bound.iter().filter(|(_, bound)| is_late(bound));
        let late: Vec<_> = late.map(|(id, _)| self.listeners.address_of(*id)).collect();
        missing.iter().all(|address| late.contains(address))
    }
}
