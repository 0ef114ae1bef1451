//! A group that outlives the hotswap that made it. The kernel keeps the order and the program; the model must not forget.

use std::os::fd::{BorrowedFd, OwnedFd};

use serde_json::{Value, json};

use super::ReuseportGroup;
use crate::listener::context::ListenerContext;
use crate::listener::hand_over::list;
use crate::listener::listening_socket::ListeningSocket;
use crate::listener::steer::{MemberIndex, MemberRole};
use crate::listener::steering::Steering;
use crate::socket::Inode;
use crate::socket::inet::InetAddress;

impl ReuseportGroup {
    pub fn hand_over<'a>(&'a self, descriptors: &mut Vec<BorrowedFd<'a>>) -> Value {
        let sockets = self.sockets.iter();
        let sockets = sockets.map(|socket| socket.hand_over(descriptors));
        json!({
            "sockets": sockets.collect::<Vec<_>>(),
            "address": self.address.at.to_string(),
            "only_v6": self.address.only_v6,
            "device": self.address.device,
            "order": self.members.members().collect::<Vec<_>>(),
            "doubtful": self.members.is_uncertain().iter().map(|(_, inode)| *inode).collect::<Vec<_>>(),
            "target": self.members.target(),
            "strangers": self.strangers,
        })
    }

    pub fn take_over(
        state: &Value,
        descriptors: &mut impl Iterator<Item = OwnedFd>,
        context: &mut ListenerContext,
    ) -> Option<Self> {
        let address = InetAddress {
            at: state["address"].as_str()?.parse().ok()?,
            only_v6: state["only_v6"].as_bool(),
            device: u32::try_from(state["device"].as_u64()?).ok()?,
        };
        let sockets = list(&state["sockets"], |socket| {
            ListeningSocket::take_over(socket, descriptors)
        })?;
        let inodes = |name: &str| list(&state[name], Value::as_u64);
        let spare = |inode: &Inode| {
            let mut sockets = sockets.iter();
            sockets.any(|socket| socket.inode == *inode && socket.owner.is_none())
        };
        let members = inodes("order")?.into_iter().map(|inode| {
            let role = if spare(&inode) {
                MemberRole::Spare
            } else {
                MemberRole::ServerHeld
            };
            (inode, role)
        });
        let uncertain = inodes("doubtful")?.into_iter().collect();
        let members = MemberIndex::known(members.collect(), state["target"].as_u64(), uncertain);
        let mut group = Self {
            address,
            members,
            strangers: inodes("strangers")?.into_iter().collect(),
            sockets,
        };
        group.resume(context);
        Some(group)
    }
}
