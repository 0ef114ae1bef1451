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
}

impl Server {
    /// The one that the README shows.
    pub fn hello() -> Server {
        Server {
            name: "hello",
            words: String::new(),
        }
    }

    /// The one that misbehaves as told.
    pub fn odd(words: &str) -> Server {
        Server {
            name: "odd",
            words: words.to_owned(),
        }
    }

    /// A version of it.
    pub fn script(&self, version: &str) -> String {
        let (path, words) = (server(self.name), &self.words);
        format!(
            "#!/bin/sh\nVERSION={version} exec '{}' {words} \"$@\"\n",
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
