//! Relayed connections that outlive the hotswap that took them on.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde_json::{Value, json};

use super::{Relay, RelayEnd, Relays};
use crate::listener::hand_over::{bytes, nanoseconds, time};
use crate::listener::watcher::Watcher;

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
        end_sent: &Value,
        descriptors: &mut impl Iterator<Item = OwnedFd>,
        watcher: &Watcher,
    ) -> Option<()> {
        for relay in end_sent.as_array()? {
            let relay = Relay {
                client: RelayEnd::take_over(&relay["client"], descriptors)?,
                server: RelayEnd::take_over(&relay["server"], descriptors)?,
                begun: time(&relay["begun"])?,
                moved: time(&relay["moved"])?,
            };
            self.add(relay, watcher).ok()?;
        }
        Some(())
    }
}

impl RelayEnd {
    fn hand_over<'a>(&'a self, descriptors: &mut Vec<BorrowedFd<'a>>) -> Value {
        descriptors.push(self.fd.as_fd());
        json!({ "pending": self.pending, "ended": self.ended, "told": self.end_sent })
    }

    fn take_over(
        end_sent: &Value,
        descriptors: &mut impl Iterator<Item = OwnedFd>,
    ) -> Option<Self> {
        let mut end = Self::new(descriptors.next()?).ok()?;
        end.pending = bytes(&end_sent["pending"])?;
        end.ended = end_sent["ended"].as_bool()?;
        end.end_sent = end_sent["told"].as_bool()?;
        Some(end)
    }
}
