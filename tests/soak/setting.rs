//! Where one hotswap of the soak lives, what it is told, and the builds that are tried on it.

use std::net::SocketAddr;

use tempfile::TempDir;

use super::chance::Chance;
use crate::common::place::{Place, Target, free_address};
use crate::common::plan::Plan;
use crate::common::server;
use crate::common::site::Site;

/// All that a good build needs, and the machine besides.
const OPTIONS: [&str; 6] = [
    "--ready-timeout",
    "10s",
    "--quiesce",
    "3s",
    "--drain-timeout",
    "10s",
];

pub struct Setting {
    pub watches: bool,
    pub proves: bool,
    /// What the server binds, if it is given no socket.
    binds: Option<Target>,
    place: Place,
    /// The server's own directory for its path.
    _dir: Option<TempDir>,
}

impl Setting {
    pub fn by(chance: &mut Chance) -> Setting {
        let listened = [Place::Tcp4, Place::Tcp6, Place::Dual, Place::Unix];
        let place = chance.one_of(&listened).clone();
        let setting = Setting {
            watches: chance.one_in(2),
            proves: chance.one_in(2),
            binds: None,
            place,
            _dir: None,
        };
        if chance.one_in(2) {
            return setting;
        }
        let (target, dir) = if setting.place == Place::Unix {
            let dir = tempfile::tempdir().expect("a directory");
            (Target::Unix(dir.path().join("own.sock")), Some(dir))
        } else {
            (Target::Tcp(free_address()), None)
        };
        Setting {
            place: Place::Given(target.clone()),
            binds: Some(target),
            _dir: dir,
            ..setting
        }
    }

    pub fn describe(&self) -> String {
        let how = if self.binds.is_some() {
            "captured"
        } else {
            "listened"
        };
        let where_to = match &self.place {
            Place::Given(Target::Unix(_)) => "Unix".to_owned(),
            Place::Given(_) => "Tcp4".to_owned(),
            place => format!("{place:?}"),
        };
        let watches = if self.watches { ", watching" } else { "" };
        let proves = if self.proves { ", proving" } else { "" };
        format!("{where_to}, {how}{watches}{proves}")
    }

    pub fn plan(&self, build: &str) -> Plan {
        let mut plan = Site::at(self.place.clone())
            .with(&OPTIONS)
            .by_script(build, &[]);
        if self.proves {
            plan = plan.with(&["--min-ready", "700ms"]);
        }
        if self.watches {
            plan = plan.watching();
        }
        if self.binds.is_some() {
            plan = plan.with(&["--capture", "always"]);
        }
        plan
    }

    /// A server that works: graceful or not, quick or not.
    pub fn good_build(&self, version: &str, chance: &mut Chance) -> String {
        let words = ["", "", "late=200ms", "hang=200ms", "think=2ms"];
        let words = *chance.one_of(&words);
        match self.binds {
            Some(Target::Unix(_)) => self.odd(version, words),
            _ if words.is_empty() && chance.one_in(2) => self.hello(version),
            _ => self.odd(version, words),
        }
    }

    fn hello(&self, version: &str) -> String {
        let address = match &self.binds {
            Some(Target::Tcp(address)) => address.to_string(),
            _ => String::new(),
        };
        script(version, "hello", &address)
    }

    /// The server that does as it is told.
    pub fn odd(&self, version: &str, words: &str) -> String {
        let address = match &self.binds {
            Some(Target::Unix(path)) => format!("at=unix:{}", path.display()),
            Some(Target::Tcp(address)) => format!("at={address}"),
            _ => String::new(),
        };
        script(version, "odd", &format!("{words} {address}"))
    }

    /// The TCP addresses whose groups of sockets are looked at.
    pub fn addresses(&self, targets: &[Target]) -> Vec<SocketAddr> {
        let unspecified = |address: &SocketAddr| match self.place {
            Place::Dual => SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), address.port()),
            _ => *address,
        };
        let tcp = targets.iter().filter_map(|target| match target {
            Target::Tcp(address) => Some(unspecified(address)),
            _ => None,
        });
        tcp.collect()
    }
}

/// It survives SIGUSR1, as servers do that reopen their logs at it.
fn script(version: &str, name: &str, words: &str) -> String {
    let path = server(name);
    format!(
        "#!/bin/sh\ntrap '' USR1\nVERSION={version} exec '{}' {words}\n",
        path.display()
    )
}
