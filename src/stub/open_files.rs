//! The limit of open descriptors: hotswap raises its own, and gives every child the original one.
//!
//! hotswap has each listener open once for every generation; a server may rely on a low limit (select(2)).

use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

/// Soft and hard, as hotswap was started with them.
static GIVEN: OnceLock<(rlim_t, rlim_t)> = OnceLock::new();

/// Once, before anything is opened. If the limit cannot be raised, that is no error: what needs more will fail by itself.
pub fn raise() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = GIVEN.set((soft, hard));
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// For the program that this process becomes.
pub fn put_back() {
    if let Some((soft, hard)) = GIVEN.get() {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, *soft, *hard);
    }
}
