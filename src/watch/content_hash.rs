//! Hashes a file's content one piece at a time, so that a large file does not block the main loop.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::watch::completeness::{self, FileIdentity};

/// Bytes read in one go at most: about 2 ms.
const PIECE: usize = 8 << 20;

/// A hash that is being computed.
pub struct HashInProgress {
    file: File,
    identity: FileIdentity,
    hasher: Box<Xxh3>,
}

/// The result of reading one more piece.
pub enum HashProgress {
    More(HashInProgress),
    Done(u64),
    /// The file changed while it was read, or could not be read.
    Lost,
}

impl HashInProgress {
    /// `file` is at offset 0, and `identity` is its identity at that moment.
    pub fn new(file: File, identity: FileIdentity) -> Self {
        let hasher = Box::new(Xxh3::new());
        Self {
            file,
            identity,
            hasher,
        }
    }

    pub fn go_on(mut self) -> HashProgress {
        let size = usize::try_from(self.identity.size).unwrap_or(usize::MAX);
        let mut buffer = vec![0; size.clamp(4 << 10, 256 << 10)];
        for _ in 0..PIECE / buffer.len() {
            match self.file.read(&mut buffer) {
                Ok(0) => return self.finish(),
                Ok(bytes) => self.hasher.update(buffer.get(..bytes).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return HashProgress::Lost,
            }
        }
        HashProgress::More(self)
    }

    fn finish(self) -> HashProgress {
        match self.file.metadata() {
            Ok(metadata) if FileIdentity::of(&metadata) == self.identity => {
                HashProgress::Done(self.hasher.digest())
            }
            _ => HashProgress::Lost,
        }
    }
}

/// The hash of the first bytes of a file.
///
/// # Errors
/// Those of open(2) and read(2).
pub fn hash_of_first(path: &Path, length: u64) -> io::Result<u64> {
    let mut content = Vec::new();
    completeness::open(path)?
        .take(length)
        .read_to_end(&mut content)?;
    Ok(xxh3_64(&content))
}
