//! Drills of the rule: each line is one look, at a millisecond, with its result.

use super::*;

const A: ListenerId = ListenerId(0);
const B: ListenerId = ListenerId(1);
const C: ListenerId = ListenerId(2);

/// A candidate with a ready timeout of 30 s, looked at the given number of milliseconds after its start.
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of the look")]
struct Drill {
    auto: Auto,
    blind: bool,
    rank: Rank,
    captured: bool,
    outside: Evidence,
    chosen_port: bool,
    stopped: bool,
    patience: Option<Duration>,
}

impl Drill {
    fn of_second_generation() -> Self {
        let start = Time::from_secs(1000);
        Self {
            auto: Auto::new(start, start + Duration::from_secs(30), false),
            blind: false,
            rank: Rank::Candidate,
            captured: false,
            outside: Nothing,
            chosen_port: false,
            stopped: false,
            patience: None,
        }
    }

    fn of_first_generation() -> Self {
        Self {
            rank: Rank::First,
            ..Self::of_second_generation()
        }
    }

    fn judge(
        &mut self,
        millis: u64,
        listeners: &[ObservedListener],
        cpu_time: Option<Time>,
    ) -> (Option<Ready>, Vec<ListenerId>) {
        let now = self.auto.started + Duration::from_millis(millis);
        let look = Observation {
            listeners,
            blind: self.blind,
            rank: self.rank,
            captured: self.captured,
            outside: self.outside,
            chosen_port: self.chosen_port,
            work: cpu_time.map(|cpu_time| Work {
                cpu_time,
                running: false,
                stopped: self.stopped,
            }),
            patience: self.patience,
        };
        self.auto.judge(now, &look)
    }

    fn waits(&mut self, millis: u64, listeners: &[ObservedListener]) {
        self.probes(millis, listeners, &[]);
    }

    fn probes(&mut self, millis: u64, listeners: &[ObservedListener], probed: &[ListenerId]) {
        let expected = (None, probed.to_vec());
        let judged = self.judge(millis, listeners, None);
        assert_eq!(judged, expected, "at {millis} ms");
    }

    fn ends(&mut self, millis: u64, listeners: &[ObservedListener], ready: &Ready) {
        let (judged, _) = self.judge(millis, listeners, None);
        assert_eq!(judged.as_ref(), Some(ready), "at {millis} ms");
    }

    /// It has these listeners, and has used the processor for this many milliseconds.
    fn works_on(
        &mut self,
        millis: u64,
        listeners: &[ObservedListener],
        used: u64,
    ) -> Option<Ready> {
        let used = Time::from_millis(used);
        self.judge(millis, listeners, Some(used)).0
    }

    /// It has no listener, and has used the processor for this many milliseconds.
    fn works(&mut self, millis: u64, used: u64) -> Option<Ready> {
        let used = Duration::from_millis(used);
        self.judge(millis, &[], Some(used)).0
    }
}

/// A listener that counts: the serving generation accepts on it.
fn own(listener: ListenerId, evidence: Evidence) -> ObservedListener {
    ObservedListener {
        listener,
        need: Need::Accept,
        captured: false,
        is_path: false,
        probeable: true,
        evidence,
    }
}

fn captured(listener: ListenerId, evidence: Evidence) -> ObservedListener {
    ObservedListener {
        captured: true,
        ..own(listener, evidence)
    }
}

fn path(listener: ListenerId, evidence: Evidence) -> ObservedListener {
    ObservedListener {
        is_path: true,
        ..free(captured(listener, evidence))
    }
}

fn shared(listener: ListenerId, evidence: Evidence) -> ObservedListener {
    ObservedListener {
        probeable: false,
        ..own(listener, evidence)
    }
}

/// One that does not count.
fn free(observed: ObservedListener) -> ObservedListener {
    ObservedListener {
        need: Need::Nothing,
        ..observed
    }
}

fn accepts(how: ReadyBy, missing: &[ListenerId]) -> Ready {
    Ready::but_for(missing.to_vec(), how)
}

/// It has no listener.
fn without_listener(how: ReadyBy) -> Ready {
    how.into()
}

use Evidence::{AcceptedAProbe, Listens, Nothing, Registered, Waits};

fn name(listener: ListenerId) -> String {
    format!("{listener:?}")
}

#[test]
fn a_candidate_is_ready_when_it_was_seen_on_every_listener() {
    let mut drill = Drill::of_second_generation();
    drill.waits(1, &[own(A, Listens), own(B, Listens)]);
    drill.waits(20, &[own(A, Waits), own(B, Listens)]);
    // A is busy now, but it was seen before.
    drill.ends(
        30,
        &[own(A, Listens), own(B, Waits)],
        &accepts(ReadyBy::Accepting, &[]),
    );
}

#[test]
fn an_address_that_counts_is_awaited_until_the_ready_timeout() {
    let mut drill = Drill::of_second_generation();
    drill.waits(20, &[own(A, Waits), captured(B, Nothing)]);
    drill.waits(29_999, &[own(A, Waits), captured(B, Nothing)]);
    assert_eq!(
        drill.auto.not_ready_reason(&name),
        Some(NotReadyReason::DoesNotAccept(vec![name(B)]))
    );
    drill.ends(
        30_000,
        &[own(A, Waits), captured(B, Waits)],
        &accepts(ReadyBy::Accepting, &[]),
    );
}

#[test]
fn a_listener_need_only_listen_where_the_serving_one_was_never_seen_accepting() {
    let mut drill = Drill::of_second_generation();
    let listening = |evidence| ObservedListener {
        need: Need::Listen,
        ..captured(B, evidence)
    };
    drill.waits(20, &[own(A, Waits), listening(Nothing)]);
    let there = [own(A, Waits), listening(Listens)];
    drill.ends(5000, &there, &accepts(ReadyBy::Accepting, &[]));
}

/// The serving one accepts nowhere: a look or a probe has had its time.
#[test]
fn one_that_only_has_to_listen_is_not_said_to_accept_and_not_waited_for_long() {
    let mut drill = Drill::of_second_generation();
    let listens = [ObservedListener {
        need: Need::Listen,
        ..captured(A, Listens)
    }];
    drill.waits(100, &listens);
    drill.probes(1100, &listens, &[A]);
    drill.probes(1599, &listens, &[A]);
    drill.ends(1600, &listens, &accepts(ReadyBy::Assumed, &[]));
}

#[test]
fn in_development_a_missing_address_is_a_warning_after_a_while() {
    let mut drill = Drill::of_second_generation();
    drill.patience = Some(Duration::from_secs(2));
    let listeners = [captured(A, Waits), captured(B, Nothing)];
    drill.waits(300, &listeners);
    drill.waits(2299, &listeners);
    drill.ends(2300, &listeners, &accepts(ReadyBy::Accepting, &[B]));
}

#[test]
fn a_server_that_said_ready_once_must_say_it_again() {
    let mut drill = Drill::of_second_generation();
    drill.auto.must_say = true;
    drill.waits(20, &[own(A, Waits)]);
    assert!(drill.auto.only_lacks_ready_message());
    drill.waits(2000, &[own(A, Waits)]);
    let reason = drill.auto.not_ready_reason(&name);
    assert_eq!(reason, Some(NotReadyReason::NoReadyMessageAgain));
    drill.auto.said_ready();
    drill.ends(2100, &[own(A, Waits)], &accepts(ReadyBy::Accepting, &[]));
}

#[test]
fn saying_ready_is_not_enough_where_accepting_can_be_seen() {
    let mut drill = Drill::of_second_generation();
    drill.auto.said_ready();
    drill.waits(20, &[own(A, Listens)]);
    drill.ends(40, &[own(A, Waits)], &accepts(ReadyBy::Accepting, &[]));
}

#[test]
fn a_probe_decides_if_nothing_is_seen_for_a_second() {
    let mut drill = Drill::of_second_generation();
    drill.waits(1, &[captured(A, Nothing)]);
    drill.waits(500, &[captured(A, Listens)]);
    drill.waits(1499, &[captured(A, Listens)]);
    drill.probes(1500, &[captured(A, Listens)], &[A]);
    drill.ends(
        1600,
        &[captured(A, AcceptedAProbe)],
        &accepts(ReadyBy::AcceptedAProbe, &[]),
    );
}

#[test]
fn a_probe_decides_at_once_if_nothing_can_be_seen() {
    let mut drill = Drill::of_second_generation();
    drill.blind = true;
    drill.probes(1, &[own(A, Listens), own(B, Waits)], &[A]);
    drill.ends(
        9,
        &[own(A, AcceptedAProbe), own(B, Listens)],
        &accepts(ReadyBy::AcceptedAProbe, &[]),
    );
}

/// The runtime of Go hears of clients from the moment the socket listens.
#[test]
fn a_probe_decides_at_once_where_only_a_runtime_would_hear_of_a_client() {
    let mut drill = Drill::of_second_generation();
    drill.probes(1, &[own(A, Registered)], &[A]);
    drill.ends(
        2000,
        &[own(A, AcceptedAProbe)],
        &accepts(ReadyBy::AcceptedAProbe, &[]),
    );
}

#[test]
fn what_a_runtime_would_hear_of_counts_where_it_cannot_be_probed() {
    let mut drill = Drill::of_second_generation();
    drill.ends(
        1,
        &[shared(A, Registered)],
        &accepts(ReadyBy::Accepting, &[]),
    );
}

#[test]
fn a_listener_that_can_be_neither_seen_nor_probed_is_assumed_to_accept() {
    let mut drill = Drill::of_second_generation();
    drill.blind = true;
    drill.waits(999, &[shared(A, Listens)]);
    drill.ends(1000, &[shared(A, Listens)], &accepts(ReadyBy::Assumed, &[]));
}

#[test]
fn a_shared_listener_is_never_probed() {
    let mut drill = Drill::of_second_generation();
    drill.waits(1, &[shared(A, Listens)]);
    drill.waits(29_999, &[shared(A, Listens)]);
}

#[test]
fn a_candidate_without_listeners_beside_one_without_is_ready_after_a_second() {
    for rank in [Rank::Candidate, Rank::Restart] {
        let mut drill = Drill::of_second_generation();
        drill.rank = rank;
        drill.waits(999, &[]);
        drill.ends(1000, &[], &without_listener(ReadyBy::Assumed));
    }
}

#[test]
fn a_candidate_without_listeners_may_say_when_it_is_ready() {
    let mut drill = Drill::of_second_generation();
    drill.auto.said_ready();
    drill.ends(5, &[], &without_listener(ReadyBy::SaidReady));
    let mut drill = Drill::of_second_generation();
    drill.auto.must_say = true;
    drill.waits(5000, &[]);
    drill.auto.said_ready();
    drill.ends(5001, &[], &without_listener(ReadyBy::SaidReady));
}

#[test]
fn a_candidate_with_the_first_listeners_must_accept_on_one_of_them() {
    let mut drill = Drill::of_second_generation();
    drill.waits(900, &[free(captured(A, Nothing))]);
    drill.waits(1500, &[free(captured(A, Listens))]);
    drill.ends(
        1600,
        &[free(captured(A, Waits))],
        &accepts(ReadyBy::Accepting, &[]),
    );
    let mut drill = Drill::of_second_generation();
    drill.captured = true;
    drill.waits(30_000, &[]);
}

#[test]
fn a_first_generation_is_starting_until_it_accepts_somewhere() {
    let mut drill = Drill::of_first_generation();
    drill.waits(2000, &[]);
    drill.waits(4000, &[free(captured(A, Nothing))]);
    drill.waits(4010, &[free(captured(A, Listens))]);
    drill.ends(
        4020,
        &[free(captured(A, Waits))],
        &accepts(ReadyBy::Accepting, &[]),
    );
}

/// As pm2, which talks to its own processes before the app listens.
#[test]
fn a_first_generation_on_a_unix_path_alone_is_ready_once_it_is_at_rest() {
    let mut drill = Drill::of_first_generation();
    let there = [path(A, Waits)];
    assert_eq!(drill.works_on(300, &there, 250), None);
    assert_eq!(drill.works_on(600, &there, 500), None);
    let both = [path(A, Waits), free(captured(B, Waits))];
    let done = Some(accepts(ReadyBy::Accepting, &[]));
    assert_eq!(
        drill.works_on(700, &both, 600),
        done.clone(),
        "the other one counts"
    );
    let mut drill = Drill::of_first_generation();
    assert_eq!(drill.works_on(300, &there, 250), None);
    assert_eq!(drill.works_on(499, &there, 260), None);
    assert_eq!(drill.works_on(500, &there, 260), done);
}

#[test]
fn a_first_generation_that_never_rests_is_ready_if_nothing_else_has_come() {
    let mut drill = Drill::of_first_generation();
    let there = [path(A, Waits)];
    for tenth in 1..=50 {
        let judged = drill.works_on(tenth * 100, &there, tenth * 100);
        assert_eq!(judged, None);
    }
    let judged = drill.works_on(5100, &there, 5100);
    assert_eq!(judged, Some(accepts(ReadyBy::Accepting, &[])));
}

/// As an Erlang node, which listens for other nodes before it serves.
#[test]
fn a_port_that_the_kernel_has_chosen_counts_once_the_server_is_at_rest() {
    let mut drill = Drill::of_first_generation();
    drill.outside = Waits;
    drill.chosen_port = true;
    assert_eq!(drill.works(300, 250), None);
    assert_eq!(drill.works(450, 400), None);
    assert_eq!(
        drill.works(650, 400),
        Some(accepts(ReadyBy::Accepting, &[]))
    );
    let mut drill = Drill::of_first_generation();
    drill.outside = Waits;
    let judged = drill.works(300, 250);
    assert_eq!(
        judged,
        Some(accepts(ReadyBy::Accepting, &[])),
        "it is not captured"
    );
}

#[test]
fn a_first_generation_may_leave_a_listener_it_was_given() {
    let mut drill = Drill::of_first_generation();
    let listeners = [own(A, Waits), own(B, Listens), own(C, Listens)].map(free);
    drill.waits(100, &listeners);
    drill.probes(1599, &listeners, &[B, C]);
    drill.ends(1600, &listeners, &accepts(ReadyBy::Accepting, &[B, C]));
}

#[test]
fn a_first_generation_that_accepts_on_none_it_was_given_is_not_ready() {
    let mut drill = Drill::of_first_generation();
    drill.waits(1, &[free(own(A, Listens))]);
    drill.probes(1001, &[free(own(A, Listens))], &[A]);
    drill.probes(30_000, &[free(own(A, Listens))], &[A]);
    // Nor is one that binds another address instead.
    let mut drill = Drill::of_first_generation();
    drill.captured = true;
    let listeners = [free(own(A, Listens)), free(captured(B, Waits))];
    drill.waits(1, &listeners);
    drill.probes(30_000, &listeners, &[A]);
    assert_eq!(
        drill.auto.not_ready_reason(&name),
        Some(NotReadyReason::DoesNotAccept(vec![name(A)]))
    );
}

#[test]
fn a_first_generation_that_listens_nowhere_is_ready_once_it_has_been_idle() {
    let mut drill = Drill::of_first_generation();
    assert_eq!(drill.works(900, 400), None);
    assert_eq!(drill.works(4000, 700), None);
    assert_eq!(drill.works(13_999, 700), None);
    assert_eq!(
        drill.works(14_000, 700),
        Some(without_listener(ReadyBy::Assumed))
    );
}

#[test]
fn a_first_generation_that_listens_nowhere_and_works_a_little_is_ready_at_the_timeout() {
    let mut drill = Drill::of_first_generation();
    for second in 1..30 {
        assert_eq!(drill.works(second * 1000, second * 5), None);
    }
    assert_eq!(
        drill.works(30_000, 150),
        Some(without_listener(ReadyBy::Assumed))
    );
}

#[test]
fn a_first_generation_that_listens_nowhere_is_ready_once_a_request_waits_for_it() {
    let mut drill = Drill::of_first_generation();
    drill.auto.is_waited_for();
    for second in 1..5 {
        assert_eq!(drill.works(second * 1000, second * 5), None);
    }
    assert_eq!(
        drill.works(5000, 25),
        Some(without_listener(ReadyBy::Assumed))
    );
    assert_eq!(drill.works(6000, 925), None, "it works");
}

#[test]
fn a_first_generation_that_is_still_busy_at_the_timeout_is_not_ready() {
    let mut drill = Drill::of_first_generation();
    for second in 1..=30 {
        assert_eq!(drill.works(second * 1000, second * 900), None);
    }
    let reason = drill.auto.not_ready_reason(&name);
    assert_eq!(reason, Some(NotReadyReason::ListensNowhere));
    // unless it has said so itself
    drill.auto.said_ready();
    assert_eq!(
        drill.works(30_001, 27_000),
        Some(without_listener(ReadyBy::SaidReady))
    );
}

#[test]
fn a_first_generation_that_is_stopped_is_not_idle() {
    let mut drill = Drill::of_first_generation();
    drill.stopped = true;
    assert_eq!(drill.works(1000, 20), None);
    assert_eq!(drill.works(29_000, 20), None);
    assert_eq!(drill.works(30_000, 20), None);
}

#[test]
fn what_is_waited_for_is_said_once_after_five_seconds() {
    let mut drill = Drill::of_first_generation();
    let explains = |drill: &mut Drill, millis| {
        let now = drill.auto.started + Duration::from_millis(millis);
        drill.auto.take_explanation(now)
    };
    drill.waits(4999, &[]);
    assert!(!explains(&mut drill, 4999));
    drill.waits(5000, &[]);
    assert!(explains(&mut drill, 5000));
    assert!(!explains(&mut drill, 6000), "it was said");
    let mut drill = Drill::of_first_generation();
    drill.waits(5000, &[free(captured(A, Listens))]);
    assert!(!explains(&mut drill, 5000), "it listens");
}

#[test]
fn a_first_generation_that_hides_what_it_does_is_not_said_to_listen_nowhere() {
    let mut drill = Drill::of_first_generation();
    drill.waits(4500, &[]);
    drill.blind = true;
    drill.waits(4600, &[]);
    drill.waits(5500, &[]);
    let now = drill.auto.started + Duration::from_millis(5500);
    assert!(!drill.auto.take_explanation(now));
    drill.ends(5600, &[], &without_listener(ReadyBy::Assumed));
}

#[test]
fn a_first_generation_may_accept_where_hotswap_holds_nothing() {
    let mut drill = Drill::of_first_generation();
    drill.outside = Listens;
    drill.waits(4000, &[]);
    drill.outside = Waits;
    drill.ends(4100, &[], &accepts(ReadyBy::Accepting, &[]));
}

#[test]
fn a_first_generation_that_is_never_seen_accepting_gets_the_benefit_of_the_doubt() {
    let mut drill = Drill::of_first_generation();
    drill.captured = true;
    drill.waits(5000, &[]);
    drill.waits(6000, &[free(captured(A, Nothing))]);
    drill.waits(29_999, &[free(captured(A, Nothing))]);
    let benefit = accepts(ReadyBy::Assumed, &[A]);
    drill.ends(30_000, &[free(captured(A, Nothing))], &benefit);
}

#[test]
fn a_later_generation_gets_no_benefit() {
    let mut drill = Drill::of_second_generation();
    drill.captured = true;
    drill.waits(30_000, &[captured(A, Nothing)]);
}

#[test]
fn a_restart_serves_where_it_can_since_nothing_else_does() {
    let mut drill = Drill::of_second_generation();
    drill.rank = Rank::Restart;
    let listeners = [free(own(A, Waits)), free(captured(B, Nothing))];
    drill.waits(100, &listeners);
    drill.ends(1600, &listeners, &accepts(ReadyBy::Accepting, &[B]));
    let mut drill = Drill::of_second_generation();
    drill.rank = Rank::Restart;
    let listeners = [captured(A, Waits), captured(B, Nothing)];
    drill.waits(100, &listeners);
    drill.ends(1600, &listeners, &accepts(ReadyBy::Accepting, &[B]));
}

#[test]
fn a_restart_that_does_not_say_ready_again_serves_in_the_end() {
    let accepting = [free(own(A, Waits))];
    let verdicts = [
        accepts(ReadyBy::Accepting, &[]),
        without_listener(ReadyBy::Assumed),
    ];
    for (listeners, verdict) in [&accepting[..], &[]].into_iter().zip(verdicts) {
        let mut drill = Drill::of_second_generation();
        drill.rank = Rank::Restart;
        drill.auto.must_say = true;
        drill.waits(20, listeners);
        assert_eq!(drill.auto.only_lacks_ready_message(), !listeners.is_empty());
        drill.waits(29_999, listeners);
        drill.ends(30_000, listeners, &verdict);
        assert!(drill.auto.lacks_ready_message());
    }
}

#[test]
fn a_restart_that_accepts_nowhere_where_the_dead_one_did_is_not_ready() {
    for other in [None, Some(free(captured(B, Waits)))] {
        let mut drill = Drill::of_second_generation();
        drill.rank = Rank::Restart;
        let mut listeners = vec![captured(A, Nothing)];
        listeners.extend(other);
        drill.waits(100, &listeners);
        drill.waits(30_000, &listeners);
        let reason = NotReadyReason::DoesNotAccept(vec![name(A)]);
        assert_eq!(drill.auto.not_ready_reason(&name), Some(reason));
    }
}

#[test]
fn a_restart_of_one_that_was_never_seen_accepting_must_listen() {
    let mut drill = Drill::of_second_generation();
    drill.rank = Rank::Restart;
    drill.waits(30_000, &[free(captured(A, Nothing))]);
    let benefit = accepts(ReadyBy::Assumed, &[A]);
    drill.ends(30_001, &[free(captured(A, Listens))], &benefit);
}
