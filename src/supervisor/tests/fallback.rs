//! The last good program, for when the one that the path names does not even start.

use super::restarts::{dies, serves};
use super::*;

#[test]
fn the_last_good_program_is_run_when_the_restart_of_a_young_one_fails() {
    let mut drill = Drill::draining_first_generation();
    drill.at(8, Died(G1, Exit::Status(0)), &[]);
    drill.at(8, Gone(G1), &[]);
    dies(&mut drill, 9, G2, &[into_target(G3)]);
    drill.at(10, Died(G3, crash()), &[]);
    drill.says(&Transition::FallingBack { to: G1 });
    drill.at(10, Gone(G3), &[]);
    drill.upgrades();
    drill.at(11, Elapsed, &[again(G4)]);
    serves(&mut drill, 12, G4);
    dies(&mut drill, 13, G4, &[]);
    drill.at(14, Elapsed, &[again(Generation(5))]);
    serves(&mut drill, 15, Generation(5));
    drill.at(20, FileChanged, &[CheckProgram]);
    drill.at(20, ProgramChecked(Ok(())), &[fresh(Generation(6))]);
    drill.at(21, Ready(Generation(6)), &[CutOver(Generation(6))]);
    drill.at(21, CutOverDone(Generation(6)), &[Empty(Generation(5))]);
    drill.at(
        40,
        Died(Generation(6), crash()),
        &[into_target(Generation(7))],
    );
}

#[test]
fn the_last_good_program_is_run_when_a_refused_one_is_what_the_path_names() {
    let mut drill = Drill::starting_second_generation();
    drill.at(6, Ready(G2), &[CutOver(G2)]);
    let failure = aborted(G2, Reason::CannotCutOver("no memory".into()), G1);
    let refused = [CutOver(G1), Stop(G2), refused(&[ANN], failure)];
    drill.at(6, CannotCutOver(G2, "no memory".into()), &refused);
    dies(&mut drill, 7, G2, &[]);
    drill.at(20, Event::OnDisk(OnDisk::Rejected), &[]);
    drill.upgrades();
    drill.at(20, Died(G1, crash()), &[again(G3)]);
    drill.says(&Transition::FallingBack { to: G1 });
    drill.at(20, Gone(G1), &[]);
    drill.at(21, SwapAsked(None), &[]);
    drill.at(22, Ready(G3), &[CutOver(G3)]);
    drill.at(22, CutOverDone(G3), &[CheckProgram]);
}

#[test]
fn the_last_good_program_is_run_when_stop_first_has_led_to_a_bad_one() {
    let mut drill = Drill::making_room();
    drill.at(6, Died(G1, Exit::Status(0)), &[]);
    drill.at(6, Gone(G1), &[into_target(G2)]);
    let failure = Failure {
        keeps_serving: None,
        ..aborted(G2, Reason::Exited(crash(), seconds(1)), G1)
    };
    drill.at(7, Died(G2, crash()), &[refused(&[ANN], failure)]);
    drill.says(&Transition::FallingBack { to: G1 });
    drill.at(7, Gone(G2), &[again(G3)]);
}

#[test]
fn the_last_good_program_is_run_instead_of_one_that_goes_into_the_background() {
    let mut drill = Drill::draining_first_generation();
    drill.at(7, Died(G1, Exit::Status(0)), &[]);
    drill.at(7, Gone(G1), &[]);
    drill.at(7, Died(G2, Exit::Background), &[Stop(G2)]);
    drill.says(&Transition::FallingBack { to: G1 });
    drill.elapses_at(9, &[Kill(G2)]);
    drill.at(9, Gone(G2), &[again(G3)]);
}

#[test]
fn a_server_in_the_background_is_not_run_again_without_a_fallback() {
    let mut drill = Drill::draining_with(Policy {
        fallback: false,
        ..policy()
    });
    drill.at(7, Died(G1, Exit::Status(0)), &[]);
    drill.at(7, Gone(G1), &[]);
    drill.at(7, Died(G2, Exit::Background), &[Stop(G2), ENDED]);
    drill.at(7, Gone(G2), &[End(125)]);
}

#[test]
fn an_old_and_tried_generation_is_not_fallen_back_from() {
    let mut drill = Drill::draining_first_generation();
    dies(&mut drill, 17, G2, &[into_target(G3)]);
    drill.at(18, Died(G3, crash()), &[]);
    drill.at(18, Gone(G3), &[]);
    drill.at(19, Elapsed, &[into_target(G4)]);
}

#[test]
fn no_fallback_restarts_what_the_path_names() {
    let mut drill = Drill::draining_with(Policy {
        fallback: false,
        ..policy()
    });
    dies(&mut drill, 9, G2, &[into_target(G3)]);
    dies(&mut drill, 10, G3, &[]);
    drill.at(11, Elapsed, &[into_target(G4)]);
}

#[test]
fn a_request_does_not_join_a_restart_that_waits() {
    let mut drill = Drill::draining_first_generation();
    dies(&mut drill, 9, G2, &[into_target(G3)]);
    drill.at(9, Died(G1, Exit::Status(0)), &[]);
    drill.at(9, Gone(G1), &[]);
    drill.elapses_at(39, &[Stop(G3)]);
    drill.says(&Transition::FallingBack { to: G1 });
    drill.at(40, Elapsed, &[]);
    drill.at(40, SwapAsked(Some(ANN)), &[CheckProgram]);
    drill.at(40, ProgramChecked(Ok(())), &[]);
    drill.at(41, Gone(G3), &[into_target(Generation(5))]);
}

#[test]
fn a_rejected_program_is_run_again_only_once_somebody_asks() {
    let mut drill = Drill::rejecting_second_generation();
    drill.at(30, Event::OnDisk(OnDisk::Rejected), &[]);
    dies(&mut drill, 30, G1, &[again(G3)]);
    serves(&mut drill, 31, G3);
    dies(&mut drill, 60, G3, &[again(G4)]);
    serves(&mut drill, 61, G4);
    drill.at(70, SwapAsked(None), &[CheckProgram]);
    drill.at(70, ProgramChecked(Ok(())), &[fresh(Generation(5))]);
}

#[test]
fn a_program_that_takes_the_place_of_a_rejected_one_is_what_is_restarted() {
    let mut drill = Drill::rejecting_second_generation();
    drill.at(30, Event::OnDisk(OnDisk::Rejected), &[]);
    dies(&mut drill, 30, G1, &[again(G3)]);
    serves(&mut drill, 31, G3);
    drill.at(60, Event::OnDisk(OnDisk::Another { is_held: true }), &[]);
    drill.upgrades();
    dies(&mut drill, 60, G3, &[into_target(G4)]);
    serves(&mut drill, 61, G4);
    drill.at(90, Event::OnDisk(OnDisk::Rejected), &[]);
    drill.at(90, Died(G4, crash()), &[running(Generation(5), G4)]);
}

#[test]
fn the_program_that_served_is_run_when_one_that_nobody_asked_for_does_not_start() {
    let mut drill = Drill::draining_first_generation();
    drill.at(8, Died(G1, Exit::Status(0)), &[]);
    drill.at(8, Gone(G1), &[]);
    drill.at(9, Event::OnDisk(OnDisk::Another { is_held: true }), &[]);
    dies(&mut drill, 9, G2, &[into_target(G3)]);
    drill.at(10, Died(G3, crash()), &[]);
    drill.says(&Transition::FallingBack { to: G2 });
    drill.at(10, Gone(G3), &[]);
    drill.at(11, Elapsed, &[running(G4, G2)]);
}

#[test]
fn a_program_that_comes_while_a_restart_waits_is_what_is_restarted() {
    let mut drill = Drill::rejecting_second_generation();
    drill.at(30, Event::OnDisk(OnDisk::Rejected), &[]);
    dies(&mut drill, 30, G1, &[again(G3)]);
    serves(&mut drill, 31, G3);
    assert!(!drill.supervisor.backs_off());
    dies(&mut drill, 32, G3, &[]);
    assert!(drill.supervisor.backs_off());
    drill.at(33, Event::OnDisk(OnDisk::Another { is_held: true }), &[]);
    drill.at(33, Elapsed, &[into_target(G4)]);
    assert!(!drill.supervisor.backs_off());
}

#[test]
fn the_file_is_avoided_as_long_as_it_is_rejected_or_another_program_runs_instead() {
    let mut drill = Drill::rejecting_second_generation();
    assert!(!drill.supervisor.avoids_file());
    drill.at(30, Event::OnDisk(OnDisk::Rejected), &[]);
    assert!(drill.supervisor.avoids_file());
    drill.at(31, Event::OnDisk(OnDisk::Same), &[]);
    assert!(!drill.supervisor.avoids_file());
    let mut drill = Drill::draining_first_generation();
    drill.at(7, Died(G2, Exit::Background), &[Stop(G2)]);
    drill.says(&Transition::FallingBack { to: G1 });
    assert!(drill.supervisor.avoids_file());
}

#[test]
fn without_a_fallback_a_rejected_program_is_what_is_restarted() {
    let mut drill = Drill::starting_with(Policy {
        fallback: false,
        ..policy()
    });
    let failure = aborted(G2, Reason::Exited(crash(), seconds(1)), G1);
    drill.at(6, Died(G2, crash()), &[refused(&[ANN], failure)]);
    drill.at(6, Gone(G2), &[]);
    drill.at(30, Event::OnDisk(OnDisk::Rejected), &[]);
    dies(&mut drill, 30, G1, &[into_target(G3)]);
}

#[test]
fn a_command_that_fails_says_nothing_of_the_program() {
    let mut drill = Drill::serving_with(Policy {
        before_swap: Some(seconds(600)),
        ..policy()
    });
    drill.at(5, SwapAsked(None), &[RunBeforeSwap(G2)]);
    drill.at(6, BeforeSwapEnded(Err("status 1".into())), &[]);
    dies(&mut drill, 30, G1, &[into_target(G3)]);
}

#[test]
fn the_program_that_served_is_run_when_the_candidate_fails_after_its_death() {
    let mut drill = Drill::starting_second_generation();
    drill.at(6, Died(G1, crash()), &[Inherit(G2)]);
    drill.at(6, Gone(G1), &[]);
    let failure = Failure {
        keeps_serving: None,
        ..aborted(G2, Reason::Exited(crash(), seconds(2)), G1)
    };
    drill.at(7, Died(G2, crash()), &[refused(&[ANN], failure)]);
    drill.at(7, Gone(G2), &[again(G3)]);
}

/// The second generation was asked for at 5, runs another program than what serves, and the serving one dies.
fn dying_at(second: u64, policy: Policy) -> Drill {
    let mut drill = Drill::starting_with(policy);
    let another = OnDisk::Another { is_held: true };
    drill.at(second, Event::OnDisk(another), &[]);
    drill.at(second, Died(G1, crash()), &[Inherit(G2)]);
    drill
}

#[test]
fn a_candidate_that_hangs_gives_way_to_what_has_served_once_that_is_dead() {
    let mut drill = dying_at(6, policy());
    let then = Then::CandidateServesWithin(G2, seconds(4));
    drill.says(&Transition::Dead {
        generation: G1,
        exit: crash(),
        then,
    });
    drill.at(6, Gone(G1), &[]);
    let failure = Failure {
        keeps_serving: None,
        ..aborted(G2, Reason::NotReady(seconds(5)), G1)
    };
    drill.elapses_at(10, &[Stop(G2), refused(&[ANN], failure)]);
    drill.says(&Transition::FallingBack { to: G1 });
    drill.at(10, Died(G2, Exit::Signal(15)), &[]);
    drill.at(10, Gone(G2), &[again(G3)]);
}

#[test]
fn a_candidate_that_already_hangs_gives_way_at_once() {
    let mut drill = dying_at(17, policy());
    drill.says(&Transition::Dead {
        generation: G1,
        exit: crash(),
        then: Then::CandidateServesWithin(G2, seconds(0)),
    });
    let failure = Failure {
        keeps_serving: None,
        ..aborted(G2, Reason::NotReady(seconds(12)), G1)
    };
    drill.elapses_at(17, &[Stop(G2), refused(&[ANN], failure)]);
}

#[test]
fn a_candidate_that_has_no_more_time_than_that_is_not_hurried() {
    let spawn = |generation, sockets| Action::Spawn {
        generation,
        cause: Cause::Asked,
        sockets,
        program: ProgramChoice::Current,
        ready_timeout: seconds(5),
    };
    let mut drill = Drill::with(Policy {
        ready_timeout: seconds(5),
        ..policy()
    });
    drill.at(0, Launched, &[spawn(G1, SocketChoice::Target)]);
    drill.at(1, Ready(G1), &[CutOver(G1)]);
    drill.at(1, CutOverDone(G1), &[]);
    drill.at(5, SwapAsked(None), &[CheckProgram]);
    drill.at(5, ProgramChecked(Ok(())), &[spawn(G2, SocketChoice::Own)]);
    let another = OnDisk::Another { is_held: true };
    drill.at(6, Event::OnDisk(another), &[]);
    drill.at(6, Died(G1, crash()), &[Inherit(G2)]);
    drill.says(&Transition::Dead {
        generation: G1,
        exit: crash(),
        then: Then::CandidateServes(G2),
    });
}

#[test]
fn a_candidate_that_does_not_hang_serves_next() {
    let mut drill = dying_at(6, policy());
    drill.at(9, Ready(G2), &[CutOver(G2)]);
    let verdict = Verdict::Serving {
        generation: G2,
        replaced: None,
    };
    drill.at(9, CutOverDone(G2), &[Answer(vec![ANN], verdict)]);
}

/// The first start took a second; where it took 20, the next one may take 40, and has the ready timeout.
#[test]
fn a_candidate_hangs_only_if_it_takes_longer_than_those_before() {
    let mut drill = Drill::with(policy());
    drill.at(0, Launched, &[into_target(G1)]);
    drill.at(20, Ready(G1), &[CutOver(G1)]);
    drill.at(20, CutOverDone(G1), &[]);
    drill.at(25, SwapAsked(None), &[CheckProgram]);
    drill.at(25, ProgramChecked(Ok(())), &[fresh(G2)]);
    let another = OnDisk::Another { is_held: true };
    drill.at(26, Event::OnDisk(another), &[]);
    drill.at(26, Died(G1, crash()), &[Inherit(G2)]);
    let until = drill.supervisor.swap().and_then(Swap::deadline);
    assert_eq!(until, Some(seconds(55)));
}

#[test]
fn a_candidate_is_waited_for_where_no_restart_would_run_what_has_served() {
    let waits = |policy: Policy, on_disk: OnDisk| {
        let mut drill = Drill::starting_with(policy);
        drill.at(6, Event::OnDisk(on_disk), &[]);
        drill.at(6, Died(G1, crash()), &[Inherit(G2)]);
        drill.at(6, Gone(G1), &[]);
        assert_eq!(
            drill.supervisor.swap().and_then(Swap::deadline),
            Some(seconds(35))
        );
    };
    let another = |is_held| OnDisk::Another { is_held };
    waits(policy(), OnDisk::Same);
    waits(policy(), another(false));
    let without = Policy {
        fallback: false,
        ..policy()
    };
    waits(without, another(true));
    for restart in [RestartPolicy::Never, RestartPolicy::OnChange] {
        waits(
            Policy {
                restart,
                ..policy()
            },
            another(true),
        );
    }
}
