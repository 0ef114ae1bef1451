//! The file descriptor store: sockets that systemd keeps while there is no hotswap (`FileDescriptorStoreMax=` of
//! systemd.service(5)).
//!
//! It says what is to be sent. Nothing tells whether it was kept, so that is found out once, by a pipe.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use serde::{Deserialize, Serialize};

use super::message::Message;
use crate::socket::{Inode, has_hung_up};
use crate::supervisor::Time;

/// What the names of hotswap's own sockets begin with.
const PREFIX: &str = "hotswap-";
/// The name of the pipe.
const TRIAL: &str = "hotswap-trial";
/// What a manager without a store closes, it has closed by then.
const KNOWN_AFTER: Time = Time::from_secs(1);
const LONGEST_NAME: usize = 255;

/// A socket that is to be kept.
pub struct Wanted<'a> {
    pub address: String,
    pub inode: Inode,
    /// `None` where what is kept stays as it is.
    pub socket: Option<BorrowedFd<'a>>,
    /// It is kept for as long as it was before, but not yet sent anew.
    pub is_early: bool,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Store {
    /// By the name under which it is kept.
    sent: BTreeMap<String, Inode>,
    keeping: Keeping,
    #[serde(skip)]
    trial: Option<TrialPipe>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Keeping {
    #[default]
    Unknown,
    Sockets,
    Nothing,
}

/// A pipe of which the manager has the other end, if it keeps what it is sent.
#[derive(Debug)]
struct TrialPipe {
    end: OwnedFd,
    until: Time,
}

/// The name of the socket at that address. systemd allows no colon in it, and nothing but ASCII.
pub fn name_of(address: &str) -> String {
    let allowed = |c: char| c.is_ascii() && !c.is_ascii_control() && c != ':';
    let address = address.chars().map(|c| if allowed(c) { c } else { '-' });
    let name = PREFIX.chars().chain(address);
    name.take(LONGEST_NAME).collect()
}

/// Whether hotswap has sent what comes back under this name only to find out whether it is kept.
pub fn is_of_no_use(name: &str) -> bool {
    name == TRIAL
}

impl Store {
    /// `announced`: systemd says that it has a store ($FDSTORE, since 254).
    pub fn new(announced: bool) -> Self {
        Self {
            keeping: if announced {
                Keeping::Sockets
            } else {
                Keeping::Unknown
            },
            ..Self::default()
        }
    }

    /// This has come back from it.
    pub fn came_back(&mut self, name: String, inode: Inode) {
        self.keeping = Keeping::Sockets;
        self.sent.insert(name, inode);
    }

    /// Whether clients can wait in it for the next hotswap.
    pub fn keeps(&self) -> bool {
        match (self.keeping, &self.trial) {
            (Keeping::Sockets, _) => true,
            (Keeping::Unknown, Some(trial)) => !trial.has_failed(),
            (Keeping::Unknown | Keeping::Nothing, _) => false,
        }
    }

    /// What is to be sent so that these are kept, and no others of ours.
    pub fn follow(&mut self, wanted: &[Wanted], now: Time) -> Vec<Message> {
        if self.keeping == Keeping::Nothing {
            return Vec::new();
        }
        let mut messages = Vec::new();
        let mut names = BTreeSet::new();
        for one in wanted {
            let name = name_of(&one.address);
            let sent = self.sent.get(&name).copied();
            let socket = one.socket.filter(|_| sent != Some(one.inode));
            let socket = socket.filter(|_| !one.is_early || sent.is_some());
            // two at one name: the first has it
            if names.insert(name.clone())
                && let Some(socket) = socket.and_then(|socket| socket.try_clone_to_owned().ok())
            {
                if sent.is_some() {
                    messages.push(remove(&name));
                }
                self.sent.insert(name.clone(), one.inode);
                messages.push(keep(&name, socket));
            }
        }
        self.sent.retain(|name, _| {
            let is_wanted = names.contains(name);
            messages.extend((!is_wanted).then(|| remove(name)));
            is_wanted
        });
        let is_due = self.keeping == Keeping::Unknown && self.trial.is_none();
        if is_due && !self.sent.is_empty() {
            messages.extend(self.try_out(now).ok());
        }
        messages
    }

    fn try_out(&mut self, now: Time) -> io::Result<Message> {
        let (end, theirs) = pipe2(OFlag::O_CLOEXEC)?;
        let until = now + KNOWN_AFTER;
        self.trial = Some(TrialPipe { end, until });
        Ok(Message {
            // without FDPOLL=0: systemd lets go of it once our end is closed
            text: format!("FDSTORE=1\nFDNAME={TRIAL}\n"),
            descriptor: Some(theirs),
        })
    }

    pub fn look(&mut self, now: Time) {
        if let Some(trial) = self.trial.take_if(|trial| trial.until <= now) {
            self.keeping = if trial.has_failed() {
                Keeping::Nothing
            } else {
                Keeping::Sockets
            };
        }
    }

    pub fn deadline(&self) -> Option<Time> {
        self.trial.as_ref().map(|trial| trial.until)
    }
}

impl TrialPipe {
    /// Nobody has the other end any more.
    fn has_failed(&self) -> bool {
        has_hung_up(self.end.as_fd())
    }
}

/// With FDPOLL=0 (since 246) it is kept even if it was shut down.
fn keep(name: &str, socket: OwnedFd) -> Message {
    Message {
        text: format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0\n"),
        descriptor: Some(socket),
    }
}

fn remove(name: &str) -> Message {
    Message {
        text: format!("FDSTOREREMOVE=1\nFDNAME={name}\n"),
        descriptor: None,
    }
}
