//! `--ready auto` and `--ready tcp`: combines what is seen of a candidate with the results of probes.

use std::time::Duration;

use nix::unistd::Pid;

use super::auto::{Auto, Evidence, Need, Observation, ObservedListener, Work};
use super::blocked_threads::{self, BlockedThreads, SoughtSocket};
use super::probe::Probes;
use super::target::{ReadyTarget, targets};
use super::{CandidateView, Ready, ReadyRequest, Stopped, cpu_use, outside};
use crate::listener::{GenerationSocket, ListenerId, SocketKind};
use crate::proc::process::{self, Stat};
use crate::supervisor::Time;

/// The time between two looks at the processes of a candidate beside its main one.
const OTHERS: Duration = Duration::from_millis(2);

/// The rule of `auto`, with what it needs to look and to probe.
#[derive(Debug)]
pub struct Observer {
    pub auto: Auto,
    pub probes: Probes,
    /// When all of its processes were looked at, and not the main one alone.
    pub all_seen: Time,
}

impl Observer {
    pub fn look(
        &mut self,
        now: Time,
        view: &CandidateView,
        requests: &mut Vec<ReadyRequest>,
    ) -> Option<Ready> {
        self.probes.look(now);
        let targets = targets(view);
        let sought: Vec<_> = targets.iter().filter_map(|target| target.socket).collect();
        let seen = if sought.is_empty() || self.auto.only_lacks_ready_message() {
            BlockedThreads::default()
        } else {
            self.look_for_waiting(now, view, &sought)
        };
        let evidence = |target: &ReadyTarget| match target.socket {
            Some(socket) if seen.waiting.contains(&socket.inode) => Evidence::Waits,
            Some(_) if self.probes.is_accepted(target.listener) => Evidence::AcceptedAProbe,
            Some(socket) if seen.registered.contains(&socket.inode) => Evidence::Registered,
            Some(_) => Evidence::Listens,
            None => Evidence::Nothing,
        };
        let observed = |target: &ReadyTarget| ObservedListener {
            listener: target.listener,
            need: target.need,
            captured: target.captured,
            is_path: target.captured
                && matches!(target.kind, Some(SocketKind::Unix | SocketKind::Abstract)),
            probeable: target.probeable,
            evidence: evidence(target),
        };
        let listeners: Vec<_> = targets.iter().map(observed).collect();
        let mut look = Observation {
            listeners: &listeners,
            blind: seen.blind || view.hidden,
            rank: view.rank,
            captured: view.captured,
            outside: Evidence::Nothing,
            chosen_port: view.chosen_port,
            work: None,
            patience: view.patience,
        };
        if look.may_be_private() {
            let processes = (view.processes)();
            if listeners.is_empty() {
                look.outside = outside::look(&processes);
            }
            look.work = Some(Work {
                cpu_time: cpu_use::total(&processes),
                running: processes.iter().any(|pid| is_running(*pid)),
                stopped: processes.iter().any(|pid| Stopped::of(*pid).is_some()),
            });
        }
        let (ready, unseen) = self.auto.judge(now, &look);
        self.probes.request(unseen, now, requests);
        let unsaid = self.auto.lacks_ready_message();
        ready.map(|ready| Ready { unsaid, ..ready })
    }

    /// The main process alone most of the time: it is who waits in most servers, and to find the others takes longer than
    /// to look at them.
    fn look_for_waiting(
        &mut self,
        now: Time,
        view: &CandidateView,
        sought: &[SoughtSocket],
    ) -> BlockedThreads {
        let seen = blocked_threads::look(&[view.main], sought);
        if seen.waiting.len() == sought.len() || now < self.all_seen + OTHERS {
            return seen;
        }
        self.all_seen = now;
        blocked_threads::look(&(view.processes)(), sought)
    }
}

/// Any of its threads: the first one may only wait for the others.
fn is_running(pid: Pid) -> bool {
    process::threads(pid).any(|thread| Stat::of(thread).is_some_and(|stat| stat.is_running()))
}

/// Probes every listener that it has a socket for. Where it must accept and has not, and whether it has accepted somewhere.
pub fn look_by_probes(
    probes: &mut Probes,
    now: Time,
    view: &CandidateView,
    requests: &mut Vec<ReadyRequest>,
) -> (Vec<ListenerId>, bool) {
    probes.look(now);
    let targets = targets(view);
    let listening = targets.iter().filter(|target| target.can_be_probed());
    let listening: Vec<ListenerId> = listening.map(|target| target.listener).collect();
    let accepts = |target: &ReadyTarget| probes.is_accepted(target.listener);
    // where nothing is required it must accept wherever it has a socket, unless it may leave that out
    let counts = |target: &&ReadyTarget| match view.required {
        [] => !view.optional.contains(&target.listener),
        _ => target.need != Need::Nothing,
    };
    let lacks = |target: &&ReadyTarget| {
        if target.probeable {
            !accepts(target)
        } else {
            target.captured && target.socket.is_none()
        }
    };
    let lacking = targets.iter().filter(counts).filter(lacks);
    let missing = lacking.map(|target| target.listener).collect();
    let accepted = targets.iter().any(accepts);
    probes.request(listening, now, requests);
    (missing, accepted)
}

/// The listeners on which some thread of these processes is waiting right now.
pub fn accepting_on(held: &[GenerationSocket], pids: &[Pid]) -> Vec<ListenerId> {
    let known = held.iter().filter(|held| held.kind != SocketKind::Other);
    let all: Vec<_> = known
        .map(|held| ReadyTarget::of(held, Need::Nothing, false))
        .collect();
    let sought: Vec<_> = all.iter().filter_map(|target| target.socket).collect();
    let seen = blocked_threads::look(pids, &sought);
    let is_waited_on = |target: &&ReadyTarget| {
        let socket = target.socket.as_ref();
        socket.is_some_and(|socket| seen.would_hear_on(socket.inode))
    };
    all.iter()
        .filter(is_waited_on)
        .map(|target| target.listener)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_runs_while_its_first_thread_waits() {
        // as that of a test does, for this one, once it has started it
        let since = std::time::Instant::now();
        while Stat::of(Pid::this()).unwrap().is_running() {
            assert!(since.elapsed() < Duration::from_secs(20));
            std::thread::yield_now();
        }
        assert!(is_running(Pid::this()));
    }
}
