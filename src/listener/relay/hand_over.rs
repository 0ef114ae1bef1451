//! Relayed connections that outlive the hotswap that took them on.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::epoll::Epoll;
use serde_json::{Value, json};

use super::{End, Relay, Relays};
use crate::listener::hand_over::{bytes, nanoseconds, time};

impl Relays {
    pub fn hand_over<'a>(&'a self, descriptors: &mut Vec<BorrowedFd<'a>>) -> Value {
        let relays = self.all.values().map(|relay| {
            json!({
                "client": relay.client.hand_over(descriptors),
                "server": relay.server.hand_over(descriptors),
                "begun": nanoseconds(relay.begun),
                "moved": nanoseconds(relay.moved),
            })
        });
        Value::Array(relays.collect())
    }

    pub fn take_over(
        &mut self,
        told: &Value,
        descriptors: &mut impl Iterator<Item = OwnedFd>,
        epoll: &Epoll,
    ) -> Option<()> {
        for relay in told.as_array()? {
            let relay = Relay {
                client: End::take_over(&relay["client"], descriptors)?,
                server: End::take_over(&relay["server"], descriptors)?,
                begun: time(&relay["begun"])?,
                moved: time(&relay["moved"])?,
            };
            self.add(relay, epoll).ok()?;
        }
        Some(())
    }
}

impl End {
    fn hand_over<'a>(&'a self, descriptors: &mut Vec<BorrowedFd<'a>>) -> Value {
        descriptors.push(self.fd.as_fd());
        json!({ "pending": self.pending, "ended": self.ended, "told": self.told })
    }

    fn take_over(told: &Value, descriptors: &mut impl Iterator<Item = OwnedFd>) -> Option<Self> {
        let mut end = Self::new(descriptors.next()?).ok()?;
        end.pending = bytes(&told["pending"])?;
        end.ended = told["ended"].as_bool()?;
        end.told = told["told"].as_bool()?;
        Some(end)
    }
}
