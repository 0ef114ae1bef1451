//! The file that hotswap runs: a script that becomes one of tests/servers, installed by rename as deployments do.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::server;

/// One of tests/servers, and what it is told.
#[derive(Clone)]
pub struct Server {
    name: &'static str,
    words: String,
    /// What it binds, if it is given no socket.
    address: Option<String>,
}

impl Server {
    /// The one that the recipes show.
    pub fn hello() -> Server {
        Server {
            name: "hello",
            words: String::new(),
            address: None,
        }
    }

    /// The one that misbehaves as told.
    pub fn odd(words: &str) -> Server {
        Server {
            name: "odd",
            words: words.to_owned(),
            address: None,
        }
    }

    /// It binds this address where it is given no socket.
    pub fn at(self, address: Option<String>) -> Server {
        Server { address, ..self }
    }

    /// The one that misbehaves as told, at the same address.
    pub fn as_odd(&self, words: &str) -> Server {
        Server::odd(words).at(self.address.clone())
    }

    /// A version of it.
    pub fn script(&self, version: &str) -> String {
        let (path, words) = (server(self.name), &self.words);
        let address = match &self.address {
            Some(address) if self.name == "odd" => format!("'at={address}'"),
            Some(address) => format!("'{address}'"),
            None => String::new(),
        };
        format!(
            "#!/bin/sh\nVERSION={version} exec '{}' {address} {words} \"$@\"\n",
            path.display()
        )
    }
}

/// Puts a new file in the place of `program`, whole at every moment.
pub fn install(program: &Path, content: &[u8], mode: u32) {
    let new = program.with_extension("new");
    fs::write(&new, content).expect("a new program");
    fs::set_permissions(&new, Permissions::from_mode(mode)).expect("its mode");
    fs::rename(new, program).expect("the program");
}
