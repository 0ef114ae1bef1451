//! Back to the program that served before, and candidates that are only checked.

use super::restarts::{dies, serves};
use super::*;

/// The same spawn, of what that generation ran.
fn running(mut spawn: Action, whose: Generation) -> Action {
    if let Action::Spawn { program, .. } = &mut spawn {
        *program = ProgramChoice::Of(whose);
    }
    spawn
}

fn of(generation: Generation, program: Generation) -> Action {
    running(fresh(generation), program)
}

#[test]
fn a_roll_back_runs_the_program_that_served_before_and_only_once() {
    let mut drill = Drill::draining_first_generation();
    drill.upgrades();
    drill.at(8, RollBackAsked(BOB, G1), &[of(G3, G1)]);
    drill.at(9, Ready(G3), &[CutOver(G3)]);
    drill.at(9, CutOverDone(G3), &[Empty(G2), answered(&[BOB], G3, G2)]);
    let why = "no other program has served before";
    drill.at(10, RollBackAsked(ANN, G1), &[Refuse(vec![ANN], why)]);
}

#[test]
fn a_roll_back_passes_over_those_that_ran_what_serves() {
    let mut drill = Drill::draining_first_generation();
    third_serves(&mut drill);
    drill.at(11, RollBackAsked(BOB, G1), &[of(G4, G1)]);
}

#[test]
fn a_roll_back_to_a_program_that_was_forgotten_meanwhile_is_to_the_last_one() {
    let mut drill = Drill::draining_first_generation();
    third_serves(&mut drill);
    drill.at(11, SameProgram(G1), &[]);
    drill.at(11, RollBackAsked(BOB, G1), &[of(G4, G2)]);
}

#[test]
fn a_program_that_serves_again_is_held_once() {
    let mut drill = Drill::draining_first_generation();
    third_serves(&mut drill);
    drill.at(11, SameProgram(G2), &[]);
    drill.upgrades();
    assert_eq!(drill.supervisor.rollback_targets(), Ok(&[G1][..]));
    drill.at(12, SameProgram(G1), &[]);
    let why = "no other program has served before";
    drill.at(12, RollBackAsked(BOB, G1), &[Refuse(vec![BOB], why)]);
}

fn third_serves(drill: &mut Drill) {
    drill.at(8, Died(G1, Exit::Status(0)), &[]);
    drill.at(8, Gone(G1), &[]);
    drill.at(9, SwapAsked(None), &[CheckProgram]);
    drill.at(9, ProgramChecked(Ok(())), &[fresh(G3)]);
    drill.at(10, Ready(G3), &[CutOver(G3)]);
    drill.at(10, CutOverDone(G3), &[Empty(G2)]);
}

#[test]
fn a_restart_after_a_roll_back_does_not_run_what_was_left() {
    let mut drill = Drill::draining_first_generation();
    drill.at(8, Died(G1, Exit::Status(0)), &[]);
    drill.at(8, Gone(G1), &[]);
    drill.at(9, RollBackAsked(BOB, G1), &[of(G3, G1)]);
    drill.at(10, Ready(G3), &[CutOver(G3)]);
    drill.at(10, CutOverDone(G3), &[Empty(G2), answered(&[BOB], G3, G2)]);
    let again = running(into_target(G4), G3);
    dies(&mut drill, 30, G3, &[again]);
    serves(&mut drill, 31, G4);
}

/// Only a restart that waits for its time gives way where nothing serves.
#[test]
fn a_roll_back_is_refused_where_nothing_serves_until_a_change() {
    let mut drill = Drill::draining_with(Policy {
        restart: RestartPolicy::OnChange,
        ..policy()
    });
    dies(&mut drill, 8, G2, &[]);
    let why = "no other program has served before";
    drill.at(9, RollBackAsked(BOB, G1), &[Refuse(vec![BOB], why)]);
}

#[test]
fn a_roll_back_waits_for_nothing_and_nothing_takes_its_place() {
    let mut drill = Drill::starting_second_generation();
    let why = "a swap is under way";
    drill.at(6, RollBackAsked(BOB, G1), &[Refuse(vec![BOB], why)]);
    let mut drill = Drill::draining_first_generation();
    drill.at(8, RollBackAsked(BOB, G1), &[of(G3, G1)]);
    drill.at(9, FileChanged, &[]);
    drill.at(9, Ready(G3), &[CutOver(G3)]);
    drill.at(
        9,
        CutOverDone(G3),
        &[Empty(G2), answered(&[BOB], G3, G2), CheckProgram],
    );
}

#[test]
fn a_candidate_that_is_only_checked_serves_if_the_serving_one_dies() {
    let mut drill = Drill::serving_first_generation();
    drill.at(5, CheckAsked(ANN), &[CheckProgram]);
    drill.at(5, ProgramChecked(Ok(())), &[fresh(G2)]);
    drill.at(6, Died(G1, crash()), &[Inherit(G2)]);
    drill.at(7, Ready(G2), &[CutOver(G2)]);
    let serving = Verdict::Serving {
        generation: G2,
        replaced: None,
    };
    drill.at(7, CutOverDone(G2), &[Answer(vec![ANN], serving)]);
    drill.serves(G2);
}

#[test]
fn a_restart_does_not_wait_for_a_candidate_that_was_only_checked() {
    let mut drill = Drill::serving_first_generation();
    drill.at(5, CheckAsked(ANN), &[CheckProgram]);
    drill.at(5, ProgramChecked(Ok(())), &[fresh(G2)]);
    let checked = Answer(vec![ANN], Verdict::Checked(G2));
    drill.at(6, Ready(G2), &[Stop(G2), checked]);
    drill.at(6, Died(G1, crash()), &[into_target(G3)]);
}

#[test]
fn a_check_that_has_not_begun_is_refused_if_the_serving_one_dies() {
    let mut drill = Drill::serving_first_generation();
    drill.at(5, CheckAsked(ANN), &[CheckProgram]);
    let refused = Refuse(vec![ANN], "nothing serves");
    drill.at(6, Died(G1, crash()), &[refused, into_target(G3)]);
}

#[test]
fn a_candidate_that_is_only_checked_is_discarded_once_it_is_ready() {
    let mut drill = Drill::serving_first_generation();
    drill.at(5, CheckAsked(ANN), &[CheckProgram]);
    drill.at(5, ProgramChecked(Ok(())), &[fresh(G2)]);
    drill.at(6, SwapAsked(Some(BOB)), &[]);
    let checked = Answer(vec![ANN], Verdict::Checked(G2));
    drill.at(7, Ready(G2), &[Stop(G2), checked, CheckProgram]);
    drill.says(&Transition::Checked(G2));
    drill.serves(G1);
    drill.at(7, ProgramChecked(Ok(())), &[fresh(G3)]);
}
