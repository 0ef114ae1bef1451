//! Hashes a file's content one piece at a time, so that a large file does not block the main loop.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use xxhash_rust::xxh3::Xxh3;

use crate::file;
use crate::watch::completeness::FileIdentity;

/// Bytes read in one go at most: about 0.2 ms.
const PIECE: usize = 1 << 20;

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

    /// `file` is at offset 0.
    ///
    /// # Errors
    /// Those of fstat(2).
    pub fn of(file: File) -> io::Result<Self> {
        let identity = FileIdentity::of(&file.metadata()?);
        Ok(Self::new(file, identity))
    }

    pub fn go_on(mut self) -> HashProgress {
        match read_into(&mut self.hasher, &mut self.file, PIECE) {
            Ok(PIECE) => HashProgress::More(self),
            Ok(_) => self.finish(),
            Err(_) => HashProgress::Lost,
        }
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
    let mut hasher = Xxh3::new();
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    read_into(&mut hasher, &mut file::open(path)?, length)?;
    Ok(hasher.digest())
}

/// How many bytes were read: fewer than `length` at the end of the file.
fn read_into(hasher: &mut Xxh3, file: &mut File, length: usize) -> io::Result<usize> {
    // On the stack: the allocator would keep a large buffer for good.
    let mut buffer = [0; 16 << 10];
    let mut done = 0;
    while done < length {
        let wanted = buffer.len().min(length - done);
        match file.read(&mut buffer[..wanted]) {
            Ok(0) => break,
            Ok(bytes) => {
                hasher.update(&buffer[..bytes]);
                done += bytes;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
