//! Beside what a hotswap that is gone has left: the first generation served, and the second was its candidate or drained.

use super::*;

/// The third is the first of this hotswap, and starts.
fn beside_orphans(policy: Policy) -> Drill {
    let mut drill = Drill::with(policy.clone());
    drill.supervisor = Supervisor::adopting(policy, Time::ZERO, G1, vec![G2]);
    drill.serves(G1);
    drill.at(0, Launched, &[fresh(G3)]);
    drill
}

fn becomes_ready(drill: &mut Drill, generation: Generation, drains: &[Action]) {
    drill.at(9, Ready(generation), &[CutOver(generation)]);
    drill.at(9, CutOverDone(generation), drains);
    drill.serves(generation);
}

fn restarting(restart: RestartPolicy) -> Policy {
    Policy {
        restart,
        ..policy()
    }
}

#[test]
fn all_of_them_drain_once_another_serves() {
    let mut drill = beside_orphans(policy());
    becomes_ready(&mut drill, G3, &[Empty(G2), Empty(G1)]);
    drill.says(&Transition::Serving {
        generation: G3,
        cause: Cause::First,
        draining: Some(G1),
    });
    assert_eq!(drill.supervisor.orphans(), []);
}

#[test]
fn they_keep_serving_if_the_first_start_fails() {
    let mut drill = beside_orphans(policy());
    drill.at(1, Died(G3, Exit::Status(7)), &[]);
    drill.at(1, Gone(G3), &[End(7)]);
    let mut drill = beside_orphans(restarting(RestartPolicy::Never));
    drill.at(1, CannotSpawn(G3, "out of memory".into()), &[End(125)]);
}

#[test]
fn the_first_start_is_tried_again_beside_them() {
    let mut drill = beside_orphans(restarting(RestartPolicy::Always));
    drill.at(1, Died(G3, crash()), &[fresh(G4)]);
    drill.serves(G1);
    becomes_ready(&mut drill, G4, &[Empty(G2), Empty(G1)]);
}

#[test]
fn an_upgrade_while_a_change_is_waited_for_forgets_none_of_them() {
    let dev = restarting(RestartPolicy::OnChange);
    let mut drill = beside_orphans(dev.clone());
    drill.at(1, Died(G3, crash()), &[]);
    drill.at(1, Gone(G3), &[]);
    drill.at(2, UpgradeAsked, &[upgrade()]);
    drill.supervisor = Supervisor::restore(dev, drill.supervisor.saved_state());
    assert_eq!(drill.supervisor.orphans(), [G2]);
    drill.at(3, FileChanged, &[CheckProgram]);
    drill.at(3, ProgramChecked(Ok(())), &[fresh(G4)]);
    becomes_ready(&mut drill, G4, &[Empty(G2), Empty(G1)]);
}

#[test]
fn one_that_is_gone_is_drained_no_more() {
    let mut drill = beside_orphans(policy());
    drill.at(1, Died(G2, Exit::Unknown), &[]);
    let is_gone = Announce(Transition::Gone {
        generation: G2,
        exit: None,
    });
    drill.at_in_full(1, Gone(G2), &[is_gone, Free(G2)]);
    drill.at_in_full(1, Gone(G2), &[]);
    becomes_ready(&mut drill, G3, &[Empty(G1)]);
}

#[test]
fn one_that_is_left_alone_does_not_drain() {
    let mut drill = beside_orphans(policy());
    drill.at(1, Ready(G3), &[CutOver(G3)]);
    drill.at_in_full(1, Event::LeftAlone(G1), &[Free(G1)]);
    drill.at(1, CutOverDone(G3), &[Empty(G2)]);
    drill.says(&Transition::Serving {
        generation: G3,
        cause: Cause::First,
        draining: None,
    });
    let mut drill = beside_orphans(policy());
    drill.at(1, Ready(G3), &[CutOver(G3)]);
    drill.at_in_full(1, Event::LeftAlone(G2), &[Free(G2)]);
    drill.at(1, CutOverDone(G3), &[Empty(G1)]);
}

#[test]
fn the_candidate_gets_the_clients_of_the_one_that_served_and_died() {
    let mut drill = beside_orphans(policy());
    drill.at(1, Died(G1, Exit::Unknown), &[Inherit(G3)]);
    drill.at(1, Gone(G1), &[]);
    becomes_ready(&mut drill, G3, &[Empty(G2)]);
}

#[test]
fn a_stop_drains_them_too() {
    let mut drill = beside_orphans(policy());
    let drained = [TURN_AWAY, Stop(G3), Empty(G2), Empty(G1)];
    drill.at(1, StopAsked(None), &drained);
    for one in [G1, G2] {
        drill.at(1, Died(one, Exit::Unknown), &[]);
        drill.at(1, Gone(one), &[]);
    }
    drill.at(1, Gone(G3), &[End(0)]);
}

#[test]
fn their_logs_are_reopened_too() {
    let mut drill = beside_orphans(policy());
    drill.at(1, ReopenAsked, &[Reopen(G2), Reopen(G1), Reopen(G3)]);
}
