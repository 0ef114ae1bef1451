//! Files of variables in docker's syntax (`docker run --env-file`).
//!
//! One `NAME=VALUE` per line. The value is everything after the first `=`, with quotes and blanks; `NAME` alone is passed on
//! from hotswap's own environment; lines that begin with `#` are comments.

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use super::Variables;
use crate::file;

/// More than execve(2) passes on.
const LARGEST: u64 = 8 << 20;

/// # Errors
/// Those of reading it, and an invalid line, by its number.
pub fn read(path: &Path, own: &[(OsString, OsString)]) -> io::Result<Variables> {
    let shown = path.display();
    let text = content(path)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot read {shown}: {error}")))?;
    parse(&text, own).map_err(|(line, why)| {
        let text = format!("cannot use {shown}: line {line}: {why}");
        io::Error::new(io::ErrorKind::InvalidData, text)
    })
}

/// A pipe would have to be waited for, and has nothing left for the next generation.
fn content(path: &Path) -> io::Result<Vec<u8>> {
    let file = file::open(path)?;
    if file.metadata()?.file_type().is_fifo() {
        let why = "it is a pipe, which cannot be read again for each generation";
        return Err(io::Error::new(ErrorKind::InvalidInput, why));
    }
    let mut text = Vec::new();
    file.take(LARGEST).read_to_end(&mut text)?;
    Ok(text)
}

type EnvFileError = (usize, &'static str);

fn parse(text: &[u8], own: &[(OsString, OsString)]) -> Result<Variables, EnvFileError> {
    let text = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text);
    let mut variables = Variables::new();
    for (number, line) in (1..).zip(text.split(|byte| *byte == b'\n')) {
        let line = line.strip_suffix(b"\r").unwrap_or(line).trim_ascii_start();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        if line.contains(&0) {
            return Err((number, "it contains a NUL"));
        }
        let end = line.iter().position(|byte| *byte == b'=');
        let (name, value) = match end {
            Some(end) => (&line[..end], line.get(end + 1..)),
            None => (line, None),
        };
        if name.is_empty() {
            return Err((number, "no name is before the ="));
        }
        if name.iter().any(u8::is_ascii_whitespace) {
            return Err((number, "the name contains a blank"));
        }
        let name = OsStr::from_bytes(name);
        let value = match value {
            Some(value) => Some(OsStr::from_bytes(value).to_owned()),
            None => own
                .iter()
                .find(|(known, _)| known == name)
                .map(|(_, value)| value.clone()),
        };
        variables.extend(value.map(|value| (name.to_owned(), value)));
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Result<Vec<(String, String)>, EnvFileError> {
        let own = [(OsString::from("LANG"), OsString::from("C.UTF-8"))];
        let plain = |text: OsString| text.into_string().expect("written as text");
        let variables = parse(text.as_bytes(), &own)?;
        Ok(variables
            .into_iter()
            .map(|(name, value)| (plain(name), plain(value)))
            .collect())
    }

    fn says(text: &str, expected: &[(&str, &str)]) {
        let parsed = parsed(text).expect("nothing is wrong with it");
        let parsed: Vec<_> = parsed
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(parsed, expected, "of {text:?}");
    }

    #[test]
    fn a_value_is_all_behind_the_first_equals_sign() {
        says("A=b=c", &[("A", "b=c")]);
        says("A=\"b c\" \nB=", &[("A", "\"b c\" "), ("B", "")]);
        says("A= # no comment", &[("A", " # no comment")]);
    }

    #[test]
    fn comments_blank_lines_and_leading_blanks_say_nothing() {
        says("# A=1\n\n  \t\n   B=2\n  # C=3\n", &[("B", "2")]);
    }

    #[test]
    fn a_name_alone_is_passed_on_if_it_is_set() {
        says("LANG\nNO_SUCH\n", &[("LANG", "C.UTF-8")]);
    }

    #[test]
    fn files_from_other_systems_are_read() {
        says("\u{feff}A=1\r\nB=2\r\n", &[("A", "1"), ("B", "2")]);
    }

    #[test]
    fn what_cannot_be_meant_is_told_by_its_line() {
        assert_eq!(parsed("A=1\n=2"), Err((2, "no name is before the =")));
        assert_eq!(
            parsed("\nexport A=1"),
            Err((2, "the name contains a blank"))
        );
        assert_eq!(parsed("A=\0"), Err((1, "it contains a NUL")));
    }

    proptest! {
        #[test]
        fn whatever_the_bytes_names_are_sound(text in proptest::collection::vec(any::<u8>(), 0..60)) {
            for (name, value) in parse(&text, &[]).unwrap_or_default() {
                prop_assert!(!name.is_empty() && !name.as_bytes().contains(&b'='));
                prop_assert!(!value.as_bytes().contains(&0));
            }
        }
    }
}
