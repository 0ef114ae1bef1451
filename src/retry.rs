//! Errors that pass: calls that fail for a moment only are tried again.
//!
//! It does not wait between tries; an error that lasts is returned.

use std::io;

const TRIES: u32 = 3;

/// Interrupted by a signal, or out of memory or buffers for a moment.
pub fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINTR | libc::EAGAIN | libc::ENOMEM | libc::ENOBUFS)
    )
}

/// No descriptor or memory is left, for now.
pub fn is_exhausted(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
    )
}

/// Tries a call up to three times. It must change nothing when it fails.
///
/// # Errors
/// Those of the call.
pub fn retry<T, E: Into<io::Error>>(mut call: impl FnMut() -> Result<T, E>) -> io::Result<T> {
    for _ in 1..TRIES {
        match call().map_err(Into::into) {
            Err(error) if is_transient(&error) => {}
            result => return result,
        }
    }
    call().map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;

    #[test]
    fn what_passes_is_tried_again_and_what_lasts_is_reported() {
        let mut left = vec![Err(Errno::EPERM), Ok(()), Err(Errno::ENOMEM)];
        assert!(retry(|| left.pop().unwrap()).is_ok());
        assert_eq!(
            retry(|| left.pop().unwrap()).unwrap_err().raw_os_error(),
            Some(libc::EPERM)
        );
        let mut tries = 0;
        let never = || {
            tries += 1;
            Err::<(), Errno>(Errno::EAGAIN)
        };
        assert!(retry(never).is_err());
        assert_eq!(tries, TRIES);
    }
}
