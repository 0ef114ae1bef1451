//! `--ready auto` and `--ready tcp`: combines what is seen of a candidate with the results of probes.

use super::auto::{Auto, Look, Proof, Shown, Sight, Verdict};
use super::probe::Probes;
use super::seen::{self, Seen};
use super::target::{Target, targets};
use super::{How, Ready, View, Wish};
use crate::listener::ListenerId;
use crate::supervisor::Time;

/// The rule of `auto`, with what it needs to look and to probe.
#[derive(Debug)]
pub struct Rule {
    pub auto: Auto,
    pub probes: Probes,
}

impl Rule {
    pub fn look(&mut self, now: Time, view: &View, wishes: &mut Vec<Wish>) -> Option<Ready> {
        self.probes.look(now);
        let targets = targets(view);
        let sought: Vec<_> = targets.iter().filter_map(|target| target.socket).collect();
        let Seen { waiting, blind } = if sought.is_empty() || self.auto.only_waits_for_word() {
            Seen::default()
        } else {
            seen::look(&(view.processes)(), &sought)
        };
        let shown = |target: &Target| match target.socket {
            Some(socket) if waiting.contains(&socket.inode) => Shown::Waits,
            Some(_) if self.probes.is_accepted(target.listener) => Shown::AcceptedAProbe,
            Some(_) => Shown::Listens,
            None => Shown::Nothing,
        };
        let sight = |target: &Target| Sight {
            listener: target.listener,
            captured: target.captured,
            probeable: target.probeable,
            shown: shown(target),
        };
        let sights: Vec<_> = targets.iter().map(sight).collect();
        let look = Look {
            sights: &sights,
            blind,
            first: view.first,
            captured: view.captured,
        };
        let (verdict, unseen) = self.auto.judge(now, &look);
        self.probes.wish(unseen, now, wishes);
        ready(verdict)
    }
}

fn ready(verdict: Verdict) -> Option<Ready> {
    match verdict {
        Verdict::Wait => None,
        Verdict::Said => Some(How::SaidReady.into()),
        Verdict::Alive => Some(How::Assumed.into()),
        Verdict::Benefit { missing } => Some(Ready {
            how: How::Assumed,
            missing,
            doubtful: true,
        }),
        Verdict::Accepts { proof, missing } => Some(Ready {
            how: match proof {
                Proof::Seen => How::Accepting,
                Proof::Probed => How::AcceptedAProbe,
                Proof::Assumed => How::Assumed,
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
    view: &View,
    wishes: &mut Vec<Wish>,
) -> Option<Ready> {
    probes.look(now);
    let mut targets = targets(view);
    targets.retain(|target| target.probeable);
    let listening = targets.iter().filter(|target| target.can_be_probed());
    let listening: Vec<ListenerId> = listening.map(|target| target.listener).collect();
    let is_ready = |target: &Target| probes.is_accepted(target.listener);
    let are_ready = !targets.is_empty() && targets.iter().all(is_ready);
    probes.wish(listening, now, wishes);
    are_ready.then(|| How::AcceptedAProbe.into())
}
