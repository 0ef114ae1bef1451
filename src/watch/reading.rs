//! The hash of a file's content, read a piece at a time so that a big file keeps nobody waiting.

use std::fs::File;
use std::io::{self, Read};

use xxhash_rust::xxh3::Xxh3;

use crate::watch::gates::Identity;

/// At most so much in one go: some 2 ms.
const PIECE: usize = 8 << 20;

/// A hash in the making.
pub struct Reading {
    file: File,
    identity: Identity,
    hasher: Box<Xxh3>,
}

/// How far a [`Reading`] has come.
pub enum Progress {
    More(Reading),
    Done(u64),
    /// The file changed meanwhile or could not be read.
    Lost,
}

impl Reading {
    /// `file` is at its start, and `identity` is what it was then.
    pub fn new(file: File, identity: Identity) -> Self {
        let hasher = Box::new(Xxh3::new());
        Self {
            file,
            identity,
            hasher,
        }
    }

    pub fn go_on(mut self) -> Progress {
        let size = usize::try_from(self.identity.size).unwrap_or(usize::MAX);
        let mut buffer = vec![0; size.clamp(4 << 10, 256 << 10)];
        for _ in 0..PIECE / buffer.len() {
            match self.file.read(&mut buffer) {
                Ok(0) => return self.finish(),
                Ok(bytes) => self.hasher.update(buffer.get(..bytes).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Progress::Lost,
            }
        }
        Progress::More(self)
    }

    fn finish(self) -> Progress {
        match self.file.metadata() {
            Ok(metadata) if Identity::of(&metadata) == self.identity => {
                Progress::Done(self.hasher.digest())
            }
            _ => Progress::Lost,
        }
    }
}
