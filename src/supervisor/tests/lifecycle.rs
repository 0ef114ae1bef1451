//! From spawn to gone: starting, proving, serving, draining.

use super::*;

#[test]
fn the_first_generation_gets_the_sockets_that_clients_wait_on() {
    let mut drill = Drill::with(policy());
    drill.at(0, Launched, &[into_target(G1)]);
    drill.at(1, Ready(G1), &[CutOver(G1)]);
    drill.at(1, CutOverDone(G1), &[]);
    drill.says(&Transition::Serving {
        generation: G1,
        cause: Cause::First,
        draining: None,
    });
    drill.serves(G1);
}

#[test]
fn old_generation_drains_only_once_the_new_one_is_ready() {
    let mut drill = Drill::serving_first_generation();
    drill.at(5, SwapAsked(None), &[CheckProgram]);
    drill.at(5, ProgramChecked(Ok(())), &[fresh(G2)]);
    drill.serves(G1);
    drill.at(7, Ready(G2), &[CutOver(G2)]);
    drill.serves(G1);
    drill.at(7, CutOverDone(G2), &[Empty(G1)]);
    drill.says(&serving(G2, G1));
    drill.serves(G2);
}

#[test]
fn words_follow_deeds_and_answers_follow_words() {
    let mut drill = Drill::starting_second_generation();
    drill.at(7, Ready(G2), &[CutOver(G2)]);
    drill.at_in_full(
        7,
        CutOverDone(G2),
        &[
            Empty(G1),
            Serve(G2),
            Action::Announce(serving(G2, G1)),
            answered(&[ANN], G2, G1),
        ],
    );
    drill.at(8, SwapAsked(Some(BOB)), &[CheckProgram]);
    let failure = aborted(G3, Reason::NotFit("it is empty".into()), G2);
    drill.at_in_full(
        8,
        ProgramChecked(Err("it is empty".into())),
        &[
            Action::Announce(Transition::Failed(failure.clone())),
            refused(&[BOB], failure),
        ],
    );
}

#[test]
fn the_stop_signal_waits_for_the_queue_then_for_the_connections() {
    let mut drill = Drill::draining_first_generation();
    drill.at(7, Queued(G1, Queue::Waiting), &[]);
    drill.at(8, Queued(G1, Queue::Empty), &[]);
    drill.at(9, Queued(G1, Queue::Settled), &[Quiesce(G1)]);
    drill.at(10, Quiet(G1), &[Stop(G1)]);
    drill.at(11, Died(G1, Exit::Signal(15)), &[]);
    drill.at(11, Gone(G1), &[]);
    drill.says(&Transition::Gone {
        generation: G1,
        exit: Some(Exit::Signal(15)),
    });
    assert_eq!(drill.supervisor.deadline(), None);
}

#[test]
fn a_full_queue_is_waited_for_until_two_seconds_are_left() {
    let mut drill = Drill::draining_first_generation();
    drill.at(7, Queued(G1, Queue::Waiting), &[]);
    drill.elapses_at(7 + 28, &[Relay(G1), Quiesce(G1)]);
    drill.at(7 + 28, Quiet(G1), &[Stop(G1)]);
    drill.elapses_at(7 + 30, &[Kill(G1)]);
    drill.says(&Transition::DrainTimeout(G1));
}

/// Its last clients were accepted from the queue a moment ago.
#[test]
fn what_is_in_hand_when_the_queue_took_all_the_time_has_half_of_what_is_left() {
    let mut drill = Drill::draining_first_generation();
    drill.at(7, Queued(G1, Queue::Waiting), &[]);
    drill.elapses_at(7 + 28, &[Relay(G1), Quiesce(G1)]);
    drill.elapses_at(7 + 29, &[Stop(G1)]);
    drill.elapses_at(7 + 30, &[Kill(G1)]);
}

#[test]
fn a_queue_that_does_not_move_is_relayed_before_the_stop_signal() {
    let mut drill = Drill::draining_first_generation();
    drill.at(7, Queued(G1, Queue::Waiting), &[]);
    drill.at(10, Queued(G1, Queue::Stuck), &[Relay(G1), Quiesce(G1)]);
    drill.at(10, Quiet(G1), &[Stop(G1)]);
}

#[test]
fn a_short_drain_timeout_is_halved_between_queue_and_stop() {
    let mut drill = Drill::draining_with(Policy {
        drain_timeout: seconds(2),
        ..policy()
    });
    drill.elapses_at(8, &[Relay(G1), Quiesce(G1)]);
    drill.at_time(Duration::from_millis(8500), Elapsed, &[Stop(G1)]);
    drill.elapses_at(9, &[Kill(G1)]);
}

#[test]
fn open_handshakes_are_waited_for_three_seconds() {
    let mut drill = Drill::draining_first_generation();
    drill.at(7, Queued(G1, Queue::Empty), &[]);
    drill.elapses_at(10, &[Quiesce(G1)]);
}

#[test]
fn busy_connections_are_waited_for_as_long_as_quiesce_says() {
    let mut drill = Drill::draining_first_generation();
    drill.at(8, Queued(G1, Queue::Settled), &[Quiesce(G1)]);
    drill.elapses_at(18, &[Stop(G1)]);
    drill.elapses_at(37, &[Kill(G1)]);
}

#[test]
fn quiescing_leaves_time_for_the_stop_signal() {
    let mut drill = Drill::draining_with(Policy {
        quiesce: seconds(60),
        ..policy()
    });
    drill.at(8, Queued(G1, Queue::Settled), &[Quiesce(G1)]);
    drill.elapses_at(35, &[Stop(G1)]);
}

#[test]
fn sigkill_is_repeated_and_at_last_given_up() {
    let mut drill = Drill::draining_first_generation();
    drill.at(8, Queued(G1, Queue::Settled), &[Quiesce(G1)]);
    drill.at(8, Quiet(G1), &[Stop(G1)]);
    for second in 37..47 {
        drill.elapses_at(second, &[Kill(G1)]);
    }
    drill.elapses_at(47, &[]);
    drill.says(&Transition::Unkillable(G1));
    assert_eq!(drill.said.len(), 1, "it is not gone: {:?}", drill.said);
    assert_eq!(drill.supervisor.deadline(), None);
}

#[test]
fn a_candidate_that_crashes_changes_nothing() {
    let mut drill = Drill::starting_second_generation();
    let reason = Reason::Exited(crash(), seconds(1));
    drill.at(
        6,
        Died(G2, crash()),
        &[refused(&[ANN], aborted(G2, reason.clone(), G1))],
    );
    drill.says(&Transition::Failed(aborted(G2, reason, G1)));
    drill.serves(G1);
    drill.at(6, Gone(G2), &[]);
    assert_eq!(drill.supervisor.deadline(), None);
}

#[test]
fn a_candidate_that_hangs_is_given_up_and_ended() {
    let mut drill = Drill::starting_second_generation();
    let reason = Reason::NotReady(seconds(30));
    drill.elapses_at(35, &[Stop(G2), refused(&[ANN], aborted(G2, reason, G1))]);
    drill.serves(G1);
    drill.elapses_at(37, &[Kill(G2)]);
    drill.at(38, Died(G2, Exit::Signal(9)), &[]);
    drill.at(38, Gone(G2), &[]);
    drill.serves(G1);
}

#[test]
fn readiness_that_comes_too_late_is_no_news() {
    let mut drill = Drill::starting_second_generation();
    let failure = aborted(G2, Reason::NotReady(seconds(30)), G1);
    drill.at(35, Elapsed, &[Stop(G2), refused(&[ANN], failure)]);
    drill.at(36, Ready(G2), &[]);
    drill.serves(G1);
}

#[test]
fn a_program_that_is_not_complete_is_never_spawned() {
    let mut drill = Drill::serving_first_generation();
    drill.at(5, SwapAsked(Some(ANN)), &[CheckProgram]);
    let failure = aborted(G2, Reason::NotFit("it is empty".into()), G1);
    drill.at(
        5,
        ProgramChecked(Err("it is empty".into())),
        &[refused(&[ANN], failure)],
    );
    drill.serves(G1);
}

#[test]
fn a_program_that_is_being_written_is_waited_for_as_long_as_readiness() {
    let mut drill = Drill::serving_first_generation();
    drill.at(5, SwapAsked(None), &[CheckProgram]);
    drill.elapses_at(35, &[]);
    drill.serves(G1);
}

#[test]
fn what_cannot_be_spawned_is_an_abort_without_signals() {
    let mut drill = Drill::starting_second_generation();
    let failure = aborted(G2, Reason::CannotSpawn("out of processes".into()), G1);
    drill.at(
        5,
        CannotSpawn(G2, "out of processes".into()),
        &[refused(&[ANN], failure)],
    );
    assert_eq!(drill.supervisor.deadline(), None);
}

#[test]
fn a_cut_over_that_fails_is_taken_back() {
    let mut drill = Drill::starting_second_generation();
    drill.at(7, Ready(G2), &[CutOver(G2)]);
    let failure = aborted(G2, Reason::CannotCutOver("no memory".into()), G1);
    drill.at(
        7,
        CannotCutOver(G2, "no memory".into()),
        &[CutOver(G1), Stop(G2), refused(&[ANN], failure)],
    );
    drill.serves(G1);
}

#[test]
fn the_verdict_waits_until_the_new_one_has_proved_itself() {
    let mut drill = Drill::proving_second_generation();
    drill.elapses_at(10, &[Empty(G1), answered(&[ANN], G2, G1)]);
    drill.serves(G2);
}

#[test]
fn the_first_generation_does_not_prove() {
    let mut drill = Drill::with(Policy {
        min_ready: seconds(3),
        ..policy()
    });
    drill.at(0, Launched, &[into_target(G1)]);
    drill.at(1, Ready(G1), &[CutOver(G1)]);
    drill.at(1, CutOverDone(G1), &[]);
    drill.serves(G1);
}

#[test]
fn a_crash_while_proving_cuts_back_first() {
    let mut drill = Drill::proving_second_generation();
    let reason = Reason::Exited(crash(), seconds(2));
    let failure = Failure {
        rolled_back: true,
        ..aborted(G2, reason, G1)
    };
    drill.at(
        9,
        Died(G2, crash()),
        &[CutOver(G1), refused(&[ANN], failure)],
    );
    drill.serves(G1);
}

#[test]
fn the_new_one_still_has_to_prove_itself_if_the_old_one_dies() {
    let mut drill = Drill::proving_second_generation();
    let verdict = Verdict::Serving {
        generation: G2,
        replaced: None,
    };
    drill.at(8, Died(G1, crash()), &[]);
    drill.elapses_at(10, &[Answer(vec![ANN], verdict)]);
    drill.serves(G2);
}

#[test]
fn what_was_asked_for_has_to_prove_itself_though_nothing_serves() {
    let mut drill = Drill::starting_with(Policy {
        min_ready: seconds(3),
        ..policy()
    });
    drill.at(6, Died(G1, crash()), &[Inherit(G2)]);
    drill.at(6, CutOverDone(G2), &[]);
    drill.at(7, Ready(G2), &[CutOver(G2)]);
    drill.at(7, CutOverDone(G2), &[]);
    drill.says(&Transition::Proving(G2));
}

#[test]
fn the_last_good_program_runs_again_if_both_die() {
    let mut drill = Drill::proving_second_generation();
    drill.at(8, Died(G1, crash()), &[]);
    let failure = Failure {
        rolled_back: true,
        keeps_serving: None,
        ..aborted(G2, Reason::Exited(crash(), seconds(2)), G1)
    };
    drill.at(9, Died(G2, crash()), &[refused(&[ANN], failure)]);
    drill.at(9, Gone(G2), &[again(G3)]);
}

#[test]
fn what_has_not_proven_itself_is_rolled_back() {
    let mut drill = Drill::proving_second_generation();
    let why = || "it is suspended by SIGSTOP".to_owned();
    let failure = Failure {
        rolled_back: true,
        ..aborted(G2, Reason::NotProven(why()), G1)
    };
    let unproven = [CutOver(G1), Stop(G2), refused(&[ANN], failure)];
    drill.at(10, Event::Unproven(G2, why()), &unproven);
    drill.at(10, Event::Unproven(G2, why()), &[]);
    drill.serves(G1);
}

#[test]
fn the_oldest_is_killed_when_too_many_drain() {
    let mut drill = Drill::draining_with(Policy {
        max_draining: 1,
        ..policy()
    });
    drill.at(7, SwapAsked(None), &[CheckProgram]);
    drill.at(7, ProgramChecked(Ok(())), &[fresh(G3)]);
    drill.at(8, Ready(G3), &[CutOver(G3)]);
    drill.at(8, CutOverDone(G3), &[Empty(G2), Kill(G1)]);
    drill.says(&Transition::KilledEarly(G1));
    // The one that is killed may take its time, and is no reason to kill another.
    drill.at(8, SwapAsked(None), &[CheckProgram]);
    drill.at(8, ProgramChecked(Ok(())), &[fresh(G4)]);
    drill.at(8, Ready(G4), &[CutOver(G4)]);
    drill.at(8, CutOverDone(G4), &[Empty(G3), Kill(G2)]);
}

#[test]
fn stop_first_lets_clients_wait_in_the_queue_of_the_next() {
    let mut drill = Drill::making_room();
    drill.at(6, Queued(G1, Queue::Settled), &[Quiesce(G1)]);
    drill.at(6, Quiet(G1), &[Stop(G1)]);
    drill.at(7, Died(G1, Exit::Status(0)), &[]);
    drill.at(7, Gone(G1), &[into_target(G2)]);
    drill.at(8, Ready(G2), &[CutOver(G2)]);
    let verdict = Verdict::Serving {
        generation: G2,
        replaced: None,
    };
    drill.at(8, CutOverDone(G2), &[Answer(vec![ANN], verdict)]);
}

#[test]
fn stop_first_runs_the_old_one_again_when_the_new_one_fails() {
    let mut drill = Drill::making_room();
    drill.at(7, Died(G1, Exit::Status(0)), &[]);
    drill.at(7, Gone(G1), &[into_target(G2)]);
    let reason = Reason::Exited(crash(), seconds(1));
    let failure = Failure {
        generation: G2,
        cause: Cause::Asked,
        reason,
        rolled_back: false,
        keeps_serving: None,
    };
    drill.at(8, Died(G2, crash()), &[refused(&[ANN], failure)]);
    drill.says(&Transition::FallingBack { to: G1 });
    drill.at(8, Gone(G2), &[again(G3)]);
}

#[test]
fn logs_are_reopened_by_all_that_live() {
    let mut drill = Drill::draining_first_generation();
    drill.at(8, ReopenAsked, &[Reopen(G1), Reopen(G2)]);
    drill.at(9, Died(G1, Exit::Status(0)), &[]);
    drill.at(9, ReopenAsked, &[Reopen(G2)]);
}

#[test]
fn a_generation_is_called_by_its_number() {
    assert_eq!(G2.to_string(), "generation 2");
}
