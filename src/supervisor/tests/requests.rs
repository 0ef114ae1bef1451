//! Requests and changed files that come while something is under way.

use super::restarts::dies;
use super::*;

fn replaced(generation: Generation, cause: Cause) -> Transition {
    Transition::Failed(Failure {
        cause,
        ..aborted(generation, Reason::Replaced, G1)
    })
}

#[test]
fn any_number_of_requests_while_a_swap_runs_become_one() {
    let mut drill = Drill::starting_second_generation();
    for _ in 0..100 {
        drill.at(6, SwapAsked(None), &[]);
    }
    drill.at(6, SwapAsked(Some(BOB)), &[]);
    drill.at(7, Ready(G2), &[CutOver(G2)]);
    drill.at(
        7,
        CutOverDone(G2),
        &[Empty(G1), answered(&[ANN], G2, G1), CheckProgram],
    );
    drill.at(7, ProgramChecked(Ok(())), &[fresh(G3)]);
    drill.at(8, Ready(G3), &[CutOver(G3)]);
    drill.at(8, CutOverDone(G3), &[Empty(G2), answered(&[BOB], G3, G2)]);
    assert!(drill.supervisor.swap().is_none());
}

#[test]
fn the_pending_swap_comes_after_an_abort_too() {
    let mut drill = Drill::starting_second_generation();
    drill.at(6, SwapAsked(Some(BOB)), &[]);
    let failure = aborted(G2, Reason::Exited(crash(), seconds(1)), G1);
    drill.at(
        6,
        Died(G2, crash()),
        &[refused(&[ANN], failure), CheckProgram],
    );
}

#[test]
fn a_request_replaces_a_candidate_that_a_file_change_started() {
    let mut drill = Drill::serving_first_generation();
    drill.at(5, FileChanged, &[CheckProgram]);
    drill.at(5, ProgramChecked(Ok(())), &[fresh(G2)]);
    drill.at(6, SwapAsked(Some(ANN)), &[Stop(G2), CheckProgram]);
    drill.says(&replaced(G2, Cause::File));
    drill.at(6, ProgramChecked(Ok(())), &[fresh(G3)]);
    drill.at(7, SwapAsked(Some(BOB)), &[]);
    drill.at(8, Ready(G3), &[CutOver(G3)]);
    drill.at(
        8,
        CutOverDone(G3),
        &[Empty(G1), answered(&[ANN], G3, G1), CheckProgram],
    );
}

#[test]
fn a_file_change_replaces_the_candidate_and_those_who_wait_wait_on() {
    let mut drill = Drill::starting_second_generation();
    drill.at(6, FileChanged, &[Stop(G2), CheckProgram]);
    drill.says(&replaced(G2, Cause::Asked));
    drill.at(6, ProgramChecked(Ok(())), &[fresh(G3)]);
    drill.at(7, Ready(G3), &[CutOver(G3)]);
    drill.at(7, CutOverDone(G3), &[Empty(G1), answered(&[ANN], G3, G1)]);
}

#[test]
fn replacing_ends_at_the_ready_timeout_of_the_first() {
    let mut drill = Drill::starting_second_generation();
    drill.at(20, FileChanged, &[Stop(G2), CheckProgram]);
    drill.at(20, ProgramChecked(Ok(())), &[fresh(G3)]);
    drill.at(21, Died(G2, Exit::Signal(15)), &[]);
    drill.at(21, Gone(G2), &[]);
    drill.at(35, FileChanged, &[]);
    drill.at(37, Ready(G3), &[CutOver(G3)]);
    drill.at(
        37,
        CutOverDone(G3),
        &[Empty(G1), answered(&[ANN], G3, G1), CheckProgram],
    );
}

#[test]
fn a_request_joins_a_swap_that_has_not_spawned_yet() {
    let mut drill = Drill::serving_first_generation();
    drill.at(5, SwapAsked(Some(ANN)), &[CheckProgram]);
    drill.at(6, SwapAsked(Some(BOB)), &[]);
    drill.at(7, ProgramChecked(Ok(())), &[fresh(G2)]);
    drill.at(8, Ready(G2), &[CutOver(G2)]);
    drill.at(
        8,
        CutOverDone(G2),
        &[Empty(G1), answered(&[ANN, BOB], G2, G1)],
    );
}

#[test]
fn a_candidate_that_replaces_another_is_the_pending_swap_too() {
    let mut drill = Drill::starting_second_generation();
    drill.at(6, SwapAsked(Some(BOB)), &[]);
    drill.at(7, FileChanged, &[Stop(G2), CheckProgram]);
    drill.at(7, ProgramChecked(Ok(())), &[fresh(G3)]);
    drill.at(8, Ready(G3), &[CutOver(G3)]);
    drill.at(
        8,
        CutOverDone(G3),
        &[Empty(G1), answered(&[BOB, ANN], G3, G1)],
    );
    assert!(drill.supervisor.swap().is_none());
}

#[test]
fn a_first_generation_that_is_not_seen_listening_has_time_to_count_as_ready() {
    let mut drill = Drill::with(Policy {
        unwatched: true,
        ..policy()
    });
    drill.at(0, Launched, &[into_target(G1)]);
    drill.at(6, SwapAsked(Some(ANN)), &[]);
    drill.at(10, Ready(G1), &[CutOver(G1)]);
    drill.at(10, CutOverDone(G1), &[CheckProgram]);
    let mut drill = Drill::with(Policy {
        unwatched: true,
        ..policy()
    });
    drill.at(0, Launched, &[into_target(G1)]);
    drill.at(6, SwapAsked(Some(ANN)), &[]);
    drill.elapses_at(12, &[Stop(G1), CheckProgram]);
}

#[test]
fn what_the_command_before_a_swap_writes_belongs_to_this_swap() {
    let mut drill = Drill::serving_with(Policy {
        before_swap: Some(seconds(600)),
        ..policy()
    });
    drill.at(5, SwapAsked(None), &[RunBeforeSwap(G2)]);
    drill.at(6, FileChanged, &[]);
    drill.at(7, BeforeSwapEnded(Ok(())), &[CheckProgram]);
    drill.at(7, ProgramChecked(Ok(())), &[fresh(G2)]);
    drill.at(8, Ready(G2), &[CutOver(G2)]);
    drill.at(8, CutOverDone(G2), &[Empty(G1)]);
    assert!(drill.supervisor.swap().is_none());
}

#[test]
fn a_command_before_the_swap_that_fails_aborts_it() {
    let mut drill = Drill::serving_with(Policy {
        before_swap: Some(seconds(600)),
        ..policy()
    });
    drill.at(5, SwapAsked(Some(ANN)), &[RunBeforeSwap(G2)]);
    let failure = aborted(G2, Reason::BeforeSwap("status 1".into()), G1);
    drill.at(
        7,
        BeforeSwapEnded(Err("status 1".into())),
        &[refused(&[ANN], failure)],
    );
    drill.serves(G1);
}

#[test]
fn a_command_before_the_swap_has_a_deadline() {
    let mut drill = Drill::serving_with(Policy {
        before_swap: Some(seconds(600)),
        ..policy()
    });
    drill.at(5, SwapAsked(None), &[RunBeforeSwap(G2)]);
    drill.elapses_at(605, &[EndBeforeSwap]);
    drill.says(&Transition::Failed(aborted(
        G2,
        Reason::BeforeSwapTooLong(seconds(600)),
        G1,
    )));
}

#[test]
fn a_stop_is_a_drain_of_every_generation_and_ends_once_all_are_gone() {
    let mut drill = Drill::draining_first_generation();
    drill.at(8, SwapAsked(Some(BOB)), &[CheckProgram]);
    drill.at(8, ProgramChecked(Ok(())), &[fresh(G3)]);
    let unfinished = Failure {
        generation: G3,
        cause: Cause::Asked,
        reason: Reason::Stopping,
        rolled_back: false,
        keeps_serving: None,
    };
    drill.at(
        9,
        StopAsked(None),
        &[
            TURN_AWAY,
            Stop(G3),
            refused(&[BOB], unfinished.clone()),
            Empty(G2),
        ],
    );
    drill.says(&Transition::Failed(unfinished));
    drill.at(9, SwapAsked(None), &[]);
    drill.at(9, FileChanged, &[]);
    drill.at(9, Queued(G1, Queue::Settled), &[Quiesce(G1)]);
    drill.at(10, Queued(G2, Queue::Settled), &[Quiesce(G2)]);
    drill.at(11, Quiet(G2), &[Stop(G2)]);
    drill.elapses_at(11, &[Kill(G3)]);
    drill.at(12, Elapsed, &[Kill(G3)]);
    drill.at(14, Elapsed, &[Stop(G1), Kill(G3)]);
    for generation in [G3, G1, G2] {
        drill.at(15, Died(generation, Exit::Signal(15)), &[]);
    }
    drill.at(15, Gone(G3), &[]);
    drill.at(15, Gone(G1), &[]);
    drill.at(15, Gone(G2), &[End(0)]);
}

#[test]
fn a_stop_gives_requests_less_time_than_a_swap_and_an_interrupt_even_less() {
    let mut drill = Drill::serving_first_generation();
    drill.at(5, StopAsked(None), &[TURN_AWAY, Empty(G1)]);
    drill.at(6, Queued(G1, Queue::Settled), &[Quiesce(G1)]);
    drill.elapses_at(11, &[Stop(G1)]);
    let mut drill = Drill::serving_first_generation();
    drill.at(5, Interrupted, &[TURN_AWAY, Empty(G1)]);
    drill.at(6, Queued(G1, Queue::Settled), &[Quiesce(G1)]);
    drill.elapses_at(7, &[Stop(G1)]);
}

#[test]
fn one_that_drains_already_keeps_its_deadline_at_a_stop() {
    let mut drill = Drill::draining_first_generation();
    drill.at(8, Queued(G1, Queue::Settled), &[Quiesce(G1)]);
    drill.at(10, StopAsked(None), &[TURN_AWAY, Empty(G2)]);
    drill.elapses_at(15, &[Stop(G1)]);
    drill.elapses_at(37, &[Kill(G1)]);
}

#[test]
fn a_candidate_that_proves_itself_drains_at_a_stop() {
    let mut drill = Drill::proving_second_generation();
    let unfinished = Failure {
        generation: G2,
        cause: Cause::Asked,
        reason: Reason::Stopping,
        rolled_back: true,
        keeps_serving: None,
    };
    drill.at(
        8,
        StopAsked(None),
        &[TURN_AWAY, refused(&[ANN], unfinished), Empty(G1), Empty(G2)],
    );
}

#[test]
fn sockets_that_only_clients_of_a_swap_waited_in_are_freed_at_a_stop() {
    let mut drill = Drill::making_room();
    drill.at_in_full(
        6,
        StopAsked(None),
        &[
            TURN_AWAY,
            Action::Announce(Transition::Stopping),
            Free(G2),
            Refuse(vec![ANN], STOPPING),
        ],
    );
}

#[test]
fn at_a_stop_nothing_is_said_of_what_was_never_spawned() {
    let mut drill = Drill::starting_second_generation();
    drill.at(6, SwapAsked(Some(BOB)), &[]);
    let unfinished = Failure {
        keeps_serving: None,
        ..aborted(G2, Reason::Stopping, G1)
    };
    drill.at(
        7,
        StopAsked(None),
        &[
            TURN_AWAY,
            Stop(G2),
            refused(&[ANN], unfinished),
            Empty(G1),
            Refuse(vec![BOB], STOPPING),
        ],
    );
    drill.at(8, SwapAsked(Some(BOB)), &[Refuse(vec![BOB], STOPPING)]);

    let mut drill = Drill::serving_first_generation();
    dies(&mut drill, 5, G1, &[into_target(G2)]);
    dies(&mut drill, 5, G2, &[]);
    drill.at(5, StopAsked(None), &[TURN_AWAY, End(0)]);
    assert_eq!(drill.said, [Transition::Stopping]);

    let mut drill = Drill::serving_first_generation();
    drill.at(5, SwapAsked(Some(ANN)), &[CheckProgram]);
    drill.at(
        5,
        StopAsked(None),
        &[TURN_AWAY, Refuse(vec![ANN], STOPPING), Empty(G1)],
    );
    assert_eq!(drill.said, [Transition::Stopping]);
}

#[test]
fn a_second_signal_stops_at_once_and_a_third_one_kills() {
    let mut drill = Drill::serving_first_generation();
    drill.at(5, StopAsked(None), &[TURN_AWAY, Empty(G1)]);
    drill.at(6, StopAsked(None), &[Stop(G1)]);
    drill.at(7, StopAsked(None), &[Kill(G1)]);
    drill.at(7, Died(G1, Exit::Signal(9)), &[]);
    drill.at(7, Gone(G1), &[End(137)]);
}

#[test]
fn signals_within_a_moment_are_one() {
    let mut drill = Drill::serving_first_generation();
    drill.at(5, StopAsked(None), &[TURN_AWAY, Empty(G1)]);
    drill.at_time(Time::from_millis(5_049), StopAsked(None), &[]);
    drill.at_time(Time::from_millis(5_050), Interrupted, &[Stop(G1)]);
    drill.at_time(Time::from_millis(5_099), Interrupted, &[]);
    drill.at_time(Time::from_millis(5_100), Interrupted, &[Kill(G1)]);
}

#[test]
fn a_second_signal_kills_where_every_stop_signal_has_been_sent() {
    let mut drill = Drill::serving_first_generation();
    drill.at(5, StopAsked(None), &[TURN_AWAY, Empty(G1)]);
    drill.at(5, Queued(G1, Queue::Settled), &[Quiesce(G1)]);
    drill.at(5, Quiet(G1), &[Stop(G1)]);
    drill.at(6, Interrupted, &[Kill(G1)]);
}

#[test]
fn a_client_that_asks_for_a_stop_again_changes_nothing() {
    let mut drill = Drill::serving_first_generation();
    drill.at(5, StopAsked(Some(ANN)), &[TURN_AWAY, Empty(G1)]);
    drill.at(6, StopAsked(Some(BOB)), &[]);
    drill.at(7, Died(G1, Exit::Status(0)), &[]);
    drill.at(7, Gone(G1), &[End(0)]);
}

#[test]
fn a_stop_kills_at_the_drain_timeout() {
    let mut drill = Drill::serving_first_generation();
    drill.at(5, StopAsked(None), &[TURN_AWAY, Empty(G1)]);
    drill.elapses_at(33, &[Relay(G1), Quiesce(G1)]);
    drill.elapses_at(34, &[Stop(G1)]);
    drill.elapses_at(35, &[Kill(G1)]);
}

#[test]
fn a_stop_ends_the_command_before_the_swap() {
    let mut drill = Drill::serving_with(Policy {
        before_swap: Some(seconds(600)),
        ..policy()
    });
    drill.at(5, SwapAsked(None), &[RunBeforeSwap(G2)]);
    drill.at(6, StopAsked(None), &[TURN_AWAY, EndBeforeSwap, Empty(G1)]);
}

#[test]
fn a_request_replaces_a_candidate_that_hangs_where_no_file_tells_of_another() {
    let mut drill = Drill::starting_with(Policy {
        unwatched: true,
        ..policy()
    });
    drill.at(9, SwapAsked(Some(BOB)), &[]);
    assert_eq!(drill.postponed, [(Some(BOB), G2)]);
    drill.elapses_at(10, &[Stop(G2), CheckProgram]);
    drill.says(&replaced(G2, Cause::Asked));
    drill.at(10, ProgramChecked(Ok(())), &[fresh(G3)]);
    drill.at(11, Ready(G3), &[CutOver(G3)]);
    drill.at(
        11,
        CutOverDone(G3),
        &[Empty(G1), answered(&[BOB, ANN], G3, G1)],
    );
}

#[test]
fn a_candidate_hangs_once_it_has_taken_twice_as_long_as_any_before() {
    let starting = || {
        let mut drill = Drill::with(Policy {
            unwatched: true,
            ..policy()
        });
        drill.at(0, Launched, &[into_target(G1)]);
        drill.at(4, Ready(G1), &[CutOver(G1)]);
        drill.at(4, CutOverDone(G1), &[]);
        drill.at(5, SwapAsked(None), &[CheckProgram]);
        drill.at(5, ProgramChecked(Ok(())), &[fresh(G2)]);
        drill
    };
    let mut drill = starting();
    drill.at(12, SwapAsked(None), &[]);
    drill.elapses_at(13, &[Stop(G2), CheckProgram]);
    let mut drill = starting();
    drill.at(13, SwapAsked(None), &[Stop(G2), CheckProgram]);
}

#[test]
fn a_request_waits_for_a_candidate_that_hangs_where_files_tell_of_another() {
    let mut drill = Drill::starting_second_generation();
    drill.at(30, SwapAsked(Some(BOB)), &[]);
    assert_eq!(drill.postponed, [(Some(BOB), G2)]);
    assert_eq!(drill.supervisor.deadline(), Some(seconds(35)));
}

#[test]
fn a_changed_file_waits_where_requests_would_be_cut_for_it() {
    let mut drill = Drill::draining_with(Policy {
        max_draining: 1,
        ..policy()
    });
    drill.at(8, FileChanged, &[]);
    drill.says(&Transition::ChangeWaits);
    drill.at(9, FileChanged, &[]);
    drill.at(9, Queued(G1, Queue::Settled), &[Quiesce(G1)]);
    drill.at(10, Died(G1, Exit::Status(0)), &[]);
    drill.at(10, Gone(G1), &[CheckProgram]);
    drill.at(10, ProgramChecked(Ok(())), &[fresh(G3)]);

    let mut drill = Drill::draining_with(Policy {
        max_draining: 1,
        ..policy()
    });
    drill.at(8, FileChanged, &[]);
    drill.at(9, SwapAsked(Some(BOB)), &[CheckProgram]);
}

#[test]
fn an_upgrade_waits_until_nothing_starts() {
    let mut drill = Drill::starting_second_generation();
    drill.at(6, UpgradeAsked, &[]);
    drill.at(7, Ready(G2), &[CutOver(G2)]);
    drill.at(
        7,
        CutOverDone(G2),
        &[Empty(G1), answered(&[ANN], G2, G1), upgrade()],
    );
}

#[test]
fn an_upgrade_is_refused_while_stopping() {
    let mut drill = Drill::serving_first_generation();
    drill.at(5, StopAsked(None), &[TURN_AWAY, Empty(G1)]);
    drill.at(6, UpgradeAsked, &[RefuseUpgrade("hotswap is stopping")]);
}
