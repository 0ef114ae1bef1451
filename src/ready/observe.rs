//! `--ready auto` and `--ready tcp`: combines what is seen of a candidate with the results of probes.

use super::auto::{Auto, AutoVerdict, Evidence, Observation, ObservedListener, Proof};
use super::blocked_threads::{self, BlockedThreads};
use super::probe::Probes;
use super::target::{ReadyTarget, targets};
use super::{CandidateView, Ready, ReadyBy, ReadyRequest};
use crate::listener::ListenerId;
use crate::supervisor::Time;

/// The rule of `auto`, with what it needs to look and to probe.
#[derive(Debug)]
pub struct Observer {
    pub auto: Auto,
    pub probes: Probes,
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
        let BlockedThreads { waiting, blind } =
            if sought.is_empty() || self.auto.only_lacks_ready_message() {
                BlockedThreads::default()
            } else {
                blocked_threads::look(&(view.processes)(), &sought)
            };
        let shown = |target: &ReadyTarget| match target.socket {
            Some(socket) if waiting.contains(&socket.inode) => Evidence::Waits,
            Some(_) if self.probes.is_accepted(target.listener) => Evidence::AcceptedAProbe,
            Some(_) => Evidence::Listens,
            None => Evidence::Nothing,
        };
        let observed = |target: &ReadyTarget| ObservedListener {
            listener: target.listener,
            captured: target.captured,
            probeable: target.probeable,
            shown: shown(target),
        };
        let observed_listeners: Vec<_> = targets.iter().map(observed).collect();
        let look = Observation {
            observed_listeners: &observed_listeners,
            blind,
            first: view.first,
            captured: view.captured,
        };
        let (verdict, unseen) = self.auto.judge(now, &look);
        self.probes.request(unseen, now, requests);
        ready(verdict)
    }
}

fn ready(verdict: AutoVerdict) -> Option<Ready> {
    match verdict {
        AutoVerdict::BlockedCall => None,
        AutoVerdict::Said => Some(ReadyBy::SaidReady.into()),
        AutoVerdict::Alive => Some(ReadyBy::Assumed.into()),
        AutoVerdict::Benefit { missing } => Some(Ready {
            how: ReadyBy::Assumed,
            missing,
            doubtful: true,
        }),
        AutoVerdict::Accepts { proof, missing } => Some(Ready {
            how: match proof {
                Proof::BlockedThreads => ReadyBy::Accepting,
                Proof::Probed => ReadyBy::AcceptedAProbe,
                Proof::Assumed => ReadyBy::Assumed,
            },
            missing,
            doubtful: proof == Proof::Assumed,
        }),
    }
}

/// Probes alone: ready when every listener that can be probed has accepted one.
pub fn look_by_probes(
    probes: &mut Probes,
    now: Time,
    view: &CandidateView,
    requests: &mut Vec<ReadyRequest>,
) -> Option<Ready> {
    probes.look(now);
    let mut targets = targets(view);
    targets.retain(|target| target.probeable);
    let listening = targets.iter().filter(|target| target.can_be_probed());
    let listening: Vec<ListenerId> = listening.map(|target| target.listener).collect();
    let is_ready = |target: &ReadyTarget| probes.is_accepted(target.listener);
    let are_ready = !targets.is_empty() && targets.iter().all(is_ready);
    probes.request(listening, now, requests);
    are_ready.then(|| ReadyBy::AcceptedAProbe.into())
}
