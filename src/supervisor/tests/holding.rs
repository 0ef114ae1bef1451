//! `--hold`: from the first sign of a change, new connections wait for the next version.

use super::*;

fn holding() -> Policy {
    Policy {
        hold: true,
        ..policy()
    }
}

#[test]
fn from_a_touch_on_clients_wait_for_the_next_version() {
    let mut drill = Drill::serving_with(holding());
    drill.at(5, FileTouched, &[Hold]);
    drill.at(6, FileChanged, &[CheckProgram]);
    drill.at(6, FilesJudged, &[]);
    drill.at(6, ProgramChecked(Ok(())), &[fresh(G2)]);
    drill.at(8, Ready(G2), &[CutOver(G2)]);
    drill.at(8, CutOverDone(G2), &[Empty(G1)]);
    drill.serves(G2);
}

#[test]
fn clients_wait_from_a_request_on() {
    let mut drill = Drill::serving_with(holding());
    drill.at(5, SwapAsked(Some(ANN)), &[Hold, CheckProgram]);
    drill.at(5, ProgramChecked(Ok(())), &[fresh(G2)]);
}

#[test]
fn a_touch_that_is_no_change_lets_them_go_at_once() {
    let mut drill = Drill::serving_with(holding());
    drill.at(5, FileTouched, &[Hold]);
    drill.at(5, FileTouched, &[]);
    drill.at(6, FilesJudged, &[CutOver(G1)]);
    drill.at(6, CutOverDone(G1), &[]);
    drill.serves(G1);
}

#[test]
fn a_judgment_takes_no_longer_than_a_start_may() {
    let mut drill = Drill::serving_with(holding());
    drill.at(5, FileTouched, &[Hold]);
    drill.elapses_at(35, &[CutOver(G1)]);
    drill.at(36, FilesJudged, &[]);
}

#[test]
fn a_failed_build_gives_them_to_the_old_one() {
    let mut drill = Drill::serving_with(Policy {
        before_swap: Some(seconds(600)),
        ..holding()
    });
    drill.at(5, FileChanged, &[Hold, RunBeforeSwap(G2)]);
    let why = "exited with status 1".to_owned();
    drill.at(9, BeforeSwapEnded(Err(why)), &[CutOver(G1)]);
    drill.serves(G1);
}

#[test]
fn a_failed_candidate_gives_them_to_the_old_one() {
    let mut drill = Drill::serving_with(holding());
    drill.at(5, FileChanged, &[Hold, CheckProgram]);
    drill.at(5, ProgramChecked(Ok(())), &[fresh(G2)]);
    drill.at(6, Died(G2, crash()), &[CutOver(G1)]);
    drill.serves(G1);
}

#[test]
fn a_candidate_that_another_one_replaces_lets_nobody_go() {
    let mut drill = Drill::serving_with(holding());
    drill.at(5, FileChanged, &[Hold, CheckProgram]);
    drill.at(5, ProgramChecked(Ok(())), &[fresh(G2)]);
    drill.at(6, FileTouched, &[]);
    drill.at(7, FileChanged, &[Stop(G2), CheckProgram]);
    drill.at(7, FilesJudged, &[]);
    drill.at(7, ProgramChecked(Ok(())), &[fresh(G3)]);
    drill.at(8, Ready(G3), &[CutOver(G3)]);
}

#[test]
fn a_candidate_that_is_ready_waits_until_a_newer_change_is_judged() {
    let mut drill = Drill::serving_with(holding());
    drill.at(5, FileChanged, &[Hold, CheckProgram]);
    drill.at(5, ProgramChecked(Ok(())), &[fresh(G2)]);
    drill.at(6, FileTouched, &[]);
    drill.at(7, Ready(G2), &[]);
    drill.at(8, FilesJudged, &[CutOver(G2)]);
    drill.at(8, CutOverDone(G2), &[Empty(G1)]);
}

#[test]
fn a_candidate_that_is_ready_waits_for_a_judgment_until_its_ready_timeout() {
    let mut drill = Drill::serving_with(holding());
    drill.at(5, FileChanged, &[Hold, CheckProgram]);
    drill.at(5, ProgramChecked(Ok(())), &[fresh(G2)]);
    drill.at(6, FileTouched, &[]);
    drill.at(7, Ready(G2), &[]);
    drill.elapses_at(35, &[CutOver(G2)]);
    drill.at(35, CutOverDone(G2), &[Empty(G1)]);
}

#[test]
fn a_change_while_another_version_proves_itself_is_waited_for() {
    let mut drill = Drill::serving_with(Policy {
        min_ready: seconds(3),
        ..holding()
    });
    drill.at(5, FileChanged, &[Hold, CheckProgram]);
    drill.at(5, ProgramChecked(Ok(())), &[fresh(G2)]);
    drill.at(7, Ready(G2), &[CutOver(G2)]);
    drill.at(7, CutOverDone(G2), &[]);
    drill.at(8, FileChanged, &[Hold]);
    drill.at(9, Died(G2, crash()), &[CheckProgram]);
    drill.at(9, ProgramChecked(Ok(())), &[fresh(G3)]);
    drill.at(10, Died(G3, crash()), &[CutOver(G1)]);
    drill.serves(G1);
}

#[test]
fn at_a_stop_those_who_wait_are_answered_first() {
    let mut drill = Drill::serving_with(holding());
    drill.at(5, FileTouched, &[Hold]);
    drill.at(6, StopAsked(None), &[CutOver(G1), TURN_AWAY, Empty(G1)]);
}

#[test]
fn clients_of_a_dead_server_wait_without_being_held() {
    let mut drill = Drill::serving_with(holding());
    drill.at(5, FileTouched, &[Hold]);
    drill.at(6, Died(G1, crash()), &[into_target(G2)]);
    drill.at(6, FilesJudged, &[]);
    drill.at(7, FileTouched, &[]);
}

#[test]
fn clients_that_could_not_be_let_go_are_let_go_soon() {
    let mut drill = Drill::serving_with(holding());
    drill.at(5, FileTouched, &[Hold]);
    drill.at(6, FilesJudged, &[CutOver(G1)]);
    drill.at(6, CannotCutOver(G1, String::new()), &[]);
    drill.elapses_at(7, &[CutOver(G1)]);
}

#[test]
fn a_check_of_the_next_version_holds_nobody() {
    let mut drill = Drill::serving_with(holding());
    drill.at(5, CheckAsked(ANN), &[CheckProgram]);
    drill.at(5, ProgramChecked(Ok(())), &[fresh(G2)]);
    drill.at(6, FileTouched, &[Hold]);
    drill.at(7, FilesJudged, &[CutOver(G1)]);
}

#[test]
fn without_the_option_nobody_waits() {
    let mut drill = Drill::serving_first_generation();
    drill.at(5, FileTouched, &[]);
    drill.at(6, FileChanged, &[CheckProgram]);
    drill.at(6, FilesJudged, &[]);
}

#[test]
fn a_cut_over_that_failed_is_repeated_only_for_those_who_wait_for_the_serving_one() {
    for (policy, to) in [(policy(), G1), (holding(), G2)] {
        let mut drill = Drill::serving_with(policy);
        drill.at(6, CannotCutOver(to, "no memory".into()), &[]);
        assert_eq!(drill.supervisor.deadline(), None);
    }
}
