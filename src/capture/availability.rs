//! Whether servers can be captured on this system, and what has to be stopped for it.

use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::utsname::uname;
use nix::unistd::gettid;

use super::caller::Caller;
use super::filter::{self, Stops};
use super::notification::bounded;
use super::trial;

/// What has to be stopped to capture servers here, as far as a thread of our own can tell.
///
/// # Errors
/// Those of [`filter::install`] and of [`trial::survives`], which [`filter::why_not`] puts into words; `ETIMEDOUT` if the
/// kernel does not answer.
pub fn available() -> io::Result<Stops> {
    let version = uname().map(|system| system.release().to_string_lossy().into_owned());
    // to replace the server's socket
    if version.is_ok_and(|release| is_older(&release, (5, 9))) {
        return Err(Errno::ENOSYS.into());
    }
    trial::survives()?;
    bounded(|| {
        let myself = Caller::of(gettid())?;
        // forbidden in many containers
        let options = myself.descriptor(io::stderr().as_raw_fd());
        let options = options
            .is_err_and(|error| matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)));
        let paths = true;
        filter::install(Stops { paths, options })?;
        Ok(Stops {
            paths: false,
            options,
        })
    })
}

/// Whether a release like `6.1.0-13-amd64` is older than that; one that cannot be read is not.
fn is_older(release: &str, than: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < than,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_compared_by_its_numbers() {
        assert!(is_older("5.8.18-generic", (5, 9)));
        assert!(is_older("4.19.0", (5, 9)));
        assert!(!is_older("5.10.0-13-amd64", (5, 9)));
        assert!(!is_older("6.1", (5, 9)));
        assert!(!is_older("unknown", (5, 9)));
    }

    #[test]
    fn capturing_is_available_or_says_why_not() {
        match available() {
            Ok(stops) => assert!(!stops.paths),
            Err(error) => assert!(error.raw_os_error().is_some()),
        }
    }
}
