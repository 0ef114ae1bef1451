//! Whether the ignore files of a directory are safe to read.
//!
//! Anyone who may write into a tree, or into a directory above it, can put a FIFO or an endless file in their place.

use std::fs;
use std::path::Path;

/// The files that the walker reads in every directory.
const NAMES: [&str; 3] = [".gitignore", ".ignore", ".git/info/exclude"];
/// Larger than any real ignore file.
const LONGEST: u64 = 1 << 20;

/// Whether reading the ignore files in this directory ends.
pub fn are_readable(directory: &Path) -> bool {
    let fits = |name: &&str| match fs::metadata(directory.join(name)) {
        Ok(found) => found.is_file() && found.len() <= LONGEST,
        Err(_) => true,
    };
    let odd = NAMES.iter().find(|name| !fits(name));
    if let Some(odd) = odd {
        log::debug!("cannot read {}: no file", directory.join(odd).display());
    }
    odd.is_none()
}
