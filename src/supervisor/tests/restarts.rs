//! Deaths, back-off, and first starts that fail.

use super::*;

fn dead(generation: Generation, then: Then) -> Transition {
    Transition::Dead {
        generation,
        exit: crash(),
        then,
    }
}

/// It dies at this second, and nothing of it is left.
pub fn dies(drill: &mut Drill, second: u64, generation: Generation, follows: &[Action]) {
    drill.at(second, Died(generation, crash()), follows);
    drill.at(second, Gone(generation), &[]);
}

pub fn serves(drill: &mut Drill, second: u64, generation: Generation) {
    drill.at(second, Ready(generation), &[CutOver(generation)]);
    drill.at(second, CutOverDone(generation), &[]);
    drill.serves(generation);
}

#[test]
fn a_dead_generation_is_restarted_at_once_into_its_own_sockets() {
    let mut drill = Drill::serving_first_generation();
    drill.at(5, Died(G1, crash()), &[into_target(G2)]);
    drill.says(&dead(G1, Then::RestartAfter(Duration::ZERO)));
}

#[test]
fn restarts_back_off_and_start_over_after_ten_good_seconds() {
    let mut drill = Drill::serving_first_generation();
    dies(&mut drill, 5, G1, &[into_target(G2)]);
    serves(&mut drill, 6, G2);
    dies(&mut drill, 7, G2, &[]);
    drill.at_time(Duration::from_millis(7100), Elapsed, &[into_target(G3)]);
    serves(&mut drill, 8, G3);
    dies(&mut drill, 9, G3, &[]);
    drill.at_time(Duration::from_millis(9100), Elapsed, &[]);
    drill.at_time(Duration::from_millis(9200), Elapsed, &[into_target(G4)]);
    serves(&mut drill, 10, G4);
    dies(&mut drill, 20, G4, &[into_target(Generation(5))]);
}

#[test]
fn the_delay_never_exceeds_thirty_seconds() {
    let mut drill = Drill::serving_with(Policy {
        restart: RestartPolicy::Always,
        ..policy()
    });
    drill.at(2, Died(G1, crash()), &[into_target(G2)]);
    drill.at(2, Gone(G1), &[]);
    let mut now = seconds(2);
    for number in 2..40 {
        let generation = Generation(number);
        drill.supervisor.step(now, Died(generation, crash()));
        drill.supervisor.step(now, Gone(generation));
        let Some(next) = drill.supervisor.deadline() else {
            panic!("no restart is due")
        };
        assert!(next <= now + seconds(30), "{next:?} after {now:?}");
        now = next;
        drill.at_time(now, Elapsed, &[into_target(Generation(number + 1))]);
    }
}

#[test]
fn a_clean_end_ends_hotswap_with_it() {
    let mut drill = Drill::serving_first_generation();
    drill.at(5, Died(G1, Exit::Status(0)), &[ENDED]);
    drill.at(5, Gone(G1), &[End(0)]);
}

#[test]
fn restart_always_restarts_a_clean_end() {
    let mut drill = Drill::serving_with(Policy {
        restart: RestartPolicy::Always,
        ..policy()
    });
    drill.at(5, Died(G1, Exit::Status(0)), &[into_target(G2)]);
}

#[test]
fn restart_never_ends_as_the_server_ended() {
    let mut drill = Drill::serving_with(Policy {
        restart: RestartPolicy::Never,
        ..policy()
    });
    drill.at(5, Died(G1, Exit::Signal(11)), &[ENDED]);
    drill.at(5, Gone(G1), &[End(139)]);
}

#[test]
fn a_clean_end_lets_the_rest_drain_first() {
    let mut drill = Drill::draining_first_generation();
    drill.at(8, Died(G2, Exit::Status(0)), &[ENDED]);
    drill.at(8, Gone(G2), &[]);
    drill.at(9, Queued(G1, Queue::Settled), &[Quiesce(G1)]);
    drill.at(10, Quiet(G1), &[Stop(G1)]);
    drill.at(11, Died(G1, Exit::Status(0)), &[]);
    drill.at(11, Gone(G1), &[End(0)]);
}

#[test]
fn a_stop_signal_while_the_rest_drains_is_the_first() {
    let mut drill = Drill::draining_first_generation();
    drill.at(8, Died(G2, Exit::Status(0)), &[ENDED]);
    drill.at(8, StopAsked(None), &[TURN_AWAY]);
    drill.at(9, StopAsked(None), &[Stop(G1), Stop(G2)]);
    drill.at(10, StopAsked(None), &[Kill(G1), Kill(G2)]);
}

#[test]
fn new_connections_go_to_the_candidate_when_the_serving_one_dies() {
    let mut drill = Drill::starting_second_generation();
    drill.at(6, Died(G1, crash()), &[Inherit(G2)]);
    drill.says(&dead(G1, Then::CandidateServes(G2)));
    // only where nothing is restarted must they be counted, and have a limit
    assert!(!drill.supervisor.lets_clients_wait());
    drill.at(6, CutOverDone(G2), &[]);
    drill.at(6, Gone(G1), &[]);
    drill.at(8, Ready(G2), &[CutOver(G2)]);
    let verdict = Verdict::Serving {
        generation: G2,
        replaced: None,
    };
    drill.at(8, CutOverDone(G2), &[Answer(vec![ANN], verdict)]);
}

#[test]
fn a_candidate_whose_early_cut_over_fails_is_cut_over_to_once_it_is_ready() {
    let mut drill = Drill::starting_second_generation();
    drill.at(6, Died(G1, crash()), &[Inherit(G2)]);
    drill.at(6, CannotCutOver(G2, "no memory".into()), &[]);
    drill.at(8, Ready(G2), &[CutOver(G2)]);
    drill.at(8, CannotCutOver(G1, "late news".into()), &[]);
}

#[test]
fn a_restart_comes_before_a_swap_that_is_still_being_prepared() {
    let mut drill = Drill::serving_with(Policy {
        before_swap: Some(seconds(600)),
        ..policy()
    });
    drill.at(5, SwapAsked(Some(ANN)), &[RunBeforeSwap(G2)]);
    drill.at(6, Died(G1, crash()), &[EndBeforeSwap, into_target(G3)]);
    drill.says(&Transition::CommandEnded);
    drill.at(6, Gone(G1), &[]);
    drill.at(7, Ready(G3), &[CutOver(G3)]);
    drill.at(7, CutOverDone(G3), &[RunBeforeSwap(G4)]);
}

#[test]
fn a_first_start_that_crashes_ends_hotswap_with_its_status() {
    let mut drill = Drill::with(policy());
    drill.at(0, Launched, &[into_target(G1)]);
    drill.at(1, Died(G1, Exit::Status(3)), &[ENDED]);
    drill.at(1, Gone(G1), &[End(3)]);
}

#[test]
fn a_first_start_is_the_first_though_a_changed_file_has_replaced_it() {
    let mut drill = Drill::with(policy());
    drill.at(0, Launched, &[into_target(G1)]);
    drill.at(1, FileChanged, &[Stop(G1), CheckProgram]);
    drill.at(1, ProgramChecked(Ok(())), &[]);
    drill.at(2, Died(G1, Exit::Signal(15)), &[]);
    drill.at(2, Gone(G1), &[into_target(G2)]);
    drill.at(3, Died(G2, Exit::Status(3)), &[ENDED]);
    drill.at(3, Gone(G2), &[End(3)]);
}

#[test]
fn a_first_start_that_is_never_ready_ends_hotswap_with_124() {
    let mut drill = Drill::with(policy());
    drill.at(0, Launched, &[into_target(G1)]);
    drill.elapses_at(30, &[Stop(G1), ENDED]);
    drill.at(31, Died(G1, Exit::Signal(15)), &[]);
    drill.at(31, Gone(G1), &[End(124)]);
}

#[test]
fn a_first_start_that_cannot_be_spawned_is_hotswaps_own_failure() {
    let mut drill = Drill::with(policy());
    drill.at(0, Launched, &[into_target(G1)]);
    drill.at(
        0,
        CannotSpawn(G1, "out of memory".into()),
        &[ENDED, End(125)],
    );
}

#[test]
fn a_first_start_without_its_program_ends_with_what_a_shell_says() {
    let mut drill = Drill::with(policy());
    drill.at(0, Launched, &[into_target(G1)]);
    drill.at(
        0,
        Died(G1, Exit::CannotRun(127, "no such file".into())),
        &[ENDED],
    );
    drill.at(0, Gone(G1), &[End(127)]);
}

#[test]
fn only_what_a_program_did_is_held_against_it() {
    let why = String::new;
    for (reason, is_of_the_program) in [
        (Reason::Exited(crash(), seconds(1)), true),
        (Reason::NotReady(seconds(30)), true),
        (Reason::CannotCutOver(why()), true),
        (Reason::NotProven(why()), true),
        (Reason::NotFit(why()), true),
        (Reason::CannotSpawn(why()), false),
        (Reason::BeforeSwap(why()), false),
        (Reason::BeforeSwapTooLong(seconds(600)), false),
        (Reason::Replaced, false),
        (Reason::Stopping, false),
    ] {
        assert_eq!(reason.is_of_the_program(), is_of_the_program, "{reason:?}");
    }
}

#[test]
fn a_first_server_in_the_background_cannot_be_followed() {
    let mut drill = Drill::serving_with(Policy {
        restart: RestartPolicy::Always,
        ..policy()
    });
    drill.at(1, Died(G1, Exit::Background), &[Stop(G1), ENDED]);
    drill.elapses_at(3, &[Kill(G1)]);
    drill.at(3, Gone(G1), &[End(125)]);
}

/// As by its own upgrade, in which another process takes its place. If that happens at once again, it is its way to start.
#[test]
fn a_server_that_goes_into_the_background_after_it_has_served_is_restarted_once() {
    let mut drill = Drill::serving_first_generation();
    let goes = |generation| Died(generation, Exit::Background);
    drill.at_time(Duration::from_millis(1250), goes(G1), &[into_target(G2)]);
    drill.at(2, Gone(G1), &[]);
    serves(&mut drill, 2, G2);
    drill.at(12, goes(G2), &[into_target(G3)]);
    drill.at(12, Gone(G2), &[]);
    serves(&mut drill, 13, G3);
    drill.at(16, goes(G3), &[Stop(G3), ENDED]);
}

/// Its sockets went to the candidate when it ended.
#[test]
fn a_swap_does_not_wait_for_one_that_went_into_the_background_before_another_served() {
    let mut drill = Drill::serving_first_generation();
    drill.at(1, SwapAsked(Some(ANN)), &[CheckProgram]);
    drill.at(1, ProgramChecked(Ok(())), &[fresh(G2)]);
    let actions = [Stop(G1), Inherit(G2)];
    drill.at(1, Died(G1, Exit::Background), &actions);
    drill.at(1, CutOverDone(G2), &[]);
    drill.at(2, Ready(G2), &[CutOver(G2)]);
    let verdict = Verdict::Serving {
        generation: G2,
        replaced: None,
    };
    drill.at(2, CutOverDone(G2), &[Answer(vec![ANN], verdict)]);
    drill.at(2, SwapAsked(None), &[CheckProgram]);
    drill.at(2, ProgramChecked(Ok(())), &[fresh(G3)]);
    drill.elapses_at(3, &[Kill(G1)]);
}

#[test]
fn dev_waits_for_a_change_where_others_end_or_restart() {
    let mut drill = Drill::with(Policy {
        restart: RestartPolicy::OnChange,
        ..policy()
    });
    drill.at(0, Launched, &[into_target(G1)]);
    dies(&mut drill, 1, G1, &[]);
    assert_eq!(drill.supervisor.deadline(), Some(seconds(31)));
    drill.at(5, FileChanged, &[CheckProgram]);
    drill.at(5, ProgramChecked(Ok(())), &[into_target(G2)]);
    serves(&mut drill, 6, G2);
    dies(&mut drill, 7, G2, &[]);
    drill.at(8, SwapAsked(None), &[CheckProgram]);
}

#[test]
fn clients_do_not_wait_forever_for_a_change() {
    let mut drill = Drill::serving_with(Policy {
        restart: RestartPolicy::OnChange,
        ..policy()
    });
    assert!(!drill.supervisor.lets_clients_wait());
    assert!(!drill.supervisor.refuses_clients());
    drill.at(5, Died(G1, crash()), &[]);
    drill.at(5, Gone(G1), &[]);
    drill.at(20, FileChanged, &[CheckProgram]);
    drill.at(20, ProgramChecked(Err("it is empty".into())), &[]);
    drill.upgrades();
    assert!(drill.supervisor.lets_clients_wait());
    assert!(!drill.supervisor.refuses_clients());
    drill.elapses_at(35, &[TurnAway(Refusal::NothingServes)]);
    drill.says(&Transition::Refusing);
    assert!(!drill.supervisor.lets_clients_wait());
    assert!(drill.supervisor.refuses_clients());
    assert_eq!(drill.supervisor.deadline(), None);
}

#[test]
fn a_server_that_needed_long_may_need_three_times_as_long() {
    let mut drill = Drill::with(Policy {
        ready_factor: 3,
        ..policy()
    });
    drill.at(0, Launched, &[into_target(G1)]);
    drill.at(20, Ready(G1), &[CutOver(G1)]);
    drill.at(20, CutOverDone(G1), &[]);
    drill.at(
        30,
        Died(G1, crash()),
        &[Action::Spawn {
            generation: G2,
            cause: Cause::Asked,
            sockets: SocketChoice::Target,
            program: ProgramChoice::Current,
            ready_timeout: seconds(60),
        }],
    );
    drill.at(30, Gone(G1), &[]);
    assert_eq!(drill.supervisor.deadline(), Some(seconds(90)));
}

#[test]
fn what_the_dead_have_left_behind_finishes_its_requests_and_is_told_to_stop() {
    let mut drill = Drill::serving_first_generation();
    drill.at_in_full(
        5,
        Died(G1, crash()),
        &[
            Lose(G1),
            Action::Announce(dead(G1, Then::RestartAfter(Duration::ZERO))),
            Quiesce(G1),
            Action::Spawn {
                generation: G2,
                cause: Cause::Restart,
                sockets: SocketChoice::Target,
                program: ProgramChoice::Current,
                ready_timeout: seconds(30),
            },
        ],
    );
    drill.at(6, Quiet(G1), &[Stop(G1)]);
}

#[test]
fn dev_goes_on_with_a_swap_when_the_serving_one_dies() {
    let dev = Policy {
        restart: RestartPolicy::OnChange,
        before_swap: Some(seconds(600)),
        ..policy()
    };
    let mut drill = Drill::serving_with(dev.clone());
    drill.at(5, FileChanged, &[RunBeforeSwap(G2)]);
    drill.at(6, Died(G1, crash()), &[]);
    drill.says(&dead(G1, Then::CandidateServes(G2)));
    drill.at(6, Gone(G1), &[]);
    assert!(drill.supervisor.lets_clients_wait());
    drill.elapses_at(36, &[TurnAway(Refusal::NothingServes)]);
    drill.at(37, BeforeSwapEnded(Ok(())), &[CheckProgram]);
    drill.at(37, ProgramChecked(Ok(())), &[into_target(G2)]);

    let mut drill = Drill::serving_with(Policy {
        stop_first: true,
        before_swap: None,
        ..dev
    });
    drill.at(5, FileChanged, &[CheckProgram]);
    drill.at(5, ProgramChecked(Ok(())), &[CutOver(G2)]);
    drill.at(5, Died(G1, crash()), &[]);
    drill.at(5, CutOverDone(G2), &[into_target(G2)]);
}

#[test]
fn dev_builds_before_the_first_start() {
    let mut drill = Drill::with(Policy {
        before_first: true,
        before_swap: Some(seconds(600)),
        ..policy()
    });
    drill.at(0, Launched, &[RunBeforeSwap(G1)]);
    drill.at(9, BeforeSwapEnded(Ok(())), &[into_target(G1)]);
}

#[test]
fn a_request_does_not_wait_for_the_back_off() {
    let mut drill = Drill::serving_first_generation();
    dies(&mut drill, 5, G1, &[into_target(G2)]);
    dies(&mut drill, 5, G2, &[]);
    drill.at(5, SwapAsked(Some(ANN)), &[CheckProgram]);
    drill.at(5, ProgramChecked(Ok(())), &[into_target(G3)]);
}

#[test]
fn a_restart_comes_before_the_command_before_a_swap() {
    let mut drill = Drill::serving_with(Policy {
        before_swap: Some(seconds(600)),
        ..policy()
    });
    dies(&mut drill, 5, G1, &[into_target(G2)]);
    drill.at(5, FileChanged, &[]);
    dies(&mut drill, 6, G2, &[RunBeforeSwap(G3)]);
    drill.at(7, BeforeSwapEnded(Ok(())), &[CheckProgram]);
    drill.at(7, ProgramChecked(Ok(())), &[into_target(G3)]);
    serves(&mut drill, 8, G3);
    dies(&mut drill, 9, G3, &[]);
    drill.at(9, SwapAsked(Some(ANN)), &[]);
    drill.at(10, Elapsed, &[into_target(G4)]);
    drill.at(11, Ready(G4), &[CutOver(G4)]);
    drill.at(11, CutOverDone(G4), &[RunBeforeSwap(Generation(5))]);
}

/// It had sockets of its own.
#[test]
fn a_restart_does_not_wait_for_a_candidate_that_had_failed_before() {
    let mut drill = Drill::starting_second_generation();
    let failure = aborted(G2, Reason::Exited(crash(), seconds(1)), G1);
    drill.at(6, Died(G2, crash()), &[refused(&[ANN], failure)]);
    dies(&mut drill, 7, G1, &[into_target(G3)]);
}

#[test]
fn a_restart_that_follows_a_failed_candidate_waits_until_that_is_gone() {
    let mut drill = Drill::starting_second_generation();
    drill.at(6, Died(G1, crash()), &[Inherit(G2)]);
    drill.at(6, Gone(G1), &[]);
    let reason = Reason::NotReady(seconds(30));
    let failure = Failure {
        generation: G2,
        cause: Cause::Asked,
        reason,
        rolled_back: false,
        keeps_serving: None,
    };
    drill.at(35, Elapsed, &[Stop(G2), refused(&[ANN], failure)]);
    drill.at(36, Died(G2, Exit::Signal(15)), &[]);
    drill.at(36, Gone(G2), &[again(G3)]);
}
