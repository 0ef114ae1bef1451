//! What a stub is to become.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use crate::capture::filter::Stops;

/// The program, and everything it starts with.
#[derive(Clone, Debug, Default)]
pub struct StubRequest<'a> {
    /// The program as given, and its arguments.
    pub command: Vec<OsString>,
    pub environment: Vec<(OsString, OsString)>,
    /// Set LISTEN_PID, which only the stub knows.
    pub listen_pid: bool,
    pub chdir: Option<OsString>,
    /// Run there instead: its path may lead nowhere by now, or not for the user.
    pub directory: Option<BorrowedFd<'a>>,
    pub user: Option<String>,
    pub group: Option<String>,
    /// Install the filter that stops bind(2), and send its notification descriptor.
    pub capture: Option<Stops>,
    /// A stdin that never ends, instead of /dev/null.
    pub open_stdin: bool,
    /// hotswap's own, unless these are given.
    pub stdout: Option<BorrowedFd<'a>>,
    pub stderr: Option<BorrowedFd<'a>>,
    /// What it is given beside these, and the number that each gets.
    pub descriptors: Vec<(BorrowedFd<'a>, RawFd)>,
    /// Execute this one, wherever the path leads by now.
    pub program: Option<BorrowedFd<'a>>,
}

impl StubRequest<'_> {
    pub fn variable(&self, name: &str) -> Option<&OsStr> {
        let mut named = self.environment.iter().filter(|(key, _)| key == name);
        named.next().map(|(_, value)| value.as_os_str())
    }

    /// # Errors
    /// If a text has a NUL in it, which no program can be told.
    pub fn check(&self) -> io::Result<()> {
        let variables = self
            .environment
            .iter()
            .flat_map(|(name, value)| [name, value]);
        for text in self.command.iter().chain(variables).chain(&self.chdir) {
            if text.as_bytes().contains(&0) {
                let why = format!("{:?} has a NUL in it", text.display().to_string());
                return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
            }
        }
        Ok(())
    }
}

/// A string for exec; what has come through a request has no NUL in it.
pub fn c_string(text: &OsStr) -> io::Result<CString> {
    Ok(CString::new(text.as_bytes())?)
}

pub fn c_strings(texts: &[OsString]) -> io::Result<Vec<CString>> {
    texts.iter().map(|text| c_string(text)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nul_in_an_argument_is_refused() {
        let request = StubRequest {
            command: vec![OsString::from("a\0b")],
            ..StubRequest::default()
        };
        let error = request.check().unwrap_err();
        assert_eq!(error.to_string(), r#""a\0b" has a NUL in it"#);
    }
}
