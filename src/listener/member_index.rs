//! The order of the members of a reuseport group, and the program that picks one.
//!
//! It makes no system call. The kernel keeps the members of a group in an array: listen(2) appends, and a member that leaves is
//! overwritten by the last one. [`MemberIndex`] does the same, so that an index is known without asking; the tests hold it
//! against the kernel.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use libc::sock_filter;
use serde::{Deserialize, Serialize};

use crate::socket::Inode;

/// Who holds a member of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberRole {
    /// A generation or a stranger: it may leave at any moment.
    ServerHeld,
    /// Only hotswap: it leaves when hotswap closes it.
    Spare,
}

/// The members in the order of the kernel's array, and the target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberIndex {
    members: Vec<(Inode, MemberRole)>,
    target: Option<Inode>,
    /// Members whose index is unknown: others left at the same time, in an unknown order.
    uncertain: BTreeSet<Inode>,
    /// The members when the kernel last showed them, those that have joined since, and how many have left.
    shown: Vec<Inode>,
    joined: BTreeSet<Inode>,
    left: usize,
}

impl MemberIndex {
    /// It has begun to listen.
    pub fn append(&mut self, inode: Inode, role: MemberRole) {
        if self.position(inode).is_none() {
            self.members.push((inode, role));
            self.joined.insert(inode);
        }
    }

    /// Others are there already, in an unknown order, and this one has joined them as the last.
    pub fn joined(others: &[Inode], own: Inode) -> Self {
        let held = others.iter().map(|other| (*other, MemberRole::ServerHeld));
        let members: Vec<_> = held.chain([(own, MemberRole::Spare)]).collect();
        let uncertain = others.iter().copied().filter(|_| others.len() > 1);
        Self {
            shown: members.iter().map(|member| member.0).collect(),
            uncertain: uncertain.collect(),
            members,
            ..Self::default()
        }
    }

    /// It has stopped listening: the last member takes its index.
    pub fn leave(&mut self, inode: Inode) {
        let Some(hole) = self.position(inode) else {
            return;
        };
        let last = self.members.len() - 1;
        let moved = self.members[last].0;
        self.members.swap_remove(hole);
        self.joined.remove(&inode);
        self.left += 1;
        if self.uncertain.remove(&inode) && hole != last {
            self.uncertain.insert(moved);
        }
        if self.uncertain.len() == 1 {
            self.uncertain.clear();
        }
    }

    /// These have stopped listening, in an unknown order.
    pub fn leave_together(&mut self, inodes: &[Inode]) {
        let before = self.members.clone();
        for inode in inodes {
            self.leave(*inode);
        }
        if inodes.len() > 1 {
            let moved = self.members.iter().zip(&before);
            let moved = moved.filter(|(now, then)| now.0 != then.0);
            self.uncertain.extend(moved.map(|(now, _)| now.0));
            if self.uncertain.len() == 1 {
                self.uncertain.clear();
            }
        }
    }

    /// The kernel has shown these members. A stranger may have joined or left at any moment, so the indexes of those that
    /// have joined since, and of as many of the last ones as have left, are uncertain. The target keeps its index.
    pub fn show(&mut self, strangers_moved: bool) {
        if strangers_moved && self.joined.len() + self.left > 1 {
            let last = self.shown.iter().rev().take(self.left);
            let moved = last.filter(|inode| Some(**inode) != self.target);
            self.uncertain.extend(moved.chain(&self.joined));
            let members: BTreeSet<Inode> = self.members().collect();
            self.uncertain.retain(|inode| members.contains(inode));
            if self.uncertain.len() == 1 {
                self.uncertain.clear();
            }
        }
        self.shown = self.members().collect();
        self.joined.clear();
        self.left = 0;
    }

    /// It has joined since the kernel last showed the members.
    pub fn is_new(&self, inode: Inode) -> bool {
        self.joined.contains(&inode)
    }

    /// It is the only one that has joined since: strangers that were not seen cannot have come between it and another.
    pub fn has_joined_alone(&self, inode: Inode) -> bool {
        self.is_new(inode) && self.joined.len() == 1
    }

    pub fn set_role(&mut self, inode: Inode, role: MemberRole) {
        for member in &mut self.members {
            if member.0 == inode {
                member.1 = role;
            }
        }
    }

    pub fn set_target(&mut self, inode: Inode) {
        self.target = Some(inode);
    }

    pub fn target(&self) -> Option<Inode> {
        self.target
    }

    /// Its index, unless it is not in the group or its index is uncertain.
    pub fn index_of(&self, inode: Inode) -> Option<u32> {
        let certain = !self.uncertain.contains(&inode);
        let position = self.position(inode).filter(|_| certain)?;
        u32::try_from(position).ok()
    }

    /// The indexes that a connection must probe.
    pub fn uncertain_indexes(&self) -> Vec<(u32, Inode)> {
        let members = (0..).zip(self.members());
        members
            .filter(|(_, inode)| self.uncertain.contains(inode))
            .collect()
    }

    /// A probe has shown that the socket is at that index.
    pub fn found(&mut self, inode: Inode, index: u32) {
        let at = self.position(inode);
        let (Some(at), Ok(index)) = (at, usize::try_from(index)) else {
            return;
        };
        if self.uncertain.remove(&inode) && index < self.members.len() {
            self.members.swap(at, index);
        }
        if self.uncertain.len() == 1 {
            self.uncertain.clear();
        }
    }

    pub fn members(&self) -> impl Iterator<Item = Inode> {
        self.members.iter().map(|member| member.0)
    }

    /// How many spares are missing behind this one for it to keep its index when others leave before it.
    pub fn fillers_needed(&self, target: Inode) -> usize {
        let Some(position) = self.position(target) else {
            return 0;
        };
        let (before, behind) = self.members.split_at(position);
        count(before, MemberRole::ServerHeld).saturating_sub(count(&behind[1..], MemberRole::Spare))
    }

    /// Whether this spare may be closed: the target keeps its index, now and when others leave later.
    pub fn may_close(&self, inode: Inode) -> bool {
        let spare = self.members.contains(&(inode, MemberRole::Spare));
        if !spare || !self.uncertain.is_empty() {
            return false;
        }
        let Some(target) = self
            .target
            .filter(|target| self.position(*target).is_some())
        else {
            return true;
        };
        let mut after = self.clone();
        after.leave(inode);
        after.position(target) == self.position(target) && after.fillers_needed(target) == 0
    }

    fn position(&self, inode: Inode) -> Option<usize> {
        self.members.iter().position(|member| member.0 == inode)
    }
}

fn count(members: &[(Inode, MemberRole)], role: MemberRole) -> usize {
    members.iter().filter(|member| member.1 == role).count()
}

const LOAD_BYTE: u16 = 0x30;
const LOAD_HALF: u16 = 0x28;
const LOAD_WORD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

/// `SKF_NET_OFF` of linux/filter.h (-0x100000): what follows is counted from the start of the IP header.
const NETWORK: u32 = 0xfff0_0000;

/// The program that sends every new connection to the member at that index.
pub fn to_member(index: u32) -> Vec<sock_filter> {
    vec![does(RETURN, index)]
}

/// The filter of a socket that gets no packet, not even the first one of a new connection.
pub fn no_packet() -> Vec<sock_filter> {
    vec![does(RETURN, 0)]
}

/// The program of [`to_member`], except for one connection from `source`, which goes to `candidate`.
///
/// The port alone is not enough: a client at another address may have the same one.
pub fn to_member_but_for(source: SocketAddr, candidate: u32, index: u32) -> Vec<sock_filter> {
    let (version, port, start, address): (u32, u32, u32, Vec<u8>) = match source.ip() {
        IpAddr::V4(ip) => (0x40, 20, 12, ip.octets().to_vec()),
        IpAddr::V6(ip) => (0x60, 40, 8, ip.octets().to_vec()),
    };
    // A dual-stack socket sees both headers: the version comes first.
    let mut wanted = vec![(LOAD_BYTE, 0, version)];
    wanted.push((LOAD_HALF, port, u32::from(source.port())));
    for (word, at) in address.as_chunks().0.iter().zip((start..).step_by(4)) {
        wanted.push((LOAD_WORD, at, u32::from_be_bytes(*word)));
    }
    let mut program = Vec::new();
    for (load, at, value) in wanted {
        program.push(does(load, NETWORK.wrapping_add(at)));
        if load == LOAD_BYTE {
            program.push(does(AND, 0xf0));
        }
        program.push(does(JUMP_IF_EQUAL, value));
    }
    let otherwise = program.len() + 1;
    for (at, instruction) in program.iter_mut().enumerate() {
        if instruction.code == JUMP_IF_EQUAL {
            // at most 14 instructions: the distance fits
            instruction.jf = u8::try_from(otherwise - at - 1).unwrap_or(u8::MAX);
        }
    }
    program.push(does(RETURN, candidate));
    program.push(does(RETURN, index));
    program
}

fn does(code: u16, k: u32) -> sock_filter {
    sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

#[cfg(test)]
mod tests;
