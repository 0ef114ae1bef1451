//! The limit of open descriptors: hotswap's own is as high as it may be, everybody else's is what hotswap was given.
//!
//! Each listener is open here once for every generation; a server may count on a low limit (select(2)).

use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

/// Soft and hard, as hotswap was given them.
static GIVEN: OnceLock<(rlim_t, rlim_t)> = OnceLock::new();

/// Once, before anything is opened. That there is no more to be had is no error: what needs it will say so.
pub fn raise() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = GIVEN.set((soft, hard));
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

pub fn given() -> Option<(rlim_t, rlim_t)> {
    GIVEN.get().copied()
}

/// For what this process becomes.
pub fn put_back(given: Option<(rlim_t, rlim_t)>) {
    if let Some((soft, hard)) = given {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, soft, hard);
    }
}
