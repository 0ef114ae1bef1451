//! The files that say what of a tree is ignored: whether they can be read at all.
//!
//! Whoever may write into a tree, or above it, could put a FIFO there that nobody ever writes to, or a file without end.

use std::fs;
use std::path::Path;

/// As the walker looks for them in every directory.
const NAMES: [&str; 3] = [".gitignore", ".ignore", ".git/info/exclude"];
/// No list is so long.
const LONGEST: u64 = 1 << 20;

/// Whether none of those in this directory keeps its reader for ever.
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
