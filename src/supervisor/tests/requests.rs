//! Requests and changed files that come while something is under way.

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
fn a_stop_asks_every_generation_at_once_and_ends_once_all_are_gone() {
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
            TurnAway,
            Stop(G3),
            refused(&[BOB], unfinished.clone()),
            Stop(G1),
            Stop(G2),
        ],
    );
    drill.says(&Transition::Failed(unfinished));
    drill.at(9, SwapAsked(None), &[]);
    drill.at(9, FileChanged, &[]);
    for generation in [G3, G1, G2] {
        drill.at(10, Died(generation, Exit::Signal(15)), &[]);
    }
    drill.at(10, Gone(G3), &[]);
    drill.at(10, Gone(G1), &[]);
    drill.at(10, Gone(G2), &[End(0)]);
}

#[test]
fn a_second_signal_kills_at_once() {
    let mut drill = Drill::serving_first_generation();
    drill.at(5, StopAsked(None), &[TurnAway, Stop(G1)]);
    drill.at(6, StopAsked(None), &[Kill(G1)]);
    drill.at(6, Died(G1, Exit::Signal(9)), &[]);
    drill.at(6, Gone(G1), &[End(137)]);
}

#[test]
fn clients_that_ask_for_a_stop_again_wait_for_the_same_one() {
    let mut drill = Drill::serving_first_generation();
    drill.at(5, StopAsked(Some(ANN)), &[TurnAway, Stop(G1)]);
    drill.at(6, StopAsked(Some(BOB)), &[]);
    drill.at(7, Died(G1, Exit::Status(0)), &[]);
    drill.at(
        7,
        Gone(G1),
        &[Answer(vec![ANN, BOB], Verdict::Stopped), End(0)],
    );
}

#[test]
fn a_stop_kills_at_the_drain_timeout() {
    let mut drill = Drill::serving_first_generation();
    drill.at(5, StopAsked(None), &[TurnAway, Stop(G1)]);
    drill.elapses_at(35, &[Kill(G1)]);
}

#[test]
fn a_stop_ends_the_command_before_the_swap() {
    let mut drill = Drill::serving_with(Policy {
        before_swap: Some(seconds(600)),
        ..policy()
    });
    drill.at(5, SwapAsked(None), &[RunBeforeSwap(G2)]);
    drill.at(6, StopAsked(None), &[TurnAway, EndBeforeSwap, Stop(G1)]);
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
    drill.at(5, StopAsked(None), &[TurnAway, Stop(G1)]);
    drill.at(6, UpgradeAsked, &[RefuseUpgrade("hotswap is stopping")]);
}
