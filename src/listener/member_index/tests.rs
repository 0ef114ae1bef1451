use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;

/// Runs a classic BPF program over an IP packet, as the kernel would, and gives what it returns.
fn run(program: &[sock_filter], packet: &[u8]) -> u32 {
    let mut accumulator = 0_u32;
    let mut at = 0;
    loop {
        let sock_filter { code, jf, k, .. } = program[at];
        let start = k.wrapping_sub(NETWORK) as usize;
        let number = |bytes: usize| {
            let bytes = &packet[start..start + bytes];
            bytes
                .iter()
                .fold(0, |sum, byte| sum << 8 | u32::from(*byte))
        };
        at += 1;
        match code {
            LOAD_BYTE => accumulator = number(1),
            LOAD_HALF => accumulator = number(2),
            LOAD_WORD => accumulator = number(4),
            AND => accumulator &= k,
            JUMP_IF_EQUAL if accumulator != k => at += usize::from(jf),
            JUMP_IF_EQUAL => {}
            RETURN => return k,
            other => panic!("{other} is not an instruction of ours"),
        }
    }
}

fn packet_from(source: &str) -> Vec<u8> {
    let source: SocketAddr = source.parse().unwrap();
    let (version, length, at, address) = match source.ip() {
        IpAddr::V4(ip) => (0x45, 40, 12, ip.octets().to_vec()),
        IpAddr::V6(ip) => (0x60, 60, 8, ip.octets().to_vec()),
    };
    let mut packet = vec![0; length];
    packet[0] = version;
    packet[at..at + address.len()].copy_from_slice(&address);
    let port = length - 20;
    packet[port..port + 2].copy_from_slice(&source.port().to_be_bytes());
    packet
}

#[test]
fn new_connections_go_to_one_member() {
    assert_eq!(run(&to_member(3), &packet_from("127.0.0.1:4000")), 3);
}

#[test]
fn a_socket_without_packets_takes_none_of_their_bytes() {
    assert_eq!(run(&no_packet(), &packet_from("127.0.0.1:4000")), 0);
}

#[test]
fn a_probe_is_told_by_its_address_and_its_port() {
    for probe in ["127.0.0.1:4000", "[fd00::2]:4000"] {
        let program = to_member_but_for(probe.parse().unwrap(), 7, 2);
        assert_eq!(run(&program, &packet_from(probe)), 7);
        for client in [
            "127.0.0.1:4001",
            "127.0.0.2:4000",
            "10.0.0.1:4000",
            "[fd00::2]:4001",
            "[fd00::3]:4000",
            "[fd00:1::2]:4000",
            "[::ffff:127.0.0.1]:4000",
        ] {
            assert_eq!(run(&program, &packet_from(client)), 2, "{client}");
        }
    }
}

#[test]
fn the_last_member_moves_into_the_hole() {
    let mut member_index = MemberIndex::default();
    for inode in 1..=4 {
        member_index.append(inode, MemberRole::ServerHeld);
    }
    member_index.leave(2);
    assert_eq!(member_index.members().collect::<Vec<_>>(), [1, 4, 3]);
    member_index.leave(3);
    member_index.leave(9);
    assert_eq!(member_index.members().collect::<Vec<_>>(), [1, 4]);
}

#[test]
fn what_moved_when_two_left_at_once_is_in_doubt_until_one_is_left() {
    let mut member_index = MemberIndex::default();
    for inode in 1..=5 {
        member_index.append(inode, MemberRole::Spare);
    }
    member_index.leave_together(&[1, 2]);
    assert_eq!(member_index.index_of(3), Some(2));
    assert_eq!(
        (member_index.index_of(4), member_index.index_of(5)),
        (None, None)
    );
    member_index.leave(4);
    // into which hole the last one has moved depends on where 4 was
    assert_eq!(
        (member_index.index_of(3), member_index.index_of(5)),
        (None, None)
    );
    member_index.leave(5);
    assert_eq!(member_index.index_of(3), Some(0));
}

#[test]
fn who_has_moved_beside_a_stranger_is_in_doubt() {
    let known = || member_index(&[1, 2, 3, 4].map(|inode| (inode, MemberRole::Spare)), 1);
    let mut alone = known();
    alone.append(9, MemberRole::ServerHeld);
    alone.show(true);
    assert_eq!((alone.index_of(4), alone.index_of(9)), (Some(3), Some(4)));
    alone.leave(9);
    alone.show(true);
    assert_eq!(alone, known());
    let mut without_a_stranger = known();
    without_a_stranger.append(5, MemberRole::ServerHeld);
    without_a_stranger.append(6, MemberRole::ServerHeld);
    without_a_stranger.show(false);
    assert_eq!(without_a_stranger.uncertain_indexes(), []);
    let mut beside_others_in_doubt = known();
    beside_others_in_doubt.leave_together(&[1, 2]);
    beside_others_in_doubt.show(false);
    beside_others_in_doubt.append(9, MemberRole::ServerHeld);
    beside_others_in_doubt.show(true);
    assert_eq!(beside_others_in_doubt.index_of(9), Some(2));
    let mut with_ours = known();
    with_ours.append(5, MemberRole::ServerHeld);
    with_ours.append(9, MemberRole::ServerHeld);
    assert!(with_ours.is_new(5));
    with_ours.show(true);
    assert_eq!((with_ours.index_of(5), with_ours.index_of(9)), (None, None));
    assert!(!with_ours.is_new(5));
    // whichever of them leaves, the place of the other is known
    with_ours.leave(5);
    assert_eq!(with_ours.index_of(9), Some(4));
    let mut one_came_and_one_went = known();
    one_came_and_one_went.leave(2);
    one_came_and_one_went.append(9, MemberRole::ServerHeld);
    one_came_and_one_went.show(true);
    let lost = one_came_and_one_went.uncertain_indexes();
    assert_eq!(lost, [(1, 4), (3, 9)]);
}

#[test]
fn one_that_joins_strangers_is_the_last_and_their_order_is_unknown() {
    let beside_two = MemberIndex::joined(&[1, 2], 3);
    assert_eq!(beside_two.members().collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(beside_two.uncertain_indexes(), [(0, 1), (1, 2)]);
    assert_eq!(beside_two.index_of(3), Some(2));
    let mut beside_one = MemberIndex::joined(&[1], 3);
    assert_eq!(beside_one.uncertain_indexes(), []);
    assert!(beside_one.may_close(3) && !beside_one.may_close(1));
    // and the kernel has shown both already
    beside_one.leave(1);
    beside_one.append(9, MemberRole::ServerHeld);
    beside_one.show(true);
    assert_eq!(beside_one.uncertain_indexes(), [(0, 3), (1, 9)]);
}

#[test]
fn only_one_that_nobody_can_have_joined_beside_has_joined_alone() {
    let mut known = member_index(&[(1, MemberRole::Spare)], 1);
    assert!(!known.has_joined_alone(1), "it was there before");
    known.append(2, MemberRole::Spare);
    assert!(known.has_joined_alone(2));
    assert!(!known.has_joined_alone(1));
    known.append(3, MemberRole::Spare);
    assert!(!known.has_joined_alone(2));
    assert!(!known.has_joined_alone(3));
}

#[test]
fn what_is_found_changes_nothing_but_doubt() {
    let mut member_index = MemberIndex::default();
    for inode in 1..=5 {
        member_index.append(inode, MemberRole::Spare);
    }
    member_index.leave_together(&[1, 2]);
    let members: Vec<_> = member_index.members().collect();
    member_index.found(3, 0);
    member_index.found(9, 0);
    member_index.found(4, 3);
    assert_eq!(member_index.members().collect::<Vec<_>>(), members);
}

fn member_index(members: &[(Inode, MemberRole)], target: Inode) -> MemberIndex {
    let mut index = MemberIndex::default();
    for (inode, role) in members {
        index.append(*inode, *role);
    }
    index.set_target(target);
    index.show(false);
    index
}

#[test]
fn doubt_goes_with_those_it_was_about() {
    let mut member_index = member_index(
        &[1, 2, 3, 4, 5, 6].map(|inode| (inode, MemberRole::Spare)),
        6,
    );
    member_index.leave_together(&[1, 2]);
    assert_eq!(member_index.uncertain_indexes().len(), 2);
    // one of which nothing is in doubt leaves, and the last one, known too, moves to a known place
    member_index.append(7, MemberRole::Spare);
    member_index.leave_together(&[3]);
    assert_eq!(member_index.index_of(7), Some(2));
    let last = member_index.uncertain_indexes()[1].1;
    let mut both = member_index.clone();
    both.leave(7);
    both.leave(4);
    both.leave(last);
    assert_eq!(both.uncertain_indexes(), []);
    assert!(both.members().all(|inode| both.index_of(inode).is_some()));
    for (index, inode) in member_index.uncertain_indexes() {
        member_index.found(inode, index);
    }
    assert_eq!(member_index.uncertain_indexes(), []);
}

#[test]
fn only_a_parked_one_that_is_not_needed_may_be_closed() {
    use MemberRole::{ServerHeld, Spare};
    let may_close =
        |members: &[(Inode, MemberRole)], inode| member_index(members, 2).may_close(inode);
    let draining = [(1, ServerHeld), (2, ServerHeld), (3, Spare)];
    assert!(!may_close(&draining, 1), "a generation has it");
    assert!(
        !may_close(&draining, 3),
        "it keeps the place of the target when 1 leaves"
    );
    let drained = [(1, Spare), (2, ServerHeld), (3, Spare)];
    assert!(may_close(&drained, 1));
    assert!(may_close(&drained, 3));
    let last = [(1, Spare), (2, ServerHeld)];
    assert!(!may_close(&last, 1), "the target would move into its place");
    let dead = [(1, Spare), (2, Spare), (3, Spare)];
    assert!(!may_close(&dead, 2), "clients wait in it");
    let mut uncertain = member_index(&[1, 4, 2, 5, 6, 7].map(|inode| (inode, Spare)), 2);
    uncertain.leave_together(&[1, 4]);
    assert!(!uncertain.may_close(5), "nobody knows what would move");
}

/// What may happen to a group, by the numbers of members.
#[derive(Clone, Debug)]
enum MemberEvent {
    Generation,
    CutOver(prop::sample::Index),
    Gone(prop::sample::Index),
    ShutDown(prop::sample::Index),
    Reap(prop::sample::Index),
}

fn happening() -> impl Strategy<Value = MemberEvent> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        2 => Just(MemberEvent::Generation),
        2 => index().prop_map(MemberEvent::CutOver),
        2 => index().prop_map(MemberEvent::Gone),
        1 => index().prop_map(MemberEvent::ShutDown),
        3 => index().prop_map(MemberEvent::Reap),
    ]
}

/// The rules of the group, as `ReuseportGroup` keeps them, with the kernel's array beside them.
struct MemberHistory {
    member_index: MemberIndex,
    kernel: Vec<Inode>,
    loose: Vec<Inode>,
    target: Inode,
    made: Inode,
}

impl MemberHistory {
    fn join(&mut self, role: MemberRole) -> Inode {
        self.made += 1;
        self.member_index.append(self.made, role);
        self.kernel.push(self.made);
        if role == MemberRole::ServerHeld {
            self.loose.push(self.made);
        }
        self.made
    }

    fn leaves_kernel(&mut self, inode: Inode) {
        let hole = self.kernel.iter().position(|other| *other == inode);
        self.kernel.swap_remove(hole.unwrap());
        self.loose.retain(|other| *other != inode);
    }

    fn fill(&mut self, target: Inode) {
        for _ in 0..self.member_index.fillers_needed(target) {
            self.join(MemberRole::Spare);
        }
    }

    fn happens(&mut self, what: &MemberEvent) {
        match what {
            MemberEvent::Generation => {
                self.join(MemberRole::ServerHeld);
            }
            MemberEvent::CutOver(index) if !self.loose.is_empty() => {
                let new = *index.get(&self.loose);
                self.fill(new);
                self.member_index.set_target(new);
                self.target = new;
            }
            MemberEvent::Gone(index) if !self.loose.is_empty() => {
                let gone = *index.get(&self.loose);
                self.loose.retain(|other| *other != gone);
                self.member_index.set_role(gone, MemberRole::Spare);
            }
            // several, before we hear of any; the last of them is the target only by the will of its own server
            MemberEvent::ShutDown(index) => {
                let count = index.index(self.loose.len() + 1);
                let mut leaving: Vec<_> = self.loose.iter().rev().take(count).copied().collect();
                leaving.retain(|inode| *inode != self.target);
                for inode in leaving.iter().rev() {
                    self.leaves_kernel(*inode);
                }
                self.target_is_where_it_was();
                self.member_index.leave_together(&leaving);
                for (index, _) in self.member_index.uncertain_indexes() {
                    self.member_index.found(self.kernel[index as usize], index);
                }
            }
            MemberEvent::Reap(index) => {
                let spare = self.closable();
                if !spare.is_empty() {
                    self.reap(*index.get(&spare));
                }
            }
            MemberEvent::CutOver(_) | MemberEvent::Gone(_) => {}
        }
        self.fill(self.target);
    }

    fn closable(&self) -> Vec<Inode> {
        let members = self.member_index.members();
        members
            .filter(|inode| self.member_index.may_close(*inode))
            .collect()
    }

    fn reap(&mut self, inode: Inode) {
        self.leaves_kernel(inode);
        self.target_is_where_it_was();
        self.member_index.leave(inode);
    }

    /// The program still says what it said before the kernel moved anything.
    fn target_is_where_it_was(&self) {
        assert_eq!(self.member_index.target(), Some(self.target));
        let index = self.member_index.index_of(self.target).unwrap() as usize;
        assert_eq!(self.kernel[index], self.target, "the target has moved");
    }

    /// Of the others nothing is kept but what the target needs to stay where it is.
    fn all_others_go(&mut self) {
        for gone in std::mem::take(&mut self.loose) {
            self.member_index.set_role(gone, MemberRole::Spare);
        }
        while let Some(inode) = self.closable().pop() {
            self.reap(inode);
        }
        assert_eq!(
            self.kernel.last(),
            Some(&self.target),
            "{:?}",
            self.member_index
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_leaving_moves_the_target(history in prop::collection::vec(happening(), 1..60)) {
        let member_index = MemberIndex::default();
        let (kernel, loose) = (Vec::new(), Vec::new());
        let mut group = MemberHistory { member_index, kernel, loose, target: 0, made: 0 };
        group.target = group.join(MemberRole::ServerHeld);
        group.member_index.set_target(group.target);
        for what in &history {
            group.happens(what);
            group.target_is_where_it_was();
            prop_assert_eq!(group.member_index.members().count(), group.kernel.len());
            for (at, inode) in group.kernel.iter().enumerate() {
                let index = group.member_index.index_of(*inode);
                prop_assert!(index == u32::try_from(at).ok(), "{} is not there", inode);
            }
        }
        group.all_others_go();
    }
}
