//! A history in the words of a drill, to be pasted among the others.

use super::*;

pub fn policy(policy: &Policy) -> String {
    let Policy {
        stop_first,
        restart,
        before_first,
        fallback,
        max_draining,
        ..
    } = policy;
    let before_swap = policy.before_swap.map(time);
    let before_swap = before_swap.map_or("None".into(), |patience| format!("Some({patience})"));
    format!(
        "    let mut drill = Drill::with(Policy {{\n        \
         min_ready: {},\n        quiesce: {},\n        drain_timeout: {},\n        \
         max_draining: {max_draining},\n        stop_first: {stop_first},\n        \
         restart: Restart::{restart:?},\n        before_swap: {before_swap},\n        \
         before_first: {before_first},\n        fallback: {fallback},\n        \
         ..policy()\n    }});",
        time(policy.min_ready),
        time(policy.quiesce),
        time(policy.drain_timeout),
    )
}

pub fn moment(now: Time, event: &Event, actions: &[Action]) -> String {
    let done = actions
        .iter()
        .filter(|action| !matches!(action, Action::Announce(_) | Serve(_) | Lose(_) | Free(_)));
    let done: Vec<String> = done.map(action).collect();
    let (done, event) = (done.join(", "), as_given(&format!("{event:?}")));
    if now.subsec_nanos() == 0 {
        format!("    drill.at({}, {event}, &[{done}]);", now.as_secs())
    } else {
        format!("    drill.at_time({}, {event}, &[{done}]);", time(now))
    }
}

fn time(time: Duration) -> String {
    if time.subsec_nanos() == 0 {
        format!("seconds({})", time.as_secs())
    } else {
        format!("Duration::from_millis({})", time.as_millis())
    }
}

fn action(action: &Action) -> String {
    match action {
        Action::Spawn {
            generation,
            sockets,
            program: ProgramChoice::Current,
            ..
        } => {
            let name = match sockets {
                SocketChoice::Own => "fresh",
                SocketChoice::Target => "into_target",
            };
            as_given(&format!("{name}({generation:?})"))
        }
        Answer(clients, Verdict::Failed(failure)) => {
            let Failure {
                generation,
                cause,
                reason,
                rolled_back,
                keeps_serving,
            } = failure;
            let reason = match reason {
                Reason::Exited(exit, age) => format!("Exited({exit:?}, {})", time(*age)),
                Reason::NotReady(patience) => format!("NotReady({})", time(*patience)),
                Reason::BeforeSwapTooLong(patience) => {
                    format!("BeforeSwapTooLong({})", time(*patience))
                }
                other => format!("{other:?}"),
            };
            as_given(&format!(
                "refused(&{clients:?}, Failure {{ generation: {generation:?}, cause: Cause::{cause:?}, reason: Reason::{reason}, \
                 rolled_back: {rolled_back}, keeps_serving: {keeps_serving:?} }})"
            ))
        }
        Answer(clients, verdict) => {
            as_given(&format!("Answer(vec!{clients:?}, Verdict::{verdict:?})"))
        }
        Upgrade(_) => "upgrade()".into(),
        other => as_given(&format!("{other:?}")),
    }
}

/// Debug leaves out what a name belongs to.
fn as_given(debug: &str) -> String {
    let mut text = debug.replace("\")", "\".into())");
    for (short, long) in [
        ("Status(", "Exit::Status("),
        ("Signal(", "Exit::Signal("),
        ("CannotRun(", "Exit::CannotRun("),
        ("Background", "Exit::Background"),
        (", Waiting)", ", Queue::Waiting)"),
        (", Empty)", ", Queue::Empty)"),
        (", Settled)", ", Queue::Settled)"),
        (", Stuck)", ", Queue::Stuck)"),
        ("TurnAway(Stopping)", "TURN_AWAY"),
        ("TurnAway(Ended)", "ENDED"),
        ("Spawn {", "Action::Spawn {"),
        ("sockets: ", "sockets: Sockets::"),
        ("program: ", "program: Program::"),
        ("Generation(1)", "G1"),
        ("Generation(2)", "G2"),
        ("Generation(3)", "G3"),
        ("Generation(4)", "G4"),
    ] {
        text = text.replace(short, long);
    }
    text
}
