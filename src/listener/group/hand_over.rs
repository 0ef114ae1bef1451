//! A group that outlives the hotswap that made it. The kernel keeps the order and the program; the model must not forget.

use std::os::fd::{BorrowedFd, OwnedFd};

use serde_json::{Value, json};

use super::{Family, Group, Inode, Means, Order, Role, Socket};
use crate::listener::hand_over::list;

impl Group {
    pub fn hand_over<'a>(&'a self, descriptors: &mut Vec<BorrowedFd<'a>>) -> Value {
        let only = match self.family {
            Family::V4 => None,
            Family::V6 { only } => only,
        };
        let sockets = self.sockets.iter();
        let sockets = sockets.map(|socket| socket.hand_over(descriptors));
        json!({
            "sockets": sockets.collect::<Vec<_>>(),
            "address": self.address.to_string(),
            "only_v6": only,
            "device": self.device,
            "order": self.order.members().collect::<Vec<_>>(),
            "doubtful": self.order.in_doubt().iter().map(|(_, inode)| *inode).collect::<Vec<_>>(),
            "target": self.order.target(),
            "strangers": self.strangers,
        })
    }

    pub fn take_over(
        told: &Value,
        descriptors: &mut impl Iterator<Item = OwnedFd>,
        means: &mut Means,
    ) -> Option<Self> {
        let address = told["address"].as_str()?.parse().ok()?;
        let family = match Family::of(address) {
            Family::V4 => Family::V4,
            Family::V6 { .. } => Family::V6 {
                only: told["only_v6"].as_bool(),
            },
        };
        let sockets = list(&told["sockets"], |socket| {
            Socket::take_over(socket, descriptors)
        })?;
        let inodes = |name: &str| list(&told[name], Value::as_u64);
        let parked = |inode: &Inode| {
            let mut sockets = sockets.iter();
            sockets.any(|socket| socket.inode == *inode && socket.owner.is_none())
        };
        let members = inodes("order")?.into_iter().map(|inode| {
            let role = if parked(&inode) {
                Role::Parked
            } else {
                Role::Loose
            };
            (inode, role)
        });
        let doubtful = inodes("doubtful")?.into_iter().collect();
        let order = Order::known(members.collect(), told["target"].as_u64(), doubtful);
        let mut group = Self {
            family,
            address,
            device: u32::try_from(told["device"].as_u64()?).ok()?,
            order,
            strangers: inodes("strangers")?.into_iter().collect(),
            sockets,
        };
        group.tend(means);
        Some(group)
    }
}
