//! What a stub is to become, and how that is encoded.
//!
//! Arguments, variables and paths may hold any byte but NUL, so NUL ends each record; its first byte is its type.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// The program, and everything it starts with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "a mark in the record is a bool here"
)]
pub struct StubRequest {
    /// The program as given, and its arguments.
    pub command: Vec<OsString>,
    pub environment: Vec<(OsString, OsString)>,
    /// Set LISTEN_PID, HOME and the like, which only the stub knows.
    pub listen_pid: bool,
    pub chdir: Option<PathBuf>,
    pub user: Option<String>,
    pub group: Option<String>,
    /// Install the filter that stops bind(2), and send its notification descriptor.
    pub capture: bool,
    /// A stdin that never ends, instead of /dev/null.
    pub open_stdin: bool,
    /// The numbers that the descriptors get, in the order in which they were sent.
    pub numbers: Vec<RawFd>,
    /// One more descriptor follows: execute that one, wherever the path leads by now.
    pub by_descriptor: bool,
    /// The limit of open descriptors, soft and hard, that hotswap was started with.
    pub open_files: Option<(u64, u64)>,
}

const ARGUMENT: u8 = b'a';
const VARIABLE: u8 = b'v';
const DIRECTORY: u8 = b'd';
const USER: u8 = b'u';
const GROUP: u8 = b'g';
const NUMBER: u8 = b'n';
const LIMIT: u8 = b'f';
const LISTEN_PID: u8 = b'l';
const CAPTURE: u8 = b'c';
const OPEN_STDIN: u8 = b'i';
const BY_DESCRIPTOR: u8 = b'p';

impl StubRequest {
    pub fn variable(&self, name: &str) -> Option<&OsStr> {
        let mut named = self.environment.iter().filter(|(key, _)| key == name);
        named.next().map(|(_, value)| value.as_os_str())
    }

    pub fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let mut out = Records(Vec::new());
        for argument in &self.command {
            out.push(ARGUMENT, argument.as_bytes())?;
        }
        for (name, value) in &self.environment {
            let mut variable = name.as_bytes().to_vec();
            variable.push(b'=');
            variable.extend_from_slice(value.as_bytes());
            out.push(VARIABLE, &variable)?;
        }
        if let Some(directory) = &self.chdir {
            out.push(DIRECTORY, directory.as_os_str().as_bytes())?;
        }
        if let Some(user) = &self.user {
            out.push(USER, user.as_bytes())?;
        }
        if let Some(group) = &self.group {
            out.push(GROUP, group.as_bytes())?;
        }
        for number in &self.numbers {
            out.push(NUMBER, number.to_string().as_bytes())?;
        }
        if let Some((soft, hard)) = self.open_files {
            out.push(LIMIT, format!("{soft} {hard}").as_bytes())?;
        }
        let marks = [
            (LISTEN_PID, self.listen_pid),
            (CAPTURE, self.capture),
            (OPEN_STDIN, self.open_stdin),
            (BY_DESCRIPTOR, self.by_descriptor),
        ];
        for (mark, _) in marks.into_iter().filter(|(_, set)| *set) {
            out.push(mark, b"")?;
        }
        Ok(out.0)
    }

    pub fn from_bytes(bytes: &[u8]) -> io::Result<Self> {
        let mut request = Self::default();
        // what is cut off ends without a NUL
        let records = bytes
            .strip_suffix(b"\0")
            .ok_or(io::ErrorKind::InvalidData)?;
        for record in records.split(|byte| *byte == 0) {
            let (kind, rest) = record.split_first().ok_or(io::ErrorKind::InvalidData)?;
            request
                .read(*kind, rest)
                .ok_or(io::ErrorKind::InvalidData)?;
        }
        Ok(request)
    }

    fn read(&mut self, kind: u8, rest: &[u8]) -> Option<()> {
        let text = || String::from_utf8(rest.to_vec()).ok();
        match kind {
            ARGUMENT => self.command.push(owned(rest)),
            VARIABLE => {
                // a name may begin with '=', but not be empty
                let at = rest.iter().skip(1).position(|byte| *byte == b'=')? + 1;
                let (name, value) = rest.split_at(at);
                self.environment.push((owned(name), owned(value.get(1..)?)));
            }
            DIRECTORY => self.chdir = Some(owned(rest).into()),
            USER => self.user = Some(text()?),
            GROUP => self.group = Some(text()?),
            NUMBER => self.numbers.push(text()?.parse().ok()?),
            LIMIT => {
                let text = text()?;
                let (soft, hard) = text.split_once(' ')?;
                self.open_files = Some((soft.parse().ok()?, hard.parse().ok()?));
            }
            LISTEN_PID => self.listen_pid = true,
            CAPTURE => self.capture = true,
            OPEN_STDIN => self.open_stdin = true,
            BY_DESCRIPTOR => self.by_descriptor = true,
            _ => return None,
        }
        Some(())
    }
}

struct Records(Vec<u8>);

impl Records {
    fn push(&mut self, kind: u8, bytes: &[u8]) -> io::Result<()> {
        if bytes.contains(&0) {
            let shown = OsStr::from_bytes(bytes).display();
            let why = format!("{shown:?} has a NUL in it");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        self.0.push(kind);
        self.0.extend_from_slice(bytes);
        self.0.push(0);
        Ok(())
    }
}

fn owned(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}

/// A string for exec; a request has no NUL in it.
pub fn c_string(text: &OsStr) -> io::Result<CString> {
    Ok(CString::new(text.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn bytes() -> impl Strategy<Value = OsString> {
        vec(1_u8.., 0..9).prop_map(OsString::from_vec)
    }

    fn variable() -> impl Strategy<Value = (OsString, OsString)> {
        ("[A-Z_]{1,5}".prop_map(OsString::from), bytes())
    }

    proptest! {
        #[test]
        fn an_order_is_read_as_it_was_written(
            command in vec(bytes(), 0..4),
            environment in vec(variable(), 0..4),
            chdir in proptest::option::of(bytes()),
            user in proptest::option::of("[a-z]{1,8}"),
            numbers in vec(0..9999, 0..4),
            open_files in proptest::option::of((0_u64.., 0_u64..)),
            marks in any::<[bool; 4]>(),
        ) {
            let request = StubRequest {
                command,
                environment,
                chdir: chdir.map(PathBuf::from),
                group: user.clone(),
                user,
                numbers,
                open_files,
                listen_pid: marks[0],
                capture: marks[1],
                open_stdin: marks[3],
                by_descriptor: marks[2],
            };
            let written = request.to_bytes().expect("no NUL in it");
            if request == StubRequest::default() {
                prop_assert!(written.is_empty());
            } else {
                prop_assert_eq!(StubRequest::from_bytes(&written).expect("readable"), request);
            }
        }

        #[test]
        fn what_is_no_order_is_refused(bytes in vec(any::<u8>(), 0..40)) {
            // whatever it answers, it does not panic
            let _ = StubRequest::from_bytes(&bytes);
        }
    }

    #[test]
    fn a_nul_in_an_argument_is_refused() {
        let command = vec![OsString::from("a\0b")];
        let request = StubRequest {
            command,
            ..StubRequest::default()
        };
        let error = request
            .to_bytes()
            .expect_err("no program can be told a NUL");
        assert_eq!(error.to_string(), r#""a\0b" has a NUL in it"#);
    }
}
