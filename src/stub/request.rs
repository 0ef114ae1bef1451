//! What a stub is to become, and how that is encoded.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;

use serde::{Deserialize, Serialize};

use crate::capture::filter::Stops;

/// The program, and everything it starts with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StubRequest {
    /// The program as given, and its arguments.
    pub command: Vec<OsString>,
    pub environment: Vec<(OsString, OsString)>,
    /// Set LISTEN_PID, HOME and the like, which only the stub knows.
    pub listen_pid: bool,
    pub chdir: Option<OsString>,
    pub user: Option<String>,
    pub group: Option<String>,
    /// Install the filter that stops bind(2), and send its notification descriptor.
    pub capture: Option<Stops>,
    /// A stdin that never ends, instead of /dev/null.
    pub open_stdin: bool,
    /// The numbers that the descriptors get, in the order in which they were sent.
    pub numbers: Vec<RawFd>,
    /// One more descriptor follows: execute that one, wherever the path leads by now.
    pub by_descriptor: bool,
    /// The limit of open descriptors, soft and hard, that hotswap was started with.
    pub open_files: Option<(u64, u64)>,
    /// The score for the OOM killer, if hotswap has lowered its own.
    pub oom_score: Option<i32>,
}

impl StubRequest {
    pub fn variable(&self, name: &str) -> Option<&OsStr> {
        let mut named = self.environment.iter().filter(|(key, _)| key == name);
        named.next().map(|(_, value)| value.as_os_str())
    }

    /// # Errors
    /// If a text has a NUL in it, which no program can be told.
    pub fn to_bytes(&self) -> io::Result<Vec<u8>> {
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
        Ok(serde_json::to_vec(self)?)
    }

    /// # Errors
    /// If it is not what [`StubRequest::to_bytes`] has written.
    pub fn from_bytes(bytes: &[u8]) -> io::Result<Self> {
        Ok(serde_json::from_slice(bytes)?)
    }
}

/// A string for exec; what has come through a request has no NUL in it.
pub fn c_string(text: &OsStr) -> io::Result<CString> {
    Ok(CString::new(text.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn any_bytes_are_read_as_they_were_written() {
        let bytes = OsString::from_vec((1..=255).collect());
        let request = StubRequest {
            command: vec![bytes.clone()],
            environment: vec![("A".into(), bytes.clone())],
            chdir: Some(bytes),
            numbers: vec![3, 9],
            open_files: Some((1, u64::MAX)),
            ..StubRequest::default()
        };
        let written = request.to_bytes().unwrap();
        assert_eq!(StubRequest::from_bytes(&written).unwrap(), request);
        assert!(StubRequest::from_bytes(&written[1..]).is_err());
    }

    #[test]
    fn a_nul_in_an_argument_is_refused() {
        let request = StubRequest {
            command: vec![OsString::from("a\0b")],
            ..StubRequest::default()
        };
        let error = request.to_bytes().unwrap_err();
        assert_eq!(error.to_string(), r#""a\0b" has a NUL in it"#);
    }
}
