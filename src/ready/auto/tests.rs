//! Drills of the rule: each line is one look, at a millisecond, with its result.

use super::*;

const A: ListenerId = ListenerId(0);
const B: ListenerId = ListenerId(1);
const C: ListenerId = ListenerId(2);

/// A candidate with a ready timeout of 30 s, looked at the given number of milliseconds after its start.
struct AutoDrill {
    auto: Auto,
    blind: bool,
    first: bool,
    captured: bool,
}

impl AutoDrill {
    fn of_second_generation() -> Self {
        let start = Time::from_secs(1000);
        Self {
            auto: Auto::new(start, start + Duration::from_secs(30), false),
            blind: false,
            first: false,
            captured: false,
        }
    }

    fn of_first_generation() -> Self {
        Self {
            first: true,
            ..Self::of_second_generation()
        }
    }

    fn at(
        &mut self,
        millis: u64,
        observed_listeners: &[ObservedListener],
    ) -> (AutoVerdict, Vec<ListenerId>) {
        let now = self.auto.started + Duration::from_millis(millis);
        let look = Observation {
            observed_listeners,
            blind: self.blind,
            first: self.first,
            captured: self.captured,
        };
        self.auto.judge(now, &look)
    }

    fn waits(&mut self, millis: u64, observed_listeners: &[ObservedListener]) {
        assert_eq!(
            self.at(millis, observed_listeners),
            (AutoVerdict::BlockedCall, vec![]),
            "at {millis} ms"
        );
    }

    fn probes(
        &mut self,
        millis: u64,
        observed_listeners: &[ObservedListener],
        listeners: &[ListenerId],
    ) {
        assert_eq!(
            self.at(millis, observed_listeners),
            (AutoVerdict::BlockedCall, listeners.to_vec()),
            "at {millis} ms"
        );
    }

    fn ends(
        &mut self,
        millis: u64,
        observed_listeners: &[ObservedListener],
        verdict: &AutoVerdict,
    ) {
        assert_eq!(
            &self.at(millis, observed_listeners).0,
            verdict,
            "at {millis} ms"
        );
    }
}

fn own(listener: ListenerId, shown: Evidence) -> ObservedListener {
    ObservedListener {
        listener,
        captured: false,
        probeable: true,
        shown,
    }
}

fn captured(listener: ListenerId, shown: Evidence) -> ObservedListener {
    ObservedListener {
        captured: true,
        ..own(listener, shown)
    }
}

fn shared(listener: ListenerId, shown: Evidence) -> ObservedListener {
    ObservedListener {
        probeable: false,
        ..own(listener, shown)
    }
}

fn accepts(proof: Proof, missing: &[ListenerId]) -> AutoVerdict {
    AutoVerdict::Accepts {
        proof,
        missing: missing.to_vec(),
    }
}

use Evidence::{AcceptedAProbe, Listens, Nothing, Waits};

#[test]
fn a_candidate_is_ready_when_it_was_seen_on_every_listener() {
    let mut drill = AutoDrill::of_second_generation();
    drill.waits(1, &[own(A, Listens), own(B, Listens)]);
    drill.waits(20, &[own(A, Waits), own(B, Listens)]);
    // A is busy now, but it was seen before.
    drill.ends(
        30,
        &[own(A, Listens), own(B, Waits)],
        &accepts(Proof::BlockedThreads, &[]),
    );
}

#[test]
fn a_server_that_said_ready_once_must_say_it_again() {
    let mut drill = AutoDrill::of_second_generation();
    drill.auto.must_say = true;
    drill.waits(20, &[own(A, Waits)]);
    assert!(drill.auto.only_lacks_ready_message());
    drill.waits(2000, &[own(A, Waits)]);
    drill.auto.said_ready();
    drill.ends(2100, &[own(A, Waits)], &accepts(Proof::BlockedThreads, &[]));
}

#[test]
fn saying_ready_is_not_enough_where_accepting_can_be_seen() {
    let mut drill = AutoDrill::of_second_generation();
    drill.auto.said_ready();
    drill.waits(20, &[own(A, Listens)]);
    drill.ends(40, &[own(A, Waits)], &accepts(Proof::BlockedThreads, &[]));
}

#[test]
fn a_probe_decides_if_nothing_is_seen_for_a_second() {
    let mut drill = AutoDrill::of_second_generation();
    drill.waits(1, &[captured(A, Nothing)]);
    drill.waits(500, &[captured(A, Listens)]);
    drill.waits(1499, &[captured(A, Listens)]);
    drill.probes(1500, &[captured(A, Listens)], &[A]);
    drill.ends(
        1600,
        &[captured(A, AcceptedAProbe)],
        &accepts(Proof::Probed, &[]),
    );
}

#[test]
fn a_probe_decides_at_once_if_nothing_can_be_seen() {
    let mut drill = AutoDrill::of_second_generation();
    drill.blind = true;
    drill.probes(1, &[own(A, Listens), own(B, Waits)], &[A]);
    drill.ends(
        9,
        &[own(A, AcceptedAProbe), own(B, Listens)],
        &accepts(Proof::Probed, &[]),
    );
}

#[test]
fn a_listener_that_can_be_neither_seen_nor_probed_is_assumed_to_accept() {
    let mut drill = AutoDrill::of_second_generation();
    drill.blind = true;
    drill.waits(999, &[shared(A, Listens)]);
    drill.ends(1000, &[shared(A, Listens)], &accepts(Proof::Assumed, &[]));
}

#[test]
fn a_shared_listener_is_never_probed() {
    let mut drill = AutoDrill::of_second_generation();
    drill.waits(1, &[shared(A, Listens)]);
    drill.waits(29_999, &[shared(A, Listens)]);
}

#[test]
fn one_missing_listener_is_awaited_for_a_second() {
    let mut drill = AutoDrill::of_second_generation();
    drill.waits(20, &[own(A, Waits), captured(B, Nothing)]);
    drill.waits(1019, &[own(A, Waits), captured(B, Nothing)]);
    drill.ends(
        1020,
        &[own(A, Waits), captured(B, Nothing)],
        &accepts(Proof::BlockedThreads, &[B]),
    );
}

#[test]
fn one_accepting_listener_does_not_excuse_two_missing_ones() {
    let mut drill = AutoDrill::of_second_generation();
    let nothing = [own(A, Waits), captured(B, Nothing), captured(C, Nothing)];
    drill.waits(20, &nothing);
    drill.waits(29_999, &nothing);
}

#[test]
fn a_server_without_listeners_is_ready_after_a_second() {
    let mut drill = AutoDrill::of_second_generation();
    drill.waits(999, &[]);
    drill.ends(1000, &[], &AutoVerdict::Alive);
}

#[test]
fn a_server_without_listeners_may_say_when_it_is_ready() {
    let mut drill = AutoDrill::of_second_generation();
    drill.auto.said_ready();
    drill.ends(5, &[], &AutoVerdict::Said);
    let mut drill = AutoDrill::of_second_generation();
    drill.auto.must_say = true;
    drill.waits(5000, &[]);
    drill.auto.said_ready();
    drill.ends(5001, &[], &AutoVerdict::Said);
}

#[test]
fn a_first_generation_with_captured_listeners_gets_the_benefit_of_the_doubt() {
    let mut drill = AutoDrill::of_first_generation();
    drill.captured = true;
    drill.waits(5000, &[]);
    drill.waits(6000, &[captured(A, Nothing)]);
    drill.waits(29_899, &[captured(A, Nothing)]);
    let benefit = AutoVerdict::Benefit { missing: vec![A] };
    drill.ends(29_900, &[captured(A, Nothing)], &benefit);
}

#[test]
fn a_first_generation_that_never_takes_its_socket_is_not_ready() {
    let mut drill = AutoDrill::of_first_generation();
    drill.waits(1, &[own(A, Listens)]);
    drill.probes(1001, &[own(A, Listens)], &[A]);
    drill.probes(29_999, &[own(A, Listens)], &[A]);
    // Nor is one that binds another address instead.
    let mut drill = AutoDrill::of_first_generation();
    drill.captured = true;
    drill.waits(1, &[own(A, Listens), captured(B, Waits)]);
    drill.probes(29_999, &[own(A, Listens), captured(B, Waits)], &[A]);
}

#[test]
fn a_later_generation_gets_no_benefit() {
    let mut drill = AutoDrill::of_second_generation();
    drill.captured = true;
    drill.waits(29_999, &[captured(A, Nothing)]);
}
