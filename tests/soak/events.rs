//! What may happen, and how often; each ends once its outcome has been announced.

use std::fs;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use super::chance::Chance;
use super::life::{Life, Trigger, generation_in, pause};
use crate::commands::{ended, run};
use crate::common::{processes, server};

mod visitors;

type Happen = fn(&mut Life, &mut Chance);

/// By how often they come.
const EVENTS: [(usize, Happen); 19] = [
    (9, swap),
    (5, bad_build),
    (1, bad_file),
    (1, background),
    (3, roll_back),
    (2, crash_by_kill),
    (2, crash_by_exit),
    (1, candidate_killed),
    (1, logs_reopened),
    (2, upgrade_by_command),
    (1, upgrade_by_signal),
    (2, server_suspended),
    (1, old_server_suspended),
    (3, hotswap_suspended),
    (2, hotswap_killed),
    (1, helpers),
    (2, visitors::nonsense),
    (1, visitors::client_leaves),
    (3, burst),
];

/// What is said of a candidate that is given up.
const ABORTED: [&str; 2] = [" aborted: ", " does not accept on "];

/// Any of them.
pub fn any(life: &mut Life, chance: &mut Chance) {
    let happen = chance.weighed(&EVENTS);
    happen(life, chance);
    // In a tree that is watched, this is a change back to what runs.
    life.restore();
}

fn swap(life: &mut Life, chance: &mut Chance) {
    let trigger = life.trigger(chance);
    let build = life.good_build(chance);
    life.say("swap", &format!("{} by {trigger:?}", life.version));
    let verdict = life.swap(&build, 0o755, trigger);
    assert!(verdict.contains(" is serving ("), "{verdict}");
}

fn bad_build(life: &mut Life, chance: &mut Chance) {
    let words = *chance.one_of(&[
        "exit=3",
        "exit=0",
        "late=100ms exit=4",
        "kill=SIGABRT after=100ms hang",
        "hang",
        "hang deaf helpers=1",
        "notify-flood hang",
    ]);
    let trigger = life.trigger(chance);
    life.say("bad build", &format!("{words} by {trigger:?}"));
    life.ledger.permit(&ABORTED);
    let build = life.odd_build(words);
    let verdict = life.swap(&build, 0o755, trigger);
    assert!(
        verdict.contains(" aborted: ") && verdict.contains(" keeps serving"),
        "{verdict}"
    );
}

/// It can be run by nobody; a watched one that is not complete is no swap at all.
fn bad_file(life: &mut Life, chance: &mut Chance) {
    let half = fs::read(server("odd")).expect("a server");
    let files: [(&str, &[u8], u32); 4] = [
        ("not executable", b"#!/bin/sh\n", 0o644),
        ("empty", b"", 0o755),
        ("no interpreter", b"#!/no/such/interpreter\n", 0o755),
        ("half a program", &half[..half.len() / 2], 0o755),
    ];
    let (what, content, mode) = *chance.one_of(&files);
    life.say("bad file", what);
    life.ledger.permit(&ABORTED);
    let mark = life.make_room();
    life.publish(content, mode, Trigger::Hangup);
    let verdict = life.verdict_after(mark);
    assert!(
        verdict.contains(" aborted: ") && verdict.contains(" keeps serving"),
        "{verdict}"
    );
}

/// What is left of it may have been taken for ready, and to have served, when its main process ends.
fn background(life: &mut Life, chance: &mut Chance) {
    let trigger = life.quick_trigger();
    let time = chance.below(500);
    life.say("background", &format!("after {time} ms by {trigger:?}"));
    life.ledger
        .permit(&[" rolled back: ", "the last good program"]);
    life.ledger.permit(&ABORTED);
    let build = life.odd_build("");
    let build = format!(
        "{} &\nsleep 0.{time:03}\n",
        build.replace("exec ", "").trim_end()
    );
    let (mark, from) = (life.make_room(), life.site.age());
    life.publish(build.as_bytes(), 0o755, trigger);
    let verdict = life.verdict_after(mark);
    let generation = generation_in(&verdict);
    let dead = format!("generation {generation} is dead: cannot follow a server");
    life.ledger.permit(&[&dead]);
    life.permit_its_kill(generation);
    if verdict.contains(" is serving (") {
        life.site.log.wait_after(mark, &[&dead]);
    }
    let grace = Duration::from_secs(3);
    let until = life.site.age() + grace;
    life.ledger.excuse("background", from, until);
    life.restore();
    life.site.signal(Signal::SIGHUP);
}

fn roll_back(life: &mut Life, chance: &mut Chance) {
    if !life.setting.proves {
        return swap(life, chance);
    }
    let (signal, gap) = (killer(chance), chance.below(300));
    let trigger = life.quick_trigger();
    life.say(
        "roll back",
        &format!("by {trigger:?}, {signal} after {gap} ms"),
    );
    life.ledger.permit(&[" rolled back: ", " queued on "]);
    let build = life.odd_build("exit=3 after=term");
    let mark = life.make_room();
    life.publish(build.as_bytes(), 0o755, trigger);
    let candidate = life.candidate_after(mark, " is proving (");
    pause(gap);
    life.crash("roll back", candidate, signal);
    // Once it serves it is no longer rolled back, and the next one is from the same file.
    if life
        .site
        .log
        .says(&format!("generation {candidate} is dead: "))
    {
        life.restore();
        life.site.signal(Signal::SIGHUP);
    }
}

/// SIGKILL, or the signal at which a build for it ends by itself.
fn killer(chance: &mut Chance) -> Signal {
    *chance.one_of(&[Signal::SIGKILL, Signal::SIGTERM])
}

fn crash_by_kill(life: &mut Life, _chance: &mut Chance) {
    let generation = life.serving();
    life.say("crash", &format!("generation {generation} is killed"));
    crash(life, generation, Signal::SIGKILL);
}

fn crash_by_exit(life: &mut Life, chance: &mut Chance) {
    let trigger = life.trigger(chance);
    let version = life.next();
    let build = life.setting.odd(&version, "exit=3 after=term");
    life.say(
        "crash",
        &format!("{version} exits, once it serves by {trigger:?}"),
    );
    life.expect(version, &build);
    let verdict = life.swap(&build, 0o755, trigger);
    assert!(verdict.contains(" is serving ("), "{verdict}");
    crash(life, life.serving(), Signal::SIGTERM);
}

/// Of the serving generation; the next one comes without being asked for, or at once if it is.
fn crash(life: &mut Life, generation: u32, signal: Signal) {
    let mark = life.site.log.mark();
    life.crash("crash", generation, signal);
    let dead = life.site.log.wait_after(mark, &[" is dead: "]);
    if dead.contains("restarting in ") && !dead.ends_with("ms") {
        life.site.signal(Signal::SIGHUP);
    }
    life.site.log.wait_after(mark, &[" is serving ("]);
}

fn candidate_killed(life: &mut Life, chance: &mut Chance) {
    let gap = chance.below(200);
    let trigger = life.quick_trigger();
    life.say("candidate killed", &format!("after {gap} ms"));
    life.ledger.permit(&ABORTED);
    let build = life.odd_build("hang");
    let mark = life.make_room();
    life.publish(build.as_bytes(), 0o755, trigger);
    let candidate = life.candidate_after(mark, " started, pid ");
    pause(gap);
    kill(life.site.pid(candidate), Signal::SIGKILL).expect("a signal to the candidate");
    let verdict = life.verdict_after(mark);
    assert!(verdict.contains(" aborted: killed by SIGKILL"), "{verdict}");
}

fn logs_reopened(life: &mut Life, _chance: &mut Chance) {
    life.say("SIGUSR1", "to hotswap");
    life.site.signal(Signal::SIGUSR1);
}

fn upgrade_by_command(life: &mut Life, _chance: &mut Chance) {
    life.say("upgrade", "by command");
    let output = run(&life.site, &["upgrade", "server"]);
    ended(&output, 0, &[]);
}

fn upgrade_by_signal(life: &mut Life, _chance: &mut Chance) {
    life.say("upgrade", "by SIGUSR2");
    let mark = life.site.log.mark();
    life.site.signal(Signal::SIGUSR2);
    life.site.log.wait_after(mark, &["upgraded to "]);
}

fn server_suspended(life: &mut Life, chance: &mut Chance) {
    let (pid, time) = (life.site.pid(life.serving()), chance.below(1500));
    life.say(
        "SIGSTOP",
        &format!("of the serving generation for {time} ms"),
    );
    kill(pid, Signal::SIGSTOP).expect("a signal to the server");
    pause(time);
    kill(pid, Signal::SIGCONT).expect("a signal to the server");
}

/// What is queued on it waits for it to run on.
fn old_server_suspended(life: &mut Life, chance: &mut Chance) {
    let (pid, time) = (life.site.pid(life.serving()), chance.below(1500));
    let build = life.good_build(chance);
    let trigger = life.quick_trigger();
    life.say(
        "SIGSTOP",
        &format!("of the old generation for {time} ms of a swap"),
    );
    let mark = life.make_room();
    kill(pid, Signal::SIGSTOP).expect("a signal to the server");
    life.publish(build.as_bytes(), 0o755, trigger);
    pause(time);
    let _ = kill(pid, Signal::SIGCONT);
    let verdict = life.verdict_after(mark);
    assert!(verdict.contains(" is serving ("), "{verdict}");
}

fn hotswap_suspended(life: &mut Life, chance: &mut Chance) {
    let (before, time) = (chance.below(150), chance.below(2000));
    let build = life.good_build(chance);
    let trigger = if life.setting.watches {
        Trigger::InPlace
    } else {
        Trigger::Hangup
    };
    life.say(
        "SIGSTOP",
        &format!("of hotswap for {time} ms, {before} ms after a new build"),
    );
    let mark = life.make_room();
    life.publish(build.as_bytes(), 0o755, trigger);
    pause(before);
    life.site.signal(Signal::SIGSTOP);
    pause(time);
    life.site.signal(Signal::SIGCONT);
    let verdict = life.verdict_after(mark);
    assert!(verdict.contains(" is serving ("), "{verdict}");
}

/// The next one adopts what it has left. Those who are in its own hands go with it, and while two generations live it may
/// have been about to say which of them clients go to.
fn hotswap_killed(life: &mut Life, chance: &mut Chance) {
    let (gap, pause_between) = (chance.below(300), chance.below(500));
    let amid = chance.one_in(2);
    let what = if amid {
        "amid a swap"
    } else {
        "and not amid a swap"
    };
    life.say("hotswap killed and started", what);
    life.make_room();
    if amid {
        let build = life.good_build(chance);
        life.publish(build.as_bytes(), 0o755, life.quick_trigger());
        pause(gap);
    }
    let from = life.site.age();
    life.site.kill_hotswap();
    let (cause, until) = ("hotswap killed and started", life.site.age());
    life.ledger.excuse(cause, from, until);
    life.expect_no_unexplained();
    pause(pause_between);
    life.site.start_again();
    life.forget_hotswap();
    life.ledger.permit(&["adopting generation ", "relaying "]);
    life.site.log.wait_for(" is serving (");
    // at a candidate that was being ended
    life.ledger.excuse_for_good(cause, from, life.site.age());
}

/// A generation's helpers may end before it; those that outlive it are killed when its time is up.
fn helpers(life: &mut Life, chance: &mut Chance) {
    let killed = chance.one_in(2);
    let words = *chance.one_of(&["helpers=2", "escaped=2", "helpers=1 escaped=1 deaf"]);
    let trigger = life.trigger(chance);
    let version = life.next();
    let build = life.setting.odd(&version, words);
    life.say(
        "helpers",
        &format!("{words}, {}", if killed { "killed" } else { "left alone" }),
    );
    life.expect(version, &build);
    let trigger = if matches!(trigger, Trigger::Drained) {
        Trigger::Command
    } else {
        trigger
    };
    let verdict = life.swap(&build, 0o755, trigger);
    assert!(verdict.contains(" is serving ("), "{verdict}");
    let generation = life.serving();
    life.let_linger(generation);
    if killed {
        for pid in processes::of_site(life.site.dir()) {
            let of = processes::variable(pid, "HOTSWAP_GENERATION");
            if of == Some(generation.to_string()) && pid != life.site.pid(generation) {
                kill(pid, Signal::SIGKILL).expect("a signal to a helper");
            }
        }
    }
}

/// Several things at once; then a good build, and all must be well.
fn burst(life: &mut Life, chance: &mut Chance) {
    life.say("burst", "");
    life.ledger
        .permit(&[" rolled back: ", "relaying ", "the last good program"]);
    life.ledger.permit(&ABORTED);
    for _ in 0..3 + chance.below(4) {
        life.make_room();
        let gap = chance.below(150);
        pause(gap);
        match chance.below(8) {
            0 | 1 => {
                let build = life.good_build(chance);
                life.publish(build.as_bytes(), 0o755, Trigger::Hangup);
            }
            2 => {
                let build = life.odd_build("exit=3");
                life.publish(build.as_bytes(), 0o755, Trigger::Hangup);
            }
            3 => {
                let build = life.odd_build("hang");
                life.publish(build.as_bytes(), 0o755, Trigger::Rename);
            }
            4 | 5 => life.crash("crash", life.serving(), Signal::SIGKILL),
            6 => drop(life.site.signal(Signal::SIGUSR2)),
            _ => {
                life.site.signal(Signal::SIGSTOP);
                pause(gap);
                life.site.signal(Signal::SIGCONT);
            }
        }
    }
    let build = life.good_build(chance);
    life.publish(build.as_bytes(), 0o755, Trigger::Hangup);
}
