//! Errors that pass: calls that fail for a moment only are tried again.
//!
//! Only what somebody else holds up for a moment is waited for, until a deadline; an error that lasts is returned.

use std::io;
use std::time::{Duration, Instant};

use nix::poll::{PollTimeout, poll};

const TRIES: u32 = 3;
/// The pause between two tries of what somebody else holds up.
const BETWEEN: Duration = Duration::from_millis(1);

/// Interrupted by a signal, or out of memory or buffers for a moment.
pub fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINTR | libc::EAGAIN | libc::ENOMEM | libc::ENOBUFS)
    )
}

/// Nothing can be read or written just now.
pub fn is_for_later(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
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

/// Tries a call that may not wait itself again until somebody else lets it succeed, for so long at most. Only before the
/// loop, when nobody waits for hotswap.
///
/// # Errors
/// `WouldBlock` if it never did, else those of the call.
pub fn retry_while_blocked<T>(
    patience: Duration,
    mut call: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    let until = Instant::now() + patience;
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => {
                pause(BETWEEN);
            }
            result => return result,
        }
    }
}

/// Waits in poll(2) for nothing but the time, or a signal.
pub fn pause(time: Duration) {
    let time = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
    let _ = poll(&mut [], time);
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

    #[test]
    fn what_somebody_holds_up_is_waited_for_until_the_deadline() {
        let blocked = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
        let mut left = vec![Ok(()), blocked(), blocked()];
        let patience = Duration::from_secs(60);
        assert!(retry_while_blocked(patience, || left.pop().unwrap()).is_ok());
        let mut left = vec![Err(Errno::EPERM.into()), blocked()];
        let other = retry_while_blocked(patience, || left.pop().unwrap());
        assert_eq!(other.unwrap_err().raw_os_error(), Some(libc::EPERM));
        let late = retry_while_blocked(BETWEEN, blocked);
        assert_eq!(late.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
